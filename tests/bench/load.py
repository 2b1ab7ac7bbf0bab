"""The client of the servers: raw sockets, requests made beforehand, the least parsing.

It runs outside the servers' processes, so that what it costs is not theirs.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterable
from typing import NamedTuple


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
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return connection


def receive(connection: socket.socket, ending: bytes) -> bytes:
    """Return an answer, which must be a 200; ending: what it ends with, and only there."""
    answer = b""
    while not answer.endswith(ending):
        piece = connection.recv(65_536)
        assert piece, f"the connection ended after {answer!r}"
        answer += piece
    assert answer[8:13] == b" 200 ", answer
    return answer


def load(port: int, requests: Iterable[bytes], ending: bytes, connections: int, seconds: float) -> Load:
    """Send requests over kept connections, the next when the last is answered, until the time is over.

    ending: what each answer ends with, and only there. Each connection's first request is not counted.
    """
    waiting = iter(requests)
    latencies = []
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        sockets: dict[int, socket.socket] = {}
        for _ in range(connections):
            connection = stack.enter_context(connect(port))
            connection.sendall(next(waiting))
            receive(connection, ending)
            poll.register(connection, select.EPOLLIN)
            sockets[connection.fileno()] = connection
        sent = {}
        begin = now = time.perf_counter()
        for number, connection in sockets.items():
            sent[number] = time.perf_counter()
            connection.sendall(next(waiting))
        while sent:
            for number, _ in poll.poll():
                receive(sockets[number], ending)
                now = time.perf_counter()
                latencies.append(now - sent.pop(number))
                request = next(waiting, None) if now - begin < seconds else None
                if request is not None:
                    sent[number] = time.perf_counter()
                    sockets[number].sendall(request)
        return Load(now - begin, latencies)


def fetch(port: int, path: str) -> bytes:
    """Return the body that answers one GET, sent over a connection of its own."""
    with connect(port) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer[8:13] == b" 200 ", answer
    return answer.partition(b"\r\n\r\n")[2]
