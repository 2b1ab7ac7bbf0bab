"""The bundled server, over real sockets."""

from __future__ import annotations

import _thread
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from wsgiref.validate import validator

import pytest

from projects_wsgi import ProjectsApp, SQLiteStore, make_app, sockets
from projects_wsgi import connection as connections
from projects_wsgi import server as bundled
from projects_wsgi.server import Server

from .support.process import environment, running, running_server

# The time that a request may take, in the tests of that; in seconds.
TIMEOUT = 1


@contextlib.contextmanager
def serving(
    application: Any, *, host: str = "127.0.0.1", max_connections: int = 0, **options: Any
) -> Iterator[Server]:
    """Serve an application in this process; max_connections: 0 for as many as usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sockets, "MAX_CONNECTIONS", max_connections or sockets.MAX_CONNECTIONS)
        server = Server(host, 0, application, **options)
    with server, running(server):
        yield server


@pytest.fixture
def projects_app() -> Iterator[ProjectsApp]:
    """The application over a database in memory: these tests are not about files."""
    app = make_app(":memory:")
    yield app
    app.store.close()


@pytest.fixture
def server(projects_app: ProjectsApp) -> Iterator[Server]:
    # The validator stands between server and application, and so checks the server.
    with serving(validator(projects_app), timeout=10) as server:
        yield server


@pytest.fixture
def hasty_client(projects_app: ProjectsApp) -> Iterator[Client]:
    """A client of a server whose timeout is TIMEOUT."""
    with (
        serving(validator(projects_app), timeout=TIMEOUT) as server,
        contextlib.closing(Client(server)) as client,
    ):
        yield client


class Client:
    """A client that sends exactly the bytes that it is given."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=10)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, *, is_head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Read one answer; (0, {}, b"") stands for a closed connection."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            line = b""
        if not line:
            return 0, {}, b""
        headers = {}
        while (header := self.file.readline()) != b"\r\n":
            name, value = header.decode("latin-1").rstrip("\r\n").split(": ", 1)
            assert name.lower() not in headers
            headers[name.lower()] = value
        length = 0 if is_head else int(headers.get("content-length", 0))
        return int(line.split()[1]), headers, self.file.read(length)

    def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        self.send(data)
        return self.receive()

    def dribble(self, data: bytes) -> None:
        """Send a byte at a time, until the server answers."""
        for byte in data:
            self.send(bytes([byte]))
            if select.select([self.socket], [], [], TIMEOUT / 20)[0]:
                return

    @staticmethod
    def read_all(connection: socket.socket) -> None:
        """Read until the connection ends."""
        with contextlib.suppress(ConnectionError):
            while select.select([connection], [], [], 10)[0] and connection.recv(65_536):
                pass

    def is_closed(self) -> bool:
        return self.receive()[0] == 0

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with contextlib.closing(Client(server)) as client:
        yield client


def get(path: str = "/healthz", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/projects HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


BODY = b'{"name":"x"}'


def test_a_connection_serves_one_request_after_the_other(client: Client) -> None:
    for _ in range(3):
        status, headers, body = client.ask(get())
        assert (status, body) == (200, b"OK")
        assert "connection" not in headers
        assert headers["server"] == "projects_wsgi"
        assert "date" in headers


def test_answers_are_not_held_back_to_fill_packets(server: Server, client: Client) -> None:
    client.ask(get())
    (connection,) = server._connections
    assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_environ_holds_the_request_and_nothing_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the process")
    seen: dict[str, Any] = {}

    def remember(environ: Any, start_response: Any) -> Any:
        seen.update(environ)
        start_response("204 No Content", [])
        return []

    with serving(validator(remember)) as server, contextlib.closing(Client(server)) as client:
        assert client.ask(get("/a%20b?c=d", "X-Twice: 1", "X-Twice: 2", "Cookie: e=f"))[0] == 204
        port = str(server.port)
    assert {name: value for name, value in seen.items() if not name.startswith("wsgi.")} == {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "HTTP_COOKIE": "e=f",
        "HTTP_HOST": "x",
        "HTTP_X_TWICE": "1, 2",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=d",
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "projects_wsgi",
    }
    assert (seen["wsgi.multithread"], seen["wsgi.multiprocess"], seen["wsgi.run_once"]) == (
        True,
        False,
        False,
    )


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1", "HTTP/1.2"])
def test_environ_names_the_version_of_the_request(version: str) -> None:
    def name(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "8")])
        return [environ["SERVER_PROTOCOL"].encode()]

    with serving(validator(name)) as server, contextlib.closing(Client(server)) as client:
        assert client.ask(get().replace(b"HTTP/1.1", version.encode()))[2] == version.encode()


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    length = f"Content-Length: {len(BODY)}"
    client.send(get("/v1/projects/x") + post(BODY, length) + get("/v1/projects/x") + get("/nowhere"))
    assert [client.receive()[0] for _ in range(4)] == [404, 200, 200, 404]


