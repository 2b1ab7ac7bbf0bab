"""The bundled server, as a process of its own, attacked by its clients."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.process import Process, running_server

TIMEOUT = 3  # seconds
STALLED = 500
STRINGS = 10_000
MEBIBYTE = 1_048_576
# How much its memory may grow, for the stacks and buffers of that many connections.
MOST_MEMORY = 64 * MEBIBYTE

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A server. After the test its threads must be gone, its memory bounded, its log empty."""
    options = ("--quiet", "--timeout", str(TIMEOUT), "--max-body-size", "1000")
    with running_server(*options, cwd=tmp_path) as process:
        assert process.ask("GET", "/v1/projects")[0] == 200
        threads, memory = status(process, "Threads"), status(process, "VmRSS")
        yield process
        deadline = time.monotonic() + 10 * TIMEOUT
        while status(process, "Threads") > threads:
            assert time.monotonic() < deadline, "threads are left behind"
            time.sleep(0.1)
        grown = status(process, "VmHWM") - memory
        assert grown < MOST_MEMORY
        print(f"memory grew by at most {grown // MEBIBYTE} MiB")
        text = process.ask("GET", "/v1/projects")[2]
        assert "canary" not in text
    assert process.log == ""


def status(process: Process, key: str) -> int:
    """Return what the system says of a process: how many threads, or how many bytes of memory."""
    text = Path(f"/proc/{process.popen.pid}/status").read_text()
    match = re.search(rf"^{key}:\s+(\d+)( kB)?$", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * (1024 if match[2] else 1)


def connect(process: Process) -> socket.socket:
    return socket.create_connection((process.host, process.port), timeout=30)


def answers(connection: socket.socket) -> list[int]:
    """Read until the server closes; return the statuses of its answers."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            data += piece
    return [int(match) for match in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", data)]


def test_a_client_is_served_at_once_among_500_that_stall(process: Process) -> None:
    beginnings = [
        b"",
        b"G",
        b"GET /healthz HTTP/1.1\r\nHo",
        b"POST /v1/projects HTTP/1.1\r\nContent-Length: 9\r\n",
    ]
    with contextlib.ExitStack() as stack:
        for number in range(STALLED):
            connection = stack.enter_context(connect(process))
            connection.sendall(beginnings[number % len(beginnings)])
        longest = 0.0
        for number in range(20):
            began = time.monotonic()
            assert process.ask("POST", "/v1/projects", {"name": str(number)})[0] == 200
            assert process.ask("GET", "/v1/projects")[0] == 200
            longest = max(longest, time.monotonic() - began)
        assert longest < 2  # seconds
        assert status(process, "Threads") < 10, "a connection that stalls costs a thread"
        print(f"{STALLED} connections stalled, another was answered in {longest:.3f} s at most")


def test_a_client_that_sends_a_byte_a_second_is_cut_off_in_time(process: Process) -> None:
    head = b"POST /v1/projects HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n"
    with connect(process) as in_head, connect(process) as in_body:
        in_body.sendall(head)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for number in range(2 * TIMEOUT):
                in_head.sendall(head[number : number + 1])
                in_body.sendall(b" ")
                time.sleep(1)
        assert answers(in_head) == [408]
        assert answers(in_body) == [400]
        assert time.monotonic() - began < 10 * TIMEOUT


ENDLESS = {
    "a request line": (b"GET /", b"x", [414]),
    "a header line": (b"GET / HTTP/1.1\r\nA: ", b"x", [431]),
    "headers": (b"GET / HTTP/1.1\r\n", b"A: x\r\n", [431]),
    "a chunk's line": (
        b"POST /v1/projects HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"x",
        [400],
    ),
    "chunks": (
        b"POST /v1/projects HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\n \r\n",
        [413],
    ),
    "a body": (b"POST /v1/projects HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n", b" ", [413]),
}


@pytest.mark.parametrize(("beginning", "rest", "expected"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends_is_cut_off(
    process: Process, beginning: bytes, rest: bytes, expected: list[int]
) -> None:
    piece = rest * (65_536 // len(rest))
    deadline = time.monotonic() + 10 * TIMEOUT
    with connect(process) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(beginning)
        while True:
            connection.sendall(piece)
            assert time.monotonic() < deadline, "it is still reading"
    with connect(process) as connection:  # no more than leaves the answer to be read
        connection.sendall(beginning + 2 * piece)
        connection.shutdown(socket.SHUT_WR)
        assert answers(connection) == expected


# A request in the body of another. If it is answered, the body was read as a request.
CANARY = (
    b"POST /v1/projects HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
    b'{"name":"canary"}'
)
LENGTH = str(len(CANARY)).encode()
FRAMINGS = [
    *(
        b"Content-Length: " + value
        for value in (LENGTH, b"+" + LENGTH, b"-" + LENGTH, LENGTH + b", " + LENGTH)
    ),
    *(b"Content-Length: " + value for value in (b"0x" + LENGTH, LENGTH + b".0", b"", LENGTH + b" 0", b"1e2")),
    *(b"Content-Length: " + value for value in (LENGTH + b"\x0b", b"\xc2\xa0" + LENGTH, b"9" * 30)),
    *(
        name + b" " + LENGTH
        for name in (b"Content-Length :", b" Content-Length:", b"Content-Length\t:", b"A:\r\n ")
    ),
    *(
        b"Transfer-Encoding: " + value
        for value in (b"chunked", b"CHUNKED", b"identity", b"xchunked", b"chunked;q=1")
    ),
    *(
        b"Transfer-Encoding: " + value
        for value in (b"gzip, chunked", b"chunked, chunked", b"\x0bchunked", b"")
    ),
    *(
        name + b" chunked"
        for name in (b"Transfer-Encoding :", b"\tTransfer-Encoding:", b"Transfer-Encoding:\r\n")
    ),
]


def random_string(random: random.Random) -> bytes:
    """Return something that is almost a request, or nothing like it."""
    if random.random() < 0.4:
        framing = random.sample(FRAMINGS, random.choice([1, 1, 2, 3]))
        return b"POST /v1/projects HTTP/1.1\r\nHost: x\r\n" + b"\r\n".join(framing) + b"\r\n\r\n" + CANARY
    if random.random() < 0.3:
        return random.randbytes(random.randrange(300))
    request = bytearray(
        b"GET /v1/projects?limit=1 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nContent-Length: 0\r\n\r\n"
    )
    for _ in range(random.randrange(1, 5)):
        position = random.randrange(len(request))
        request[position : position + random.randrange(3)] = random.choice(
            [b"", b" ", b"\0", b"\r", b"\n", b"\r\n", b"\xff", b":", b"%", b"/", b"\t", random.randbytes(2)]
        )
    return bytes(request)


def test_ten_thousand_strings_get_a_4xx_or_a_close_and_smuggle_nothing(process: Process) -> None:
    statuses: dict[int, int] = {}
    wrong: list[bytes] = []

    def send(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(STRINGS // 8):
            data = random_string(source)
            with connect(process) as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                found = answers(connection)
            for status_ in found:
                statuses[status_] = statuses.get(status_, 0) + 1
            if any(status_ >= 500 for status_ in found) or (CANARY in data and len(found) > 1):
                wrong.append(data)

    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    print(f"{STRINGS} strings: {dict(sorted(statuses.items()))}")
    assert statuses.keys() >= {200, 400, 404, 422}
