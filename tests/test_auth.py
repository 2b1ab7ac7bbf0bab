"""Nobody gets in who does not belong, and nobody further than their role."""

from __future__ import annotations

import hashlib
import http.client
import io
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from projects_wsgi import KeysError, ProjectKind, ProjectsApp, keys, make_app
from projects_wsgi.testing import live_server
from projects_wsgi.wsgi import USER

from .conftest import PrefixedApp
from .promises.test_bad_input import call, environs
from .support.engines import NewDatabase

KEYS = {role: f"{role}-{'x' * 40}" for role in ("viewer", "member", "admin")}
EXPIRED = "expired-" + "x" * 40
SECRET = "the-admins-secret-1-" + "x" * 32


def line(name: str, role: str, key: str, expires: str = "") -> str:
    return f"{name} {role} {hashlib.sha256(key.encode()).hexdigest()} 2020-01-01 {expires}\n"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """A keys file with a key of each role, and one that is past its day."""
    file = tmp_path / "projects.keys"
    lines = [line(role, role, key, "2999-12-31") for role, key in KEYS.items()]
    file.write_text("# who may do what\n\n" + "".join(lines) + line("old", "admin", EXPIRED, "2026-01-01"))
    return file


@pytest.fixture
def guarded(new_database: NewDatabase, keys_file: Path) -> Iterator[ProjectsApp]:
    """The application with keys, and a secret project."""
    with new_database(None) as database:
        app = database.make_app(keys=keys_file, admin_secret=SECRET)
        with closing(app.store):
            app.store.create("secret", "very")
            yield app


@pytest.fixture(params=["", "/phoenix/api"], ids=["root", "prefix"])
def app(request: pytest.FixtureRequest, guarded: ProjectsApp) -> webtest.TestApp:
    return PrefixedApp(guarded, request.param)


# Every role, method and route

VIEWERS_CANNOT = "Viewers cannot perform this action."
ONLY_ADMINS_CAN = "Only admin or system users can perform this action."

COLLECTION, ITEM = "/v1/projects", "/v1/projects/secret"
OPEN = ("/healthz", "/readyz", "/arize_phoenix_version", "/openapi.json")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


def expected(role: str | None, method: str, path: str) -> int:
    """Return the status of a request, as the contract has it."""
    if path in OPEN:
        return {"GET": 200, "HEAD": 200, "OPTIONS": 204}.get(method, 405)
    if role is None:
        return 401
    if role == "viewer" and method not in ("GET", "HEAD"):
        return 403
    if role == "member" and method in ("PUT", "DELETE"):
        return 403
    if path == COLLECTION:
        return {"GET": 200, "HEAD": 200, "POST": 200, "OPTIONS": 204}.get(method, 405)
    if path == ITEM:
        return {"GET": 200, "HEAD": 200, "PUT": 200, "DELETE": 204, "OPTIONS": 204}.get(method, 405)
    return 404


@pytest.mark.parametrize("role", [None, "viewer", "member", "admin"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", [COLLECTION, ITEM, "/v1/unknown", *OPEN])
def test_every_role_may_do_on_every_route_just_what_the_contract_allows(
    app: webtest.TestApp, role: str | None, method: str, path: str
) -> None:
    headers = {"Content-Type": "application/json"}
    if role is not None:
        headers["Authorization"] = f"Bearer {KEYS[role]}"
    body = b'{"name":"new"}' if method in ("POST", "PUT") else b""
    status = expected(role, method, path)
    response = app.request(path, method=method, headers=headers, body=body, status=status)
    assert response.headers["x-phoenix-server-version"] == "20.26.1"
    if status == 401:
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="projects"'
    else:
        assert "WWW-Authenticate" not in response.headers
    if method == "HEAD":
        assert response.body == b""
    elif status == 401:
        assert response.text == "Invalid token"
    elif status == 403:
        assert response.text == (VIEWERS_CANNOT if role == "viewer" else ONLY_ADMINS_CAN)


def test_the_openapi_document_states_the_scheme_and_the_answers(app: webtest.TestApp) -> None:
    document = app.get("/openapi.json").json
    validate(document)
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["security"] == []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method != "parameters":
                assert operation.get("security", []) == ([{name: []}] if path.startswith("/v1/") else [])
                assert ("401" in operation["responses"]) == path.startswith("/v1/")


def test_without_keys_the_openapi_document_asks_for_none() -> None:
    app = make_app(":memory:")
    with closing(app.store):
        response = webtest.TestApp(app).get("/openapi.json")
    assert response.json["security"] == []
    assert response.text.count('"security') == 1
    assert '"401"' not in response.text


def test_an_expired_key_is_told_so(app: webtest.TestApp) -> None:
    response = app.get(COLLECTION, headers={"Authorization": f"Bearer {EXPIRED}"}, status=401)
    assert response.text == "Expired token"
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="projects"'


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_may_be_in_any_case(app: webtest.TestApp, scheme: str) -> None:
    app.get(COLLECTION, headers={"Authorization": f"{scheme} {KEYS['viewer']}"}, status=200)


def test_the_admin_secret_is_an_admins_key(app: webtest.TestApp) -> None:
    app.delete(ITEM, headers={"Authorization": f"Bearer {SECRET}"}, status=204)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        KEYS["admin"],
        f"Basic {KEYS['admin']}",
        f"Bearer{KEYS['admin']}",
        f"Bearer {KEYS['admin']} ",
        f"Bearer {KEYS['admin']}, Bearer {KEYS['admin']}",
        f"Bearer {KEYS['admin']}x",
        f"Bearer {KEYS['admin'][:-1]}",
        f"Bearer {KEYS['admin'].upper()}",
        f"Bearer\t{KEYS['admin']}",
        f"Bearer {hashlib.sha256(KEYS['admin'].encode()).hexdigest()}",
        "Bearer \xe9\xff",
        "Bearer " + "x" * 60_000,
    ],
)
def test_what_is_no_key_is_401_alike_whatever_it_is(app: webtest.TestApp, value: str) -> None:
    response = app.get(COLLECTION, headers={"Authorization": value}, status=401)
    assert response.text == "Invalid token"
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="projects"'


