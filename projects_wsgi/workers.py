"""Processes that serve at the same port, each as if it were alone, and their parent, which looks after them.

The parent opens nothing that they use and starts no thread: so a worker can be forked from it at any time.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from typing import NamedTuple

from .signals import POLL_SECONDS, end_within, hold_signals

logger = logging.getLogger("projects_wsgi")

# Elsewhere, one of the sockets that share a port may get all clients.
CAN_SHARE_A_PORT = sys.platform == "linux"
_MOST_SECONDS_TO_STOP = 8  # more than a worker has
_LOOK_SECONDS = 0.01  # between two looks at whether the workers have stopped
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # in seconds, before a worker is started again
_GOOD_LIFE_SECONDS = 60.0  # after which it is started again at once


class Worker(NamedTuple):
    """What a worker knows of itself. is_last: whether all others serve, so that it may say so.

    number: of its place. parent: the parent's process id. pipe: to the parent.
    """

    is_last: bool
    number: int
    parent: int
    pipe: int

    def report(self) -> None:
        """Tell the parent that this worker serves."""
        os.write(self.pipe, bytes([self.number]))

    def is_orphan(self) -> bool:
        return os.getppid() != self.parent


class _Place:
    """A place for a worker. pid: 0 while it is free. has_served: whether any worker there has."""

    def __init__(self) -> None:
        self.pid = 0
        self.has_served = False
        self._began = self._pause = self._due = 0.0

    def fork(self) -> bool:
        """Start a worker, if one is due; tell whether this is its process. Raises OSError."""
        if self.pid or time.monotonic() < self._due:
            return False
        self._began = time.monotonic()
        try:
            self.pid = os.fork()
        except OSError:
            self._rest()
            raise
        return not self.pid

    def reap(self) -> int | None:
        """Free the place if its worker has ended; return its exit status then, or -9 for signal 9."""
        pid, status = os.waitpid(self.pid, os.WNOHANG) if self.pid else (0, 0)
        if not pid:
            return None
        self._rest()
        return os.waitstatus_to_exitcode(status)

    def _rest(self) -> None:
        now = time.monotonic()
        is_good = now - self._began >= _GOOD_LIFE_SECONDS
        self._pause = 0.0 if is_good else min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._due = now + self._pause
        self.pid = 0


def start_workers(count: int) -> Worker | int:
    """Start workers, and others in place of those that end; stop all at a signal, or if one cannot start.

    Signals must be held, and are when it returns: in each worker what it knows of itself; in the parent,
    when all have ended, the exit status. Raises OSError if it finds no descriptors.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if they were ignored, so would be how workers end
    parent, (reader, writer) = os.getpid(), os.pipe()
    places = [_Place() for _ in range(count)]
    try:
        while True:
            for number, place in enumerate(places):
                try:
                    if place.fork():
                        is_last = number == count - 1 and not place.has_served
                        return Worker(is_last, number, parent, writer)
                except OSError as error:
                    _log("no worker can be started: %s", error.strerror)
                    if not place.has_served:
                        return _stop(places, 2)
                if not place.has_served:  # one after the other, so that what is wrong is said once
                    break
            hold_signals(False)
            select.select([reader], [], [], POLL_SECONDS)
            hold_signals()
            ended = [(place, place.pid, place.reap()) for place in places]
            if select.select([reader], [], [], 0)[0]:  # after that: one may have served before it ended
                for number in os.read(reader, count):
                    places[number].has_served = True
            for place, pid, status in ended:
                if status is None:
                    continue
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                if place.has_served:
                    _log("worker %d has ended %s; another is started", pid, how)
                elif status >= 0:  # it has said why
                    return _stop(places, status)
                else:
                    _log("worker %d has ended %s before it served", pid, how)
                    return _stop(places, 2)
    except (KeyboardInterrupt, MemoryError):  # if a signal's handler finds none
        return _stop(places, 0)


def _log(text: str, *arguments: object) -> None:
    hold_signals(False)  # nobody may read the log
    logger.warning(text, *arguments)
    hold_signals()


def _stop(places: list[_Place], status: int) -> int:
    """Stop all workers, each as a server that is alone; return the exit status when they have ended."""
    end_within(_MOST_SECONDS_TO_STOP)
    for place in places:
        if place.pid:
            os.kill(place.pid, signal.SIGTERM)
            os.kill(place.pid, signal.SIGCONT)  # somebody may have stopped it
    while any(place.pid and place.reap() is None for place in places):
        time.sleep(_LOOK_SECONDS)
    return status