def test_requests_without_end_are_received_no_faster_than_they_are_answered(
    projects_app: ProjectsApp,
) -> None:
    ahead = get() * 10_000
    with serving(projects_app) as server, socket.socket() as client:
        client.connect((server.host, server.port))
        client.setblocking(False)
        reader = threading.Thread(target=Client.read_all, args=(client,))
        reader.start()
        longest = 0
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            if select.select([], [client], [], 0.01)[1]:
                client.send(ahead)
            longest = max([longest, *(len(each.unread) for each in list(server._connections))])
        assert longest
        assert longest <= 4 * 65_536
        client.shutdown(socket.SHUT_RDWR)
        reader.join()


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_204_and_a_304_have_neither_body_nor_length(status: str) -> None:
    def empty(environ: Any, start_response: Any) -> Any:
        start_response(status, [])
        return []

    with serving(validator(empty)) as server, contextlib.closing(Client(server)) as client:
        for _ in range(2):
            received, headers, _ = client.ask(get())
            assert received == int(status[:3])
            assert "content-length" not in headers


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_a_head_has_the_length_and_no_body(client: Client, before: bytes) -> None:
    client.send(before + b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    status, headers, _ = client.receive(is_head=True)
    assert (status, headers["content-length"]) == (200, "2")
    assert client.ask(get())[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        get("/healthz", "Connection: close"),
        get("/healthz", "Connection: TE, Close"),
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
)
def test_a_connection_ends_if_the_client_asks_for_it(client: Client, request_: bytes) -> None:
    status, headers, body = client.ask(request_)
    assert (status, headers["connection"], body) == (200, "close", b"OK")
    assert client.is_closed()


def test_a_connection_that_ended_makes_room_even_if_the_client_keeps_it_open(
    projects_app: ProjectsApp,
) -> None:
    with serving(projects_app, max_connections=1) as server, contextlib.ExitStack() as stack:
        began = time.monotonic()
        for _ in range(2):
            client = stack.enter_context(contextlib.closing(Client(server)))
            assert client.ask(get("/healthz", "Connection: close"))[0] == 200
        assert time.monotonic() - began < connections.LINGER_SECONDS


def test_bytes_of_a_path_reach_the_application_as_they_are(client: Client) -> None:
    for path in ("/v1/projects/%C3%A9", "/v1/projects/é".encode().decode("latin-1")):
        assert client.ask(get(path))[2] == "Project with name é not found".encode()
    assert client.ask(get("/v1/projects/a%00%2Fb%25"))[2] == b"Project with name a\x00/b% not found"
    assert client.ask(get("/v1/projects/%ff%zz"))[2] == "Project with name \ufffd%zz not found".encode()


@pytest.mark.parametrize(
    "target", ["http://x/healthz", "HTTPS://x:1/healthz?a=b", "//healthz", "/healthz?", "/healthz?/?"]
)
def test_absolute_targets_and_queries_are_understood(client: Client, target: str) -> None:
    assert client.ask(get(target))[::2] == (200, b"OK")


def test_an_absolute_target_without_a_path_is_the_root(client: Client) -> None:
    assert client.ask(get("http://x"))[0] == 200
    assert client.ask(get("http://x?limit=1"))[0] == 200


# Bodies


def test_chunks_are_decoded(client: Client) -> None:
    chunks = (
        b"5;name=value\r\n" + BODY[:5] + b'\r\n7 ; x = "y"\r\n' + BODY[5:] + b"\r\n0\r\nTrailer: x\r\n\r\n"
    )
    status, _, body = client.ask(post(chunks, "Transfer-Encoding: Chunked"))
    assert (status, json.loads(body)["data"]["name"]) == (200, "x")
    assert client.ask(get())[0] == 200


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\n",
        b"-1\r\n",
        b"\r\n",
        b"0x5\r\n",
        b"5\r\nabcdefg\r\n0\r\n\r\n",
        b"f" * 16 + b"\r\n",
        b"c".zfill(16) + b"\r\n" + BODY + b"\r\n0\r\n",
        b"5 5\r\n",
        b"1\n \r\n0\r\n\r\n",
        b"1\r\n \n0\r\n\r\n",
        b"5\rabcde",
        b"0\r\n\n",
        b"0\r\nTrailer: x\n\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\nTrailer: " + b"x" * (65_536 - 9) + b"\r\n\r\n",
        b"0\r\n" + b"Trailer: x\r\n" * 101 + b"\r\n",
    ],
)
def test_malformed_chunks_end_the_request_and_the_connection(client: Client, chunks: bytes) -> None:
    status, headers, body = client.ask(post(chunks + b"\r\n" + get(), "Transfer-Encoding: chunked"))
    assert (status, headers["connection"]) == (400, "close")
    assert body == b"The body could not be read to its end"
    assert client.is_closed()


