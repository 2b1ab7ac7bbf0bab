"""The routes, at the root and under a prefix."""

from __future__ import annotations

import gc
import io
import json
import logging
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import webtest

from projects_wsgi import (
    OutcomeUnknown,
    ProjectExists,
    ProjectsApp,
    ProjectsError,
    Role,
    SQLiteStore,
    Store,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnavailable,
    make_app,
    wire,
)
from projects_wsgi.keys import add_key
from projects_wsgi.wsgi import TEXT, Request, request_line

from .support.databases import Database

VERSION = ("x-phoenix-server-version", "20.26.1")

DEFAULT = {"name": "default", "description": "Default project", "id": "UHJvamVjdDox"}


def create(app: webtest.TestApp, name: str, description: str | None = None) -> dict[str, Any]:
    project: dict[str, Any] = app.post_json("/v1/projects", {"name": name, "description": description}).json[
        "data"
    ]
    return project


def item(identifier: str) -> str:
    return "/v1/projects/" + quote(identifier, safe="")


# What goes well


def test_a_project_is_created_read_described_and_deleted(app: webtest.TestApp) -> None:
    project = create(app, "agent", "first")
    assert project == {"name": "agent", "description": "first", "id": "UHJvamVjdDoy"}
    assert app.get(item("agent")).json == app.get(item(project["id"])).json == {"data": project}
    project["description"] = "second"
    assert app.put_json(item("agent"), {"description": "second"}).json == {"data": project}
    assert app.get("/v1/projects").json == {"data": [project, DEFAULT], "next_cursor": None}
    response = app.delete(item("agent"))
    assert (response.status_int, response.body) == (204, b"")
    assert "Content-Type" not in response.headers
    assert "Content-Length" not in response.headers
    app.get(item("agent"), status=404)


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "/",
        "//",
        "a/b/",
        "..",
        ".",
        "a?b#c",
        "nul\x00x",
        "e\u0301",
        "🚀 ñ",
        "+",
        "%2F",
        " ",
        "x" * 5_000,
    ],
)
def test_every_name_is_reachable(app: webtest.TestApp, name: str) -> None:
    project = create(app, name)
    assert app.get(item(name)).json["data"] == project
    assert app.put_json(item(name), {"description": "x"}).json["data"]["name"] == name
    assert app.delete(item(name)).status_int == 204
    text = f"Project with name {name} not found"
    assert app.get(item(name), status=404).text == text


def test_pages_follow_each_other_by_cursor(app: webtest.TestApp) -> None:
    for number in range(7):
        create(app, f"p{number}")
    names, query = [], "limit=3"
    while True:
        page = app.get(f"/v1/projects?{query}").json
        names.append([project["name"] for project in page["data"]])
        if page["next_cursor"] is None:
            break
        query = f"limit=3&cursor={quote(page['next_cursor'])}"
    assert names == [["p6", "p5", "p4"], ["p3", "p2", "p1"], ["p0", "default"]]


def test_a_cursor_stays_good_when_its_project_is_deleted(app: webtest.TestApp) -> None:
    for number in range(4):
        create(app, f"p{number}")
    cursor = app.get("/v1/projects?limit=2").json["next_cursor"]
    app.delete(item("p1"))
    page = app.get(f"/v1/projects?cursor={quote(cursor)}").json["data"]
    assert [project["name"] for project in page] == ["p0", "default"]


def test_a_page_of_large_projects_ends_early_and_loses_none(database: Database) -> None:
    projects_app = database.make_app(max_page_bytes=1000)
    with closing(projects_app.store) as store:
        for number in range(30):
            store.create(f"project {number}", "é" * (number * 30))
        store.create("longer than a page", "\x01" * 5000)
        app = webtest.TestApp(projects_app)
        found: list[str] = []
        cursor = ""
        while cursor is not None:
            response = app.get(f"/v1/projects?limit=20&cursor={cursor}")
            page = response.json["data"]
            assert 1 <= len(page) <= 20
            without_last = json.dumps(page[:-1], ensure_ascii=False, separators=(",", ":"))
            assert len(without_last.encode()) <= 1002
            found += [project["name"] for project in page]
            cursor = response.json["next_cursor"]
        assert found == ["longer than a page", *(f"project {n}" for n in reversed(range(30))), "default"]