def test_a_key_matches_in_its_own_characters_only(guarded: ProjectsApp) -> None:
    assert status_of(guarded, SECRET) == 200
    assert status_of(guarded, SECRET.upper()) == 401
    assert status_of(guarded, SECRET.replace("s", "\u017f")) == 401  # which is an "s" in another case


@pytest.mark.parametrize(
    "path",
    [
        "//v1/projects",
        "///v1/projects/secret",
        "/v1/../v1/projects",
        "/v1/projects/",
        "/v1//projects",
        "/v1/%70rojects",
        "/%761/projects",
        "/v1%2Fprojects",
        "/v1/projects/secret/",
        "/v1/./projects",
        "/v1/",
    ],
)
def test_no_spelling_of_a_path_opens_what_is_closed(path: str, keys_file: Path) -> None:
    with live_server(["secret"], keys=keys_file) as url:
        connection = http.client.HTTPConnection(url.partition("//")[2], timeout=10)
        with closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.read()) == (401, b"Invalid token")


@pytest.mark.parametrize(
    "path", ["/x/../v1/projects", "/V1/projects", "/v1", "/v1;/projects", "/.//v1/projects"]
)
def test_what_is_open_beside_the_known_routes_is_not_found(app: webtest.TestApp, path: str) -> None:
    app.get(path, status=404)


class Unread(io.RawIOBase):
    """A body that nobody may read."""

    def readinto(self, buffer: Any) -> int:
        raise AssertionError("the body was read")


@pytest.mark.parametrize(("role", "status"), [(None, 401), ("viewer", 403)])
def test_who_may_not_is_refused_before_the_body_is_read(
    guarded: ProjectsApp, role: str | None, status: int
) -> None:
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": COLLECTION,
        "CONTENT_LENGTH": "99999999",  # else 413
        "wsgi.input": Unread(),
    }
    if role:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {KEYS[role]}"
    assert call(guarded, environ)[0] == status


# Whatever is sent


@pytest.fixture(scope="module")
def closed(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProjectsApp]:
    file = tmp_path_factory.mktemp("keys") / "projects.keys"
    file.write_text(line("admin", "admin", KEYS["admin"]))
    with new_database(None) as database:
        app = database.make_app(keys=file)
        with closing(app.store):
            for name in ("x", "é", "a/b"):
                app.store.create(name, "SECRET")
            yield app


def contents(app: ProjectsApp) -> list[Any]:
    return app.store.list_rows(limit=10**6, kinds=[*ProjectKind])


no_keys = st.one_of(
    st.none(),
    st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")),
    st.text(max_size=60),
    st.sampled_from([f"Bearer {KEYS['admin']}\n", f"bearer {EXPIRED}", "Bearer " + "0" * 64, "Bearer \0"]),
    st.text(max_size=60).map("Bearer ".__add__),
).filter(lambda value: value is None or KEYS["admin"] not in value.split())