@pytest.mark.parametrize("chunks", [b"x\r\n", b"0\r\nno trailer\r\n\r\n", b"1\r\n \n", b"1;" + b"x" * 65_536])
def test_a_malformed_body_is_an_oserror_for_any_application(chunks: bytes) -> None:
    raised: list[BaseException] = []

    def read(environ: Any, start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except Exception as error:
            raised.append(error)
        start_response("204 No Content", [])
        return []

    with serving(read) as server, contextlib.closing(Client(server)) as client:
        assert client.ask(post(chunks + b"\r\n", "Transfer-Encoding: chunked"))[0] == 204
        assert client.is_closed()
    assert [isinstance(error, OSError) for error in raised] == [True]


def test_too_large_a_body_is_refused_unread_chunked_or_not(client: Client, server: Server) -> None:
    status, headers, _ = client.ask(post(b"", "Content-Length: 1048577"))
    assert (status, headers["connection"]) == (413, "close")
    with contextlib.closing(Client(server)) as other:
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        with contextlib.suppress(ConnectionError):
            other.send(post(chunk * 17, "Transfer-Encoding: chunked"))
        assert other.receive()[0] == 413


def test_a_client_that_sends_too_large_a_body_can_read_the_answer(client: Client) -> None:
    with contextlib.suppress(ConnectionError):
        client.send(post(b" " * 3_000_000, "Content-Length: 3000000"))
    assert client.receive()[0] == 413


CREATES = post(BODY, f"Content-Length: {len(BODY)}")


@pytest.mark.parametrize(
    "request_",
    [
        get("/healthz", "Transfer-Encoding: chunked") + b"%x\r\n" % len(CREATES) + CREATES + b"\r\n0\r\n\r\n",
        get("/healthz", "Transfer-Encoding: chunked") + CREATES,
        get("/healthz", "Expect: 100-continue", f"Content-Length: {len(CREATES) + 1}") + CREATES,
    ],
    ids=["chunks", "no chunks", "after 100 Continue"],
)
def test_no_request_is_read_from_a_body_that_nobody_reads(client: Client, request_: bytes) -> None:
    status, headers, _ = client.ask(request_)
    assert (status, headers["connection"]) == (200, "close")
    assert client.is_closed()


def test_an_answer_is_not_lost_when_the_connection_ends_with_a_body_unread() -> None:
    size = 300_000

    def long(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * size]

    with serving(long) as server, socket.socket() as client:
        # So small a buffer that most of the answer is still on its way when the server is done.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(10)
        client.connect((server.host, server.port))
        client.sendall(get("/", "Content-Length: 100000") + b"x" * 100_000)
        received = 0
        time.sleep(0.1)
        while data := client.recv(65_536):
            received += len(data)
    assert received > size


def test_a_client_that_does_not_hang_up_is_not_waited_for_long(
    projects_app: ProjectsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.1)
    with serving(projects_app, max_connections=1) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(contextlib.closing(Client(server)))
            assert client.ask(post(b"", "Content-Length: 2000000"))[0] == 413


def test_a_client_that_is_refused_may_finish_sending(client: Client) -> None:
    assert client.ask(b"rubbish\r\n\r\n")[0] == 400
    assert client.is_closed()
    for _ in range(5):  # the first would be answered with a reset, which the second would notice
        client.send(b"x" * 1_000)
        time.sleep(0.01)


def test_a_small_body_that_nobody_reads_is_skipped(client: Client) -> None:
    unread = b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"G" * 1000
    for _ in range(2):
        status, headers, _ = client.ask(unread)
        assert status == 200
        assert "connection" not in headers


def test_a_large_body_that_nobody_reads_ends_the_connection(client: Client) -> None:
    status, headers, _ = client.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    assert (status, headers["connection"]) == (200, "close")


def test_100_continue_is_sent_when_the_body_is_wanted(client: Client) -> None:
    client.send(post(b"", "Expect: 100-Continue", f"Content-Length: {len(BODY)}"))
    assert client.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert client.file.readline() == b"\r\n"
    assert client.ask(BODY)[0] == 200
    assert client.ask(get())[0] == 200


def test_100_continue_is_not_sent_when_the_body_is_not_wanted(client: Client) -> None:
    status, headers, _ = client.ask(post(b"", "Expect: 100-continue", "Content-Length: 2000000"))
    assert (status, headers["connection"]) == (413, "close")
    assert client.is_closed()


def test_100_continue_is_not_sent_to_an_old_client(client: Client) -> None:
    request = post(BODY, "Expect: 100-continue", f"Content-Length: {len(BODY)}")
    assert client.ask(request.replace(b"HTTP/1.1", b"HTTP/1.0"))[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        post(BODY[:-1], f"Content-Length: {len(BODY)}"),
        post(BODY, f"Content-Length: {len(BODY) + 1}"),
        post(b"%x\r\n" % (len(BODY) + 1) + BODY, "Transfer-Encoding: chunked"),
        post(b"%x\r\n" % len(BODY) + BODY + b"\r\n", "Transfer-Encoding: chunked"),
    ],
)
def test_a_body_that_is_cut_off_creates_nothing(
    server: Server, projects_app: ProjectsApp, request_: bytes
) -> None:
    with contextlib.closing(Client(server)) as client:
        client.send(request_)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.receive()[0] == 400
    assert [row[1] for row in projects_app.store.list_rows()] == ["default"]


@pytest.mark.parametrize("size", [1_000, 200_000])
def test_an_idle_connection_holds_nothing_of_what_was_sent_over_it(size: int) -> None:
    bodies: list[weakref.ref[Any]] = []

    def read(environ: Any, start_response: Any) -> Any:
        bodies.append(weakref.ref(environ["wsgi.input"]))
        environ["wsgi.input"].read()
        start_response("204 No Content", [])
        return []

    with serving(read) as server, contextlib.closing(Client(server)) as client:
        assert client.ask(post(b"x" * size, f"Content-Length: {size}"))[0] == 204
        deadline = time.monotonic() + 5
        while bodies[0]() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_many_idle_connections_hold_neither_heads_nor_answers() -> None:
    def write(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"x" * 50_000)
        return []

    head, count = get("/", "A: " + "x" * 50_000), 100
    with serving(write) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(server))) for _ in range(count)]
        for client in clients:
            assert client.ask(get())[0] == 200
        tracemalloc.start()
        try:
            for client in clients:
                assert client.ask(head)[0] == 200
            assert clients[0].ask(get())[0] == 200  # when the last of them is idle
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert grown < count * 50_000 / 5


# What is refused

