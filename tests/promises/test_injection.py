"""Hostile input that is well-formed is data: never SQL, a way through paths, a header or a page."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import quote
from wsgiref.validate import validator

import pytest
import webtest

from projects_wsgi import ProjectsApp
from projects_wsgi.model import render_global_id

from ..test_app import DEFAULT, create, item
from ..test_server import Client, get, post, serving

TEXT, JSON = "text/plain; charset=utf-8", "application/json"


@pytest.fixture
def client(projects_app: ProjectsApp) -> Iterator[Client]:
    """A connection to the bundled server."""
    with serving(validator(projects_app), timeout=10) as server, closing(Client(server)) as client:
        yield client


# SQL

SQL = [
    "' OR '1'='1",
    "'; DROP TABLE projects; --",
    '" OR ""="',
    "\\' OR 1=1 --",
    "q') OR 1=1 --",
    "q' UNION ALL SELECT id, description, name FROM projects --",
    "q'; UPDATE projects SET description = 'q'; --",
    "q\x00' OR 1=1 --",
    "1 OR 1=1",
    "(SELECT 1)",
    "NULL",
    "?",
    "?1",
    ":name",
    "%",
    "_",
    "*",
    "[a-z]",
    "\\%",
]
sql = pytest.mark.parametrize("text", SQL, ids=ascii)


@sql
def test_sql_in_a_name_is_kept_as_it_came_and_reaches_no_other_project(
    app: webtest.TestApp, text: str
) -> None:
    older = create(app, "older", "its own")
    project = create(app, text, text)
    newer = create(app, "newer", "its own")
    assert project == {"name": text, "description": text, "id": render_global_id(3)}
    assert app.get(item(text)).json["data"] == project
    assert app.put_json(item(text), {"description": "new"}).json["data"] == {**project, "description": "new"}
    app.post_json("/v1/projects", {"name": text}, status=409)
    app.delete(item(text), status=204)
    assert app.get("/v1/projects").json["data"] == [newer, older, DEFAULT]


@sql
def test_sql_in_an_identifier_finds_nothing_and_changes_nothing(app: webtest.TestApp, text: str) -> None:
    other = create(app, "other", "its own")
    for method in ("GET", "PUT", "DELETE"):
        response = app.request(
            item(text),
            method=method,
            body=b'{"description":"new"}',
            headers={"Content-Type": JSON},
            status=404,
        )
        assert response.text == f"Project with name {text} not found"
    assert app.get("/v1/projects").json["data"] == [other, DEFAULT]


@sql
def test_sql_in_a_search_finds_the_names_that_hold_it_and_no_others(app: webtest.TestApp, text: str) -> None:
    create(app, "other")
    assert app.get("/v1/projects", {"name_contains": text}).json["data"] == []
    project = create(app, f"a{text}b")
    assert app.get("/v1/projects", {"name_contains": text}).json["data"] == [project]


@pytest.mark.parametrize(
    "text", ["1 OR 1=1", "1; DROP TABLE projects", "1)", "(SELECT 1)", "1--", "1/**/", "'1'"]
)
def test_sql_in_a_cursor_or_limit_is_refused(app: webtest.TestApp, text: str) -> None:
    for cursor in (text, base64.b64encode(f"Project:{text}".encode()).decode()):
        response = app.get("/v1/projects", {"cursor": cursor}, status=422)
        assert response.text == f"Invalid cursor format: {cursor}"
    (error,) = app.get("/v1/projects", {"limit": text}, status=422).json["detail"]
    assert (error["type"], error["input"]) == ("int_parsing", text)
    assert app.get("/v1/projects").json["data"] == [DEFAULT]


@sql
def test_sql_in_the_type_of_a_cursor_is_no_more_than_any_type(app: webtest.TestApp, text: str) -> None:
    create(app, "other")
    cursor = base64.b64encode(f"{text.replace(':', '')}:1".encode()).decode()
    assert app.get("/v1/projects", {"cursor": cursor}).json["data"] == [DEFAULT]


def test_a_body_sets_no_more_than_it_may(app: webtest.TestApp) -> None:
    more = {
        "id": render_global_id(9),
        "kind": "experiment",
        "folded_name": "y",
        "created_at": 0,
        "__proto__": {},
    }
    project = app.post_json("/v1/projects", {"name": "x", **more}).json["data"]
    assert project == {"name": "x", "description": None, "id": render_global_id(2)}
    assert app.put_json(item("x"), {"name": "default", **more}).json["data"] == project
    assert app.get("/v1/projects").json["data"] == [project, DEFAULT]
    assert app.get("/v1/projects", {"name_contains": "y"}).json["data"] == []


# Paths

NOWHERE = (404, "Not Found")
OK = (200, "OK")


def no_project(name: str) -> tuple[int, str]:
    return 404, f"Project with name {name} not found"


TARGETS = {
    # Dots are characters: nobody climbs, neither out of the projects nor into them.
    "/v1/projects/..": no_project(".."),
    "/v1/projects/../../healthz": no_project("../../healthz"),
    "/v1/projects/x/../default": no_project("x/../default"),
    "/v1/projects/./default": no_project("./default"),
    "/v1/../healthz": NOWHERE,
    "/../../../../etc/passwd": NOWHERE,
    "/./healthz": NOWHERE,
    "http://x/v1/../healthz": NOWHERE,
    "/v1/projects/%2e%2e": no_project(".."),
    "/v1/projects/%2E%2E/%2e%2e/healthz": no_project("../../healthz"),
    "/v1/projects/%2e%2e%2f%2e%2e%2fetc%2fpasswd": no_project("../../etc/passwd"),
    "/%2e%2e/healthz": NOWHERE,
    # What is encoded is decoded once.
    "/v1/projects/%252e%252e%252fdefault": no_project("%2e%2e%2fdefault"),
    "/v1%252fprojects": NOWHERE,
    "/healthz%20": NOWHERE,
    "/healthz%3Fx": NOWHERE,
    "/v1/projects/default%3Flimit=1": no_project("default?limit=1"),
    "/v1/projects/default%23x": no_project("default#x"),
    "/v1/projects/%zz%": no_project("%zz%"),
    # An encoded slash is a slash; only those at the start of a path count as one.
    "/%68ealthz": OK,
    "/%2fhealthz": OK,
    "//healthz": OK,
    "//x/healthz": NOWHERE,
    "/v1//projects": NOWHERE,
    "/v1/projects//default": no_project("/default"),
    "/v1/projects/%2Fdefault": no_project("/default"),
    "/v1/projects/default/": no_project("default/"),
    "/healthz/": NOWHERE,
    # NUL ends nothing, a semicolon begins nothing, a backslash is no slash.
    "/healthz%00": NOWHERE,
    "/v1/projects%00": NOWHERE,
    "/v1/projects/default%00": no_project("default\0"),
    "/v1/projects/default%00.json": no_project("default\0.json"),
    "/healthz;x=y": NOWHERE,
    "/v1/projects;/default": NOWHERE,
    "/v1/projects/default;x=y": no_project("default;x=y"),
    "/..;/healthz": NOWHERE,
    "/v1\\projects": NOWHERE,
    "/v1/projects/..\\..\\default": no_project("..\\..\\default"),
    "/v1/projects/%5c..%5cdefault": no_project("\\..\\default"),
    # Overlong UTF-8 is not UTF-8, and so are encoded surrogates: no "/", no ".", no NUL.
    "/v1/projects%c0%afdefault": NOWHERE,
    "/v1/projects/%c0%ae%c0%ae": no_project("\ufffd" * 4),
    "/v1/projects/%e0%80%afdefault": no_project("\ufffd" * 3 + "default"),
    "/v1/projects/default%c0%80": no_project("default\ufffd\ufffd"),
    "/v1/projects/%ed%a0%80": no_project("\ufffd" * 3),
    "/v1/projects/%u002e%u002e": no_project("%u002e%u002e"),
    # Characters that look like others, or would be others after some normalisation, are themselves.
    "/v1/projects/%ef%bc%8e%ef%bc%8e%ef%bc%8fdefault": no_project("．．／default"),
    "/v1/projects/%e2%88%95default": no_project("∕default"),
    "/v1/projects/DEFAULT": no_project("DEFAULT"),
    "/v1/projects/default%cc%81": no_project("default\u0301"),
    "/v1/projects/+default": no_project("+default"),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_path_leads_where_it_says_and_nowhere_else(client: Client, target: str) -> None:
    status, text = TARGETS[target]
    client.send(get(target) + get())
    assert_is(client.receive(), status, TEXT, text)
    assert_is(client.receive(), 200, TEXT, "OK")


# Whatever comes back

BREAKS = [
    "\r\nX-Injected: yes",
    "\r\n\r\n<html>",
    "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "\r",
    "\n",
    "x\n\n",
    "\x00",
    "\t\x0b\x0c\x1b[31m\x1c\x1d\x1e\x7f",
    "\x85\u2028\u2029",
    "嘊嘍X-Injected: yes",  # their last bytes are those of CR and LF
    "čĊX-Injected: yes",
    "\ufeff",
    "\u202etxt.exe",
    "é\U0001f680\U0010ffff",
    "%0d%0aX-Injected: yes",
    "=?utf-8?q?x?=",
]
PAGES = [
    "<script>alert(1)</script>",
    "</script><svg onload=alert(1)>",
    '"><img src=x onerror="alert(1)">',
    "<!--",
    "javascript:alert(1)",
    '","id":"' + render_global_id(1),
    "\\",
    "\\u0022",
]
TEMPLATES = ["%s%d%n", "%(name)s", "{}", "{identifier}", "{error.__class__.__mro__}", "${7*7}", "{{7*7}}"]


class Exchange(NamedTuple):
    """A request, and all that its answer says."""

    request: bytes
    status: int
    content_type: str
    body: str


def exchanges_with(text: str) -> Iterator[Exchange]:
    """Every exchange in which a text comes back, over one connection."""
    path, project = "/v1/projects/" + quote(text, safe=""), {"name": text, "description": text}
    missing = f"Project with name {text} not found"
    yield Exchange(get(path), 404, TEXT, missing)
    yield Exchange(get(path).replace(b"GET", b"DELETE", 1), 404, TEXT, missing)
    yield Exchange(with_json("PUT", path, {}), 404, TEXT, missing)
    made = compact({"data": {**project, "id": render_global_id(2)}})
    yield Exchange(with_json("POST", "/v1/projects", project), 200, JSON, made)
    exists = f"Project with name {text} already exists"
    yield Exchange(with_json("POST", "/v1/projects", project), 409, TEXT, exists)
    yield Exchange(get(path), 200, JSON, made)
    page = compact({"data": [{**project, "id": render_global_id(2)}, DEFAULT], "next_cursor": None})
    yield Exchange(get("/v1/projects"), 200, JSON, page)
    query = quote(text, safe="")
    yield Exchange(get(f"/v1/projects?cursor={query}"), 422, TEXT, f"Invalid cursor format: {text}")
    message = "Input should be a valid integer, unable to parse string as an integer"
    error = {"type": "int_parsing", "loc": ["query", "limit"], "msg": message, "input": text}
    yield Exchange(get(f"/v1/projects?limit={query}"), 422, JSON, compact({"detail": [error]}))
    message = "Input should be a valid dictionary or object to extract fields from"
    error = {"type": "model_attributes_type", "loc": ["body"], "msg": message, "input": text}
    yield Exchange(with_json("PUT", path, text), 422, JSON, compact({"detail": [error]}))


def with_json(method: str, path: str, value: Any) -> bytes:
    body = json.dumps(value).encode()
    request = post(body, f"Content-Length: {len(body)}")
    return request.replace(b"POST /v1/projects", f"{method} {path}".encode(), 1)


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def assert_is(answer: tuple[int, dict[str, str], bytes], status: int, content_type: str, body: str) -> None:
    """Fail unless this is the whole answer: no other header, and as long as it says."""
    received_status, headers, received_body = answer
    assert (received_status, received_body.decode()) == (status, body)
    del headers["date"]
    assert headers == {
        "server": "projects_wsgi",
        "x-phoenix-server-version": "20.26.1",
        "x-content-type-options": "nosniff",
        "content-type": content_type,
        "content-length": str(len(body.encode())),
    }


@pytest.mark.parametrize("text", [*BREAKS, *PAGES, *TEMPLATES], ids=ascii)
def test_what_comes_back_stays_in_a_body_of_text_or_json(client: Client, text: str) -> None:
    # Each answer must end where it says, for the next one to be found.
    exchanges = list(exchanges_with(text))
    client.send(b"".join(exchange.request for exchange in exchanges) + get())
    for _, status, content_type, body in exchanges:
        assert_is(client.receive(), status, content_type, body)
    assert_is(client.receive(), 200, TEXT, "OK")


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /healthz",
        "X-Rewrite-URL: /healthz",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Host: evil.example",
        "Script-Name: /evil",
        "SCRIPT_NAME: /evil",
        "Path-Info: /healthz",
        "Forwarded: host=evil.example;proto=https",
        "Origin: http://evil.example",
        "Referer: <script>alert(1)</script>",
        "User-Agent: ' OR 1=1 --",
        "Cookie: a=b; $Path=/",
        "Accept: text/html",
        "Accept-Encoding: gzip, identity;q=0",
        "Range: bytes=0-0",
        "If-None-Match: *",
        "Upgrade: h2c",
        "X-Phoenix-Server-Version: 1.2.3",
        "Content-Type: text/html",
        "A: \xff\xe9'\"><b>",
    ],
)
def test_no_header_of_a_request_changes_an_answer(client: Client, header: str) -> None:
    client.send(get("/v1/projects/default", header) + get())
    assert_is(client.receive(), 200, JSON, compact({"data": DEFAULT}))
    assert_is(client.receive(), 200, TEXT, "OK")
