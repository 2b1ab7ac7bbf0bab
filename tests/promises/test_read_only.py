"""A server that only reads: its file may be on a disk that nobody can write to."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import webtest

from projects_wsgi import SQLiteStore, Store, StoreReadOnly, StoreUnavailable, make_app
from projects_wsgi.storage.sqlite import schema

from ..support.databases import Database, connect, names
from ..support.process import refusal
from .test_upgrade import SCHEMAS, VERSION

TEXT = "This server is read-only: nothing can be created, changed or deleted"


@pytest.fixture
def kept(database: Database) -> Database:
    """A database with a project in it."""
    with closing(database.open_store()) as store:
        store.create("kept", "x")
    return database


@pytest.fixture
def app(kept: Database) -> Iterator[webtest.TestApp]:
    app = kept.make_app(read_only=True)
    with closing(app.store):
        yield webtest.TestApp(app)


def test_reading_works_and_writing_is_403(app: webtest.TestApp) -> None:
    assert [project["name"] for project in app.get("/v1/projects", status=200).json["data"]] == [
        "kept",
        "default",
    ]
    app.get("/v1/projects?name_contains=KEP", status=200)
    app.get("/v1/projects/kept", status=200)
    app.get("/readyz", status=200)
    assert app.post_json("/v1/projects", {"name": "new"}, status=403).text == TEXT
    assert app.put_json("/v1/projects/kept", {"description": "y"}, status=403).text == TEXT
    assert app.delete("/v1/projects/kept", status=403).text == TEXT


def test_writing_is_403_whatever_is_sent(app: webtest.TestApp) -> None:
    app.post("/v1/projects", b"not JSON", status=403)
    app.put_json("/v1/projects/nobody", {}, status=403)
    app.delete("/v1/projects/default", status=403)
    app.request("/v1/projects", method="PATCH", status=405)


def test_the_store_refuses_to_write_as_well_and_others_may_go_on(kept: Database) -> None:
    with closing(kept.open_store(read_only=True)) as reader, closing(kept.open_store()) as writer:
        for write in (
            lambda: reader.create("new"),
            lambda: reader.update("kept", "y"),
            lambda: reader.delete("kept"),
            lambda: reader.get_or_create("new"),
        ):
            with pytest.raises(StoreReadOnly):
                write()
        assert reader.update("kept", None) == reader.get("kept") == reader.get_or_create("kept")[0]
        writer.create("another")
        assert names(reader) == ["another", "kept", "default"]


def test_the_api_over_a_store_of_the_hosts_can_be_read_only_while_the_host_writes(store: Store) -> None:
    store.create("of the host")
    client = webtest.TestApp(make_app(store, read_only=True))
    client.get("/v1/projects/of the host", status=200)
    client.delete("/v1/projects/of the host", status=403)


def test_a_missing_file_is_not_made(file: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no such file"):
        SQLiteStore(file, read_only=True)
    assert "there is no such file" in refusal("--read-only", cwd=file.parent)
    assert list(file.parent.iterdir()) == []


def test_a_database_in_memory_would_hold_nothing() -> None:
    with pytest.raises(ValueError, match="read_only needs a file"):
        make_app(":memory:", read_only=True)


def test_a_file_of_an_earlier_version_is_not_upgraded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SCHEMAS / f"{VERSION}.db", file)
    before = file.read_bytes()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("SELECT 1",)))
    with pytest.raises(StoreUnavailable, match="open it once without read-only"):
        SQLiteStore(file, read_only=True)
    assert file.read_bytes() == before


def test_a_file_without_projects_is_refused_untouched(file: Path) -> None:
    with connect(file) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = file.read_bytes()
    with pytest.raises(StoreUnavailable, match="open it once without read-only"):
        SQLiteStore(file, read_only=True)
    assert file.read_bytes() == before


def test_reading_only_warns_of_nothing(kept: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), closing(kept.open_store(read_only=True)) as store:
        store.list_rows()
    assert caplog.records == []
