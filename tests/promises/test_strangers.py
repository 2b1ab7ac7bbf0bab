"""A stranger's page cannot reach the server under a name of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projects_wsgi import ProjectsApp, make_app
from projects_wsgi.server import Server

from ..support.process import refusal, running_server
from ..test_app import ORIGIN
from ..test_server import BODY, LENGTH, Client, get, post, serving

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux")


@pytest.fixture
def projects_app() -> Iterator[ProjectsApp]:
    app = make_app(":memory:", allowed_origins=[ORIGIN])
    with closing(app.store):
        yield app


NOBODYS = [
    *("localhost", "LocalHost", "localhost.", "evil.localhost", "evil.LOCALHOST.", "x", "web", "my_box"),
    *("host.docker.internal", "Gateway.Docker.Internal.", "metadata.internal"),
    *("127.0.0.1", "127.0.0.1.", "1.2.3.4", "1.2.3.4.", "192.168.178.20", "0.0.0.0"),
    *("[::1]", "[2001:DB8::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("2130706433", "0x7f000001", "", "."),
]
STRANGERS = [
    *("evil.example", "EVIL.example.", "a.b.evil.example", "xn--n3h.example", "co.uk", "x.local"),
    *("127.0.0.1.evil.example", "localhost.evil.example", "x.internal.evil.example", "evil.localhost.com"),
    *("evillocalhost.example", "evil.xlocalhost", "evil.xinternal", "127.0.0.1.nip.io", "1.2.3.4.5"),
    # Browsers make addresses of these, and send those.
    *("0x7f.1", "127.1", "0177.0.0.1.0x1", "1.2.3", "0x7f.0.0.1"),
    *("evil.localhost..", "127.0.0.1..", "..", "evil.example..", ".example"),
    *("evil%2eexample", "evil%2Eexample", "127%2e0.0.1.nip%2eio", "%65vil.example", "evil%00.example"),
]
MALFORMED = [
    *("me@127.0.0.1", "evil.example@127.0.0.1", "[::1].evil.example", "[::1", "::1", "[fe80::1%25eth0]"),
    *("127.0.0.1:6006:evil.example", "127.0.0.1/evil.example", "127.0.0.1, evil.example", "evil.example#"),
    *("evil\u3002example", "127.0.0.1 evil.example", "[evil.example]", "[::1]x", "localhost:x", "a%zz"),
]


def ask(server: Server, host: str, path: str = "/v1/projects") -> tuple[int, dict[str, str], bytes]:
    """Ask over a connection of its own."""
    with closing(Client(server)) as client:
        return client.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


@pytest.fixture
def server(projects_app: ProjectsApp) -> Iterator[Server]:
    with serving(projects_app, headers_for=projects_app.headers_for) as server:
        yield server


@pytest.mark.parametrize("port", ["", ":", ":80", ":6006"])
@pytest.mark.parametrize("host", NOBODYS)
def test_a_host_that_no_stranger_can_own_is_served(server: Server, host: str, port: str) -> None:
    assert ask(server, host + port)[0] == 200


@pytest.mark.parametrize("port", ["", ":6006"])
@pytest.mark.parametrize("host", STRANGERS)
def test_any_other_host_is_refused_and_told_how_it_is_allowed(server: Server, host: str, port: str) -> None:
    status, headers, body = ask(server, host + port)
    name = host.lower().removesuffix(".")
    text = f"The host {name} is not allowed here. If it is yours, allow it: --allowed-hosts {name}"
    assert (status, headers["content-type"], body.decode()) == (403, "text/plain; charset=utf-8", text)


@pytest.mark.parametrize("host", MALFORMED)
def test_a_malformed_host_is_400(server: Server, host: str) -> None:
    assert ask(server, host)[0] == 400


@pytest.mark.parametrize("path", ["/", "/healthz", "/openapi.json", "/nowhere"])
def test_nothing_is_served_to_a_stranger(server: Server, path: str) -> None:
    assert ask(server, "evil.example", path)[0] == 403


def test_the_authority_of_a_target_counts_instead_of_the_host(server: Server) -> None:
    for target, host, status in [
        ("http://evil.example", "localhost", 403),
        ("https://evil.example:6006", "localhost", 403),
        ("HTTP://EVIL.example.", "127.0.0.1", 403),
        ("http://localhost", "evil.example", 200),
        ("http://[::1]:6006", "evil.example", 200),
        ("http://localhost@evil.example", "localhost", 400),
    ]:
        assert ask(server, host, f"{target}/v1/projects")[0] == status, target


def test_a_client_that_names_no_host_is_served(server: Server) -> None:
    with closing(Client(server)) as client:
        assert client.ask(b"GET /healthz HTTP/1.0\r\n\r\n")[0] == 200


def test_two_hosts_are_400(server: Server) -> None:
    assert ask(server, "localhost\r\nHost: evil.example")[0] == 400


def test_each_request_of_a_connection_is_looked_at(server: Server) -> None:
    with closing(Client(server)) as client:
        for host, status in [("x", 200), ("evil.example", 403), ("x", 200), ("evil.example", 403)] * 2:
            assert client.ask(get().replace(b"Host: x", b"Host: " + host.encode()))[0] == status


def test_a_strangers_change_is_not_made_and_its_body_not_waited_for(server: Server) -> None:
    for data in (BODY, BODY[:-1], b""):  # whole, or such that to read it would wait
        with closing(Client(server)) as client:
            request = post(data, LENGTH, "Expect: 100-continue").replace(b"Host: x", b"Host: evil.example")
            assert client.ask(request)[0] == 403
    assert ask(server, "localhost", "/v1/projects/x")[0] == 404


def test_a_stranger_gets_a_head_without_a_body(server: Server) -> None:
    with closing(Client(server)) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert client.receive(is_head=True)[0] == 403
        assert client.ask(get())[0] == 200


def test_the_servers_own_answers_tell_an_allowed_origin_that_it_may_read_them(server: Server) -> None:
    allowed = {"access-control-allow-origin": ORIGIN, "vary": "Origin"}
    for request, status, expected in [
        (get("/healthz", f"Origin: {ORIGIN}").replace(b": x", b": evil.example", 1), 403, allowed),
        (get("*", f"Origin: {ORIGIN}").replace(b"GET", b"OPTIONS"), 204, allowed),
        (
            get("/healthz", "Origin: https://evil.example").replace(b": x", b": a.b", 1),
            403,
            {"vary": "Origin"},
        ),
        # Nothing is known of who has sent a head that cannot be read.
        (get("/healthz", f"Origin: {ORIGIN}", "x"), 400, {"vary": "Origin"}),
        (get("/" + 70_000 * "x", f"Origin: {ORIGIN}"), 414, {"vary": "Origin"}),
    ]:
        with closing(Client(server)) as client:
            answer = client.ask(request)
        found = {
            name: answer[1][name] for name in ("access-control-allow-origin", "vary") if name in answer[1]
        }
        assert (answer[0], found) == (status, expected)


def test_an_allowed_origin_can_read_that_there_is_no_thread_for_its_request(server: Server) -> None:
    with closing(Client(server)) as client:
        assert client.ask(get())[0] == 200  # the server has its threads
        size = threading.stack_size(2**46)  # more than there is
        try:
            status, headers, _ = client.ask(post(BODY[:-1], LENGTH, f"Origin: {ORIGIN}"))
        finally:
            threading.stack_size(size)
    assert (status, headers["access-control-allow-origin"]) == (503, ORIGIN)


# Where it listens, and what is named


HOSTS_AND_STATUSES = [("localhost", 200), ("phoenix.example", 200), ("evil.example", 403)]


def test_hosts_are_allowed_by_name(projects_app: ProjectsApp) -> None:
    with serving(projects_app, allowed_hosts=["Phoenix.example.", "other"]) as server:
        for host, status in [
            ("phoenix.example", 200),
            ("PHOENIX.example.:80", 200),
            ("other", 200),
            ("x.phoenix.example", 403),
            ("phoenix.example.evil.example", 403),
            ("evil.example", 403),
        ]:
            assert ask(server, host)[0] == status, host


@pytest.mark.parametrize(
    ("address", "allowed", "status"),
    [
        ("127.0.0.1", None, 403),
        pytest.param("127.0.0.2", None, 403, marks=on_linux),
        ("localhost", None, 403),
        pytest.param("::ffff:127.0.0.1", None, 403, marks=on_linux),
        ("0.0.0.0", None, 200),
        ("0.0.0.0", (), 403),
        ("0.0.0.0", ["phoenix.example"], 403),
        ("0.0.0.0", ["evil.example"], 200),
    ],
)
def test_elsewhere_than_at_a_loopback_address_hosts_are_looked_at_only_if_some_are_named(
    projects_app: ProjectsApp, address: str, allowed: Any, status: int
) -> None:
    with serving(projects_app, host=address, allowed_hosts=allowed) as server:
        assert ask(server, "evil.example")[0] == status


@pytest.mark.parametrize("names", ["phoenix.example", ["http://phoenix.example"], ["phoenix.example:80"]])
def test_what_is_not_the_name_of_a_host_is_refused(projects_app: ProjectsApp, names: Any) -> None:
    with pytest.raises(ValueError, match="allowed_hosts must be the names of hosts"):
        Server("127.0.0.1", 0, projects_app, allowed_hosts=names)


# By the command line


workers = pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=on_linux)])


@workers
def test_the_name_at_which_the_server_was_told_to_listen_is_allowed(tmp_path: Path, workers: str) -> None:
    # To the system, this name is 127.0.0.1.
    with running_server("--host", "127.1", "--workers", workers, "--quiet", cwd=tmp_path) as process:
        server: Any = process
        assert process.host == "127.0.0.1"
        assert [ask(server, host)[0] for host in ("127.1", "localhost", "127.2")] == [200, 200, 403]


@pytest.mark.parametrize("from_environment", [False, True])
def test_hosts_and_origins_are_named_on_the_command_line(tmp_path: Path, from_environment: bool) -> None:
    hosts, origins = "phoenix.example,other.example", f"http://localhost:3000,{ORIGIN}"
    arguments = ["--allowed-hosts", hosts, "--allowed-origins", origins]
    environ = {"PROJECTS_WSGI_ALLOWED_HOSTS": hosts, "PROJECTS_WSGI_ALLOWED_ORIGINS": origins}
    with (
        running_server("--quiet", cwd=tmp_path, environ=environ)
        if from_environment
        else running_server("--quiet", *arguments, cwd=tmp_path)
    ) as process:
        server: Any = process
        names = ("phoenix.example", "other.example", "evil.example")
        assert [ask(server, host)[0] for host in names] == [200, 200, 403]
        for host in ("localhost", "evil.example"):
            _, headers, _ = ask(server, f"{host}\r\nOrigin: {ORIGIN}")
            assert headers["access-control-allow-origin"] == ORIGIN
            assert headers["x-phoenix-server-version"] == "20.26.1"
    assert process.log == ""


@pytest.mark.parametrize(("read_only", "verb"), [([], "change"), (["--read-only"], "read")])
def test_that_every_page_may_use_the_api_is_warned_of(
    tmp_path: Path, read_only: list[str], verb: str
) -> None:
    with running_server("--quiet", cwd=tmp_path):
        pass
    with running_server("--quiet", "--allowed-origins", "*", *read_only, cwd=tmp_path) as process:
        pass
    (line,) = process.log.splitlines()
    assert "warning: every web page" in line
    assert f"can {verb} all projects" in line


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [(["--keys", "projects.keys"], {}), ([], {"PHOENIX_ADMIN_SECRET": "abcdefgh" * 4 + "1"})],
)
@workers
def test_with_keys_not_every_origin_can_be_allowed(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], workers: str
) -> None:
    line = refusal(
        *("--allowed-origins", "*", "--workers", workers, "--port", "0", *arguments), cwd=tmp_path, **environ
    )
    assert line == "with keys, allowed_origins must name each origin: * would let any web page try them"
