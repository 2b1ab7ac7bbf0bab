"""The client of the servers: raw sockets, the least parsing.

It runs outside the servers' processes, so that what it costs is not theirs.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Iterable
from typing import NamedTuple

TIMEOUT = 30  # seconds


class Load(NamedTuple):
    """What came of a load: seconds it took; seconds that each request took."""

    seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


def make_request(method: str, path: str, body: object = None) -> bytes:
    """Return the bytes of a request that keeps its connection alive."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nUser-Agent: python-httpx/0.28.1\r\n"
    )
    if body is None:
        return f"{head}\r\n".encode()
    content = json.dumps(body)
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    # Python's own timeout would cost a system call before each read and write; the kernel's costs none.
    connection.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", TIMEOUT, 0))
    return connection


def receive(connection: socket.socket, ending: bytes) -> bytes:
    """Return an answer, which must be a 200; ending: what it ends with, and only there."""
    answer = connection.recv(65_536)
    while not answer.endswith(ending):
        piece = connection.recv(65_536)
        assert piece, f"the connection ended after {answer!r}"
        answer += piece
    assert answer[8:13] == b" 200 ", answer
    return answer


def load(port: int, requests: Iterable[tuple[bytes, bytes]], connections: int, seconds: float) -> Load:
    """Send requests over kept connections, the next when the last is answered, until the time is over.

    requests: each with what its answer ends with, and only there. Each connection's first is not counted.
    """
    waiting = iter(requests)
    clock = time.perf_counter
    latencies = []
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        sockets: dict[int, socket.socket] = {}
        for _ in range(connections):
            connection = stack.enter_context(connect(port))
            request, ending = next(waiting)
            connection.sendall(request)
            receive(connection, ending)
            poll.register(connection, select.EPOLLIN)
            sockets[connection.fileno()] = connection
        sent = {}
        begin = now = clock()
        for number, connection in sockets.items():
            request, ending = next(waiting)
            sent[number] = connection, ending, clock()
            connection.sendall(request)
        while sent:
            ready = poll.poll(TIMEOUT)
            assert ready, f"nothing was answered for {TIMEOUT} s"
            for number, _ in ready:
                connection, ending, start = sent.pop(number)
                receive(connection, ending)
                now = clock()
                latencies.append(now - start)
                if now - begin < seconds:
                    request, ending = next(waiting)
                    sent[number] = connection, ending, clock()
                    connection.sendall(request)
        return Load(now - begin, latencies)


def fetch(port: int, path: str) -> bytes:
    """Return the body that answers one GET, sent over a connection of its own."""
    with connect(port) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer[8:13] == b" 200 ", answer
    return answer.partition(b"\r\n\r\n")[2]