BAD_REQUESTS = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
    "words": b"hello there\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "a blank in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the target": b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n",
    "an authority as the target": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an asterisk as the target": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "another scheme": b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a fragment in the target": b"GET /healthz#x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a user in the authority": b"GET http://u@x/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a malformed host": b"GET /healthz HTTP/1.1\r\nHost: a b/../\r\n\r\n",
    "a query as the target": b"GET ?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": get("/healthz", "Host: y"),
    "a folded header": get("/healthz", "A: b", " c"),
    "a header without a colon": get("/healthz", "nonsense"),
    "a blank before the colon": get("/healthz", "Content-Length : 5"),
    "a header without a name": get("/healthz", ": x"),
    "NUL in a header": get("/healthz", "A: b\x00c"),
    "a lone LF after the request line": b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n",
    "a lone LF after a header": b"GET /healthz HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "a lone CR in a header": get("/healthz", "A: b\rContent-Length: 5"),
    "a negative length": post(BODY, "Content-Length: -1"),
    "a signed length": post(BODY, "Content-Length: +12"),
    "a hexadecimal length": post(BODY, "Content-Length: 0xc"),
    "a listed length": post(BODY, "Content-Length: 12, 12"),
    "an empty length": post(BODY, "Content-Length:"),
    "two lengths": post(BODY, "Content-Length: 12", "Content-Length: 12"),
    "a huge length": post(BODY, "Content-Length: " + "9" * 19),
    "length and chunks": post(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"),
    "two types": post(BODY, "Content-Length: 12", "Content-Type: text/plain"),
    "two codings": post(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "an unknown coding": post(b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked"),
    "chunks in HTTP/1.0": b"POST /v1/projects HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_malformed_request_is_400_and_nothing_after_it_is_read(client: Client, request_: bytes) -> None:
    status, headers, body = client.ask(request_ + get())
    assert (status, headers["connection"]) == (400, "close")
    assert body
    assert client.is_closed()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/" + "x" * 70_000), 414),
        (get("/healthz", "A: " + "x" * 70_000), 431),
        (get("/healthz", *[f"A{number}: x" for number in range(101)]), 431),
        (get("/healthz", *["A: " + "x" * 1000] * 70), 431),
    ],
)
def test_what_is_too_large_has_its_status(client: Client, request_: bytes, status: int) -> None:
    with contextlib.suppress(ConnectionError):
        client.send(request_)
    assert client.receive()[0] == status
    assert client.is_closed()


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_a_head_that_is_refused_has_no_body(client: Client, before: bytes) -> None:
    client.send(before + b"HEAD /healthz HTTP/1.1\r\n\r\n")
    status, headers, _ = client.receive(is_head=True)
    assert (status, headers["connection"]) == (400, "close")
    assert client.is_closed()


def test_a_request_hidden_behind_a_long_trailer_is_not_answered(client: Client) -> None:
    trailer = b"0\r\nX: " + b"a" * 65_533
    hidden = b"\r\nDELETE /v1/projects/default HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        client.send(post(b"2\r\n{}\r\n" + trailer + hidden, "Transfer-Encoding: chunked"))
    assert client.receive()[0] == 400
    assert client.is_closed()


def test_only_the_word_close_closes_a_connection(client: Client) -> None:
    assert client.ask(get("/healthz", "Connection: not-close, closed"))[0] == 200
    assert client.ask(get())[0] == 200


def test_headers_with_an_underscore_are_ignored(client: Client) -> None:
    assert client.ask(get("/healthz", "Content_Length: 5", "Transfer_Encoding: chunked"))[0] == 200
    assert client.ask(get())[0] == 200


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_an_empty_line_after_a_request_begins_no_other(hasty_client: Client, is_cut_off: bool) -> None:
    assert hasty_client.ask(get() + b"\r\n")[0] == 200  # RFC 9112, 2.2: some old clients send it
    if is_cut_off:
        hasty_client.socket.shutdown(socket.SHUT_WR)
    assert hasty_client.is_closed()


def test_an_empty_line_does_not_hold_up_a_stop(projects_app: ProjectsApp) -> None:
    with serving(projects_app) as server, contextlib.closing(Client(server)) as client:
        assert client.ask(get() + b"\r\n")[0] == 200
        began = time.monotonic()
        server.server_close()
        assert time.monotonic() - began < bundled.GRACE_SECONDS / 2
        assert client.is_closed()


def test_an_empty_line_before_a_request_is_ignored(client: Client) -> None:
    assert client.ask(b"\r\n" + get())[0] == 200
    assert client.ask(b"\r\n\r\n" + get())[0] == 400


# Time


def test_an_idle_connection_is_closed_without_an_answer(hasty_client: Client) -> None:
    began = time.monotonic()
    assert hasty_client.is_closed()
    assert time.monotonic() - began > TIMEOUT / 2


def test_a_request_that_dribbles_in_is_408(hasty_client: Client) -> None:
    hasty_client.dribble(get("/healthz", "A: " + "x" * 100))
    assert hasty_client.receive()[0] == 408


def test_a_body_that_dribbles_in_is_400(hasty_client: Client) -> None:
    hasty_client.send(post(b"", "Content-Length: 1000"))
    hasty_client.dribble(b" " * 100)
    status, headers, _ = hasty_client.receive()
    assert (status, headers["connection"]) == (400, "close")


def test_the_time_of_a_request_begins_with_its_first_byte(hasty_client: Client) -> None:
    time.sleep(0.6 * TIMEOUT)
    hasty_client.send(b"G")
    time.sleep(0.6 * TIMEOUT)
    assert hasty_client.ask(get()[1:])[0] == 200


def test_a_timeout_may_be_over_before_anything_is_read(
    projects_app: ProjectsApp, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(projects_app, timeout=1e-9) as server, contextlib.closing(Client(server)) as client:
        assert client.is_closed()
    assert caplog.records == []


def test_a_client_that_does_not_read_its_answer_is_disconnected() -> None:
    def endless(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * 50_000_000]

    with serving(endless, timeout=TIMEOUT) as server, contextlib.closing(Client(server)) as client:
        client.send(get())
        deadline = time.monotonic() + 10
        while not server._connections and time.monotonic() < deadline:
            time.sleep(0.01)
        while server._connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.monotonic() < deadline


def test_a_client_that_reads_slowly_gets_all_of_a_long_answer() -> None:
    size = 5_000_000

    def long(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * size]

    with serving(long, timeout=0.5) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
            client.settimeout(10)
            client.connect((server.host, server.port))
            client.sendall(get("/", "Connection: close"))
            received = 0
            began = time.monotonic()
            while data := client.recv(32_768):
                received += len(data)
                time.sleep(0.005)
    assert time.monotonic() - began > 0.5
    assert received > size


def test_stalled_connections_do_not_hold_up_others(projects_app: ProjectsApp) -> None:
    with serving(projects_app, timeout=30) as server:
        stalled = [Client(server) for _ in range(100)]
        for client in stalled:
            client.send(b"GET /healthz HTTP/1.1\r\nHo")
        with contextlib.closing(Client(server)) as client:
            assert client.ask(get())[0] == 200
        for client in stalled:
            client.close()


def test_requests_that_take_long_do_not_hold_up_others(projects_app: ProjectsApp) -> None:
    may_answer = threading.Event()

    def slow_or_not(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/slow":
            assert may_answer.wait(30)
        return projects_app(environ, start_response)

    with serving(slow_or_not, timeout=30) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(contextlib.closing(Client(server))) for _ in range(5)]
        for client in slow:
            client.send(get("/slow"))
        other = stack.enter_context(contextlib.closing(Client(server)))
        began = time.monotonic()
        for _ in range(50):
            assert other.ask(get())[0] == 200
        assert time.monotonic() - began < 5
        assert not may_answer.is_set()
        may_answer.set()
        assert [client.receive()[0] for client in slow] == [404] * 5


def test_more_connections_than_allowed_wait_until_another_ends(projects_app: ProjectsApp) -> None:
    with serving(projects_app, timeout=30, max_connections=2) as server:
        first, second, third = (Client(server) for _ in range(3))
        assert first.ask(get())[0] == second.ask(get())[0] == 200
        third.send(get())
        third.socket.settimeout(0.1)
        with pytest.raises(socket.timeout):
            third.socket.recv(1, socket.MSG_PEEK)
        first.close()
        third.socket.settimeout(10)
        assert third.receive()[0] == 200
        second.close()
        third.close()


def test_stopping_ends_idle_connections_at_once_and_lets_a_request_finish(projects_app: ProjectsApp) -> None:
    is_called, may_answer = threading.Event(), threading.Event()

    def slow(environ: Any, start_response: Any) -> Any:
        is_called.set()
        may_answer.wait(10)
        return projects_app(environ, start_response)

    threads = threading.active_count()
    with contextlib.ExitStack() as stack:
        with serving(slow, timeout=30) as server:
            idle = [stack.enter_context(contextlib.closing(Client(server))) for _ in range(20)]
            busy = stack.enter_context(contextlib.closing(Client(server)))
            busy.send(get())
            assert is_called.wait(10)
            threading.Timer(2, may_answer.set).start()
            began = time.monotonic()
            server.shutdown()
            with pytest.raises(ConnectionRefusedError):
                Client(server)
            assert all(client.is_closed() for client in idle)
            assert time.monotonic() - began < 2
        assert 1.9 < time.monotonic() - began < bundled.GRACE_SECONDS
        status, headers, _ = busy.receive()
        assert (status, headers["connection"]) == (200, "close")
        assert busy.is_closed()
    assert threading.active_count() <= threads


LENGTH = f"Content-Length: {len(BODY)}"
CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n7\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"
BEGUN = {
    "its first byte": post(BODY, LENGTH)[:1],
    "half of its head": post(BODY, LENGTH)[:40],
    "its head": post(b"", LENGTH),
    "half of its body": post(BODY[:5], LENGTH),
    "one of two chunks": post(CHUNKS[:10], "Transfer-Encoding: chunked"),
    "half of a chunk": post(CHUNKS[:15], "Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN.keys())
def test_a_request_that_has_begun_to_arrive_when_the_server_stops_is_answered(
    projects_app: ProjectsApp, begun: bytes
) -> None:
    whole = post(CHUNKS, "Transfer-Encoding: chunked") if b"chunked" in begun else post(BODY, LENGTH)
    with serving(validator(projects_app), timeout=30) as server:
        client = Client(server)
        assert client.ask(get())[0] == 200
        client.send(begun)
        threading.Timer(0.2, client.send, (whole[len(begun) :],)).start()
    status, headers, body = client.receive()
    assert (status, headers["connection"]) == (200, "close")
    assert json.loads(body)["data"]["name"] == "x"
    assert client.is_closed()
    client.close()


def test_a_client_that_was_asked_for_its_body_is_answered_when_the_server_stops(
    projects_app: ProjectsApp,
) -> None:
    with serving(projects_app, timeout=30) as server:
        client = Client(server)
        client.send(post(b"", "Expect: 100-continue", LENGTH))
        assert client.file.readline() + client.file.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
        threading.Timer(0.2, client.send, (BODY,)).start()
    status, headers, _ = client.receive()
    assert (status, headers["connection"]) == (200, "close")
    client.close()


def test_when_the_server_stops_a_client_that_reads_slowly_does_not_hold_up_others() -> None:
    def answer(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * (20_000_000 if environ["PATH_INFO"] == "/long" else 1)]

    with (
        serving(answer) as server,
        contextlib.closing(Client(server)) as slow,
        contextlib.closing(Client(server)) as client,
    ):
        slow.send(get("/long"))
        assert slow.socket.recv(10) == b"HTTP/1.1 2"
        client.send(get()[:-1])
        time.sleep(0.1)  # until a thread waits for the slow one
        stopper = threading.Thread(target=server.shutdown)
        began = time.monotonic()
        stopper.start()
        stopper.join()
        client.send(get()[-1:])
        assert client.receive()[0] == 200
        assert time.monotonic() - began < bundled.GRACE_SECONDS / 2
        slow.close()


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN.keys())
def test_what_has_not_arrived_within_the_grace_period_is_closed_without_an_answer(
    projects_app: ProjectsApp, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(bundled, "GRACE_SECONDS", 0.2)
    with serving(projects_app, timeout=30) as server:
        client = Client(server)
        assert client.ask(get())[0] == 200
        client.send(begun)
        began = time.monotonic()
    assert client.is_closed()
    assert 0.2 <= time.monotonic() - began < 3
    client.close()


def test_of_requests_sent_ahead_the_one_under_way_is_the_last_that_is_answered_at_a_stop(
    projects_app: ProjectsApp,
) -> None:
    is_called, may_answer = threading.Event(), threading.Event()

    def slow(environ: Any, start_response: Any) -> Any:
        is_called.set()
        may_answer.wait(10)
        return projects_app(environ, start_response)

    with serving(slow, timeout=30) as server:
        client = Client(server)
        client.send(get() + get())
        assert is_called.wait(10)
        threading.Timer(0.1, may_answer.set).start()
    status, headers, _ = client.receive()
    assert (status, headers["connection"]) == (200, "close")
    assert client.is_closed()
    client.close()


def test_sigterm_lets_a_body_arrive_and_then_ends_the_process(tmp_path: Path) -> None:
    with running_server("--quiet", cwd=tmp_path) as process:
        with socket.create_connection((process.host, process.port), timeout=10) as client:
            client.sendall(post(BODY[:5], "Expect: 100-continue", LENGTH))
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")
            process.popen.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            client.sendall(BODY[5:])
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert process.popen.wait(5) == 0
    assert process.log == ""


def test_stopping_does_not_wait_until_another_connection_ends(projects_app: ProjectsApp) -> None:
    with serving(projects_app, timeout=30, max_connections=1) as server:
        first, second = Client(server), Client(server)
        assert first.ask(get())[0] == 200
        second.send(get())
        time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < bundled.GRACE_SECONDS
    first.close()
    second.close()


STUCK = """
import socket, threading
from projects_wsgi import server

server.GRACE_SECONDS = 0.1
called = threading.Semaphore(0)

def stuck(environ, start_response):
    called.release()
    threading.Event().wait()

with server.Server("127.0.0.1", 0, stuck) as stuck_server:
    threading.Thread(target=stuck_server.serve_forever).start()
    clients = [socket.create_connection((stuck_server.host, stuck_server.port)) for _ in range(2)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        called.acquire()
    stuck_server.shutdown()
for client in clients:
    client.close()
"""


def test_requests_that_never_end_keep_neither_the_server_nor_the_process() -> None:
    subprocess.run([sys.executable, "-c", STUCK], env=environment(), check=True, timeout=10)


def test_stopping_beside_idle_and_stalled_connections_lets_slow_requests_finish(
    projects_app: ProjectsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "GRACE_SECONDS", 2)
    called, may_answer = threading.Semaphore(0), threading.Event()

    def slow(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/slow":
            called.release()
            may_answer.wait(10)
        return projects_app(environ, start_response)

    with contextlib.ExitStack() as stack:
        with serving(slow, timeout=30) as server:
            clients = [stack.enter_context(contextlib.closing(Client(server))) for _ in range(115)]
            idle, stalled, busy = clients[:100], clients[100:110], clients[110:]
            for client in (*idle, *stalled):
                assert client.ask(get())[0] == 200
            for number, client in enumerate(stalled):
                client.send(post(BODY, LENGTH)[: -5 if number % 2 else 30])
            for client in busy:
                client.send(get("/slow"))
                assert called.acquire(timeout=10)
            threading.Timer(1, may_answer.set).start()
            began = time.monotonic()
            server.shutdown()
            assert all(client.is_closed() for client in idle)
            assert not may_answer.is_set()
            for client in busy:
                status, headers, _ = client.receive()
                assert (status, headers["connection"]) == (404, "close")
                assert client.is_closed()
        assert 2 <= time.monotonic() - began < 5
        assert all(client.is_closed() for client in stalled)


def test_a_request_may_stop_the_server(projects_app: ProjectsApp) -> None:
    threads = threading.active_count()

    def stop(environ: Any, start_response: Any) -> Any:
        servers[0].shutdown()
        return projects_app(environ, start_response)

    servers: list[Server] = []
    began = time.monotonic()
    with contextlib.ExitStack() as stack, Server("127.0.0.1", 0, stop) as server:
        servers.append(server)
        idle, client = (stack.enter_context(contextlib.closing(Client(server))) for _ in range(2))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        status, headers, body = client.ask(get())
        assert (status, headers["connection"], body) == (200, "close", b"OK")
        thread.join(10)
        assert not thread.is_alive()
        assert idle.is_closed()
    assert time.monotonic() - began < bundled.GRACE_SECONDS / 2
    assert threading.active_count() == threads


def test_a_server_that_has_not_begun_can_be_stopped_and_closed_more_than_once(
    projects_app: ProjectsApp,
) -> None:
    began = time.monotonic()
    server = Server("127.0.0.1", 0, projects_app)
    for _ in range(2):
        server.shutdown()
    server.serve_forever()
    for _ in range(2):
        server.server_close()
    server.serve_forever()
    server.shutdown()
    with serving(projects_app) as server:
        server.shutdown()
    server.server_close()
    assert time.monotonic() - began < bundled.GRACE_SECONDS / 2


IN_MAIN_THREAD = """
import http.client, os, signal, sys, threading, time
from projects_wsgi.server import Server

def slow(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(threading.get_ident()).encode()]

def ask(*paths):
    client = http.client.HTTPConnection(server.host, server.port, timeout=10)
    for path in paths:
        client.request("GET", path)
        response = client.getresponse()
        body = response.read()
        answers.append(response.status)
        assert int(body) != threading.main_thread().ident
        if path == "/":
            both_asked.wait()
    client.close()

both_asked = threading.Barrier(2)
answers = []
began = time.monotonic()
with Server("127.0.0.1", 0, slow) as server:
    threads = [threading.Thread(target=ask, args=paths) for paths in (["/"], ["/", "/slow"])]
    for thread in threads:
        thread.start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("interrupted")
for thread in threads:
    thread.join()
assert answers == [200] * 3
assert time.monotonic() - began < 4
print(len(sys._current_frames()))
"""


def test_in_the_main_thread_a_signal_ends_the_server_and_a_request_under_way_is_answered() -> None:
    line = [sys.executable, "-W", "error", "-c", IN_MAIN_THREAD]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=30)
    assert (result.stdout, result.stderr) == ("interrupted\n1\n", "")


def test_a_port_can_be_used_again_at_once(projects_app: ProjectsApp) -> None:
    with serving(projects_app) as server:
        client = Client(server)
        assert client.ask(get())[0] == 200
    # The server closed first, so the system still keeps that connection (TIME_WAIT).
    with contextlib.closing(client), Server("127.0.0.1", server.port, projects_app):
        pass


def test_clients_that_come_all_at_once_can_connect_at_once(projects_app: ProjectsApp) -> None:
    with Server("127.0.0.1", 0, projects_app) as server, contextlib.ExitStack() as stack:
        address = server.host, server.port
        for _ in range(100):  # before the server accepts the first of them
            stack.enter_context(socket.create_connection(address, timeout=0.5))


def test_a_server_whose_end_is_broken_off_has_closed_its_sockets(projects_app: ProjectsApp) -> None:
    with socket.socket() as client:
        client.settimeout(10)
        server = Server("127.0.0.1", 0, projects_app)
        server.start()
        client.connect((server.host, server.port))
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET ")  # and no more, for which the server waits at its end

        def interrupt() -> None:
            while not server._service.is_stopping:
                time.sleep(0.001)
            _thread.interrupt_main()

        def close() -> None:
            server.server_close()
            time.sleep(10)  # until the interrupt comes, if that has not waited for it

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            close()
        thread.join()
        assert server.socket.fileno() == -1
        assert client.recv(1) == b""


def test_without_free_descriptors_clients_wait_and_the_server_does_not_spin(
    projects_app: ProjectsApp,
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(projects_app) as server, socket.socket() as client:
        client.settimeout(10)
        with open(os.devnull) as free:
            lowest = free.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            client.connect((server.host, server.port))
            client.sendall(get())
            began = time.process_time()
            time.sleep(0.3)
            assert time.process_time() - began < 0.1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert client.recv(1)


def test_a_process_that_may_open_any_number_of_files_serves_clients(
    projects_app: ProjectsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    # Not every system can be told so, but some containers are.
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with serving(projects_app) as server, contextlib.closing(Client(server)) as client:
        assert client.ask(get())[0] == 200


def test_without_threads_only_what_has_to_be_waited_for_is_refused(
    projects_app: ProjectsApp, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(projects_app) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(server))) for _ in range(3)]
        size = threading.stack_size(2**46)  # more than there is
        try:
            assert clients[0].ask(get())[0] == 200
            assert clients[1].ask(post(BODY, LENGTH))[0] == 200
            status, headers, _ = clients[2].ask(post(BODY[:-1], LENGTH))
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        finally:
            threading.stack_size(size)
        assert clients[1].ask(post(BODY, LENGTH))[0] == 409
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert record.getMessage() == "a request from 127.0.0.1 is refused: can't start new thread"
    assert not record.exc_info


def test_a_thread_that_cannot_start_leaves_one_leader(
    projects_app: ProjectsApp, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(projects_app) as server, contextlib.ExitStack() as stack:
        refused, other, last = (stack.enter_context(contextlib.closing(Client(server))) for _ in range(3))
        assert other.ask(get())[0] == 200  # the watch is awake
        size = threading.stack_size(2**46)
        try:
            assert refused.ask(post(BODY[:-1], LENGTH))[0] == 503
        finally:
            threading.stack_size(size)
        time.sleep(0.03)  # for the watch, which must not take that for a call that lasts
        for client in (other, last):
            assert client.ask(get())[0] == 200
        assert server._threads == 1
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert record.getMessage() == "a request from 127.0.0.1 is refused: can't start new thread"


class Scarce:
    """A lock for which there is no memory at the next call."""

    def __init__(self, lock: Any) -> None:
        self.release = lock.release
        self._acquire = lock.acquire
        self.is_scarce = True

    def acquire(self, *arguments: Any, **options: Any) -> bool:
        if self.is_scarce:
            self.is_scarce = False
            raise MemoryError
        return bool(self._acquire(*arguments, **options))


def test_a_follower_without_memory_follows_all_the_same() -> None:
    may_end = threading.Event()

    def answer(environ: Any, start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            may_end.wait(10)
        start_response("200 OK", [])
        return []

    with (
        serving(answer) as server,
        contextlib.closing(Client(server)) as slow,
        contextlib.closing(Client(server)) as client,
    ):
        server._lead = scarce = Scarce(server._lead)  # type: ignore[assignment]
        slow.send(post(b"", "Content-Length: 0"))
        client.socket.settimeout(5)
        try:
            assert client.ask(get())[0] == 200
        finally:
            may_end.set()
        assert not scarce.is_scarce
        assert slow.receive()[0] == 200


def test_a_connection_for_whose_end_there_is_no_memory_is_closed_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    with serving(answer) as server:
        unregister = server._selector.unregister
        errors: list[type[Exception]] = [MemoryError]

        def fail_once(file: Any) -> Any:
            if errors:
                raise errors.pop()
            return unregister(file)

        monkeypatch.setattr(server._selector, "unregister", fail_once)
        with contextlib.closing(Client(server)) as client:
            assert client.ask(get("/", "Connection: close"))[0] == 200
        deadline = time.monotonic() + 5
        while server._connections or len(server._selector.get_map()) > 2:  # its own two
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not errors
    assert caplog.messages == ["the connection from 127.0.0.1 is closed: out of memory"]


def test_without_threads_a_client_that_does_not_read_is_disconnected_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def long(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * (50_000_000 if environ["PATH_INFO"] == "/long" else 1)]

    with serving(long) as server, contextlib.ExitStack() as stack:
        idle, other = (stack.enter_context(contextlib.closing(Client(server))) for _ in range(2))
        size = threading.stack_size(2**46)
        try:
            idle.send(get("/long"))
            assert other.ask(get())[0] == 200
            with pytest.raises(AssertionError):
                assert len(idle.receive()[2]) == 50_000_000
        finally:
            threading.stack_size(size)
    assert "can't start new thread" in caplog.text


def test_a_closed_server_refuses_clients_even_if_its_socket_is_still_open_elsewhere(
    projects_app: ProjectsApp,
) -> None:
    with Server("127.0.0.1", 0, projects_app) as server:
        copy = server.socket.dup()  # as in a process that was forked without Python's knowledge
    with copy, pytest.raises(ConnectionRefusedError):
        Client(server)


FORKS = """
import os, sys
from projects_wsgi.testing import live_server

with live_server() as url:
    print(url.rpartition(":")[2], flush=True)
    sys.stdin.readline()
    child = os.fork()
    if child:
        print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_when_a_server_is_killed_no_client_hangs_on_a_child_that_it_forked() -> None:
    command = [sys.executable, "-c", FORKS]
    pipe, environ = subprocess.PIPE, environment(PYTHONWARNINGS="ignore")
    with subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=10) as idle:
            idle.sendall(get())
            assert idle.recv(1)
            parent.stdin.write("fork\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "forked\n"
            parent.kill()
            parent.wait(10)
            while idle.recv(65_536):  # the rest of the answer, and then the end, not a timeout
                pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)


FORKS_IN_REQUEST = """
import http.client, os, threading, time
from projects_wsgi.server import Server

def fork(environ, start_response):
    child = os.fork()
    if child:
        began = time.monotonic()
        assert os.waitpid(child, 0)[1] == 0
        assert time.monotonic() - began < 3
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

with Server("127.0.0.1", 0, fork) as server:
    threading.Thread(target=server.serve_forever).start()
    client = http.client.HTTPConnection(server.host, server.port, timeout=10)
    for method in ("GET", "POST", "GET"):
        client.request(method, "/")
        assert int(client.getresponse().read()) == os.getpid()
    client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_was_forked_within_a_request_ends_soon_and_in_silence() -> None:
    line = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS_IN_REQUEST]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


CLOSED_WITHOUT_WATCH = """
import signal, socket, threading, time
from projects_wsgi import server

server.GRACE_SECONDS = 0.1

def slow(environ, start_response):
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return []

with server.Server("127.0.0.1", 0, slow) as interrupted:
    client = socket.create_connection((interrupted.host, interrupted.port))
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    try:
        interrupted.serve_forever()
    except KeyboardInterrupt:
        pass
assert client.recv(1) == b""
client.close()
time.sleep(0.5)
"""


def test_a_server_that_is_closed_while_its_leader_waits_for_a_log_ends(
    projects_app: ProjectsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_waiting, may_go_on = threading.Event(), threading.Event()

    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            is_waiting.set()
            may_go_on.wait(10)

    def fail(_: object) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(bundled, "GRACE_SECONDS", 0.1)
    full = Full()
    server = Server("127.0.0.1", 0, projects_app, headers_for=fail)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    bundled.logger.addHandler(full)
    try:
        with contextlib.closing(Client(server)) as client:
            client.send(b"nonsense\r\n\r\n")
            assert is_waiting.wait(5)
            while server._is_watching:
                time.sleep(0.01)
            server.server_close()
    finally:
        may_go_on.set()
        bundled.logger.removeHandler(full)
    thread.join(5)
    assert not thread.is_alive()


def test_a_request_that_outlasts_a_server_without_a_watch_ends_in_silence() -> None:
    line = [sys.executable, "-W", "error", "-c", CLOSED_WITHOUT_WATCH]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


FORKS_IN_A_HANDLER = """
import os, signal, threading
from projects_wsgi import make_app
from projects_wsgi.server import Server

children = []
signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
with Server("127.0.0.1", 0, make_app(":memory:")) as server:
    signal.setitimer(signal.ITIMER_REAL, 0.5)  # when the watch sleeps
    threading.Timer(1, server.shutdown).start()
    server.serve_forever()
if children[0]:
    assert os.waitpid(children[0], 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_a_signals_handler_forks_while_the_server_is_idle_goes_on_without_it() -> None:
    line = [sys.executable, "-W", "ignore", "-c", FORKS_IN_A_HANDLER]
    subprocess.run(line, env=environment(), check=True, timeout=10)


def test_servers_that_were_closed_leave_nothing_behind(projects_app: ProjectsApp) -> None:
    def make_and_close(count: int) -> None:
        for _ in range(count):
            Server("127.0.0.1", 0, projects_app).server_close()

    make_and_close(10)
    before = sys.getallocatedblocks()
    make_and_close(10_000)
    assert sys.getallocatedblocks() - before < 1_000


# Failures


def test_an_error_in_the_server_itself_is_logged_and_ends_one_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> NoReturn:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, contextlib.closing(Client(server)) as client:
        patch.setattr(connections, "parse_head", broken)
        client.send(get())
        assert client.is_closed()
    with contextlib.closing(Client(server)) as client:
        assert client.ask(get())[0] == 200
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert record.getMessage() == "the connection from 127.0.0.1 failed, and is closed"
    assert record.exc_info


def test_an_application_that_raises_is_a_500_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(environ: Any, start_response: Any) -> Any:
        raise ZeroDivisionError("secret")

    with serving(broken) as server, contextlib.closing(Client(server)) as client:
        with caplog.at_level(logging.ERROR):
            status, _, body = client.ask(get())
        assert status == 500
        assert b"secret" not in body
        assert "ZeroDivisionError: secret" in caplog.text
        assert client.ask(get())[0] == 500


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError, ConnectionAbortedError])
def test_an_application_that_lost_a_connection_of_its_own_is_a_500(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(environ: Any, start_response: Any) -> Any:
        raise error("to another server")

    with serving(broken) as server, contextlib.closing(Client(server)) as client:
        for _ in range(2):
            assert client.ask(get())[0] == 500
    assert "to another server" in caplog.text


def test_an_application_that_fails_within_its_answer_is_a_500_and_none_of_it_is_sent() -> None:
    def broken(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "20")])
        yield b"half of it"
        raise ZeroDivisionError

    with serving(broken) as server, contextlib.closing(Client(server)) as client:
        for _ in range(2):
            status, _, body = client.ask(get())
            assert status == 500
            assert b"half of it" not in body


@pytest.mark.parametrize("is_late", [False, True])
def test_an_application_that_runs_out_of_memory_is_a_503_and_one_line_in_the_log(
    is_late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def hungry(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if is_late:
            yield b"half of it"
        yield b"x" * 2**62

    with serving(hungry) as server, contextlib.closing(Client(server)) as client:
        assert client.ask(get())[0] == 503
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert record.getMessage() == "the application is out of memory"
    assert not record.exc_info


class BrokenStore(SQLiteStore):
    """A store with a bug."""

    def list_rows(self, *_: object) -> NoReturn:
        raise ZeroDivisionError("secret")


def test_an_error_in_the_store_is_a_bare_500_and_is_logged_with_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        contextlib.closing(BrokenStore(":memory:")) as store,
        serving(validator(make_app(store))) as server,
        contextlib.closing(Client(server)) as client,
    ):
        for _ in range(3):
            status, headers, body = client.ask(get("/v1/projects?limit=1"))
            assert (status, body) == (500, b"Internal Server Error")
            assert "secret" not in str(headers)
        assert client.ask(get("/v1/projects/default"))[0] == 200
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == 3
    for record in records:
        assert record.getMessage() == "an unforeseen error at 'GET /v1/projects?limit=1 HTTP/1.1'"
        assert record.exc_info
        assert record.exc_info[0] is ZeroDivisionError


def test_a_client_that_goes_away_is_no_error_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    for data in (b"", b"GET", get(), post(b"", "Content-Length: 5")):
        client = Client(server)
        client.send(data)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        client.close()
    with contextlib.closing(Client(server)) as client:
        assert client.ask(get())[0] == 200
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
