"""A database is copied and checked while it is in use."""

from __future__ import annotations

import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import SQLiteStore, Store, StoreUnavailable

from ..support.databases import connect, names
from ..support.process import environment, refusal, run, start_together

WRITE = """
import itertools, sys
from projects_wsgi import SQLiteStore
store = SQLiteStore("projects.db")
print("ready", flush=True)
sys.stdin.readline()
# Pairs: whenever the second of one is there, the first must be too.
for number in itertools.count():
    store.create(f"{sys.argv[1]} {number} first", "x" * 3000)
    store.create(f"{sys.argv[1]} {number} second", "x" * 3000)
"""


@pytest.fixture
def four_writers(file: Path, file_store: SQLiteStore) -> Iterator[None]:
    """Four processes that write to the file as fast as they can."""
    for number in range(300):
        file_store.create(f"project {number}", "x" * 20_000)
    writers = start_together([["-c", WRITE, str(number)] for number in range(4)], file.parent)
    yield
    for writer in writers:
        assert writer.poll() is None, "a writer has stopped"
        writer.kill()
        writer.communicate()


def is_consistent(copy: Path) -> bool:
    with connect(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with closing(SQLiteStore(copy)) as store:
        found = set(names(store, limit=10**6))
    ids = re.compile(r"(\d \d+) second")
    seconds = {match[1] for match in map(ids.fullmatch, found) if match}
    return {f"project {number}" for number in range(300)} <= found and all(
        f"{pair} first" in found for pair in seconds
    )


def test_a_backup_is_consistent_while_four_processes_write(
    four_writers: None, file: Path, file_store: SQLiteStore
) -> None:
    sizes = []
    for number in range(5):
        copy = file.with_name(f"copy-{number}.db")
        file_store.backup(copy)
        assert is_consistent(copy)
        with connect(copy) as connection:
            sizes += connection.execute("SELECT count(*) FROM projects").fetchone()
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1], "nobody wrote meanwhile"


def test_the_command_copies_and_checks_while_four_processes_write(four_writers: None, file: Path) -> None:
    for extra in ([], ["--force"]):
        result = run("backup", "copy.db", *extra, cwd=file.parent)
        assert (result.returncode, result.stdout, result.stderr) == (
            0,
            "projects.db is copied to copy.db\n",
            "",
        )
        assert is_consistent(file.with_name("copy.db"))
        result = run("check", cwd=file.parent)
        assert (result.returncode, result.stdout, result.stderr) == (0, "projects.db: ok\n", "")


def test_a_backup_of_every_engine_opens(store: Store, tmp_path: Path) -> None:
    assert isinstance(store, SQLiteStore)
    store.create("agent", "first")
    store.backup(tmp_path / "copy.db")
    store.create("later")
    with closing(SQLiteStore(tmp_path / "copy.db")) as copy:
        assert copy.list_rows() == [(2, "agent", "first"), (1, "default", "Default project")]
        assert copy.create("next").id == 3


def test_a_backup_holds_a_hosts_own_tables_too(file: Path, file_store: SQLiteStore, tmp_path: Path) -> None:
    with connect(file) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute("INSERT INTO mine VALUES (7)")
    file_store.backup(tmp_path / "copy.db")
    with connect(tmp_path / "copy.db") as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(7,)]


