"""The log of requests: a line for each in the Common Log Format, and after that the milliseconds it took."""

from __future__ import annotations

import functools
import os
import re
import select
import threading
import time
from collections import deque
from typing import TextIO

from .http1 import MONTHS, request_line

_MOST_CHARACTERS = 800  # of a request's first line
_MOST_OF_USER = 100
_MOST_LINES = 10_000  # that wait
_PIECE_SIZE = 4_096  # bytes; so many that are written to a pipe stay together (pipe(7), PIPE_BUF)
_MOST_LINE_SIZE = 1_100
_CLOSE_SECONDS = 1.0

# A first line that needs no escapes and is not too long
_PLAIN = re.compile(rb"([ !#-\[\]-~]{1,%d})\r\n" % _MOST_CHARACTERS)


def render_line(
    when: float, address: str, user: str, head: bytes, status: str, size: int, seconds: float
) -> str:
    """Return the line of a request, with its end: printable ASCII, whatever the client sent.

    when: it was answered, as of time.time(). address: the client's. user: who sent it; "" if nobody knows.
    head: its first line, with or without more. status: what begins with it. size: bytes of the answer's body.
    seconds: from when its head had come until the answer was ready.
    """
    plain = _PLAIN.match(head)
    line = plain[1].decode() if plain else _quote(request_line(head).decode("latin-1"), _MOST_CHARACTERS)
    name = _quote(user, _MOST_OF_USER, r"\x20") if user else "-"
    return (
        f'{address} - {name} [{_render_time(int(when))}] "{line}" {status[:3]} {size} {seconds * 1000:.2f}\n'
    )


def _quote(text: str, most: int, blank: str = " ") -> str:
    """Return a text of at most so many characters, with escapes as between double quotes in Python.

    "..." stands for the rest of a longer one.
    """
    text = text[: most + 1].encode("unicode_escape").decode().replace('"', r"\"").replace(" ", blank)
    return text if len(text) <= most else text[: most - 3] + "..."


@functools.lru_cache(maxsize=2)
def _render_time(second: int) -> str:
    """Return a second of time.time() in local time. strftime's month would be in the locale's language."""
    now = time.localtime(second)
    return time.strftime(f"%d/{MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S %z", now)


class Output:
    """Writes each text by one system call: so those of threads and processes do not get mixed up."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding
        self._poll = None
        if hasattr(select, "poll"):  # not on Windows
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)

    def takes_more(self, seconds: float) -> bool:
        """Tell, within that time, whether a write of _PIECE_SIZE would not wait for a reader."""
        return self._poll is None or bool(self._poll.poll(seconds * 1000))

    def write(self, text: str) -> None:
        """Write a text. Raises OSError."""
        data = text.encode(self._encoding, "backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]


class AccessLog:
    """Gathers what is known of requests, for a server to write it together. Any thread may use it.

    Where lines cannot be written, or not as fast as they come, a line among them says how many are missing.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._entries: deque[tuple[float, str, str, bytes, str, int, float]] = deque()
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._missing = 0

    def __len__(self) -> int:
        """Return how many lines wait."""
        return len(self._entries)

    def add(self, address: str, user: str, head: bytes, status: str, size: int, seconds: float) -> None:
        """Add a request that was answered now; see render_line."""
        if len(self._entries) < _MOST_LINES:
            entry = time.time(), address, user, head[: _MOST_CHARACTERS + 2], status, size, seconds
            self._entries.append(entry)
        else:
            self._miss(1)

    def write(self, seconds: float = 0) -> None:
        """Write all lines; leave the rest if nobody takes more, or another thread writes, for that long."""
        if self._writing.acquire(timeout=seconds):
            try:
                while self._entries and self._output.takes_more(seconds):
                    self._write_some()
            finally:
                self._writing.release()

    def close(self) -> None:
        """Write all lines; leave the rest if nobody takes more for _CLOSE_SECONDS."""
        self.write(_CLOSE_SECONDS)

    def _write_some(self) -> None:
        missing, count, text = self._missing, 0, ""
        try:
            if missing:
                # The first line break ends what was perhaps written by half.
                text = f"\nrequests that are missing here, because they could not be written: {missing}\n"
            while self._entries and len(text) + _MOST_LINE_SIZE <= _PIECE_SIZE:
                count += 1
                text += render_line(*self._entries.popleft())
            self._output.write(text)
        except (OSError, MemoryError):
            self._miss(count)
        else:
            self._miss(-missing)

    def _miss(self, count: int) -> None:
        if count:
            with self._counting:
                self._missing += count
