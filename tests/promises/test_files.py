"""A file that cannot be used is refused with a clear error, and is not touched."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import webtest

from projects_wsgi import SQLiteStore, StoreUnavailable, make_app
from projects_wsgi.storage.sqlite import schema
from projects_wsgi.storage.sqlite.file import real_path

from ..support.databases import connect, names
from ..support.process import refusal, run

# At the start


def untouched(file: Path) -> tuple[bytes, int]:
    return file.read_bytes(), file.stat().st_mtime_ns


def test_a_file_of_a_newer_version_is_refused_untouched(file: Path) -> None:
    SQLiteStore(file).close()
    with connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = untouched(file)
    with pytest.raises(StoreUnavailable, match="version 99.*upgrade projects_wsgi"):
        SQLiteStore(file)
    assert untouched(file) == before


@pytest.mark.parametrize(
    ("version", "table"),
    [
        (0, "projects (id INTEGER NOT NULL, name VARCHAR NOT NULL)"),
        (1, "projects (id INTEGER NOT NULL, name VARCHAR NOT NULL)"),
        (1, "projects (id INTEGER NOT NULL, name VARCHAR NOT NULL, folded_name TEXT)"),
        (1, "users (name TEXT)"),
        (99, "users (name TEXT)"),
    ],
)
def test_a_database_of_another_program_is_refused_untouched(file: Path, version: int, table: str) -> None:
    with connect(file) as connection:
        connection.execute(f"CREATE TABLE {table}")
        connection.execute(f"PRAGMA user_version = {version}")
    before = untouched(file)
    with pytest.raises(StoreUnavailable, match="belongs to another program"):
        SQLiteStore(file)
    assert untouched(file) == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE Projects (x)",
        "CREATE TABLE projects_listed (x)",
        "CREATE VIEW PROJECTS AS SELECT x FROM theirs",
        "CREATE INDEX projects ON theirs (x)",
        "CREATE INDEX Projects_Listed ON theirs (x)",
    ],
)
def test_whatever_has_a_name_that_is_needed_is_left_untouched(file: Path, statement: str) -> None:
    with connect(file) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute(statement)
    before = untouched(file)
    with pytest.raises(StoreUnavailable, match="belongs to another program"):
        SQLiteStore(file)
    assert untouched(file) == before


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_file_that_cannot_keep_every_character_is_refused_untouched(file: Path, encoding: str) -> None:
    with connect(file) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute("CREATE TABLE mine (x)")
    before = untouched(file)
    with pytest.raises(StoreUnavailable, match=f"keeps texts in {encoding}.*choose another file"):
        SQLiteStore(file)
    with connect(file) as connection:  # as this program once did
        connection.execute("PRAGMA user_version = 1")
        for statement in schema.MIGRATIONS[0]:
            connection.execute(statement)
    before = untouched(file)
    assert f"keeps texts in {encoding}" in refusal(cwd=file.parent)
    assert f"keeps texts in {encoding}" in refusal("restore", file.name, "--db", "new.db", cwd=file.parent)
    assert untouched(file) == before
    assert run("import", file.name, "--db", "other.db", cwd=file.parent).returncode == 0


def test_a_hosts_trigger_may_have_any_name(file: Path) -> None:
    with connect(file) as connection:
        connection.execute("CREATE TABLE mine (x)")
        for name in ("projects", "projects_listed"):
            connection.execute(f"CREATE TRIGGER {name} AFTER INSERT ON mine BEGIN SELECT 1; END")
    for _ in ("a new table", "one that exists"):
        with closing(SQLiteStore(file)) as store:
            assert names(store) == ["default"]


def test_a_hosts_database_gets_the_table_beside_its_own(file: Path) -> None:
    with connect(file) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    with closing(SQLiteStore(file)) as store:
        assert names(store) == ["default"]


def test_what_is_no_database_is_refused_untouched(file: Path) -> None:
    file.write_bytes(b"this is not a database, whatever its name says" * 100)
    before = untouched(file)
    with pytest.raises(StoreUnavailable, match="not a database"):
        SQLiteStore(file)
    assert untouched(file) == before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no folder .*missing; make it first"):
        SQLiteStore(tmp_path / "missing" / "projects.db")
    assert not (tmp_path / "missing").exists()


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="is a folder"):
        SQLiteStore(tmp_path)


def test_a_pipe_is_not_a_file(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(StoreUnavailable, match="it is not a file"):
        SQLiteStore(file)


def test_a_file_that_others_make_at_this_moment_is_a_file(file: Path) -> None:
    has_ended = threading.Event()

    def make_and_remove() -> None:
        while not has_ended.is_set():
            file.touch()
            file.unlink()

    thread = threading.Thread(target=make_and_remove)
    thread.start()
    try:
        assert {real_path(str(file)) for _ in range(5_000)} == {str(file)}
    finally:
        has_ended.set()
        thread.join()


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ValueError, match="path of a file"):
        SQLiteStore("")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="path of a file"):
        SQLiteStore("nul\0x")


def fill(file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        for number in range(200):
            store.create(f"agent {number}", "x" * 1000)


@pytest.mark.parametrize("size", [50, 99, 100, 512, 4_000, 4_096, 20_000])
def test_a_truncated_file_is_refused_untouched_or_answers_503(file: Path, size: int) -> None:
    fill(file)
    os.truncate(file, size)
    before = file.read_bytes()
    try:
        store = SQLiteStore(file)
    except StoreUnavailable as error:
        assert str(file) in str(error)  # noqa: PT017
        assert "malformed" in str(error) or "not a database" in str(error)  # noqa: PT017
    else:
        # What is left happens to begin like a whole file: the missing rest shows when it is read.
        with closing(store):
            app = webtest.TestApp(make_app(store))
            app.get("/v1/projects?limit=1000", status=503)
            app.post_json("/v1/projects", {"name": "x"}, status=503)
            app.get("/healthz", status=200)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database" * 100, b"xy", b"SQLite format 3\0" + b"\xff" * 4080])
def test_the_command_line_says_it_in_one_line(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    line = refusal(cwd=file.parent)
    assert str(file) in line
    assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


# While it runs


@pytest.fixture
def app(file: Path) -> Iterator[webtest.TestApp]:
    app = make_app(file, busy_timeout=0.5)
    with closing(app.store):
        app.store.create("kept", "x")
        app.store.list_rows()
        yield webtest.TestApp(app)


def expect_503(app: webtest.TestApp) -> None:
    """Expect that nothing can be written, and that no write is acknowledged."""
    for method, path, document in (
        ("POST", "/v1/projects", {"name": "lost"}),
        ("PUT", "/v1/projects/kept", {"description": "lost"}),
        ("DELETE", "/v1/projects/kept", None),
        ("GET", "/readyz", None),
    ):
        body = b"" if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        response = app.request(path, method=method, body=body, headers=headers, status=503)
        assert response.text == "The database does not answer. Nothing was changed; see the server's log"
        assert "Retry-After" not in response.headers
    app.get("/healthz", status=200)


def test_a_file_that_was_removed_takes_no_writes_and_is_not_made_anew(
    app: webtest.TestApp, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.unlink()
    expect_503(app)
    assert "was removed or replaced while it was open; put it back" in caplog.text
    assert not file.exists()


def test_a_file_that_is_put_back_is_used_again(app: webtest.TestApp, file: Path) -> None:
    file.rename(file.with_name("elsewhere.db"))
    expect_503(app)
    file.with_name("elsewhere.db").rename(file)
    app.put_json("/v1/projects/kept", {"description": "y"}, status=200)
    app.get("/readyz", status=200)


def test_a_file_that_was_replaced_takes_no_writes(app: webtest.TestApp, file: Path) -> None:
    other = file.with_name("other.db")
    with closing(SQLiteStore(other)) as store:
        store.create("from elsewhere")
    shutil.copy(other, file.with_name("copy.db"))
    before = other.read_bytes()
    other.rename(file)
    expect_503(app)
    assert file.read_bytes() == before
    with closing(SQLiteStore(file.with_name("copy.db"))) as store:
        assert names(store) == ["from elsewhere", "default"]


def test_a_folder_that_was_removed_is_503(app: webtest.TestApp, file: Path) -> None:
    shutil.rmtree(file.parent)
    expect_503(app)


def test_a_table_that_was_dropped_is_503_and_explained_in_the_log(
    app: webtest.TestApp, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(file) as connection:
        connection.execute("DROP TABLE projects")
    expect_503(app)
    app.get("/v1/projects", status=503)
    assert "no such table: projects" in caplog.text
    with connect(file) as connection:
        assert connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'projects'"
        ).fetchone() == (0,)