def test_a_backup_overwrites_nothing_unless_it_is_told_to(file_store: SQLiteStore, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already"):
        file_store.backup(target)
    assert target.read_text() == "precious"
    file_store.backup(target, overwrite=True)
    with closing(SQLiteStore(target)) as copy:
        assert names(copy) == ["default"]


def test_a_backup_never_takes_the_place_of_what_is_in_use(
    file: Path, file_store: SQLiteStore, tmp_path: Path
) -> None:
    file_store.create("agent")
    (tmp_path / "link.db").symlink_to(file)
    for path in (file, tmp_path / "link.db"):
        with pytest.raises(StoreUnavailable, match="that is the database itself"):
            file_store.backup(path, overwrite=True)
    with pytest.raises(StoreUnavailable, match="it is not a file"):
        file_store.backup(tmp_path, overwrite=True)
    other = tmp_path / "other.db"
    with closing(SQLiteStore(other)) as store:
        store.create("of the other")
        with pytest.raises(StoreUnavailable, match="-wal shows that a database there is in use"):
            file_store.backup(other, overwrite=True)
        assert names(store) == ["of the other", "default"]
    file_store.backup(other, overwrite=True)
    with closing(SQLiteStore(other)) as store:
        assert names(store) == ["agent", "default"]


def test_progress_is_told_in_pages(file_store: SQLiteStore, tmp_path: Path) -> None:
    for number in range(200):
        file_store.create(f"project {number}", "x" * 50_000)
    told: list[tuple[int, int]] = []
    file_store.backup(tmp_path / "copy.db", lambda done, total: told.append((done, total)))
    assert len(told) > 2
    assert told == sorted(told)
    (total,) = {total for _, total in told}
    assert told[-1] == (total, total)


def test_a_backup_that_is_broken_off_leaves_nothing_and_the_store_goes_on(
    file_store: SQLiteStore, tmp_path: Path
) -> None:
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()

    def break_off(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file_store.backup(target, break_off)
    assert list(target.parent.iterdir()) == []
    assert file_store.create("agent").id == 2
    file_store.backup(target)
    assert list(target.parent.iterdir()) == [target]


def test_a_backup_that_cannot_be_written_says_why(file_store: SQLiteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no folder .*missing; make it first"):
        file_store.backup(tmp_path / "missing" / "copy.db")
    assert file_store.create("agent").id == 2


def test_a_backup_is_on_the_disk_with_its_name_before_it_is_reported(
    file_store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a power cut would show it; so the calls that ask the system for it are looked at.
    synced: list[tuple[bool, list[str]]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), os.listdir(tmp_path)))

    monkeypatch.setattr(os, "fsync", note)
    file_store.backup(tmp_path / "copy.db")
    is_folder, present = synced[-1]
    assert is_folder
    assert "copy.db" in present


# The commands


def test_the_command_overwrites_nothing_without_force(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "projects.db").close()
    (tmp_path / "copy.db").write_text("precious")
    line = refusal("backup", "copy.db", cwd=tmp_path)
    assert line == f"{tmp_path / 'copy.db'} exists already; overwrite it with --force"
    assert (tmp_path / "copy.db").read_text() == "precious"


@pytest.mark.parametrize("command", [["backup", "copy.db"], ["check"]])
@pytest.mark.parametrize("name", ["missing.db", ":memory:"])
def test_a_database_that_is_not_there_is_refused_and_not_made(
    tmp_path: Path, command: list[str], name: str
) -> None:
    assert refusal(*command, "--db", name, cwd=tmp_path) == f"there is no database {tmp_path / name}"
    assert list(tmp_path.iterdir()) == []


def test_the_database_may_be_named_before_or_after_the_command_or_in_the_environment(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "other.db").close()
    for arguments, environ in (
        (["check", "--db", "other.db"], {}),
        (["--db", "other.db", "check"], {}),
        (["check"], {"PROJECTS_WSGI_DB": "other.db"}),
    ):
        assert run(*arguments, cwd=tmp_path, **environ).stdout == "other.db: ok\n"


def test_a_copy_is_of_the_file_as_it_is_and_upgrades_nothing(tmp_path: Path) -> None:
    file = tmp_path / "projects.db"
    with connect(file) as connection:
        connection.execute("CREATE TABLE projects (x)")
        connection.execute("PRAGMA user_version = 99")
    before = file.read_bytes()
    assert run("backup", "copy.db", cwd=tmp_path).returncode == 0
    assert run("check", cwd=tmp_path).returncode == 0
    assert file.read_bytes() == before
    with connect(tmp_path / "copy.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
        assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == [
            ("CREATE TABLE projects (x)",)
        ]


def test_a_check_lists_what_is_wrong_and_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "projects.db"
    with closing(SQLiteStore(file)) as store:
        for number in range(100):
            store.create(f"agent {number}", "x" * 200)
    with connect(file) as connection:
        connection.execute("CREATE TABLE traces (project_id INTEGER REFERENCES projects (id))")
        connection.execute("INSERT INTO traces VALUES (4711)")
    result = run("check", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout == "row 1 of traces refers to a row of projects that is not there\n"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"agent 5", b"agent 6"))
    result = run("check", cwd=tmp_path)
    assert result.returncode == 1
    assert "missing from index" in result.stdout
    file.write_bytes(content[: len(content) // 2])
    result = run("check", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    file.write_text("not a database\n" * 100)
    result = run("check", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (1, "file is not a database\n", "")


def test_a_terminal_shows_progress(tmp_path: Path) -> None:
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        for number in range(200):
            store.create(f"project {number}", "x" * 50_000)
    terminal, its_end = pty.openpty()
    with closing(os.fdopen(terminal, "rb", buffering=0)) as screen:
        line = [sys.executable, "-m", "projects_wsgi", "backup", "copy.db"]
        process = subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=its_end, stderr=its_end)
        os.close(its_end)
        shown = b""
        try:
            while data := screen.read(1000):
                shown += data
        except OSError:  # the other end is closed
            pass
        assert process.wait(10) == 0
    lines = shown.decode().split("\r")
    assert lines[1].startswith("[####")
    assert lines[1].endswith(" %")
    assert f"[{'#' * 40}] 100 %" in lines
    assert lines[-2].strip().endswith("projects.db is copied to copy.db")


def test_a_backup_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        store.create("agent")
    program = """
import os, signal, sys
from projects_wsgi import cli, commands
commands._draw_progress = lambda done, total: os.kill(os.getpid(), signal.SIGINT)
sys.stderr.isatty = lambda: True
sys.exit(cli.main(["backup", "copy.db"]))
"""
    line = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (128 + signal.SIGINT, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["projects.db"]