@given(environs(), no_keys)
def test_no_request_without_a_good_key_changes_anything_or_reads_a_project(
    closed: ProjectsApp, environ: dict[str, Any], authorization: str | None
) -> None:
    environ.pop("HTTP_AUTHORIZATION", None)
    if authorization is not None:
        environ["HTTP_AUTHORIZATION"] = authorization
    before = contents(closed)
    status, _, body = call(closed, environ)
    assert contents(closed) == before
    assert b"SECRET" not in body
    is_bytes = max(environ["PATH_INFO"], default="") <= "\xff"
    assert status in ((200, 204, 401, 404, 405) if is_bytes else (400,))
    if status in (200, 204):
        assert not body.startswith(b'{"data"')  # as every answer that holds projects does


# Keys that come and go. That a server notices within two seconds is in test_keys.

CHECK_SECONDS = 0.02


@pytest.fixture
def hasty(guarded: ProjectsApp, monkeypatch: pytest.MonkeyPatch) -> ProjectsApp:
    """The application with keys, which looks at their file more often than it does by default."""
    monkeypatch.setattr("projects_wsgi.keys._CHECK_SECONDS", CHECK_SECONDS)
    return guarded


def status_of(app: ProjectsApp, key: str) -> int:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": COLLECTION, "HTTP_AUTHORIZATION": f"Bearer {key}"}
    return call(app, environ)[0]


def wait_for(app: ProjectsApp, key: str, status: int) -> None:
    """Wait until a key gets this status."""
    began = time.monotonic()
    while status_of(app, key) != status:
        assert time.monotonic() - began < 30, f"it never became {status}"
        time.sleep(0.01)


def test_a_key_that_is_taken_out_or_put_in_is_noticed_without_a_restart(
    hasty: ProjectsApp, keys_file: Path
) -> None:
    text = keys_file.read_text()
    assert status_of(hasty, KEYS["viewer"]) == 200
    keys_file.write_text(text.replace(line("viewer", "viewer", KEYS["viewer"], "2999-12-31"), ""))
    wait_for(hasty, KEYS["viewer"], 401)
    assert status_of(hasty, KEYS["admin"]) == 200
    keys_file.write_text(text)
    wait_for(hasty, KEYS["viewer"], 200)


@pytest.mark.parametrize("harm", ["gone", "malformed", "a folder"])
def test_keys_that_can_no_longer_be_read_are_valid_for_a_minute_and_every_look_is_an_error_in_the_log(
    hasty: ProjectsApp,
    keys_file: Path,
    harm: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "_TRUST_SECONDS", 0.5)
    text = keys_file.read_text()
    assert status_of(hasty, KEYS["viewer"]) == 200
    time.sleep(0.6)  # as long as it can be read, nothing is too old
    assert status_of(hasty, KEYS["viewer"]) == 200
    keys_file.unlink()
    if harm == "malformed":
        keys_file.write_text("nonsense\n")
    elif harm == "a folder":
        keys_file.mkdir()
    began = time.monotonic()
    wait_for(hasty, KEYS["viewer"], 401)
    assert 0.3 < time.monotonic() - began < 5
    messages = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert all(str(keys_file) in message for message in messages)
    *others, last = (message.rpartition("; ")[2] for message in messages)
    assert len(others) > 2
    assert set(others) == {"the keys read before stay valid until a minute after it last could be"}
    assert last == "none of its keys is valid"
    if harm == "a folder":
        keys_file.rmdir()
    keys_file.write_text(text)
    wait_for(hasty, KEYS["viewer"], 200)


