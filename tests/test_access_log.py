"""The access log: what its lines say, that they are whole, and that nothing has to wait for them."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import io
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects_wsgi import Role, access_log, make_app
from projects_wsgi import server as bundled
from projects_wsgi.access_log import AccessLog, Output, render_line
from projects_wsgi.keys import add_key
from projects_wsgi.server import Server

from .support.process import environment, running, running_server

# The Common Log Format, and the milliseconds. Between the quotation marks, a backslash begins an escape.
LINE = re.compile(
    r"(?P<address>\S+) - (?P<user>\S+) \[(?P<time>[^]]+)\]"
    r' "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>[0-9]{3}) (?P<size>[0-9]+)'
    r" (?P<milliseconds>[0-9]+\.[0-9]{2})"
)
SECRET = "0123456789abcdefghijklmnopqrstuvwxyz"


class Line(NamedTuple):
    """A line as a program reads it."""

    address: str
    user: str
    time: datetime.datetime
    request: str
    status: int
    size: int
    milliseconds: float


def parse(line: str) -> Line:
    match = LINE.fullmatch(line)
    assert match is not None, line
    when = datetime.datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
    status, size, milliseconds = int(match["status"]), int(match["size"]), float(match["milliseconds"])
    return Line(match["address"], match["user"], when, match["request"], status, size, milliseconds)


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Send a request over a connection of its own; return the answer's status and body."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()


@contextlib.contextmanager
def logging_server(application: Any, file: Path) -> Iterator[Server]:
    """Serve an application in this process with its log in a file."""
    with (
        open(file, "a") as stream,
        contextlib.closing(AccessLog(Output(stream))) as log,
        Server("127.0.0.1", 0, application, access_log=log) as server,
        running(server),
    ):
        yield server


def answer_slowly(environ: Any, start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.05)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x" * 1_000]


# What a line says


def test_a_line_says_who_asked_for_what_and_how_it_was_answered(tmp_path: Path) -> None:
    began = time.time()
    with running_server(cwd=tmp_path) as process:
        answers = [
            ask(process.port, method, path)
            for method, path in [("GET", "/v1/projects?limit=1"), ("HEAD", "/healthz"), ("GET", "/nowhere")]
        ]
    ended = time.time()
    lines = [parse(line) for line in process.log.splitlines()]
    assert [(line.status, line.size) for line in lines] == [(status, len(body)) for status, body in answers]
    assert [line.request for line in lines] == [
        "GET /v1/projects?limit=1 HTTP/1.1",
        "HEAD /healthz HTTP/1.1",
        "GET /nowhere HTTP/1.1",
    ]
    for line in lines:
        assert (line.address, line.user) == ("127.0.0.1", "-")
        assert int(began) <= line.time.timestamp() <= ended
        assert 0 < line.milliseconds <= (ended - began) * 1_000


def test_milliseconds_are_those_that_the_application_takes(tmp_path: Path) -> None:
    with logging_server(answer_slowly, tmp_path / "log") as server:
        began = time.monotonic()
        ask(server.port, "GET", "/slow")
        took = (time.monotonic() - began) * 1_000
    assert 50 <= parse((tmp_path / "log").read_text().rstrip()).milliseconds <= took


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system has no TZ")
def test_the_time_is_local_with_its_offset_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        line = render_line(1_760_000_000.9, "::1", "", b"GET / HTTP/1.1\r\n", "200 OK", 0, 0.0)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert line == '::1 - - [09/Oct/2025:14:23:20 +0530] "GET / HTTP/1.1" 200 0 0.00\n'


def test_a_line_names_the_key_if_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "projects.keys"
    keys = {name: add_key(file, name, Role.VIEWER) for name in ("ci", "old@host")}
    file.write_text(re.sub(r"(old@host.*) \S+", r"\1 2020-01-01 2020-01-02", file.read_text()))
    headers = [{}, {"Authorization": "Bearer wrong"}]
    headers += [{"Authorization": f"Bearer {key}"} for key in (*keys.values(), SECRET)]
    environ = {"PHOENIX_ADMIN_SECRET": SECRET}
    with running_server("--keys", str(file), cwd=tmp_path, environ=environ) as process:
        for header in headers:
            ask(process.port, "GET", "/v1/projects", **header)
        ask(process.port, "DELETE", "/v1/projects/x", **headers[2])
        ask(process.port, "GET", "/healthz", **headers[2])  # where nobody looks at keys
    lines = [parse(line) for line in process.log.splitlines()]
    assert [(line.user, line.status) for line in lines] == [
        ("-", 401),
        ("-", 401),
        ("ci", 200),
        ("old@host", 401),
        ("admin-secret", 200),
        ("ci", 403),
        ("-", 200),
    ]
    assert all(key not in process.log for key in (*keys.values(), SECRET))


def test_a_host_can_name_who_asked(tmp_path: Path) -> None:
    def authenticate(environ: Any) -> str:
        environ["projects_wsgi.user"] = "Zoë Doe"
        return "viewer"

    app = make_app(":memory:", authenticate=authenticate)
    with contextlib.closing(app.store), logging_server(app, tmp_path / "log") as server:
        assert ask(server.port, "GET", "/v1/projects")[0] == 200
    assert parse((tmp_path / "log").read_text().rstrip()).user == r"Zo\xeb\x20Doe"


def test_the_user_of_a_host_stays_its_own(tmp_path: Path) -> None:
    file = tmp_path / "projects.keys"
    key = add_key(file, "ci", Role.VIEWER)
    with contextlib.closing(make_app(":memory:", keys=file).store) as store:
        app = make_app(store, keys=file)
        for remote_user in ({}, {"REMOTE_USER": "alice"}):
            environ = {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": "/v1/projects",
                "HTTP_AUTHORIZATION": f"Bearer {key}",
                **remote_user,
            }
            app(environ, lambda *_: None)
            assert environ["projects_wsgi.user"] == "ci"
            assert environ.get("REMOTE_USER") == remote_user.get("REMOTE_USER")


# Whatever clients send


@given(
    head=st.binary(max_size=1_200) | st.text(r"\" x", max_size=1_200).map(str.encode),
    user=st.text(max_size=200),
    address=st.sampled_from(["127.0.0.1", "fe80::ffff:ffff:ffff:ffff%wlp0s20f3"]),
)
def test_a_line_is_one_short_printable_line_whatever_comes(head: bytes, user: str, address: str) -> None:
    line = render_line(time.time(), address, user, head, "400 Bad Request", 27, 0.001)
    assert line.isascii()
    assert line[:-1].isprintable()
    assert line.endswith("\n")
    assert len(line) <= access_log._MOST_LINE_SIZE
    parsed = parse(line[:-1])
    assert (parsed.address, parsed.status, parsed.size, parsed.milliseconds) == (address, 400, 27, 1.0)


@pytest.mark.parametrize(
    ("head", "request_"),
    [
        (b"GET /healthz?\x9b\xe9' HTTP/1.1\r\nHost: x\r\n\r\n", r"GET /healthz?\x9b\xe9' HTTP/1.1"),
        (b'GET /" HTTP/1.1\r\n\r\n', r"GET /\" HTTP/1.1"),
        (b'GET /" 200 0 0.00\n127.0.0.1 - - ', r"GET /\" 200 0 0.00"),
        (b"rubbish \x1b[31m\\\r\n\r\n", r"rubbish \x1b[31m\\"),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1"),
        (b"GET /" + b"x" * 786 + b" HTTP/1.1\r\n", "GET /" + "x" * 786 + " HTTP/1.1"),
        (b"GET /" + b"x" * 787 + b" HTTP/1.1\r\n", "GET /" + "x" * 787 + " HTTP..."),
        (b"\x9b" * 60_000, r"\x9b" * 199 + r"\..."),
        (b"", ""),
    ],
)
def test_what_a_client_sent_is_quoted_and_cut_off(head: bytes, request_: str) -> None:
    line = render_line(0, "x", "", head, "400 Bad Request", 27, 0.001)
    assert parse(line.rstrip("\n")).request == request_


def test_a_server_logs_what_is_no_request_and_what_is_too_long(tmp_path: Path) -> None:
    sent = [b"rubbish \x1b[31m\r\n\r\n", b"\x1b" * 60_000]
    sent += [
        b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (c * 60_000) for c in (b"x", b"\x9b")
    ]
    with running_server(cwd=tmp_path) as process:
        for data in sent:
            with socket.create_connection((process.host, process.port), timeout=10) as client:
                client.sendall(data + b"\r\n\r\n")
                assert client.makefile("rb").read()
    assert [parse(line).status for line in process.log.splitlines()] == [400, 400, 404, 404]


# When lines are written


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_line_is_there_as_soon_as_its_request_is_answered(tmp_path: Path, workers: str) -> None:
    with running_server("--workers", workers, cwd=tmp_path) as process:
        for number in range(3):
            assert ask(process.port, "POST" if number else "GET", "/healthz")[0]
            deadline = time.monotonic() + 0.5
            while process.logged().count("\n") <= number:
                assert time.monotonic() < deadline
                time.sleep(0.001)


def test_lines_appear_while_a_client_asks_without_pause(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with (
        logging_server(answer_slowly, file) as server,
        socket.create_connection((server.host, server.port), timeout=10) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000)
        while client.recv(65_536) and not file.stat().st_size:
            pass
        assert 0 < file.read_text().count("\n") < 2_000


def test_what_a_server_has_not_written_yet_is_written_when_the_log_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "_WRITE_SECONDS", 60)
    file = tmp_path / "log"
    with logging_server(answer_slowly, file) as server:
        for _ in range(10):
            ask(server.port, "GET", "/")
        assert file.read_text().count("\n") <= 1
    assert file.read_text().count("\n") == 10


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_loses_no_line(tmp_path: Path, stop: signal.Signals, workers: str) -> None:
    count = 50
    with (
        running_server("--workers", workers, cwd=tmp_path, stop=stop) as process,
        contextlib.ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(socket.create_connection((process.host, process.port), timeout=10))
            for _ in range(4)
        ]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * count)
        answered = [0] * len(clients)
        for number, client in enumerate(clients):
            with client.makefile("rb") as answers:
                while answered[number] < count:
                    answered[number] += answers.readline().endswith(b"HTTP/1.1 200 OK\r\n")
    assert process.log.count("\n") == sum(answered) == 4 * count


def test_the_lines_of_workers_that_share_a_file_or_a_pipe_are_whole(tmp_path: Path) -> None:
    count, each = 4, 200
    target = "/v1/projects/" + "x" * 600
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(request * (each - 1) + request.replace(b"Host", b"Connection: close\r\nHost"))
            while client.recv(65_536):
                pass

    def load(port: int) -> None:
        threads = [threading.Thread(target=send, args=[port]) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check(log: str) -> None:
        lines = log.splitlines()
        assert {parse(line).request for line in lines} == {f"GET {target} HTTP/1.1"}
        assert len(lines) == count * each

    with running_server("--workers", "2", cwd=tmp_path) as process:
        load(process.port)
    check(process.log)
    line = [sys.executable, "-W", "error", "-m", "projects_wsgi", "--port", "0", "--workers", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe) as popen:
        assert popen.stdout is not None
        load(int(re.findall(rb"1:([0-9]+)", popen.stdout.readline())[0]))
        # The pipe is full by now.
        stop = threading.Timer(0.5, popen.send_signal, [signal.SIGTERM])
        stop.start()
        log = popen.communicate()[1]
        stop.join()
    assert popen.returncode == 0
    check(log.decode())


def test_each_write_is_of_whole_lines_and_as_long_as_a_pipe_keeps_together() -> None:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    written = []  # each write is one datagram
    with reader, writer, open(writer.fileno(), "w", closefd=False) as stream:
        log = AccessLog(Output(stream))
        for number in range(1_000):
            head = b"GET /" + b"\x9b" * number + b" HTTP/1.1\r\n"
            log.add("fe80::ffff:ffff:ffff:ffff%wlp0s20f3", "x" * 200, head, "200 OK", 10**9, 1e6)
            log.write()
            written.append(reader.recv(65_536))
        for number in range(1_000):
            log.add("::1", "", b"GET /%b HTTP/1.1\r\n" % (b"x" * number), "200 OK", 0, 0.0)
        writing = threading.Thread(target=log.write, args=[10])
        writing.start()
        while b"".join(written).count(b"\n") < 2_000:
            written.append(reader.recv(65_536))
        writing.join()
    assert all(piece.endswith(b"\n") for piece in written)
    assert max(len(piece) for piece in written) <= select.PIPE_BUF
    assert len(written) < 1_500


def test_tracebacks_and_lines_do_not_get_mixed_up(tmp_path: Path) -> None:
    def fail(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/fails":
            raise ValueError("1\n" + "  a long one\n" * 5_000)  # more than any buffer holds
        return answer_slowly(environ, start_response)

    logger, file = logging.getLogger("projects_wsgi.server"), tmp_path / "log"
    with open(file, "a") as stream:
        handler = logging.StreamHandler(Output(stream))
        logger.addHandler(handler)
        try:
            with logging_server(fail, file) as server:
                threads = [
                    threading.Thread(
                        target=lambda path=path: [ask(server.port, "GET", path) for _ in range(20)]
                    )
                    for path in ("/fails", "/", "/slow", "/fails", "/")
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            logger.removeHandler(handler)
    failure = r"the application failed\nTraceback .*\n(?:  .*\n)+ValueError: 1\n(?:  a long one\n){5000}\n"
    log, count = re.subn(failure, "", file.read_text())
    assert count == 40
    assert len([parse(line) for line in log.splitlines()]) == 100


# When they cannot be written


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[io.BufferedReader, AccessLog]]:
    """Yield the end of a pipe that is full, and a log that goes to it."""
    reader, writer = os.pipe()
    with open(reader, "rb") as end, open(writer, "w") as stream:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4_095 + b"\n")
        os.set_blocking(writer, True)
        yield end, AccessLog(Output(stream))


def lines_of(end: io.BufferedReader) -> list[str]:
    """Return the lines that can be read now, but for those that filled the pipe."""
    os.set_blocking(end.fileno(), False)
    return [line for line in (end.read() or b"").decode().splitlines() if not line.startswith("x")]


def add(log: AccessLog, count: int) -> None:
    for number in range(count):
        log.add("127.0.0.1", "", b"GET /%d HTTP/1.1\r\n" % number, "200 OK", 0, 0.0)


def test_what_nobody_reads_is_written_later_and_what_is_too_much_is_counted() -> None:
    most = access_log._MOST_LINES
    with full_pipe() as (end, log):
        add(log, most + 7)
        began = time.monotonic()
        log.write()
        assert time.monotonic() - began < 2
        assert len(log) == most
        lines = lines_of(end)
        while log:
            log.write()
            lines += lines_of(end)
    assert lines[:2] == ["", "requests that are missing here, because they could not be written: 7"]
    assert [parse(line).request for line in lines[2:]] == [
        f"GET /{number} HTTP/1.1" for number in range(most)
    ]


def test_what_could_not_be_written_is_counted(tmp_path: Path) -> None:
    with open("/dev/full", "w") as stream, open(tmp_path / "log", "w") as file:
        log = AccessLog(Output(stream))
        for _ in range(3):
            add(log, 20)
            log.write()
        assert not log
        os.dup2(file.fileno(), stream.fileno())
        add(log, 1)
        log.close()
        add(log, 1)
        log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[:2] == ["", "requests that are missing here, because they could not be written: 60"]
    assert [parse(line).status for line in lines[2:]] == [200, 200]


def test_a_log_that_nobody_reads_is_left_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_CLOSE_SECONDS", 0.1)
    with full_pipe() as (_, log):
        add(log, 1)
        began = time.monotonic()
        log.close()
        assert 0.1 <= time.monotonic() - began < 2
        assert len(log) == 1


def test_a_log_that_nobody_reads_holds_up_no_answer_and_no_stop(tmp_path: Path) -> None:
    line = [sys.executable, "-W", "error", "-m", "projects_wsgi", "--port", "0"]
    pipe, request = subprocess.PIPE, b"GET /" + b"x" * 700 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    with subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe) as popen:
        assert popen.stdout is not None
        assert popen.stderr is not None
        port = int(re.findall(rb"1:([0-9]+)", popen.stdout.readline())[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            longest = 0.0
            for _ in range(400):  # six times what the pipe holds
                began = time.monotonic()
                client.sendall(request)
                assert client.recv(65_536).startswith(b"HTTP/1.1 404 ")
                longest = max(longest, time.monotonic() - began)
        assert longest < 1
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(5) == 0
        lines = popen.stderr.read().decode().splitlines()
    assert {parse(line).status for line in lines} == {404}
    assert 50 < len(lines) < 400


def test_a_write_that_waits_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20
    with full_pipe() as (end, log):
        # As if another process had filled it at that very moment.
        monkeypatch.setattr(Output, "takes_more", lambda *_: True)
        with Server("127.0.0.1", 0, answer_slowly, access_log=log) as server, running(server):
            for _ in range(count):
                assert ask(server.port, "GET", "/")[0] == 200
            lines: list[str] = []
            deadline = time.monotonic() + 5
            while len(lines) < count:
                assert time.monotonic() < deadline
                lines += lines_of(end)
                time.sleep(0.001)
    assert [parse(line).status for line in lines] == [200] * count
