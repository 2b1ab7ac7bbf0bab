"""A database is copied and checked while it is in use."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Callable

import pytest

from projects_wsgi import SQLiteStore, Store, StoreBusy, StoreFull, StoreReadOnly, StoreUnavailable
from projects_wsgi.storage import upkeep

from ..support.access_lists import access_list, set_access_list
from ..support.databases import connect, names
from ..support.process import environment, refusal, run, running_server, start_together

# Held to permissions like anybody else, unlike the superuser.
AS_USER = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []

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


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, file: Path) -> Iterator[SQLiteStore]:
    """A fresh store of each kind that can be backed up."""
    with closing(SQLiteStore(file if request.param == "file" else ":memory:")) as store:
        yield store


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
    with pytest.raises(StoreUnavailable, match="it is a folder; name a file"):
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
    with connect(file) as connection:
        connection.execute("DROP TABLE traces")
        connection.execute("CREATE TABLE spans (x PRIMARY KEY REFERENCES projects (id)) WITHOUT ROWID")
        connection.execute("INSERT INTO spans VALUES (4711)")
    result = run("check", cwd=tmp_path)
    assert result.stdout == "a row of spans refers to a row of projects that is not there\n"
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


# What the copy is like


def test_a_backup_is_open_to_nobody_to_whom_the_database_is_closed(
    file: Path, file_store: SQLiteStore
) -> None:
    modes: list[int] = []

    def look(*_: int) -> None:
        modes.extend(stat.S_IMODE(entry.stat().st_mode) for entry in file.parent.glob("*.unfinished"))

    for mode in (0o600, 0o640, 0o644):
        file.chmod(mode)
        file_store.backup(file.with_name("copy.db"), look, overwrite=True)
        assert set(modes) == {0o600}
        assert stat.S_IMODE(file.with_name("copy.db").stat().st_mode) == mode


@pytest.mark.parametrize("command", ["backup", "export"])
def test_a_database_that_nobody_may_write_is_copied_with_its_mode(tmp_path: Path, command: str) -> None:
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        store.create("kept")
    (tmp_path / "projects.db").chmod(0o444)
    for extra in ([], ["--force"]):
        assert run(command, "copy", *extra, cwd=tmp_path, prefix=AS_USER).returncode == 0
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o444
    assert b"kept" in (tmp_path / "copy").read_bytes()


def test_a_backup_has_the_access_list_of_the_database(file: Path, file_store: SQLiteStore) -> None:
    wanted = set_access_list(file)
    file_store.backup(file.with_name("copy.db"))
    assert access_list(file.with_name("copy.db")) == wanted


@pytest.mark.parametrize(
    ("call", "number"),
    [
        *(("fchown", number) for number in (errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)),
        ("setxattr", errno.ENOTSUP),
    ],
)
def test_where_a_group_or_an_access_list_cannot_be_kept_the_group_may_not_read_a_backup(
    file: Path, file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    file.chmod(0o660)
    if call == "setxattr":
        set_access_list(file)
    monkeypatch.setattr(os, call, failing(number))
    file_store.backup(file.with_name("copy.db"))
    assert stat.S_IMODE(file.with_name("copy.db").stat().st_mode) == 0o600


def failing(number: int) -> Callable[..., None]:
    """Return a call to the system that fails as it does where a file system cannot do it."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK])
