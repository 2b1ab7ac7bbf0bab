"""Where a file system does without SQLite's write-ahead log, so does the store."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import SQLiteStore, StoreUnavailable

from ..support.databases import connect, names


def refuse_wal(file: Path) -> None:
    """Make SQLite unable to share memory between processes, which its write-ahead log needs.

    It will not follow a link to where that memory would be; a file system on which memory cannot be
    shared at all looks the same to it.
    """
    file.with_name(f"{file.name}-shm").symlink_to("nowhere")


def journal_mode(file: Path) -> str:
    with connect(file) as connection:
        mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return mode


def test_a_new_file_falls_back_to_the_rollback_journal_with_a_warning(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_wal(file)
    with caplog.at_level(logging.WARNING), closing(SQLiteStore(file)) as store:
        assert store.create("agent") == store.get("agent")
        assert journal_mode(file) == "delete"
    (record,) = caplog.records
    assert "does without SQLite's write-ahead log" in record.getMessage()
    with closing(SQLiteStore(file)) as store:
        assert names(store) == ["agent", "default"]


def test_a_file_that_was_made_elsewhere_falls_back_too(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(SQLiteStore(file)) as store:
        store.create("agent")
    assert journal_mode(file) == "wal"
    refuse_wal(file)
    with closing(SQLiteStore(file)) as store:
        assert names(store) == ["agent", "default"]
        store.delete("agent")
        assert journal_mode(file) == "delete"
    assert "does without SQLite's write-ahead log" in caplog.text


def test_a_process_that_may_open_no_more_files_leaves_a_file_its_write_ahead_log(file: Path) -> None:
    resource = pytest.importorskip("resource")
    SQLiteStore(file).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    errors = []
    for count in range(6):
        with open(os.devnull) as lowest:
            limit = lowest.fileno() + count
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            SQLiteStore(file).close()
        except StoreUnavailable as error:
            errors.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert journal_mode(file) == "wal"
    assert len(errors) >= 2
    assert {"Too many open files" in error for error in errors} == {True}


def test_who_opens_a_connection_while_another_writes_waits_for_it(file: Path) -> None:
    refuse_wal(file)
    with closing(SQLiteStore(file, max_database_size=10**6)) as store, connect(file) as other:
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(0.3, other.execute, ["COMMIT"]).start()
        assert store.create("agent").id == 2


def test_the_journal_of_a_file_that_exists_is_left_as_it_is(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SQLiteStore(file).close()
    with connect(file) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    with closing(SQLiteStore(file)) as store:
        store.create("agent")
    assert journal_mode(file) == "delete"
    assert "does without SQLite's write-ahead log" in caplog.text


def test_a_file_of_another_program_is_not_switched(file: Path) -> None:
    with connect(file) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE projects (x)")
    before = file.read_bytes()
    refuse_wal(file)
    with pytest.raises(Exception, match="belongs to another program"):
        SQLiteStore(file)
    assert file.read_bytes() == before


def test_a_file_system_that_sqlite_itself_knows_to_be_without_is_served(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # SQLite's "unix-dotfile" file system has no shared memory, and so no write-ahead log.
    connect_as_is = sqlite3.connect

    def connect_without_wal(path: str, **options: object) -> sqlite3.Connection:
        return connect_as_is(f"{path}&vfs=unix-dotfile", **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", connect_without_wal)
    with caplog.at_level(logging.WARNING), closing(SQLiteStore(file)) as store:
        assert store.create("agent") == store.get("agent")
    assert "write-ahead log" in caplog.text


def test_a_backup_is_restored_and_no_id_is_used_again(file: Path) -> None:
    refuse_wal(file)
    with closing(SQLiteStore(file)) as store:
        store.create("kept")
        for number in range(300):  # more than one step of restoring
            store.create(f"kept {number}", "x" * 3_000)
        store.backup(file.with_name("backup.db"))
        last = store.create("lost").id
        store.restore(file.with_name("backup.db"))
        assert store.list_rows()[0][1] == "kept 299"
        assert store.create("new").id == last + 1
