"""The loop of the bundled server under hard conditions: a process of its own, asked by others."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Callable

import pytest

from projects_wsgi import ProjectsApp, SQLiteStore
from projects_wsgi.server import Server

from ..support.process import Process, environment, running_server

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="this asks Linux about processes")

MEBIBYTE = 1_048_576
PROJECTS = 300_000
MOST_MILLISECONDS = 20  # on a machine that is not slower than that of the figures,
SECONDS_TO_A_MILLION = 0.08  # which counts so fast, with -X dev
STOP_SECONDS = 0.05
SAMPLES = 500
ROUNDS = 10
FOLLOW_SECONDS = 2.0  # as the server has it
THREADS = 3  # when nothing is going on: one watches, one leads, one follows
LOAD_SECONDS = 60.0


def get(path: str = "/healthz", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def post(name: str) -> bytes:
    body = b'{"name":"%b"}' % name.encode()
    head = "POST /v1/projects HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


FIRST = get(f"/v1/projects/{base64.b64encode(b'Project:1').decode()}")


def connect(process: Process) -> socket.socket:
    return socket.create_connection((process.host, process.port), timeout=30)


def ask(connection: socket.socket, data: bytes) -> bytes:
    """Send a request; return the beginning of the answer, b"" if the connection ended."""
    connection.sendall(data)
    return connection.recv(65_536)


def insert(file: Path, count: int) -> None:
    """Fill a database faster than over HTTP."""
    SQLiteStore(file).close()
    rows = ((f"project {number}", f"project {number}") for number in range(count))
    time_ = "'2026-01-01T00:00:00.000Z'"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executemany(
            "INSERT INTO projects (name, folded_name, kind, created_at, updated_at)"
            f" VALUES (?, ?, 'standard', {time_}, {time_})",
            rows,
        )


# What the system says of a process


def status(process: Process, key: str) -> int:
    """Return how many threads it has, or bytes of memory."""
    text = Path(f"/proc/{process.popen.pid}/status").read_text()
    match = re.search(rf"^{key}:\s+(\d+)( kB)?$", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * (1024 if match[2] else 1)


def descriptors(process: Process) -> list[int]:
    return sorted(int(number) for number in os.listdir(f"/proc/{process.popen.pid}/fd"))


def processor_seconds(process: Process) -> float:
    fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waits(process: Process, *, but: int = 0) -> int:
    """Return how often its threads have waited so far; but: the number of a thread to leave out."""
    total = 0
    for path in Path(f"/proc/{process.popen.pid}/task").iterdir():
        if int(path.name) != but:
            match = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", (path / "status").read_text(), re.M)
            assert match is not None
            total += int(match[1])
    return total


def wait_until(condition: Callable[[], bool], text: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, text
        time.sleep(0.02)


@contextlib.contextmanager
def checked(process: Process, most_memory: int = 32 * MEBIBYTE) -> Iterator[None]:
    """After the block, no thread and no client may be left, the memory bounded, the server well.

    A database keeps some descriptors, up to so many.
    """
    assert ask_once(process, FIRST).startswith(b"HTTP/1.1 200 ")
    memory, most = status(process, "VmRSS"), len(descriptors(process)) + 30
    yield
    wait_until(lambda: status(process, "Threads") <= THREADS, "threads are left behind")
    wait_until(lambda: len(descriptors(process)) <= most, "descriptors are left behind")
    grown = status(process, "VmRSS") - memory
    print(f"memory grew by {grown / MEBIBYTE:.1f} MiB")
    assert grown <= most_memory
    assert ask_once(process, FIRST).startswith(b"HTTP/1.1 200 ")


def ask_once(process: Process, data: bytes) -> bytes:
    with connect(process) as connection:
        return ask(connection, data)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A server that is well after the test, and has logged nothing."""
    with running_server("--quiet", cwd=tmp_path) as process, checked(process):
        yield process
    assert process.log == ""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server of a file with many projects."""
    folder = tmp_path_factory.mktemp("large")
    insert(folder / "projects.db", PROJECTS)
    with running_server("--quiet", cwd=folder) as process:
        yield process
    assert process.log == ""


# The application of a host, beside which the loop is as fast

HOST = """
import signal, time
from projects_wsgi.server import Server

def host(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.05)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
with Server("127.0.0.1", 0, host, timeout=2) as server:
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Process]:
    """A server of another application, in its main thread, that an exception ends."""
    with running_server(cwd=tmp_path, command=("-c", HOST)) as process, checked(process):
        yield process
    assert process.log == ""