def test_a_limit_beyond_the_largest_page_loses_nothing(store: Store) -> None:
    app = webtest.TestApp(make_app(store, max_page_size=2))
    for name in ("a", "b"):
        create(app, name)
    for query in ("", "?limit=3", f"?limit={2**70}"):
        page = app.get(f"/v1/projects{query}").json
        assert [project["name"] for project in page["data"]] == ["b", "a"]
        assert page["next_cursor"] == DEFAULT["id"]


def test_other_kinds_are_listed_when_asked_for_and_always_reachable(
    app: webtest.TestApp, projects_app: ProjectsApp
) -> None:
    projects_app.store.create("run", kind="experiment")
    projects_app.store.create("judge", kind="dataset_evaluator")
    create(app, "playground")

    def names(query: str) -> list[str]:
        return [project["name"] for project in app.get(f"/v1/projects?{query}").json["data"]]

    assert names("") == ["playground", "default"]
    assert names("include_experiment_projects=true") == ["playground", "run", "default"]
    assert names("include_dataset_evaluator_projects=on") == ["playground", "judge", "default"]
    both = "include_experiment_projects=Y&include_dataset_evaluator_projects=1"
    assert names(both) == ["playground", "judge", "run", "default"]
    assert names(both + "&name_contains=U") == ["playground", "judge", "run", "default"]
    assert app.put_json(item("run"), {"description": "x"}).json["data"]["description"] == "x"
    app.delete(item("judge"), status=204)


def test_a_raw_utf_8_query_is_read_as_utf_8(projects_app: ProjectsApp) -> None:
    projects_app.store.create("Café")
    query = "name_contains=É".encode().decode("latin-1")
    _, _, body = call(projects_app, "GET", "/v1/projects", QUERY_STRING=query)
    assert "Café" in body.decode()


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/healthz", "text/plain; charset=utf-8", b"OK"),
        ("/readyz", "application/json", b"{}"),
        ("/arize_phoenix_version", "text/plain; charset=utf-8", b"20.26.1"),
    ],
)
def test_the_other_routes_answer_what_they_always_do(
    app: webtest.TestApp, path: str, content_type: str, body: bytes
) -> None:
    response = app.get(path)
    assert (response.headers["Content-Type"], response.body) == (content_type, body)


def test_the_version_can_be_set() -> None:
    with closing(SQLiteStore(":memory:")) as store:
        app = webtest.TestApp(make_app(store, phoenix_version="13.0.5"))
        response = app.get("/arize_phoenix_version")
        assert (response.text, response.headers["X-Phoenix-Server-Version"]) == ("13.0.5", "13.0.5")
        assert app.get("/openapi.json").json["info"]["version"] == "13.0.5"


@pytest.mark.parametrize(
    "options",
    [
        {"max_page_size": 0},
        {"max_page_bytes": 0},
        {"max_body_size": 0},
        {"max_database_size": 0},
        {"busy_timeout": 0},
        {"admin_secret": "weak"},
        {"allowed_origins": ["https://app.example/"]},
        {"allowed_origins": "https://app.example"},
        {"phoenix_version": "20.26"},
        {"phoenix_version": "20.26.1\r\nX: y"},
        {"phoenix_version": "٢.٠.٠"},
    ],
)
def test_a_wrong_option_is_refused_before_the_database_is_touched(
    file: Path, options: dict[str, Any]
) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name.replace("admin_", "admin ")):
        make_app(file, **options)
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("options", [{"max_page_size": 0}, {"max_body_size": -1}])
def test_options_out_of_their_range_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with closing(SQLiteStore(":memory:")) as store, pytest.raises(ValueError, match=name):
        make_app(store, **options)


# Paths and methods


@pytest.mark.parametrize("path", ["/v1/projects", "/v1/projects/"])
def test_a_trailing_slash_is_the_collection(app: webtest.TestApp, path: str) -> None:
    assert app.get(path).json["data"] == [DEFAULT]
    assert app.post_json(path, {"name": "x"}).json["data"]["name"] == "x"


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/project", "/v1/projectsx", "/healthz/", "/V1/projects", "/x"]
)
def test_unknown_paths_are_404(app: webtest.TestApp, path: str) -> None:
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        response = app.request(path, method=method, status=404)
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.text == ("" if method == "HEAD" else "Not Found")


