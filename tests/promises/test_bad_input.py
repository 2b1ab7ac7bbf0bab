"""No request, whatever it holds, gets a 5xx or leaves anything half-written.

HYPOTHESIS_EXAMPLES says how many requests each test sends; continuous integration sends 10,000.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects_wsgi import ProjectKind, ProjectsApp, wire
from projects_wsgi.model import parse_identifier, render_global_id

from ..support.engines import NewDatabase

many = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "500")),
)


@pytest.fixture(scope="module")
def app(new_database: NewDatabase) -> Iterator[ProjectsApp]:
    with new_database(None) as database:
        app = database.make_app(max_body_size=2_000)
        with closing(app.store):
            for name in ("x", "é", "a/b"):
                app.store.create(name)
            yield app


# Strings of environ: bytes, decoded as latin-1.
# Now and then a host hands on others; they must do no harm either.
wild = st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")) | st.text(max_size=8)
text = st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass").decode("latin-1"))
identifiers = st.one_of(
    wild,
    text,
    st.sampled_from(["x", "é".encode().decode("latin-1"), "a/b", "default", "%00", "..", "UHJvamVjdDo"]),
    st.integers().map(render_global_id),
    st.integers(1, 6).map(render_global_id),
)
paths = st.one_of(
    wild,
    identifiers.map("/v1/projects/".__add__),
    st.sampled_from(["/v1/projects", "//v1/projects/", "/readyz", "", "/v1/projects/", "/openapi.json"]),
)
parameters = st.tuples(
    st.sampled_from(["limit", "cursor", "name_contains", *wire.KIND_PARAMETERS]) | wild,
    st.one_of(wild, text, st.integers().map(str), st.integers().map(render_global_id), st.floats().map(str)),
).map("=".join)
queries = wild | st.lists(parameters, max_size=5).map("&".join)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]) | wild

json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "name": json_values | st.sampled_from(["x", "y", "é"]),
        "description": json_values,
        "z": json_values,
    },
)


@st.composite
def broken_json(draw: st.DrawFn) -> bytes:
    raw = bytearray(
        json.dumps(draw(json_values | documents), ensure_ascii=draw(st.booleans())).encode(
            "utf-8", "surrogatepass"
        )
    )
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(raw)))
        raw[position : position + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=3)
            | st.sampled_from([b'"', b"\\ud800", b"NaN", b"1e999", b",]", b"{", b"[" * 2_000])
        )
    return bytes(raw)


bodies = st.one_of(
    st.binary(max_size=60),
    broken_json(),
    documents.map(lambda value: json.dumps(value).encode()),
    st.just(b" " * 2_001),
)
content_types = st.sampled_from(["application/json", "application/vnd.api+json;x", "text/plain", ""]) | wild
lengths = st.sampled_from(["", "-1", "0", "5", "99999999999999999999", "+1", "1.0"]) | wild


@st.composite
def environs(draw: st.DrawFn) -> dict[str, Any]:
    body = draw(bodies)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": draw(methods),
        "SCRIPT_NAME": draw(st.sampled_from(["", "/phoenix"])),
        "PATH_INFO": draw(paths),
        "QUERY_STRING": draw(queries),
        "CONTENT_LENGTH": draw(st.just(str(len(body))) | lengths),
        "CONTENT_TYPE": draw(content_types),
        "wsgi.input": io.BytesIO(body),
    }
    if draw(st.booleans()):
        del environ["CONTENT_LENGTH"]
        environ["wsgi.input_terminated"] = draw(st.booleans())
        environ["HTTP_TRANSFER_ENCODING"] = draw(st.just("chunked") | wild)
    for name in draw(
        st.lists(st.sampled_from(["ACCEPT", "AUTHORIZATION", "HOST", "COOKIE", "EXPECT"]), max_size=2)
    ):
        environ[f"HTTP_{name}"] = draw(wild)
    return environ


def call(app: ProjectsApp, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    setup_testing_defaults(environ)
    started: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(app(environ, lambda status, headers: started.append((status, headers))))
    ((status, headers),) = started
    return int(status[:3]), dict(headers), body


def snapshot(app: ProjectsApp) -> list[Any]:
    return app.store.list_rows(limit=10**6, kinds=[*ProjectKind])


def keep_small(app: ProjectsApp) -> None:
    """Delete what earlier requests made, when it has become so much that looking at it takes time."""
    rows = snapshot(app)
    if len(rows) > 30:
        for row in rows[:-4]:
            app.store.delete(row[0])


def forbid(word: str) -> Any:
    raise AssertionError(f"an answer holds {word}")


@many
@given(environs())
def test_any_request_gets_a_sound_answer_and_a_refused_one_changes_nothing(
    app: ProjectsApp, environ: dict[str, Any]
) -> None:
    keep_small(app)
    before = snapshot(app)
    status, headers, body = call(app, environ)
    assert 200 <= status < 500
    if status >= 400 or environ["REQUEST_METHOD"] in ("GET", "HEAD", "OPTIONS"):
        assert snapshot(app) == before
    for name, value in headers.items():
        assert (name + value).isprintable()
    if environ["REQUEST_METHOD"] == "HEAD":
        assert body == b""
    elif headers.get("Content-Type") == wire.JSON:
        json.loads(body.decode("utf-8"), parse_constant=forbid)
    else:
        body.decode("utf-8")


@many
@given(st.sampled_from(["POST", "PUT"]), bodies, content_types)
def test_any_body_is_taken_whole_or_refused_whole(
    app: ProjectsApp, method: str, body: bytes, content_type: str
) -> None:
    keep_small(app)
    before = {row[1]: row for row in snapshot(app)}
    status, _, answer = call(
        app,
        {
            "REQUEST_METHOD": method,
            "PATH_INFO": "/v1/projects" if method == "POST" else "/v1/projects/default",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": content_type,
            "wsgi.input": io.BytesIO(body),
        },
    )
    assert status in (200, 400, 409, 413, 422)
    if status == 200:
        project = json.loads(answer)["data"]
        before[project["name"]] = (
            parse_identifier(project["id"]),
            project["name"],
            project["description"],
        )
    assert {row[1]: row for row in snapshot(app)} == before