def test_on_a_file_system_without_links_a_backup_is_made_and_overwrites_nothing(
    file: Path, file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", failing(number))
    copy = file.with_name("copy.db")
    file_store.backup(copy)
    assert is_whole(copy)
    before = copy.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        file_store.backup(copy)
    assert copy.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_on_a_file_system_without_locks_a_backup_is_made_and_clears_nothing_away(
    file: Path, file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    other = file.with_name("projects-01234567.unfinished")  # which may be in use
    other.touch()
    file_store.backup(file.with_name("copy.db"))
    assert is_whole(file.with_name("copy.db"))
    assert list(file.parent.glob("*.unfinished")) == [other]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_where_the_owner_of_a_database_has_no_number_a_backup_is_made_and_its_group_may_not_read_it(
    file: Path,
) -> None:
    SQLiteStore(file).close()
    file.chmod(0o664)
    os.chown(file, 4242, 4242)
    prefix = ["unshare", "--user", "--map-root-user"]
    assert run("backup", "copy.db", cwd=file.parent, prefix=prefix).returncode == 0
    assert is_whole(file.with_name("copy.db"))
    assert stat.S_IMODE(file.with_name("copy.db").stat().st_mode) == 0o604


def test_any_number_of_backups_to_one_path_succeed_and_none_spoils_another(
    file: Path, file_store: SQLiteStore
) -> None:
    for number in range(100):
        file_store.create(f"project {number}", "x" * 20_000)
    copy = file.with_name("copy.db")
    file_store.backup(copy)
    failed: list[BaseException] = []
    is_over = threading.Event()

    def back_up() -> None:
        try:
            for _ in range(5):
                file_store.backup(copy, overwrite=True)
        except BaseException as error:
            failed.append(error)

    def look() -> None:
        while not is_over.is_set():
            with upkeep.opened_as_it_is(str(copy)) as session:
                if upkeep.find_faults(session):
                    failed.append(AssertionError("a backup is damaged"))

    threads = [threading.Thread(target=back_up) for _ in range(4)]
    looker = threading.Thread(target=look)
    for thread in (*threads, looker):
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    looker.join()
    assert failed == []
    assert list(file.parent.glob("*.unfinished*")) == []


def test_of_backups_to_one_new_path_at_a_time_one_wins(file: Path, file_store: SQLiteStore) -> None:
    outcomes: list[str] = []

    def back_up() -> None:
        try:
            file_store.backup(file.with_name("copy.db"), lambda *_: barrier.wait(5))
            outcomes.append("made")
        except FileExistsError:
            outcomes.append("exists")

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=back_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["exists", "exists", "exists", "made"]
    assert list(file.parent.glob("*.unfinished*")) == []


def test_what_a_killed_backup_left_is_cleared_by_the_next_and_a_live_one_is_not(
    file: Path, file_store: SQLiteStore
) -> None:
    program = """
import os, sys
from projects_wsgi.storage import upkeep
with upkeep.opened_as_it_is("projects.db") as session:
    upkeep.copy(session, "copy.db", lambda *_: (print("half", flush=True), sys.stdin.readline()))
"""
    line = [sys.executable, "-c", program]
    makers = [
        subprocess.Popen(
            line, cwd=file.parent, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "half\n"
    dead, alive = makers
    dead.kill()
    dead.communicate()
    assert len(list(file.parent.glob("*.unfinished"))) == 2
    file_store.backup(file.with_name("other.db"))
    assert len(list(file.parent.glob("*.unfinished"))) == 1
    # One that was killed later has got the mode of its database.
    left = file.with_name("projects-01234567.unfinished")
    left.touch(0o440)
    assert run("backup", "another.db", cwd=file.parent, prefix=AS_USER).returncode == 0
    assert not left.exists()
    assert alive.communicate("\n" * 100)
    assert alive.returncode == 0
    assert is_whole(file.with_name("copy.db"))
    assert list(file.parent.glob("*.unfinished*")) == []


def is_whole(copy: Path) -> bool:
    with closing(SQLiteStore(copy)) as store:
        return names(store) == ["default"]


def test_a_backup_behind_a_link_takes_the_place_of_the_file_itself(
    file: Path, file_store: SQLiteStore, tmp_path: Path
) -> None:
    (tmp_path / "link.db").symlink_to("real.db")
    file_store.backup(tmp_path / "link.db")
    file_store.backup(tmp_path / "link.db", overwrite=True)
    assert (tmp_path / "link.db").is_symlink()
    assert is_whole(tmp_path / "real.db")


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_no_backup_takes_the_place_of_a_file_that_sqlite_keeps(
    file: Path, file_store: SQLiteStore, suffix: str
) -> None:
    file_store.create("agent")
    path = file.with_name(f"{file.name}{suffix}")
    with pytest.raises(StoreUnavailable, match="SQLite keeps that file for the database"):
        file_store.backup(path, overwrite=True)
    assert names(file_store) == ["agent", "default"]
    assert file_store.create("later").id == 3


# Restoring


@pytest.fixture
def backup(store: Store, tmp_path: Path) -> Path:
    """A backup of a store that has changed since."""
    assert isinstance(store, SQLiteStore)
    for number in range(20):
        store.create(f"good {number}", "x" * 3000)
    store.backup(tmp_path / "backup.db")
    for number in range(20):
        store.delete(f"good {number}")
    for number in range(5):
        store.create(f"bad {number}")
    return tmp_path / "backup.db"


GOOD = [*(f"good {number}" for number in reversed(range(20))), "default"]


def test_a_restore_replaces_all_and_uses_no_id_again(store: Store, backup: Path) -> None:
    assert isinstance(store, SQLiteStore)
    (last, *_), *_ = store.list_rows()
    store.restore(backup)
    assert names(store) == GOOD
    assert store.get("good 7").description == "x" * 3000
    assert store.create("later").id == last + 1
    store.restore(backup)
    assert store.create("later").id == last + 2


def test_a_running_server_shows_restored_projects_at_once_and_others_go_on_writing(tmp_path: Path) -> None:
    with running_server("--quiet", cwd=tmp_path) as process:
        assert process.ask("POST", "/v1/projects", {"name": "good"})[0] == 200
        assert run("backup", "backup.db", cwd=tmp_path).returncode == 0
        assert process.ask("DELETE", "/v1/projects/good")[0] == 204
        statuses: set[int] = set()
        is_over = threading.Event()

        def write() -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                statuses.add(process.ask("POST", "/v1/projects", {"name": f"bad {number}"})[0])

        writer = threading.Thread(target=write)
        writer.start()
        result = run("restore", "backup.db", cwd=tmp_path)
        is_over.set()
        writer.join()
        assert (result.returncode, result.stdout) == (0, "projects.db holds what backup.db does\n"), (
            result.stderr
        )
        assert statuses == {200}
        assert process.ask("GET", "/v1/projects/good")[0] == 200
        assert process.ask("POST", "/v1/projects", {"name": "later"})[0] == 200
    assert run("check", cwd=tmp_path).stdout == "projects.db: ok\n"
    assert list(tmp_path.glob("*.unfinished*")) == []


def test_ids_that_are_given_while_a_restore_goes_on_are_not_used_again(
    file: Path, file_store: SQLiteStore
) -> None:
    for number in range(300):
        file_store.create(f"good {number}", "x" * 20_000)
    file_store.backup(file.with_name("backup.db"))
    given: list[int] = []
    is_over = threading.Event()

    def write() -> None:
        with closing(SQLiteStore(file)) as other:
            while not is_over.is_set():
                given.append(other.create(f"bad {len(given)}").id)
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    while not given:
        time.sleep(0.001)
    file_store.restore(file.with_name("backup.db"))
    count = len(given)
    is_over.set()
    writer.join()
    assert count > 1
    assert len(set(given)) == len(given)
    assert file_store.create("later").id > max(given)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "there is no database"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged|malformed"),
        (lambda path: path.write_text("not a database\n" * 100), "not a database"),
        (lambda path: os.truncate(path, 0), "is no backup: it holds no projects"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"good 1", b"good 2")), "is damaged"),
    ],
)
def test_a_bad_backup_is_not_restored(
    store: Store, backup: Path, damage: Callable[[Path], object], text: str
) -> None:
    assert isinstance(store, SQLiteStore)
    before = names(store)
    damage(backup)
    with pytest.raises(StoreUnavailable, match=text):
        store.restore(backup)
    assert names(store) == before
    assert store.create("later").name == "later"
    assert list(backup.parent.glob("*.unfinished*")) == []