ROUTES = {
    "/v1/projects": "GET, HEAD, POST, OPTIONS",
    "/v1/projects/": "GET, HEAD, POST, OPTIONS",
    "/v1/projects/default": "GET, HEAD, PUT, DELETE, OPTIONS",
    "/v1/projects/a/b": "GET, HEAD, PUT, DELETE, OPTIONS",
    "/healthz": "GET, HEAD, OPTIONS",
    "/readyz": "GET, HEAD, OPTIONS",
    "/arize_phoenix_version": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
    "/": "GET, HEAD, OPTIONS",
}
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]


@pytest.mark.parametrize("path", ROUTES)
def test_every_path_answers_its_methods_and_names_them(app: webtest.TestApp, path: str) -> None:
    allow = ROUTES[path]
    response = app.options(path)
    assert (response.status_int, response.headers["Allow"], response.body) == (204, allow, b"")
    for method in METHODS:
        response = app.request(path, method=method, expect_errors=True)
        if method in allow:
            assert response.status_int != 405
        else:
            assert (response.status_int, response.text) == (405, "Method Not Allowed")
            assert response.headers["Allow"] == allow


@pytest.mark.parametrize("path", [*ROUTES, "/nowhere", "/v1/projects?limit=x"])
def test_head_has_the_headers_of_get_and_no_body(app: webtest.TestApp, path: str) -> None:
    get = app.get(path, expect_errors=True)
    head = app.head(path, expect_errors=True)
    assert (head.status, dict(head.headers)) == (get.status, dict(get.headers))
    assert int(head.headers["Content-Length"]) == len(get.body) > 0
    assert head.body == b""


# Bodies


def post(app: webtest.TestApp, body: bytes = b"", status: int | None = None, **environ: Any) -> Any:
    """Send a POST whose environ says exactly what is given here."""
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_TYPE": "application/json", **environ}
    request = webtest.TestRequest.blank("/v1/projects", environ={"REQUEST_METHOD": "POST", **environ})
    if "CONTENT_LENGTH" not in environ:
        request.environ.pop("CONTENT_LENGTH", None)
    return app.do_request(request, status)


BODY = b'{"name":"x"}'


def test_a_body_that_is_too_large_is_not_read(projects_app: ProjectsApp) -> None:
    class Unreadable(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("the body was read")

    app = webtest.TestApp(projects_app, lint=False)
    for length in ("1048577", "9" * 18, "9" * 5_000):
        unreadable: dict[str, Any] = {"wsgi.input": Unreadable(), "CONTENT_LENGTH": length}
        response = post(app, status=413, **unreadable)
        assert response.text == "The body is larger than 1048576 bytes"


def test_a_body_of_the_largest_size_is_read(app: webtest.TestApp) -> None:
    padding = b" " * (1_048_576 - len(BODY))
    assert (
        app.post("/v1/projects", BODY + padding, content_type="application/json").json["data"]["name"] == "x"
    )
    app.post("/v1/projects", BODY + padding + b" ", content_type="application/json", status=413)


@pytest.mark.parametrize("length", ["-1", "+12", " 12", "1_2", "12,12", "0x0c", "twelve", "١٢", "1.0"])
def test_a_length_that_is_no_number_is_400(projects_app: ProjectsApp, length: str) -> None:
    app = webtest.TestApp(projects_app, lint=False)
    assert post(app, BODY, 400, CONTENT_LENGTH=length).text == "Content-Length is not a number"


def test_a_body_that_ends_early_is_400_and_creates_nothing(app: webtest.TestApp) -> None:
    response = post(app, BODY, 400, CONTENT_LENGTH=str(len(BODY) + 1))
    assert response.text == "The body ended after 12 of 13 bytes"
    assert app.get("/v1/projects").json["data"] == [DEFAULT]


def test_a_body_that_cannot_be_read_is_400(app: webtest.TestApp) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise ConnectionResetError

    broken: dict[str, Any] = {"wsgi.input": Broken(), "CONTENT_LENGTH": "12"}
    response = post(app, BODY, 400, **broken)
    assert response.text == "The body could not be read to its end"


@pytest.mark.parametrize("most", [3, 11, 12])
def test_a_body_in_pieces_is_put_together_and_what_follows_is_left(app: webtest.TestApp, most: int) -> None:
    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size, "all of the body has been read"
            return super().read(min(size, most))

    pieces = Pieces(BODY + b"GET / HTTP/1.1")
    environ: dict[str, Any] = {"wsgi.input": pieces, "CONTENT_LENGTH": "12"}
    assert post(app, **environ).json["data"]["name"] == "x"
    assert pieces.tell() == 12


def test_undone_chunks_are_read_to_their_end(app: webtest.TestApp) -> None:
    undone: dict[str, Any] = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert post(app, BODY, **undone).json["data"]["name"] == "x"
    assert post(app, b" " * 1_048_577, 413, **undone).text == "The body is larger than 1048576 bytes"
    post(app, b" " * 1_048_576, 422, **undone)


def test_chunks_that_the_server_leaves_are_411(app: webtest.TestApp) -> None:
    response = post(app, b"c\r\n" + BODY + b"\r\n0\r\n\r\n", 411, HTTP_TRANSFER_ENCODING="chunked")
    assert response.text == "This server does not undo chunked bodies; send a Content-Length"


@pytest.mark.parametrize(
    "sent", [{}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}, {"CONTENT_LENGTH": "00"}]
)
def test_no_body_is_a_missing_body(projects_app: ProjectsApp, sent: dict[str, Any]) -> None:
    (error,) = post(webtest.TestApp(projects_app), BODY, 422, **sent).json["detail"]
    assert error == {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}


