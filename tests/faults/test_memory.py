"""The bundled server, as a process of its own, whose memory runs out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.process import Process, environment, refusal, running_server

CLIENTS = 60
LOAD_SECONDS = 2
GET = b"GET /v1/projects?limit=50 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")


@contextlib.contextmanager
def limited_server(cwd: Path, kibibytes: int, *options: str, stack: int = 8_192) -> Iterator[Process]:
    """Run a server that may have this much memory; end it with SIGTERM, which must end it in time.

    stack: kibibytes of each thread.
    """
    prefix = ["bash", "-c", f'ulimit -s {stack} -v {kibibytes}; exec "$@"', "bash"]
    with running_server("--quiet", *options, cwd=cwd, prefix=prefix, must_obey=False) as process:
        yield process
        process.popen.send_signal(signal.SIGTERM)
        process.popen.wait(7)  # the grace period, and some time for a busy machine


def answer(process: Process, data: bytes) -> bytes:
    """Send bytes over a connection of their own; return all that is answered, b"" if it is broken off."""
    received = b""
    with contextlib.suppress(OSError), socket.create_connection((process.host, process.port), 3) as client:
        client.sendall(data)
        while piece := client.recv(65_536):
            received += piece
    return received


def post(name: str, description: str) -> bytes:
    body = json.dumps({"name": name, "description": description}).encode()
    head = "POST /v1/projects HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def load(process: Process) -> set[bytes]:
    """Have many clients at a time ask for more than there is memory for; return what they were told."""
    ends = time.monotonic() + LOAD_SECONDS
    seen: set[bytes] = set()

    def ask(client: int) -> None:
        number = 0
        while time.monotonic() < ends:
            number += 1
            description = "x" * (200_000 if number % 3 == 0 else 10)
            seen.add(answer(process, post(f"{client}-{number}", description))[9:12])
            seen.add(answer(process, GET)[9:12])

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def is_answered(process: Process, data: bytes) -> bool:
    """Tell whether a request is answered with 200 soon: memory comes back little by little."""
    deadline = time.monotonic() + 5
    while answer(process, data)[9:12] != b"200":
        if time.monotonic() > deadline or process.popen.poll() is not None:
            return False
        time.sleep(0.01)
    return True


def test_when_memory_has_run_out_the_server_answers_again_and_sigterm_ends_it(tmp_path: Path) -> None:
    # Python itself now and then breaks down without memory; that proves nothing.
    for _ in range(10):
        with limited_server(tmp_path, 200_000, "--db", ":memory:") as process:
            seen = load(process)
            answered = [is_answered(process, data) for data in (GET, post("after", ""))]
        if process.popen.returncode not in (-signal.SIGABRT, -signal.SIGSEGV):
            break
    assert answered == [True, True]
    assert process.popen.returncode == 0
    assert seen >= {b"200", b""}, "memory did not run out"
    assert b"400" not in seen


def test_sigterm_ends_a_server_whose_log_nobody_reads(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "projects_wsgi", "--quiet", "--port", "0"]
    pipe, environ = subprocess.PIPE, environment()
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=environ, cwd=tmp_path) as popen:
        process = Process(popen, io.StringIO())
        (tmp_path / "projects.db").unlink()
        # Each request is an error in the log; as soon as the pipe is full, nothing more is answered.
        while answer(process, GET):
            pass
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(9)
        finally:
            popen.kill()


# Of so large stacks, there is room for none or for one, and then for all else.
@pytest.mark.parametrize("kibibytes", [900_000, 1_700_000])
@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_server_that_can_start_no_thread_says_so_and_ends(
    tmp_path: Path, kibibytes: int, options: tuple[str, ...]
) -> None:
    prefix = ["bash", "-c", f'ulimit -s 1000000 -v {kibibytes}; exec "$@"', "bash"]
    line = refusal("--quiet", "--port", "0", *options, cwd=tmp_path, prefix=prefix)
    assert line == "cannot serve: can't start new thread; allow this user more processes and memory"


def test_a_request_for_which_no_thread_is_to_be_had_is_503_with_one_line_in_the_log(tmp_path: Path) -> None:
    # Of so large stacks, there is room for three or four, and then for all else.
    with limited_server(tmp_path, 5_000_000, stack=1_000_000) as process:
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection((process.host, process.port), 10))
                for _ in range(10)
            ]
            for client in clients:
                client.sendall(post("x", "")[:-1])  # a thread must wait for the last byte
            refused = 0
            for client in clients:
                client.settimeout(1.5)
                with contextlib.suppress(socket.timeout):
                    refused += client.recv(12) == b"HTTP/1.1 503"
            assert 5 <= refused < 10
            assert answer(process, GET)[9:12] == b"200"
        assert is_answered(process, post("after", ""))
    assert process.popen.returncode == 0
    lines = process.log.splitlines()
    assert len(lines) >= refused
    for line in lines:
        assert line.endswith(" a request from 127.0.0.1 is refused: can't start new thread")


def test_a_body_for_which_there_is_no_memory_is_503_and_changes_nothing(tmp_path: Path) -> None:
    size = 300_000_000
    head = f"POST /v1/projects HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    with limited_server(tmp_path, 200_000, "--max-body-size", str(size)) as process:
        for _ in range(2):
            with socket.create_connection((process.host, process.port), 10) as client:
                client.sendall(head)
                received = client.makefile("rb").read()
            assert received.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in received
            assert received.endswith(b"\r\n\r\nThe server is out of memory. Nothing was changed; try again")
        assert process.ask("POST", "/v1/projects", {"name": "x"})[0] == 200
    assert process.popen.returncode == 0
    lines = process.log.splitlines()
    assert [line.partition(" out of ")[2] for line in lines] == ["memory at 'POST /v1/projects HTTP/1.1'"] * 2
