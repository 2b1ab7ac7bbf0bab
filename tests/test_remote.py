"""Reading the projects of a server: of a Phoenix that a script plays, and of ours."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from projects_wsgi import ProjectKind, Role, SQLiteStore, transfer
from projects_wsgi.keys import add_key
from projects_wsgi.model import SourceUnavailable, parse_global_id, render_global_id
from projects_wsgi.testing import live_server
from projects_wsgi.transfer import open_source, remote

KEY = "a-key-that-nobody-may-show"

Answer = tuple[int, dict[str, str], bytes]


class Held(NamedTuple):
    """A project of a Phoenix."""

    id: int
    name: str
    kind: str = "standard"


class Phoenix(http.server.ThreadingHTTPServer):
    """A server that answers as a Phoenix does, or as a test says.

    before: called with the number of each request, from 1; what it returns is answered instead.
    """

    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.projects = [
            Held(1, "default"),
            Held(2, "Experiment-1", "experiment"),
            Held(3, "mine"),
            Held(4, "evaluator", "dataset_evaluator"),
            Held(5, "playground"),
            Held(7, "Experiment-2", "experiment"),
        ]
        self.requests: list[tuple[str, str | None]] = []
        self.before: Callable[[int], Answer | None] = lambda number: None
        self.page_size = 2

    def answer(self, path: str, authorization: str | None) -> Answer:
        self.requests.append((path, authorization))
        return self.before(len(self.requests)) or self.list(path)

    def list(self, path: str) -> Answer:
        parts = urlsplit(path)
        if parts.path != "/v1/projects":  # as Phoenix does
            return 200, {"Content-Type": "text/html"}, b"<!DOCTYPE html>"
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        kinds = {"standard"}
        kinds |= {"experiment"} if query.get("include_experiment_projects") == "true" else set()
        kinds |= {"dataset_evaluator"} if query.get("include_dataset_evaluator_projects") == "true" else set()
        first = parse_global_id(query["cursor"])[1] if "cursor" in query else 2**63
        listed = [it for it in sorted(self.projects, reverse=True) if it.id <= first and it.kind in kinds]
        size = min(self.page_size, int(query["limit"]))
        return self.page(listed[:size], render_global_id(listed[size].id) if listed[size:] else None)

    def page(self, listed: Any, cursor: Any) -> Answer:
        data = [
            {"name": it.name, "description": f"of {it.name}", "id": render_global_id(it.id)} for it in listed
        ]
        body = json.dumps({"data": data, "next_cursor": cursor}, separators=(",", ":")).encode()
        return 200, {"Content-Type": "application/json"}, body


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Phoenix

    def do_GET(self) -> None:
        status, headers, body = self.server.answer(self.path, self.headers.get("Authorization"))
        if status == 0:  # nothing at all
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def phoenix(monkeypatch: pytest.MonkeyPatch) -> Iterator[Phoenix]:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.001)
    with Phoenix() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def brought_from(url: str, key: str | None = None) -> list[tuple[int, str, str | None, str]]:
    """Return what a fresh store holds after an import."""
    with closing(SQLiteStore(":memory:")) as store:
        with open_source(url, key) as source:
            transfer.import_projects(store, source)
        return [(it.id, it.name, it.description, it.kind.value) for it in transfer.export_projects(store)]


def refusal(url: str, key: str | None = None) -> str:
    with pytest.raises(SourceUnavailable) as caught, open_source(url, key) as source:
        list(source.numbered)
    text = str(caught.value)
    assert "\n" not in text
    assert KEY not in text
    return text


def held_by(phoenix: Phoenix) -> list[tuple[int, str, str, str]]:
    return [(it.id, it.name, f"of {it.name}", it.kind) for it in phoenix.projects]


def test_all_pages_of_every_kind_are_read(phoenix: Phoenix) -> None:
    assert brought_from(phoenix.url) == held_by(phoenix)
    assert {key for _, key in phoenix.requests} == {None}


def test_the_key_is_sent_to_the_server(phoenix: Phoenix) -> None:
    assert brought_from(f"{phoenix.url}/", KEY) == held_by(phoenix)
    assert {key for _, key in phoenix.requests} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("host", ["a..b", ".example", "x" * 64, f"{'x' * 64}.example", "a..b:80"])
def test_a_name_that_no_host_can_have_is_refused(host: str) -> None:
    assert refusal(f"http://{host}/").startswith(f"the server http://{host} cannot be reached: ")


@pytest.mark.parametrize("moment", range(1, 12))
def test_a_list_that_changes_meanwhile_gives_what_was_there_and_no_wrong_kind(
    phoenix: Phoenix, moment: int
) -> None:
    at_first = {it.id: it for it in phoenix.projects}

    def change(number: int) -> None:
        if number == moment:
            gone = [phoenix.projects.pop(0 if which else 1) for which in (False, False, False)]
            assert [it.id for it in gone] == [2, 3, 4]
            phoenix.projects += [Held(8, "late"), Held(9, "Experiment-3", "experiment"), Held(10, "mine")]

    phoenix.before = change
    brought = brought_from(phoenix.url)
    later = 10 if moment == 1 else 7
    assert {1, 5, 7} <= {it[0] for it in brought} <= {1, 2, 3, 4, 5, 7, *range(8, later + 1)}
    for project_id, name, _, kind in brought:
        expected = at_first.get(project_id) or next(it for it in phoenix.projects if it.id == project_id)
        assert (name, kind) == (expected.name, expected.kind)


def test_a_phoenix_that_knows_no_kinds_gives_standard_projects(phoenix: Phoenix) -> None:
    phoenix.projects = [it._replace(kind="standard") for it in phoenix.projects]
    assert {it[3] for it in brought_from(phoenix.url)} == {"standard"}


def test_an_empty_list_is_good(phoenix: Phoenix) -> None:
    phoenix.projects = []
    assert len(brought_from(phoenix.url)) == 1


BROKEN: list[Answer] = [
    (503, {"Retry-After": "0"}, b"busy"),
    (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"busy"),
    (429, {}, b""),
    (502, {}, b""),
    (504, {}, b""),
    (0, {}, b""),
    (200, {"Content-Length": "1000"}, b'{"data":['),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_busy_or_breaks_off_is_tried_again(phoenix: Phoenix, broken: Answer) -> None:
    phoenix.before = lambda number: broken if number in (1, 4, 5, 6, 7, 9) else None
    assert brought_from(phoenix.url) == held_by(phoenix)


@pytest.mark.parametrize("broken", BROKEN)
def test_what_stays_busy_or_broken_ends_with_a_line(phoenix: Phoenix, broken: Answer) -> None:
    phoenix.before = lambda number: broken if number > 2 else None
    assert re.match(rf"the server {phoenix.url} was too busy 5 times: ", refusal(phoenix.url))
    assert len(phoenix.requests) == 7


def test_the_server_says_how_long_to_wait(phoenix: Phoenix) -> None:
    phoenix.before = lambda number: (503, {"Retry-After": "1"}, b"") if number == 1 else None
    began = time.monotonic()
    brought_from(phoenix.url)
    assert 1 <= time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, {}, b""), "answers 401: it wants a key"),
        ((403, {}, b""), "answers 403: it wants a key"),
        ((404, {}, b""), "answers 404 to /v1/projects; is the URL right?"),
        ((500, {}, b""), "answers 500 to /v1/projects"),
        ((301, {"Location": "http://example.com/"}, b""), "for another address, which is not followed"),
        ((307, {"Location": "/v1/projects"}, b""), "for another address, which is not followed"),
        ((200, {}, b"<!DOCTYPE html>"), "is no JSON; is the URL right?"),
        ((200, {}, b"[" * 100_000), "is no JSON"),
        ((200, {}, b"[]"), "there is no list of projects"),
        ((200, {}, b'{"data":{}}'), "there is no list of projects"),
        ((200, {}, b'{"data":[7]}'), "does not list projects as a Phoenix does: it is no object"),
        ((200, {}, b'{"data":[{"id":7,"name":"x"}]}'), "7 is the id of no project"),
        ((200, {}, b'{"data":[],"next_cursor":"x"}'), "its list would not end"),
        ((200, {}, b'{"data":[{"id":"UHJvamVjdDox","name":"x"}],"next_cursor":7}'), "gives the cursor '7'"),
    ],
)
@pytest.mark.parametrize("number", [2, 5])
def test_what_is_not_worth_another_try_ends_with_a_line(
    phoenix: Phoenix, answer: Answer, reason: str, number: int
) -> None:
    phoenix.before = lambda it: answer if it == number else None
    assert reason in refusal(phoenix.url)
    assert len(phoenix.requests) == number


def test_a_key_that_is_wrong_is_told_and_not_shown(phoenix: Phoenix) -> None:
    phoenix.before = lambda _: (401, {}, KEY.encode())
    assert refusal(phoenix.url, KEY).endswith("answers 401: it does not accept the key")


def test_a_cursor_that_repeats_ends_with_a_line(phoenix: Phoenix) -> None:
    phoenix.before = lambda _: phoenix.page(phoenix.projects[:1:-1], "UHJvamVjdDo3")
    assert "lists project 7 after project 3: its list would not end" in refusal(phoenix.url)
    assert len(phoenix.requests) == 3


def test_a_page_of_any_size_takes_no_memory(phoenix: Phoenix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MAX_PAGE_SIZE", 100_000)
    phoenix.before = lambda _: (200, {"Content-Length": "1000000000000"}, b" " * 300_000)
    assert "gives a page of more than 100,000 bytes" in refusal(phoenix.url)


def test_a_page_that_trickles_or_never_comes_ends_with_a_line(
    phoenix: Phoenix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_TIMEOUT", 0.1)
    monkeypatch.setattr(remote, "_PAGE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "was too busy 5 times: " in refusal(f"http://127.0.0.1:{silent.getsockname()[1]}")
    stop = threading.Event()

    def trickle() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), trickling.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not stop.wait(0.02):
                    connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as trickling:
        threading.Thread(target=trickle, daemon=True).start()
        assert "was too busy 5 times: the page takes too long" in refusal(
            f"http://127.0.0.1:{trickling.getsockname()[1]}"
        )
        stop.set()
        socket.create_connection(trickling.getsockname()).close()


def test_a_server_that_is_not_there_ends_with_a_line_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert re.search("cannot be reached: .*refused", refusal(url))
    assert "cannot be reached" in refusal("http://nowhere.invalid:6006")


def test_a_certificate_that_nobody_vouches_for_is_refused(
    phoenix: Phoenix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", f"{tmp_path}/server.key", "-out", f"{tmp_path}/server.crt")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    phoenix.socket = context.wrap_socket(phoenix.socket, server_side=True)
    url = phoenix.url.replace("http://127.0.0.1", "https://localhost")
    assert "cannot be reached: [SSL: CERTIFICATE_VERIFY_FAILED]" in refusal(url, KEY)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.crt"))
    assert "cannot be reached: [SSL: CERTIFICATE_VERIFY_FAILED]" in refusal(
        url.replace("localhost", "127.0.0.1"), KEY
    )
    assert phoenix.requests == []
    assert brought_from(url, KEY) == held_by(phoenix)


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{KEY}@localhost/",
        f"http://me:{KEY}@[::1",
        f"http://me:1?{KEY}@localhost/",
        "http://",
        "http://localhost:port",
        "http://localhost:99999",
        "http://localhost:0",
        "http://[::1",
        "http://local host/",
        "http://localhost/?a=b",
        "http://localhost/#a",
        "http://localhost/\r\nX: y",
        "http://ü/",
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    assert re.search("must hold no user or password|is not like http://host:port", refusal(url))


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX: y", f"{KEY} x", f"{KEY}ü", f"\0{KEY}"])
def test_a_key_that_is_none_is_refused_and_not_shown(phoenix: Phoenix, key: str) -> None:
    assert "the key must hold ASCII characters alone" in refusal(phoenix.url, key)
    assert phoenix.requests == []


def test_another_server_of_ours_gives_all_that_it_holds(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "importer", Role.VIEWER)
    names = ["\0", "a/b", "%", "🦜", "x" * 5_000]
    projects = [
        {"name": name, "description": name, "kind": kind.value}
        for name, kind in zip(names, [*ProjectKind] * 2)
    ]
    with live_server(projects=projects, keys=tmp_path / "keys", max_page_size=2) as url:
        expected = [(it + 2, name, name, projects[it]["kind"]) for it, name in enumerate(names)]
        assert brought_from(url, key)[1:] == expected
        assert "it wants a key" in refusal(url)
        assert "it does not accept the key" in refusal(url, KEY)