def test_a_body_that_the_servers_own_error_breaks_off_is_400(app: webtest.TestApp) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise ValueError("a malformed chunk")

    broken: dict[str, Any] = {"wsgi.input": Broken(), "wsgi.input_terminated": True}
    assert post(app, BODY, 400, **broken).text == "The body could not be read to its end"


def test_a_length_may_have_zeros_before_it(projects_app: ProjectsApp) -> None:
    app = webtest.TestApp(projects_app, lint=False)
    assert post(app, BODY, CONTENT_LENGTH="0" * 30 + "12").json["data"]["name"] == "x"


def test_json_is_compact_and_leaves_other_scripts_as_they_are(app: webtest.TestApp) -> None:
    body = '{"name":["é\U0001f680"]}'.encode()
    response = app.post("/v1/projects", body, content_type="application/json", status=422)
    assert (
        response.body
        == (
            '{"detail":[{"type":"string_type","loc":["body","name"],'
            '"msg":"Input should be a valid string","input":["é\U0001f680"]}]}'
        ).encode()
    )
    assert app.get("/openapi.json").body.startswith(b'{"openapi":"3.1.0","info":{"title":')


# Errors of the store


class BrokenStore(SQLiteStore):
    """A store whose every call raises one error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(":memory:")
        self.error = error

    def fail(self, *_: Any, **__: Any) -> Any:
        raise self.error

    list_rows = get = get_row = create = update = delete = ping = fail


@pytest.fixture(
    params=[
        (StoreBusy("held by p17"), 503, "The database is busy"),
        (StoreFull("at /secret"), 507, "The database is full"),
        (StoreUnavailable("at /secret"), 503, "The database does not answer"),
        (OutcomeUnknown("at /secret"), 503, "The change may or may not have been made; look before"),
        (StoreError("at /secret"), 503, "The database does not answer"),
        (type("Queued", (StoreBusy,), {})("held by p17"), 503, "The database is busy"),
    ],
    ids=["busy", "full", "unavailable", "outcome unknown", "any other", "derived"],
)
def failing(request: pytest.FixtureRequest) -> Iterator[tuple[webtest.TestApp, StoreError, int, str]]:
    error, status, text = request.param
    with closing(BrokenStore(error)) as store:
        yield webtest.TestApp(make_app(store)), error, status, text


REQUESTS: list[tuple[str, str, bytes]] = [
    ("GET", "/v1/projects", b""),
    ("POST", "/v1/projects", BODY),
    ("GET", "/v1/projects/x", b""),
    ("PUT", "/v1/projects/x", b'{"description":"y"}'),
    ("DELETE", "/v1/projects/x", b""),
    ("GET", "/readyz", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_a_store_that_fails_is_told_to_the_client_and_explained_to_the_log(
    failing: tuple[webtest.TestApp, StoreError, int, str],
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    body: bytes,
) -> None:
    app, error, status, text = failing
    headers = {"Content-Type": "application/json"}
    response = app.request(path, method=method, body=body, headers=headers, status=status)
    assert response.text.startswith(text)
    assert str(error) not in response.text
    assert response.headers.get("Retry-After") == ("1" if isinstance(error, StoreBusy) else None)
    assert str(error) in caplog.text
    assert app.get("/healthz").text == "OK"


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_an_unforeseen_error_is_a_bare_500_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture, method: str, path: str, body: bytes
) -> None:
    with closing(BrokenStore(ZeroDivisionError("secret"))) as store:
        app = webtest.TestApp(make_app(store))
        headers = {"Content-Type": "application/json"}
        with caplog.at_level(logging.ERROR, "projects_wsgi"):
            response = app.request(path, method=method, body=body, headers=headers, status=500)
        assert response.text == "Internal Server Error"
        assert "ZeroDivisionError: secret" in caplog.text
        assert f"an unforeseen error at '{method} {path} HTTP/1." in caplog.text


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), StoreError("\x9b" * 60_000)])
def test_however_long_a_request_or_an_error_is_its_message_in_the_log_is_short(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    with closing(BrokenStore(error)) as store:
        webtest.TestApp(make_app(store)).get(f"/v1/projects/{'x' * 60_000}", status="*")
    (message,) = caplog.messages
    assert len(message) < 900


def test_whatever_an_error_quotes_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with closing(BrokenStore(StoreError("at Straße: \n6.6.6.6 - -\r\u2028\x1b[31m\udcff"))) as store:
        webtest.TestApp(make_app(store)).get("/readyz", status=503)
    assert caplog.messages == [r"at Straße: \n6.6.6.6 - -\r\u2028\x1b[31m\udcff"]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_a_lack_of_memory_is_503_and_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture, method: str, path: str, body: bytes
) -> None:
    with closing(BrokenStore(MemoryError())) as store:
        app = webtest.TestApp(make_app(store))
        headers = {"Content-Type": "application/json"}
        response = app.request(path, method=method, body=body, headers=headers, status=503)
    assert response.text == "The server is out of memory. Nothing was changed; try again"
    assert response.headers["Retry-After"] == "1"
    assert caplog.messages == [f"out of memory at '{method} {path} HTTP/1.0'"]
    assert not caplog.records[0].exc_info


class HungryBody(io.BytesIO):
    """A body for which there is no memory."""

    def read(self, _: int | None = -1) -> bytes:
        return b"x" * 2**62


def test_a_body_for_which_there_is_no_memory_is_503_and_not_the_fault_of_the_client(
    projects_app: ProjectsApp,
) -> None:
    extra: dict[str, Any] = {
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "12",
        "wsgi.input": HungryBody(),
    }
    assert call(projects_app, "POST", "/v1/projects", **extra)[0] == 503


def test_a_change_for_whose_answer_there_is_no_memory_is_503_and_says_that_it_was_made(
    projects_app: ProjectsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = webtest.TestApp(projects_app)
    with monkeypatch.context() as patch:
        patch.setattr("projects_wsgi.wire.render_project", lambda _: "x" * 2**62)
        for response in (
            app.post_json("/v1/projects", {"name": "x"}, status=503),
            app.put_json("/v1/projects/x", {"description": "y"}, status=503),
        ):
            assert response.text == "The change was made, but the server has no memory to show it"
            assert "Retry-After" not in response.headers
    assert app.get("/v1/projects/x").json["data"]["description"] == "y"


def test_an_error_of_the_root_class_is_a_bare_500_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing(BrokenStore(ProjectsError("secret"))) as store:
        response = webtest.TestApp(make_app(store)).get("/readyz", status=500)
        assert response.text == "Internal Server Error"
        assert "ProjectsError: secret" in caplog.text


def test_an_error_whose_name_utf_8_cannot_spell_is_answered_all_the_same() -> None:
    with closing(BrokenStore(ProjectExists("\ud800"))) as store:
        response = webtest.TestApp(make_app(store)).post_json("/v1/projects", {"name": "x"}, status=409)
        assert response.text == "Project with name ? already exists"


# Browsers


ORIGIN = "https://app.example"
ALLOWED = {
    "Access-Control-Allow-Origin": ORIGIN,
    "Vary": "Origin",
    "Access-Control-Expose-Headers": "x-phoenix-server-version",
}
ALL_ALLOWED = {**ALLOWED, "Access-Control-Allow-Origin": "*"}
del ALL_ALLOWED["Vary"]
EXCHANGES_WITH_KEYS = [
    ("GET", "/v1/projects", {}, 401),
    ("OPTIONS", "/v1/projects", {}, 401),
    ("GET", "/v1/projects", {"HTTP_AUTHORIZATION": "Bearer viewer"}, 200),
    ("POST", "/v1/projects", {"HTTP_AUTHORIZATION": "Bearer viewer"}, 403),
]


def for_browsers(headers: list[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name == "Vary" or name.startswith("Access-Control-")}


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ([ORIGIN, "http://localhost:3000"], ORIGIN, ALLOWED),
        ([ORIGIN], None, {"Vary": "Origin"}),
        ([ORIGIN], "null", {"Vary": "Origin"}),
        ([ORIGIN], "https://evil.example", {"Vary": "Origin"}),
        ([ORIGIN], "http://app.example", {"Vary": "Origin"}),
        ([ORIGIN], "https://app.example:8443", {"Vary": "Origin"}),
        ([ORIGIN], "https://app.example.evil.example", {"Vary": "Origin"}),
        ([ORIGIN], "https://App.example", {"Vary": "Origin"}),
        ([ORIGIN], f"{ORIGIN}, {ORIGIN}", {"Vary": "Origin"}),
        (["*"], ORIGIN, ALL_ALLOWED),
        (["*", ORIGIN], "null", ALL_ALLOWED),
        (["*"], None, ALL_ALLOWED),
        ([], ORIGIN, {}),
        (None, ORIGIN, {}),
    ],
)
def test_every_answer_tells_browsers_which_origin_may_read_it(
    allowed: list[str] | None, origin: str | None, expected: dict[str, str]
) -> None:
    sent: dict[str, Any] = {} if origin is None else {"HTTP_ORIGIN": origin}
    statuses = set()
    with ExitStack() as stack:
        app = make_app(stack.enter_context(closing(SQLiteStore(":memory:"))), allowed_origins=allowed)
        cases = [(app, *exchange) for exchange in exchanges()]
        for error in (StoreFull(), StoreBusy(), KeyError(), MemoryError()):
            store = stack.enter_context(closing(BrokenStore(error)))
            cases.append((make_app(store, allowed_origins=allowed), "GET", "/readyz", {}))
        for application, method, path, extra in cases:
            status, headers, _ = call(application, method, path, **extra, **sent)
            statuses.add(status)
            assert for_browsers(headers) == expected, (method, path)
    assert statuses == {200, 204, 400, 403, 404, 405, 409, 411, 413, 422, 500, 503, 507}


@pytest.mark.parametrize(("method", "path", "sent", "status"), EXCHANGES_WITH_KEYS)
def test_a_page_of_an_allowed_origin_can_read_that_it_needs_a_key_or_another(
    projects_app: ProjectsApp, method: str, path: str, sent: dict[str, Any], status: int
) -> None:
    app = make_app(projects_app.store, authenticate=known_as_role, allowed_origins=[ORIGIN])
    answer = call(app, method, path, HTTP_ORIGIN=ORIGIN, **sent)
    assert (answer[0], for_browsers(answer[1])) == (status, ALLOWED)


def known_as_role(environ: dict[str, Any]) -> str | None:
    """Take the role itself for a key."""
    return environ.get("HTTP_AUTHORIZATION", "").partition(" ")[2] or None


METHOD = "HTTP_ACCESS_CONTROL_REQUEST_METHOD"
HEADERS = "HTTP_ACCESS_CONTROL_REQUEST_HEADERS"


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (None, "Authorization, Content-Type"),
        ("", "Authorization, Content-Type"),
        ("authorization,content-type,x-y", "authorization, content-type, x-y"),
        ("x-a, x-b ,x-A", "Authorization, Content-Type, x-A, x-b"),
        ("x-a,é,x b,:,,(x),\x22,x-b", "Authorization, Content-Type, x-a, x-b"),
        ("*", "Authorization, Content-Type, *"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/projects", "/v1/projects/a%2Fb", "/healthz", "/nowhere"])
def test_a_preflight_is_answered_without_a_key(
    projects_app: ProjectsApp, path: str, asked: str | None, allowed: str
) -> None:
    app = make_app(projects_app.store, authenticate=known_as_role, allowed_origins=[ORIGIN])
    sent: dict[str, Any] = {
        "HTTP_ORIGIN": ORIGIN,
        METHOD: "DELETE",
        **({} if asked is None else {HEADERS: asked}),
    }
    status, headers, body = call(app, "OPTIONS", path, **sent)
    assert (status, body) == (204, b"")
    assert for_browsers(headers) == {
        **ALLOWED,
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE",
        "Access-Control-Allow-Headers": allowed,
        "Access-Control-Max-Age": "600",
    }


@pytest.mark.parametrize(
    ("allowed", "method", "sent"),
    [
        ([ORIGIN], "OPTIONS", {"HTTP_ORIGIN": "https://evil.example", METHOD: "DELETE"}),
        ([ORIGIN], "OPTIONS", {METHOD: "DELETE"}),
        ([ORIGIN], "OPTIONS", {"HTTP_ORIGIN": ORIGIN}),
        ([ORIGIN], "GET", {"HTTP_ORIGIN": ORIGIN, METHOD: "DELETE"}),
        (None, "OPTIONS", {"HTTP_ORIGIN": ORIGIN, METHOD: "DELETE"}),
    ],
)
def test_what_is_no_preflight_of_an_allowed_origin_needs_a_key_and_is_allowed_nothing(
    projects_app: ProjectsApp, allowed: list[str] | None, method: str, sent: dict[str, Any]
) -> None:
    app = make_app(projects_app.store, authenticate=known_as_role, allowed_origins=allowed)
    status, headers, _ = call(app, method, "/v1/projects", **sent)
    assert status == 401
    assert not any(name.startswith("Access-Control-Allow-M") for name, _ in headers)


@pytest.mark.parametrize("origin", ["null", "https://any.example"])
def test_where_every_origin_is_allowed_its_preflight_is_answered(
    projects_app: ProjectsApp, origin: str
) -> None:
    app = make_app(projects_app.store, allowed_origins=["*"])
    asked: dict[str, Any] = {METHOD: "PUT"}
    _, headers, _ = call(app, "OPTIONS", "/v1/projects", HTTP_ORIGIN=origin, **asked)
    assert "PUT" in for_browsers(headers)["Access-Control-Allow-Methods"]


@pytest.mark.parametrize(
    "keys", [{"keys": "missing"}, {"admin_secret": "a" * 32 + "1"}, {"authenticate": known_as_role}]
)
def test_with_keys_every_origin_must_be_named(file: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed_origins must name each origin"):
        make_app(file, allowed_origins=[ORIGIN, "*"], **keys)
    assert list(file.parent.iterdir()) == []


# WSGI

# The case of a header's name means nothing; but there are programs that know only the usual one.
HEADER_NAMES = {
    "Allow",
    "Content-Length",
    "Content-Security-Policy",
    "Content-Type",
    "Retry-After",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "x-phoenix-server-version",
}


def exchanges() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every route with every method, and a request for each status that an answer can have."""
    for path in [*ROUTES, "/nowhere", "//v1/projects"]:
        for method in METHODS:
            yield method, path, {}
    json = {"CONTENT_TYPE": "application/json"}
    yield "POST", "/v1/projects", {"body": BODY, **json}  # 200
    yield "POST", "/v1/projects", {"body": BODY, **json}  # 409
    yield "PUT", "/v1/projects/x", {"body": b'{"description":"y"}', **json}
    yield "DELETE", "/v1/projects/x", {}  # 204
    yield "DELETE", "/v1/projects/default", {}  # 403
    yield "POST", "/v1/projects", {"body": b"\xff", **json}  # 400
    yield "POST", "/v1/projects", {"body": b"{", **json}  # 422
    yield "POST", "/v1/projects", {"body": b" " * 1_048_577, **json}  # 413
    yield "POST", "/v1/projects", {"HTTP_TRANSFER_ENCODING": "chunked", **json}  # 411
    yield "GET", "/v1/projects", {"QUERY_STRING": "cursor=bad"}  # 422


