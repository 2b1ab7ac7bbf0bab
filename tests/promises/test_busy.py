"""Who is kept from the database waits, is told so in time, and keeps nobody from reading."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest

from projects_wsgi import SQLiteStore, StoreBusy, make_app

from ..support.databases import connect, names
from ..support.process import environment, running_server

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@contextlib.contextmanager
def held_by_another_process(file: Path) -> Iterator[None]:
    """Have another process hold a write transaction on a file."""
    line = [sys.executable, "-W", "error", "-c", HOLD, str(file)]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("\n", timeout=10)
    assert process.returncode == 0


def test_writes_are_503_with_retry_after_while_another_process_writes_and_reads_go_on(tmp_path: Path) -> None:
    with running_server("--busy-timeout", "0.3", "--quiet", cwd=tmp_path) as process:
        assert process.ask("POST", "/v1/projects", {"name": "before"})[0] == 200
        with held_by_another_process(tmp_path / "projects.db"):
            for method, path, document in (
                ("POST", "/v1/projects", {"name": "x"}),
                ("PUT", "/v1/projects/before", {"description": "x"}),
                ("DELETE", "/v1/projects/before", None),
            ):
                began = time.monotonic()
                status, headers, text = process.ask(method, path, document)
                assert (status, headers["Retry-After"]) == (503, "1")
                assert text == "The database is busy. Nothing was changed; try again"
                assert 0.3 <= time.monotonic() - began < 5
                assert process.ask("GET", "/v1/projects/before")[0] == 200
                assert process.ask("GET", "/v1/projects")[0] == 200
                assert process.ask("GET", "/readyz")[0] == 200
        assert process.ask("POST", "/v1/projects", {"name": "after"})[0] == 200
        assert process.ask("DELETE", "/v1/projects/before")[0] == 204
    assert "others have locked the database " in process.log


def test_a_write_waits_for_a_writer_that_ends_in_time(tmp_path: Path) -> None:
    with running_server("--quiet", cwd=tmp_path) as process, contextlib.ExitStack() as held:
        held.enter_context(held_by_another_process(tmp_path / "projects.db"))
        threading.Timer(0.3, held.pop_all().close).start()
        assert process.ask("POST", "/v1/projects", {"name": "x"})[0] == 200
    assert process.log == ""


def test_many_writers_who_wait_are_all_told_in_the_time_of_one(file: Path) -> None:
    with closing(SQLiteStore(file, busy_timeout=0.5)) as store, connect(file) as connection:
        connection.execute("BEGIN IMMEDIATE")
        waited = []

        def write(number: int) -> None:
            began = time.monotonic()
            with pytest.raises(StoreBusy):
                store.create(f"agent {number}")
            waited.append(time.monotonic() - began)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(waited) == 8
        assert max(waited) < 0.5 + 1  # and not 8 x 0.5
        connection.execute("COMMIT")
        assert names(store) == ["default"]


def test_a_file_that_is_locked_at_the_start_is_waited_for_then_reported(file: Path) -> None:
    with connect(file) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            StoreBusy, match="others have locked the database .* for too long; try again later"
        ):
            SQLiteStore(file, busy_timeout=0.2)
        connection.execute("COMMIT")
    SQLiteStore(file).close()


def test_a_file_that_is_locked_when_a_connection_is_opened_is_waited_for_then_reported(file: Path) -> None:
    with closing(SQLiteStore(file, busy_timeout=0.2)) as store:
        with connect(file) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            with pytest.raises(StoreBusy, match="others have locked the database"):
                store.get("default")
            assert time.monotonic() - began >= 0.2
        assert names(store) == ["default"]


@pytest.mark.parametrize("seconds", [0, -1, 25.1, float("nan"), float("inf")])
def test_a_timeout_that_clients_would_not_outwait_is_refused(file: Path, seconds: float) -> None:
    for make in (SQLiteStore, make_app):
        with pytest.raises(
            ValueError, match="busy_timeout must be a number of seconds above 0 and at most 25, not"
        ):
            make(file, busy_timeout=seconds)
    assert not file.exists()


def test_make_app_hands_the_timeout_on(file: Path) -> None:
    app = make_app(file, busy_timeout=0.05)
    with closing(app.store), connect(file) as connection:
        connection.execute("BEGIN IMMEDIATE")
        webtest.TestApp(app).post_json("/v1/projects", {"name": "x"}, status=503)


@pytest.mark.parametrize(
    "options", [{"busy_timeout": 1.0}, {"max_database_size": 10**6}, {"on_change": print}]
)
def test_options_of_the_database_cannot_be_given_beside_a_store(options: dict[str, Any]) -> None:
    with closing(SQLiteStore(":memory:")) as store, pytest.raises(TypeError, match="to the Store"):
        make_app(store, **options)