@contextlib.contextmanager
def crowd(process: Process, kind: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """Have clients of a kind ask for as long as the block lasts; their answers must be right."""
    line = [sys.executable, "-W", "error", "-m", "tests.faults.crowd", kind, str(count), str(process.port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line,
        env=environment(),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as popen:
        try:
            assert popen.stdout is not None
            assert popen.stdout.readline() == "ready\n"
            yield popen
            if popen.poll() != -signal.SIGKILL:
                output, errors = popen.communicate("", timeout=40)
                assert (popen.returncode, errors) == (0, "")
                print(f"{kind}: {output.strip()} answers")
                assert int(output) > 0
        finally:
            popen.kill()


def milliseconds(process: Process, samples: int = SAMPLES) -> float:
    """Return how long 99 of 100 requests take at most."""
    seconds = []
    with connect(process) as connection:
        for _ in range(samples):
            began = time.perf_counter()
            data = ask(connection, FIRST)
            seconds.append(time.perf_counter() - began)
            assert data.startswith(b"HTTP/1.1 200 ")
            time.sleep(random.random() / 500)  # so that they come at any moment of what is beside them
    return sorted(seconds)[samples * 99 // 100 - 1] * 1_000


@functools.cache
def slowness() -> float:
    """Return how much slower this machine is than the one that the figures are for; 1 if it is not."""
    seconds = min(timeit.repeat("for _ in range(1_000_000): x += 1", "x = 0", time.thread_time, number=1))
    return max(1.0, seconds / SECONDS_TO_A_MILLION)


def is_quick(process: Process) -> bool:
    """Tell whether a request takes no longer than it should; other processes may disturb, so look often."""
    for _ in range(ROUNDS):
        measured = milliseconds(process)
        print(f"99 of 100 requests took at most {measured:.1f} ms, here {slowness():.1f} times slower")
        if measured <= MOST_MILLISECONDS * slowness():
            return True
    return False


@pytest.mark.latency
def test_2000_idle_connections_cost_little_memory_and_no_thread(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 5_000:
        pytest.skip("this system lets a process open too few files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5_000), hard))
    try:
        with running_server("--quiet", cwd=tmp_path) as process:
            for _ in range(20):
                assert ask_once(process, FIRST)
            with checked(process), ExitStack() as stack:
                before = status(process, "VmRSS")
                for _ in range(1_999):
                    connection = stack.enter_context(connect(process))
                    assert ask(connection, FIRST).startswith(b"HTTP/1.1 200 ")
                grown = status(process, "VmRSS") - before
                print(f"2,000 idle connections take {grown / MEBIBYTE:.1f} MiB")
                assert grown <= 4 * MEBIBYTE
                # A request that was held up had a thread started, which ends when it is not needed.
                wait_until(lambda: status(process, "Threads") <= THREADS, "connections keep threads")
                assert is_quick(process)
        assert process.log == ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.latency
@pytest.mark.parametrize(
    ("kind", "count"),
    [("search", 1), ("search", 3), ("list", 1), ("read slowly", 10), ("send slowly", 20), ("pipeline", 1)],
)
def test_a_quick_request_is_answered_quickly_beside(large: Process, kind: str, count: int) -> None:
    with checked(large, 64 * MEBIBYTE), crowd(large, kind, count):
        assert is_quick(large)


@pytest.mark.latency
@pytest.mark.parametrize(
    ("kind", "count"),
    [("get slowly", 1), ("get slowly", 10), ("get slowly anew", 1), ("get slowly anew", 10)],
)
def test_a_quick_request_is_answered_quickly_beside_slow_ones_of_a_host(
    host: Process, kind: str, count: int
) -> None:
    with crowd(host, kind, count):
        assert is_quick(host)


@pytest.mark.latency
def test_a_quick_request_is_answered_quickly_beside_writers_that_wait(
    process: Process, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        connection = stack.enter_context(
            closing(sqlite3.connect(tmp_path / "projects.db", isolation_level=None))
        )
        writers = [stack.enter_context(connect(process)) for _ in range(50)]
        connection.execute("BEGIN IMMEDIATE")
        for number, writer in enumerate(writers):
            writer.sendall(post(str(number)))
        wait_until(lambda: status(process, "Threads") > 50, "the writers do not wait")
        assert is_quick(process)
        connection.execute("COMMIT")
        assert [writer.recv(12) for writer in writers] == [b"HTTP/1.1 200"] * 50


@pytest.mark.latency
@pytest.mark.parametrize("count", [1, 500])
def test_an_idle_server_stops_at_once(projects_app: ProjectsApp, count: int) -> None:
    def seconds_to_stop() -> float:
        with ExitStack() as stack:
            with Server("127.0.0.1", 0, projects_app) as server:
                server.start()
                address = server.host, server.port
                clients = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(count)]
                for client in clients:
                    assert ask(client, FIRST).startswith(b"HTTP/1.1 200 ")
                began = time.monotonic()
                server.shutdown()
                seconds = time.monotonic() - began
            assert {client.recv(1) for client in clients} == {b""}
            return seconds

    assert min(seconds_to_stop() for _ in range(ROUNDS)) < STOP_SECONDS * slowness()


def test_what_was_sent_ahead_and_what_takes_too_long_have_their_turn_among_400_that_change_things(
    host: Process,
) -> None:
    count = 200
    with ExitStack() as stack:
        stack.enter_context(crowd(host, "change", 400))
        time.sleep(0.5)
        stalled, ahead = (stack.enter_context(connect(host)) for _ in range(2))
        began = time.monotonic()
        stalled.sendall(b"G")
        ahead.sendall(get("/") * (count - 1) + get("/", "Connection: close"))
        assert whole_answers(ahead) == count
        print(f"{count} requests that were sent ahead took {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 5
        assert stalled.recv(12) == b"HTTP/1.1 408"
        assert 2 <= time.monotonic() - began < 7


def test_without_free_descriptors_clients_wait_and_the_server_does_not_spin(process: Process) -> None:
    soft, hard = resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        kept = stack.enter_context(connect(process))
        assert ask(kept, FIRST)
        resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE, (descriptors(process)[-1] + 1, hard))
        waiting = []
        for _ in range(40):  # some take what numbers are free
            waiting.append(stack.enter_context(connect(process)))
            waiting[-1].sendall(FIRST)
        began = processor_seconds(process)
        time.sleep(1)
        assert processor_seconds(process) - began <= 0.1
        assert ask(kept, FIRST).startswith(b"HTTP/1.1 200 ")
        waiting[-1].settimeout(0.01)
        with pytest.raises(socket.timeout):
            waiting[-1].recv(1)
        resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE, (soft, hard))
        waiting[-1].settimeout(5)
        assert [connection.recv(12) for connection in waiting] == [b"HTTP/1.1 200"] * 40


def test_an_idle_server_does_not_wake_up(process: Process) -> None:
    def awakenings(seconds: float) -> int:
        before = waits(process, but=process.popen.pid)  # whose main thread looks for signals
        time.sleep(seconds)
        return waits(process, but=process.popen.pid) - before

    wait_until(lambda: status(process, "Threads") <= THREADS, "a thread follows that is not needed")
    wait_until(lambda: awakenings(0.2) == 0, "the watch does not fall asleep")
    assert awakenings(1.2) == 0
    with connect(process) as connection:
        assert ask(connection, FIRST)
        wait_until(lambda: status(process, "Threads") <= THREADS, "a thread follows that is not needed")
        wait_until(lambda: awakenings(0.1) <= 1, "the watch does not fall asleep")
        assert awakenings(2.2) <= 4


# Forks, signals

FORKS = """
import http.client, os, signal, sys, threading, time
from projects_wsgi.server import Server

def host(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

def serve():
    server = Server("127.0.0.1", 0, host)
    threading.Thread(target=server.serve_forever).start()
    return server

server = serve()
print(server.url, flush=True)
reader, writer = os.pipe()
for _ in range(int(sys.stdin.readline())):
    time.sleep(0.02)
    told, tell = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        signal.alarm(20)
        own = serve()
        client = http.client.HTTPConnection("127.0.0.1", own.port, timeout=5)
        for _ in range(3):
            client.request("GET", "/slow")
            assert int(client.getresponse().read()) == os.getpid()
        os.write(tell, b"answered")
        os.read(reader, 1)  # until the parent ends
        own.server_close()
        os._exit(0)
    os.close(tell)
    print(os.read(told, 8).decode(), flush=True)
    os.close(told)
sys.stdin.readline()
server.server_close()
print("closed", flush=True)
sys.stdin.readline()
"""


def test_a_server_may_fork_under_load_and_so_may_serve_in_its_children(tmp_path: Path) -> None:
    count = 20
    line = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    pipe, environ = subprocess.PIPE, environment()
    with ExitStack() as stack:
        popen = stack.enter_context(
            subprocess.Popen(line, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        )
        stack.callback(popen.kill)
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        process = Process(popen, popen.stderr)
        idle = [stack.enter_context(connect(process)) for _ in range(20)]
        pid = str(popen.pid).encode()
        assert all(ask(connection, get()).endswith(pid) for connection in idle)
        with crowd(process, "get slowly", 5), crowd(process, "get slowly anew", 5):
            popen.stdin.write(f"{count}\n")
            popen.stdin.flush()
            assert [popen.stdout.readline() for _ in range(count)] == ["answered\n"] * count
            assert all(ask(connection, get()).endswith(pid) for connection in idle)
        popen.stdin.write("close\n")
        popen.stdin.flush()
        assert popen.stdout.readline() == "closed\n"
        assert [connection.recv(1) for connection in idle] == [b""] * len(idle)
        assert popen.communicate("end\n", timeout=30)[1] == ""
        assert popen.returncode == 0


def catches(process: subprocess.Popen[str]) -> bool:
    """Tell whether a process has a handler of its own for SIGTERM."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"^SigCgt:\s+([0-9a-f]+)$", text, re.MULTILINE)
    assert match is not None
    return bool(int(match[1], 16) & 1 << (signal.SIGTERM - 1))


def test_sigterm_at_any_time_ends_a_starting_server_with_0(tmp_path: Path) -> None:
    count, at_a_time = 40, 4
    line = [sys.executable, "-m", "projects_wsgi", "--quiet", "--port", "0", "--db"]
    pipe, environ = subprocess.PIPE, environment()

    def start(number: int) -> subprocess.Popen[str]:
        command = [*line, f"{number}.db"]
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=pipe, stderr=pipe, text=True)

    began = time.monotonic()
    first = [start(number) for number in range(at_a_time)]
    for popen in first:
        assert popen.stdout is not None
        assert popen.stdout.readline()
    longest = 1.5 * (time.monotonic() - began)
    for popen in first:
        popen.send_signal(signal.SIGTERM)
        assert popen.communicate(timeout=30) == ("", "")
        assert popen.returncode == 0
    caught = 0
    for _ in range(count // at_a_time):
        moments = sorted(time.monotonic() + random.random() * longest for _ in range(at_a_time))
        processes = [start(number) for number in range(at_a_time)]
        for popen, moment in zip(processes, moments):
            time.sleep(max(0, moment - time.monotonic()))
            has_handler = catches(popen)
            popen.send_signal(signal.SIGTERM)
            assert popen.communicate(timeout=30)[1] == ""
            assert popen.returncode == 0 or (popen.returncode == -signal.SIGTERM and not has_handler)
            caught += has_handler
    print(f"{caught} of {count} had begun, in up to {longest * 1_000:.0f} ms")
    assert caught


def test_sigterm_under_load_ends_a_server_with_0_and_breaks_off_no_answer(tmp_path: Path) -> None:
    insert(tmp_path / "projects.db", 2_000)
    request = get("/v1/projects?limit=100")
    answered = 0
    for round_ in range(3):
        with running_server("--quiet", cwd=tmp_path) as process, ExitStack() as stack:
            clients = [stack.enter_context(connect(process)) for _ in range(60)]
            for number, client in enumerate(clients):
                data = (request, request + request, post(f"{round_} {number}"), request[:9])[number % 4]
                client.sendall(data)
            for client in clients[3::4]:
                client.sendall(request[9:])
            time.sleep(random.random() * 0.02)
            process.popen.send_signal(signal.SIGTERM)
            began = time.monotonic()
            for client in clients:
                with contextlib.suppress(ConnectionResetError):  # it was not accepted before the stop
                    answered += whole_answers(client)
                client.close()
            assert process.popen.wait(7) == 0
            assert time.monotonic() - began < 5
        assert process.log == ""
    print(f"{answered} of {3 * 75} requests were answered")
    assert answered


def whole_answers(connection: socket.socket) -> int:
    """Read until the server closes; return how many answers came, each of which must be whole."""
    count = 0
    with connection.makefile("rb") as file:
        while line := file.readline():
            assert line == b"HTTP/1.1 200 OK\r\n"
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += file.readline()
            match = re.search(rb"(?i)content-length: (\d+)", head)
            assert match is not None
            assert len(file.read(int(match[1]))) == int(match[1])
            count += 1
    return count


# An hour's load, shortened


def test_an_hour_of_every_load_leaves_nothing_behind_and_every_answer_is_right(tmp_path: Path) -> None:
    insert(tmp_path / "projects.db", 500)
    ends = time.monotonic() + LOAD_SECONDS
    options = ("--quiet", "--timeout", "3")
    with running_server(*options, cwd=tmp_path) as process, ExitStack() as stack:
        for _ in range(2):  # what the first load takes is kept for the next one
            with crowd(process, "mix", 12):
                time.sleep(LOAD_SECONDS / 8)
        with checked(process, 24 * MEBIBYTE):
            stack.enter_context(crowd(process, "mix", 8))
            while time.monotonic() < ends:
                with crowd(process, "mix", 6) as killed:
                    time.sleep(0.3 + random.random())
                    killed.kill()
                    killed.wait()
            stack.close()
    assert process.log == ""