@pytest.mark.parametrize("prefix", ["", "/phoenix"])
def test_every_answer_keeps_to_pep_3333(projects_app: ProjectsApp, prefix: str) -> None:
    statuses = set()
    names: set[str] = set()
    with ExitStack() as stack:
        cases = [(projects_app, exchange) for exchange in exchanges()]
        for error in (StoreFull(), StoreBusy(), StoreUnavailable(), ProjectsError(), KeyError()):
            broken = make_app(stack.enter_context(closing(BrokenStore(error))))
            cases.append((broken, ("GET", "/readyz", {})))
        for application, (method, path, extra) in cases:
            status, headers, body = call(application, method, path, prefix, **extra)
            statuses.add(status)
            names.update(name for name, _ in headers)
            assert headers.count(VERSION) == 1
            assert headers.count(("X-Content-Type-Options", "nosniff")) == 1
            named = {name.lower(): value for name, value in headers}
            assert len(named) == len(headers)
            if status == 204:
                assert "content-type" not in named
                assert "content-length" not in named
            elif method != "HEAD":
                assert named["content-length"] == str(len(body))
                is_page = (path, status) == ("/", 200)
                types = ["text/html; charset=utf-8"] if is_page else [wire.JSON, TEXT]
                assert named["content-type"] in types
            assert status < 300 or status >= 400
    assert statuses == {200, 204, 400, 403, 404, 405, 409, 411, 413, 422, 500, 503, 507}
    assert names == HEADER_NAMES