def test_a_keys_file_that_was_replaced_where_it_is_mounted_from_is_an_error_at_every_look(
    keys_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_CHECK_SECONDS", CHECK_SECONDS)
    monkeypatch.setattr(keys, "_TRUST_SECONDS", 0.3)
    with open(keys_file, encoding="utf-8") as mounted:
        # Like a file that is mounted alone, this path goes on naming the old one.
        path = f"/proc/self/fd/{mounted.fileno()}"
        app = make_app(":memory:", keys=path)
        assert status_of(app, KEYS["viewer"]) == 200
        keys_file.unlink()
        wait_for(app, KEYS["viewer"], 401)
        app.store.close()
    assert (
        f"the keys file {path} was replaced, but here it is still the old one: mount its folder"
        in caplog.text
    )
    assert len(caplog.records) > 2


def test_the_admin_secret_needs_no_file_that_can_be_read(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_CHECK_SECONDS", CHECK_SECONDS)
    monkeypatch.setattr(keys, "_TRUST_SECONDS", 0.1)
    app = make_app(":memory:", keys=keys_file, admin_secret="phoenix1" * 4)
    keys_file.unlink()
    wait_for(app, KEYS["viewer"], 401)
    assert status_of(app, "phoenix1" * 4) == 200
    app.store.close()


def test_a_file_is_looked_at_once_a_second_at_most(
    guarded: ProjectsApp, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()
    stat = os.stat

    def count(path: Any, *args: Any, **kwargs: Any) -> Any:
        if path == str(keys_file):
            next(looks)
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", count)
    began = time.monotonic()
    for _ in range(200):
        status_of(guarded, KEYS["viewer"])
    assert next(looks) <= 1 + (time.monotonic() - began) / 1.0


def test_many_threads_are_let_in_while_the_file_changes(hasty: ProjectsApp, keys_file: Path) -> None:
    text = keys_file.read_text()
    wrong: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            status = status_of(hasty, KEYS["admin"])
            if status != 200:
                wrong.append(status)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(25):
        new = keys_file.with_name("new")
        new.write_text(text + f"# {number}\n")
        new.replace(keys_file)
        time.sleep(2 * CHECK_SECONDS)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# A host's own way


def test_a_host_can_authenticate_in_its_own_way() -> None:
    app = make_app(":memory:", authenticate=lambda environ: environ.get("HTTP_X_ROLE"))
    with closing(app.store):
        client = webtest.TestApp(app)
        client.get(COLLECTION, status=401)
        client.post_json(COLLECTION, {"name": "x"}, headers={"X-Role": "viewer"}, status=403)
        client.post_json(COLLECTION, {"name": "x"}, headers={"X-Role": "member"}, status=200)
        client.delete(f"{COLLECTION}/x", headers={"X-Role": "member"}, status=403)
        client.delete(f"{COLLECTION}/x", headers={"X-Role": "admin"}, status=204)


@pytest.mark.parametrize("prefix", ["/phoenix/api", "/v1", "//v1/"])
def test_under_a_hosts_dispatcher_just_as_much_is_closed(prefix: str) -> None:
    app = make_app(":memory:", authenticate=lambda environ: environ.get("HTTP_X_ROLE"))
    with closing(app.store):
        client = PrefixedApp(app, prefix)
        for path in ("/v1/projects", "/v1/projects/default", "//v1/projects", "///v1/projects/default"):
            client.get(path, status=401)
            client.get(path, headers={"X-Role": "viewer"}, status=200)
        client.delete("/v1/projects/default", headers={"X-Role": "member"}, status=403)
        client.get("/healthz", status=200)


@pytest.mark.parametrize("answer", ["owner", 1, ZeroDivisionError("of the host")])
def test_an_authentication_that_fails_lets_nobody_in_and_is_logged(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    def authenticate(environ: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    app = make_app(":memory:", authenticate=authenticate)
    with closing(app.store), caplog.at_level(logging.ERROR):
        response = webtest.TestApp(app).get(COLLECTION, status=500)
        assert response.text == "Internal Server Error"
    assert "an unforeseen error at 'GET /v1/projects" in caplog.text


def test_the_name_of_the_key_is_told_to_whoever_stands_around(keys_file: Path) -> None:
    ring = keys.KeyRing(keys_file, SECRET)
    for key, name, role in ((KEYS["member"], "member", "member"), (SECRET, "admin-secret", "admin")):
        environ = {"HTTP_AUTHORIZATION": f"Bearer {key}"}
        assert ring(environ).value == role
        assert environ[USER] == name


def test_keys_and_a_hosts_own_way_exclude_each_other(keys_file: Path) -> None:
    with pytest.raises(TypeError, match="either keys and admin_secret, or authenticate"):
        make_app(":memory:", keys=keys_file, authenticate=lambda environ: "admin")


def test_without_its_keys_file_no_application_is_made(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="there is no keys file"):
        make_app(tmp_path / "projects.db", keys=tmp_path / "missing.keys")
    assert list(tmp_path.iterdir()) == []


WEAK = (
    "^the admin secret must have at least 32 characters, all of them visible ASCII,"
    " with a digit and a lower-case letter among them$"
)


@pytest.mark.parametrize(
    "secret",
    ["", "x1" * 15, "x" * 40, "1" * 40, "X1" * 20, "x1" * 20 + " ", "x1" * 20 + "é", "x1" * 20 + "\n"],
)
def test_a_weak_admin_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=WEAK):
        make_app(":memory:", admin_secret=secret)


def test_an_admin_secret_is_enough_to_close_the_door() -> None:
    app = make_app(":memory:", admin_secret=SECRET)
    with closing(app.store):
        assert status_of(app, SECRET) == 200
        assert status_of(app, "x") == 401