def test_a_database_of_another_program_is_not_restored(store: Store, tmp_path: Path) -> None:
    assert isinstance(store, SQLiteStore)
    for table, text in [
        ("theirs", "theirs.db is no backup: it holds no projects"),
        ("projects", "belongs to another program"),
    ]:
        with connect(tmp_path / "theirs.db") as connection:
            connection.execute(f"CREATE TABLE {table} (x)")
        with pytest.raises(StoreUnavailable, match=text):
            store.restore(tmp_path / "theirs.db")


def test_a_restore_waits_for_others_and_then_changes_nothing(file: Path) -> None:
    with closing(SQLiteStore(file, busy_timeout=0.3)) as store, connect(file) as other:
        store.backup(file.with_name("backup.db"))
        store.create("kept")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            store.restore(file.with_name("backup.db"))
        other.execute("ROLLBACK")
        assert names(store) == ["kept", "default"]
        store.restore(file.with_name("backup.db"))
        assert names(store) == ["default"]


def test_a_restore_that_finds_no_room_changes_nothing(file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        store.create("large", "x" * 500_000)
        store.backup(file.with_name("backup.db"))
    with closing(SQLiteStore(file.with_name("small.db"), max_database_size=100_000)) as store:
        store.create("kept")
        with pytest.raises(StoreFull, match="no room left to write to the database .*small.db"):
            store.restore(file.with_name("backup.db"))
        assert names(store) == ["kept", "default"]


def test_a_backup_of_another_page_size_is_restored(store: Store, tmp_path: Path) -> None:
    assert isinstance(store, SQLiteStore)
    with connect(tmp_path / "other.db") as connection:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("VACUUM")
    with closing(SQLiteStore(tmp_path / "other.db")) as other:
        other.create("good", "x" * 10_000)
        other.backup(tmp_path / "backup.db")
    for backup in ("backup.db", "other.db"):
        store.create("bad")
        if store.path == ":memory:":
            with pytest.raises(StoreUnavailable, match="its pages differ"):
                store.restore(tmp_path / backup)
            store.delete("bad")
        else:
            store.restore(tmp_path / backup)
            assert names(store) == ["good", "default"]


def test_a_read_only_store_restores_nothing(file: Path, file_store: SQLiteStore) -> None:
    file_store.backup(file.with_name("backup.db"))
    with closing(SQLiteStore(file, read_only=True)) as store, pytest.raises(StoreReadOnly):
        store.restore(file.with_name("backup.db"))


def test_a_restore_that_is_broken_off_changes_nothing(file: Path, file_store: SQLiteStore) -> None:
    for number in range(300):
        file_store.create(f"good {number}", "x" * 20_000)
    file_store.backup(file.with_name("backup.db"))
    file_store.create("kept")

    def break_off(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file_store.restore(file.with_name("backup.db"), break_off)
    assert names(file_store)[0] == "kept"
    assert file_store.create("later").id == 303


def test_a_restore_makes_a_database_that_is_not_there(tmp_path: Path) -> None:
    with closing(SQLiteStore(":memory:")) as store:
        store.create("good")
        store.backup(tmp_path / "backup.db")
    assert run("restore", "backup.db", "--db", "new.db", cwd=tmp_path).returncode == 0
    with closing(SQLiteStore(tmp_path / "new.db")) as store:
        assert names(store) == ["good", "default"]


def test_a_restore_that_fails_makes_no_database(tmp_path: Path) -> None:
    with closing(SQLiteStore(":memory:")) as store:
        store.create("good", "x" * 10_000)
        store.backup(tmp_path / "backup.db")
    (tmp_path / "damaged.db").write_bytes((tmp_path / "backup.db").read_bytes()[:-4096])
    before = sorted(tmp_path.iterdir())
    for backup, database, text in [
        ("missing.db", "new.db", "there is no database"),
        ("damaged.db", "new.db", "is damaged|malformed"),
        ("backup.db", "missing/new.db", "there is no folder .*missing; make it first"),
        ("backup.db", ".", "it is a folder; name a file"),
        ("backup.db", ":memory:", "would be gone at once; give --db"),
    ]:
        assert re.search(text, refusal("restore", backup, "--db", database, cwd=tmp_path))
        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_nobody_may_list_takes_copies_and_restores(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with closing(SQLiteStore(folder / "projects.db")) as store:
        store.create("kept")
    folder.chmod(0o300)
    prefix = [*AS_USER[:1], f"{AS_USER[1]},-dac_read_search"] if AS_USER else []
    for command in (["backup", "a.db"], ["export", "a.jsonl"], ["restore", "a.db"]):
        line = [command[0], str(folder / command[1]), "--db", str(folder / "projects.db")]
        result = run(*line, cwd=tmp_path, prefix=prefix)
        assert (result.returncode, result.stderr) == (0, "")
    folder.chmod(0o700)
    assert sorted(it.name for it in folder.iterdir()) == ["a.db", "a.jsonl", "projects.db"]