def call(
    application: Any, method: str, path: str, prefix: str = "", body: bytes = b"", **environ: Any
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Call a WSGI application, with wsgiref's validator between it and us."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": prefix,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    setup_testing_defaults(environ)
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((int(status[:3]), headers))
        return lambda _: None

    result: Any = validator(application)(environ, start_response)
    with closing(result):
        content = b"".join(result)
    ((status, headers),) = started
    return status, headers, content


def test_what_a_server_may_leave_out_is_empty() -> None:
    request = Request({"REQUEST_METHOD": "GET"})
    assert (request.path, request.query, request.content_type, request.read_body(1)) == ("", "", "", b"")


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"REQUEST_METHOD": "GET"}, "GET"),
        ({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": ""}, "GET /"),
        (
            {
                "REQUEST_METHOD": "PUT",
                "SCRIPT_NAME": "/phoenix",
                "PATH_INFO": "/v1/projects/x",
                "QUERY_STRING": "a=b",
                "SERVER_PROTOCOL": "HTTP/1.1",
            },
            "PUT /phoenix/v1/projects/x?a=b HTTP/1.1",
        ),
    ],
)
def test_the_log_shows_a_request_as_far_as_its_environ_tells(environ: dict[str, Any], line: str) -> None:
    assert request_line(environ) == line


@pytest.mark.parametrize("name", ["日本", "\u0100", "\ud800"])
def test_a_path_that_the_server_has_decoded_is_400_and_reaches_no_project(
    projects_app: ProjectsApp, name: str
) -> None:
    for other in ("??", "日本", "\ufffd\ufffd", "\u0100", "?", "\ufffd", "Ā"):
        projects_app.store.get_or_create(other)
    before = projects_app.store.list_rows()
    status, _, body = call(projects_app, "DELETE", f"/v1/projects/{name}")
    text = "The server breaks PEP 3333: PATH_INFO holds characters above U+00FF, which are not bytes"
    assert (status, body.decode()) == (400, text)
    assert projects_app.store.list_rows() == before


def test_a_query_that_the_server_has_decoded_is_400(projects_app: ProjectsApp) -> None:
    status, _, body = call(projects_app, "GET", "/v1/projects", QUERY_STRING="name_contains=日本")
    text = "The server breaks PEP 3333: QUERY_STRING holds characters above U+00FF, which are not bytes"
    assert (status, body.decode()) == (400, text)
    assert call(projects_app, "GET", "/v1/projects", QUERY_STRING="name_contains=\xff")[0] == 200


@pytest.mark.parametrize("slashes", ["//", "///", "////////"])
@pytest.mark.parametrize("rest", ["v1/projects/default", "healthz"])
def test_repeated_slashes_at_the_start_count_as_one(
    projects_app: ProjectsApp, slashes: str, rest: str
) -> None:
    assert call(projects_app, "GET", slashes + rest)[0] == 200


def test_a_dropped_application_lets_go_of_its_store_at_once(any_database: Database, tmp_path: Path) -> None:
    add_key(tmp_path / "projects.keys", "ci", Role.VIEWER)
    gc.disable()
    try:
        options: dict[str, Any]
        for options in (
            {},
            {"read_only": True},
            {"keys": tmp_path / "projects.keys"},
            {"authenticate": lambda environ: None},
        ):
            app = make_app(any_database.open_store(), **options)
            for method, path, extra in exchanges():
                call(app, method, path, **extra)
            reference = weakref.ref(app.store)
            app.store.close()
            del app
            assert reference() is None
    finally:
        gc.enable()


def test_no_answer_holds_an_absolute_url(app: webtest.TestApp) -> None:
    for path in ROUTES:
        assert "http://" not in app.get(path, expect_errors=True).text
