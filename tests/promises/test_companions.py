"""The files that SQLite keeps beside a database: found where they are, and missed when they are gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest

from projects_wsgi import SQLiteStore, StoreUnavailable, transfer
from projects_wsgi.storage import upkeep

from ..support.databases import connect, names
from ..support.process import environment, refusal, run, running_server, start_together
from ..test_transfer import project

# The path


@pytest.mark.parametrize("name", ["a?b.db", "a#b.db", "100%.db", "a b&mode=ro.db", "é\u2028.db", b"\xff.db"])
def test_every_character_of_a_path_is_itself(tmp_path: Path, name: str | bytes) -> None:
    path = os.path.join(tmp_path, os.fsdecode(name))
    with closing(SQLiteStore(path)) as store:
        store.create("agent")
        assert sorted(os.fsencode(entry.name) for entry in tmp_path.iterdir()) == [
            os.fsencode(os.path.basename(path)) + suffix for suffix in (b"", b"-shm", b"-wal")
        ]
        store.backup(path + ".copy")
    with closing(SQLiteStore(path + ".copy")) as copy:
        assert names(copy) == ["agent", "default"]


def test_a_path_that_begins_with_two_slashes_is_the_one_with_one(file: Path) -> None:
    with closing(SQLiteStore(f"/{file}")) as store:
        assert store.path == str(file)
        store.create("agent")
    with closing(SQLiteStore(file)) as store:
        assert names(store) == ["agent", "default"]


def test_a_database_behind_a_link_has_its_log_beside_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "p.db"
    link.symlink_to("../real/p.db")
    with closing(SQLiteStore(link)) as store:
        store.create("agent")
        assert sorted(entry.name for entry in (tmp_path / "real").iterdir()) == [
            "p.db",
            "p.db-shm",
            "p.db-wal",
        ]
        assert list((tmp_path / "links").iterdir()) == [link]
        link.unlink()
        store.create("another")


@pytest.mark.parametrize("database", ["p.db/", "./", "..", "/dev/null", "fifo"])
def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path, database: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    for command in ([], ["check"], ["backup", "copy.db"], ["--read-only"]):
        assert refusal(*command, "--db", database, cwd=tmp_path)
    for target in (database, "."):
        with closing(SQLiteStore(tmp_path / "p.db")) as store, pytest.raises(StoreUnavailable, match="file"):
            store.backup(tmp_path / target, overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fifo", "p.db"]


@pytest.mark.parametrize("name", ["x" * 256, "x" * 250, "/".join(["x" * 100] * 6)])
def test_a_name_or_path_that_is_too_long_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(StoreUnavailable, match="too long|more than 504 bytes"):
        SQLiteStore(path)
    with closing(SQLiteStore(":memory:")) as store, pytest.raises(StoreUnavailable, match="too long|504"):
        store.backup(path)
    assert list(path.parent.iterdir()) == []


def test_a_backup_may_have_the_longest_name_that_a_database_may_have(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 247)
    with closing(SQLiteStore(":memory:")) as store:
        store.backup(path)
    SQLiteStore(path).close()


def test_a_removed_working_folder_is_said_and_an_absolute_path_needs_none(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    script = """
import os, sys
from projects_wsgi import SQLiteStore, StoreUnavailable, transfer
os.rmdir(os.getcwd())
SQLiteStore(sys.argv[1]).close()
try:
    SQLiteStore("p.db")
except StoreUnavailable as error:
    print(error)
"""
    line = [sys.executable, "-c", script, str(tmp_path / "p.db")]
    result = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True)
    assert "the working folder was removed; give an absolute path" in result.stdout, result.stderr


def test_a_file_with_two_names_is_served_with_a_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    SQLiteStore(file).close()
    assert caplog.text == ""
    os.link(file, file.with_name("other.db"))
    SQLiteStore(file).close()
    (record,) = caplog.records
    assert "has other names: its log is beside this name only" in record.getMessage()


# What is removed, replaced or cut off while the database is open


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copied")
    shutil.copy(path, copy)
    copy.replace(path)


def cut_off(path: Path) -> None:
    os.truncate(path, 0)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


LOSSES = [
    *((suffix, lose) for suffix in ("", "-wal", "-shm") for lose in (remove, replace)),
    ("-wal", cut_off),
    ("-wal", halve),
]


@pytest.fixture
def open_store(file: Path) -> Iterator[SQLiteStore]:
    """A store with a few changes in its log."""
    with closing(SQLiteStore(file, busy_timeout=0.5)) as store:
        for number in range(3):
            store.create(f"before {number}", "x" * 2000)
            store.list_rows()
        yield store


@pytest.mark.parametrize(("suffix", "lose"), LOSSES)
def test_nothing_is_acknowledged_after_a_file_was_lost(
    open_store: SQLiteStore, file: Path, suffix: str, lose: Callable[[Path], None]
) -> None:
    lose(file.with_name(f"{file.name}{suffix}"))
    for change in (
        lambda: open_store.create("lost"),
        lambda: open_store.update("before 0", "lost"),
        lambda: open_store.delete("before 0"),
        open_store.ping,
    ):
        with pytest.raises(StoreUnavailable, match="was removed or replaced|was cut off"):
            change()
    time.sleep(0.1)
    with pytest.raises(StoreUnavailable):
        open_store.list_rows()


LOSE_AND_DIE = """
import os, sys
from projects_wsgi import SQLiteStore, StoreUnavailable, transfer
store = SQLiteStore("projects.db")
for number in range(3):
    store.create(f"before {number}")
for suffix in sys.argv[1:]:
    os.unlink(f"projects.db{suffix}")
try:
    store.create("after")
except StoreUnavailable:
    print("refused")
os.kill(os.getpid(), 9)
"""


def test_what_only_a_removed_log_held_is_saved_before_the_process_dies(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "projects.db").close()
    line = [sys.executable, "-c", LOSE_AND_DIE, "-wal", "-shm"]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert result.stdout == "refused\n", result.stderr
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        assert names(store) == ["before 2", "before 1", "before 0", "default"]
    assert run("check", cwd=tmp_path).stdout == "projects.db: ok\n"


CREATE = """
from projects_wsgi import SQLiteStore
store = SQLiteStore("projects.db")
print(store.create("by the other").id)
store.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the open files of other processes")
@pytest.mark.parametrize("removed", [["-wal"], ["-wal", "-shm"]])
def test_a_log_that_was_removed_under_its_user_is_brought_back_by_the_next_process(
    open_store: SQLiteStore, file: Path, removed: list[str]
) -> None:
    for suffix in removed:
        file.with_name(f"{file.name}{suffix}").unlink()
    assert run("check", cwd=file.parent).stdout == "projects.db: ok\n"
    line = [sys.executable, "-c", CREATE]
    other = subprocess.run(line, cwd=file.parent, env=environment(), capture_output=True, text=True)
    assert other.stdout == "5\n", other.stderr
    with pytest.raises(StoreUnavailable, match="was removed or replaced"):
        open_store.create("lost")
    open_store.close()
    with closing(SQLiteStore(file)) as store:
        assert names(store) == ["by the other", "before 2", "before 1", "before 0", "default"]
    assert run("check", cwd=file.parent).stdout == "projects.db: ok\n"
    assert sorted(entry.name for entry in file.parent.iterdir()) == ["projects.db"]


CANNOT_SYNC = """
import os, stat
fsync = os.fsync

def fail_on_folders(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(5, "Input/output error")
    fsync(descriptor)

os.fsync = fail_on_folders
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the open files of other processes")
def test_a_log_that_cannot_be_brought_back_safely_is_not_brought_back(
    open_store: SQLiteStore, file: Path
) -> None:
    log = file.with_name(f"{file.name}-wal")
    log.unlink()
    line = [sys.executable, "-c", CANNOT_SYNC + CREATE]
    other = subprocess.run(line, cwd=file.parent, env=environment(), capture_output=True, text=True)
    assert "but the log" in other.stderr
    assert not log.exists()


def test_a_log_that_another_program_began_in_place_of_a_removed_one_stays(
    open_store: SQLiteStore, file: Path
) -> None:
    for suffix in ("-wal", "-shm"):
        file.with_name(f"{file.name}{suffix}").unlink()
    script = """
import os, sqlite3
connection = sqlite3.connect("projects.db")
connection.execute("CREATE TABLE theirs (x)")
connection.commit()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], cwd=file.parent, env=environment(), check=True)
    with pytest.raises(StoreUnavailable, match="-wal was removed or replaced"):
        open_store.create("after")
    open_store.close()
    with connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM theirs").fetchone() == (0,)


def test_a_log_that_sqlite_itself_made_shorter_is_no_loss(open_store: SQLiteStore, file: Path) -> None:
    with connect(file) as connection:
        for number in range(3):
            open_store.create(f"after {number}", "x" * 20_000)
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            open_store.list_rows()
            open_store.update(f"after {number}", "y")


def test_a_log_that_another_process_empties_all_the_time_is_no_loss(
    open_store: SQLiteStore, file: Path
) -> None:
    script = """
import sqlite3, sys
connection = sqlite3.connect("projects.db")
print("ready", flush=True)
while True:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
"""
    line = [sys.executable, "-c", script]
    with subprocess.Popen(line, cwd=file.parent, env=environment(), stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for number in range(300):
            open_store.update("before 0", str(number))
            open_store.get("before 0")
        other.kill()
    assert open_store.get("before 0").description == "299"


def test_a_log_of_what_was_there_before_undoes_no_backup_that_was_copied_over_it(tmp_path: Path) -> None:
    script = """
import os
from projects_wsgi import SQLiteStore
store = SQLiteStore("projects.db")
store.create("good")
store.backup("backup.db")
store.delete("good")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment(), check=True)
    shutil.copyfile(tmp_path / "backup.db", tmp_path / "projects.db")
    before = (tmp_path / "projects.db").read_bytes()
    for command in ([], ["check"], ["backup", "copy.db"], ["--read-only"]):
        line = refusal(*command, cwd=tmp_path)
        assert "was replaced by a backup, but" in line
        assert "projects.db-wal belongs to what was there before and would undo that: move it away" in line
    assert (tmp_path / "projects.db").read_bytes() == before
    (tmp_path / "projects.db-wal").unlink()
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        assert names(store) == ["good", "default"]
        assert (tmp_path / "projects.db-wal").exists()
        store.create("later")
    # From now on, it is a database like any other.
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        assert names(store) == ["later", "good", "default"]


OPEN = """
import sys
from projects_wsgi import SQLiteStore
print("ready", flush=True)
sys.stdin.readline()
SQLiteStore(sys.argv[1]).close()
"""


def test_any_number_of_processes_open_a_fresh_backup_at_the_same_moment(
    file_store: SQLiteStore, file: Path
) -> None:
    for number in range(5):
        file_store.backup(file.with_name(f"{number}.db"))
        processes = start_together([["-c", OPEN, f"{number}.db"] for _ in range(4)], file.parent)
        assert [process.communicate() and process.returncode for process in processes] == [0] * 4


# The length of the log


def test_a_log_stays_short_under_readers_that_overlap(file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        for number in range(3_000):
            store.create(f"project {number:05} of many", "x" * 100)
        is_over = threading.Event()
        longest = 0

        def read() -> None:
            while not is_over.is_set():
                store.list_rows(name_contains="no such name")

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for number in range(2_000):
            store.update("default", str(number) * 5_000)
            longest = max(longest, file.with_name(f"{file.name}-wal").stat().st_size)
        is_over.set()
        for reader in readers:
            reader.join()
    assert 2**21 < longest < 2**24


def test_somebody_who_reads_for_long_does_not_make_every_change_wait(file: Path) -> None:
    with closing(SQLiteStore(file)) as store, connect(file) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM projects").fetchone()
        waited = []
        while file.with_name(f"{file.name}-wal").stat().st_size < 7 * 2**20:
            began = time.monotonic()
            store.update("default", "x" * 200_000)
            waited.append(time.monotonic() - began)
    # One has waited for the reader, the others not.
    assert [seconds > 0.5 for seconds in waited].count(True) == 1 < len(waited)


# Other users

OWNER, OTHER = 65_534, 65_533


def as_user(user: int, work: Callable[[], Any]) -> str:
    """Do some work in a child that belongs to a user; return its result, or its error, as text."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(sender, text.encode()[:2000])
        os._exit(0)
    os.waitpid(child, 0)
    os.close(sender)
    with open(receiver, encoding="utf-8") as file:
        return file.read()


def look_with_check(file: Path) -> str:
    with upkeep.opened_as_it_is(str(file)) as session:
        return str(upkeep.find_faults(session))


def look_with_backup(file: Path) -> str:
    with upkeep.opened_as_it_is(str(file)) as session:
        upkeep.copy(session, f"{file}.{os.getuid()}")
    return "[]"


def look_read_only(file: Path) -> str:
    with closing(SQLiteStore(file, read_only=True)) as store:
        return str(names(store))


LOOKS = [look_with_check, look_with_backup, look_read_only]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A database of OWNER's in a folder where everybody may write, and whose parents everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        file = Path(name) / "p.db"
        assert as_user(OWNER, lambda: SQLiteStore(file).close()) == "None"
        yield file


@needs_root
@pytest.mark.parametrize("mode", [0o644, 0o666])
@pytest.mark.parametrize("look", LOOKS)
def test_who_only_looks_leaves_nothing_that_shuts_the_owner_out(
    shared: Path, look: Callable[[Path], str], mode: int
) -> None:
    shared.chmod(mode)
    assert as_user(OTHER, lambda: look(shared)) in ("[]", "['default']")
    assert not shared.with_name("p.db-wal").exists()
    assert not shared.with_name("p.db-shm").exists()

    def serve() -> str:
        with closing(SQLiteStore(shared)) as store:
            return store.create("written").name

    assert as_user(OWNER, serve) == "written"


@needs_root
@pytest.mark.parametrize("look", LOOKS)
def test_an_owner_who_looks_while_nobody_may_write_is_not_shut_out_afterwards(
    shared: Path, look: Callable[[Path], str]
) -> None:
    for user in (OWNER, os.geteuid()):
        shared.chmod(0o444)
        assert as_user(user, lambda: look(shared)) in ("[]", "['default']")
        shared.chmod(0o644)
        assert as_user(OWNER, lambda: SQLiteStore(shared).update("default", "x")).startswith("Project(")


@needs_root
@pytest.mark.parametrize(
    "prefix",
    [["setpriv", "--bounding-set=-all", "--inh-caps=-all"], ["unshare", "--user", "--map-root-user"]],
)
def test_a_root_without_a_roots_rights_leaves_nothing_that_shuts_the_owner_out(
    shared: Path, prefix: list[str]
) -> None:
    assert run("check", "--db", str(shared), cwd=shared.parent, prefix=prefix).returncode == 0
    with running_server("--read-only", "--db", str(shared), cwd=shared.parent, prefix=prefix) as server:
        assert server.ask("GET", "/v1/projects")[0] == 200
    assert as_user(OWNER, lambda: SQLiteStore(shared).create("x")).startswith("Project(")


@needs_root
@pytest.mark.parametrize("look", LOOKS)
def test_a_log_that_only_the_owner_can_read_is_not_ignored(shared: Path, look: Callable[[Path], str]) -> None:
    def die() -> None:
        store = SQLiteStore(shared)
        store.create("acknowledged")
        os._exit(0)

    as_user(OWNER, die)
    shared.with_name("p.db-shm").unlink()
    assert "open and close it once where it can be written, as user " in as_user(OTHER, lambda: look(shared))
    assert not shared.with_name("p.db-shm").exists()


@needs_root
def test_who_looks_while_the_owner_serves_sees_what_it_writes(shared: Path) -> None:
    is_ready, is_over = os.pipe(), os.pipe()

    def serve() -> None:
        with closing(SQLiteStore(shared)) as store:
            store.create("written")
            os.write(is_ready[1], b"x")
            os.read(is_over[0], 1)

    owner = threading.Thread(target=as_user, args=(OWNER, serve))
    owner.start()
    os.read(is_ready[0], 1)
    seen = [as_user(OTHER, lambda look=look: look(shared)) for look in LOOKS]  # type: ignore[misc]
    os.write(is_over[1], b"x")
    owner.join()
    assert seen == ["[]", "[]", "['written', 'default']"]
    assert sorted(entry.name for entry in shared.parent.iterdir()) == ["p.db", f"p.db.{OTHER}"]


@needs_root
def test_a_file_beside_it_that_can_no_longer_be_written_is_named(shared: Path) -> None:
    def work() -> None:
        with closing(SQLiteStore(shared)) as store:
            store.list_rows()
            for suffix in ("-wal", "-shm"):
                shared.with_name(f"p.db{suffix}").chmod(0o444)
            store.create("x")

    text = as_user(OWNER, work)
    assert f"the file {shared}-shm is not readable and writable" in text


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_folder_where_sqlite_keeps_a_file_is_refused(file: Path, suffix: str) -> None:
    for _ in ("for a new file", "for one that exists"):
        folder = file.with_name(f"{file.name}{suffix}")
        folder.mkdir()
        assert f"{folder} is a folder, where SQLite keeps a file; move it away" in refusal(cwd=file.parent)
        folder.rmdir()
        SQLiteStore(file).close()


@needs_root
def test_a_database_whose_log_is_gone_from_under_another_users_process_is_refused(shared: Path) -> None:
    is_ready, is_over = os.pipe(), os.pipe()

    def serve() -> str:
        with closing(SQLiteStore(shared)) as store:
            store.create("acknowledged")
            os.write(is_ready[1], b"x")
            os.read(is_over[0], 1)
            return str(names(store))

    owner = threading.Thread(target=as_user, args=(OWNER, serve))
    owner.start()
    os.read(is_ready[0], 1)
    for suffix in ("-wal", "-shm"):
        shared.with_name(f"p.db{suffix}").unlink()
    shared.chmod(0o666)
    text = as_user(OTHER, lambda: SQLiteStore(shared))
    assert f"others have the database {shared} open, but the log {shared}-wal is not there" in text
    os.write(is_over[1], b"x")
    owner.join()
    assert as_user(OWNER, lambda: look_read_only(shared)) == "['acknowledged', 'default']"


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o444])
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_start_that_fails_for_a_file_beside_it_names_that_file_and_its_owner(
    shared: Path, suffix: str, mode: int
) -> None:
    companion = shared.with_name(f"p.db{suffix}")
    shared.with_name("p.db-wal").touch()
    shared.with_name("p.db-wal").chmod(0o666)
    companion.touch()
    companion.chmod(mode)
    text = as_user(OWNER, lambda: SQLiteStore(shared))
    assert f"the file {companion} is not readable and writable" in text
    assert "it belongs to user root" in text


# A file that was taken for one that nobody changes


@pytest.fixture
def large(shared: Path) -> Path:
    """The database of OWNER's, now of some thousand pages."""

    def fill() -> None:
        with closing(SQLiteStore(shared)) as store:
            projects = [project(it, f"p{it}", description="old " * 1_000) for it in range(2, 2_000)]
            transfer.import_projects(store, projects)

    assert as_user(OWNER, fill) == "None"
    return shared


def change_all(file: Path) -> None:
    with connect(file) as connection:
        connection.execute("UPDATE projects SET description = 'new'")
        connection.execute("DELETE FROM projects WHERE id % 2 = 0")


def read_while_it_changes(file: Path, read: Callable[[Path, Callable[..., None]], object]) -> str:
    """Read as OTHER, while OWNER changes the file when the function that read is given is first called."""
    is_half, is_changed = os.pipe(), os.pipe()
    calls: list[object] = []

    def change(*_: object) -> None:
        if not calls:
            calls.append(None)
            os.write(is_half[1], b"x")
            os.read(is_changed[0], 1)

    results: list[str] = []
    work = threading.Thread(target=lambda: results.append(as_user(OTHER, lambda: read(file, change))))
    work.start()
    os.read(is_half[0], 1)
    assert as_user(OWNER, lambda: change_all(file)) == "None"
    os.write(is_changed[1], b"x")
    work.join()
    return results[0]


def copy_by_command(file: Path, change: Callable[..., None]) -> None:
    with upkeep.opened_as_it_is(str(file)) as session:
        upkeep.copy(session, f"{file}.{OTHER}", change, overwrite=True)


def copy_by_store(file: Path, change: Callable[..., None]) -> None:
    with closing(SQLiteStore(file, read_only=True)) as store:
        store.backup(f"{file}.{OTHER}", change, overwrite=True)


def export(file: Path, change: Callable[..., None]) -> None:
    with (
        closing(SQLiteStore(file, read_only=True)) as store,
        upkeep.new_file(f"{file}.{OTHER}", str(file), overwrite=True) as path,
    ):
        for number, _ in enumerate(store.read_all()):
            if number == 9:
                change()
        shutil.copyfile(file, path)


@needs_root
@pytest.mark.parametrize("copy", [copy_by_command, copy_by_store, export])
def test_a_copy_of_a_file_that_changes_meanwhile_takes_no_place_of_a_good_one(
    large: Path, copy: Callable[[Path, Callable[..., None]], object]
) -> None:
    target = large.with_name(f"p.db.{OTHER}")
    target.write_text("good")
    target.chmod(0o666)
    assert "others have begun to change the database" in read_while_it_changes(large, copy)
    assert target.read_text() == "good"
    assert list(large.parent.glob("*.unfinished")) == []


def check(file: Path, change: Callable[..., None]) -> str:
    with upkeep.opened_as_it_is(str(file)) as session:
        session.execute("SELECT count(*) FROM projects").fetchone()
        change()
        return str(upkeep.find_faults(session))


def list_twice(file: Path, change: Callable[..., None]) -> str:
    with closing(SQLiteStore(file, read_only=True)) as store:
        store.list_rows()
        change()
        return str(len(store.list_rows(limit=10_000)))


def restore(file: Path, change: Callable[..., None]) -> str:
    def look(event: str, arguments: Any) -> None:
        if event == "sqlite3.connect" and "unfinished" in str(arguments[0]):
            change()

    with closing(SQLiteStore(file.with_name("other.db"))) as store:
        sys.addaudithook(look)  # it goes with this process
        try:
            store.restore(file)
        finally:
            assert names(store) == ["default"]
    return "restored"


@needs_root
@pytest.mark.parametrize("read", [check, list_twice, restore])
def test_nothing_that_was_read_of_a_file_that_changes_meanwhile_counts(
    large: Path, read: Callable[[Path, Callable[..., None]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the change could take longer than for which a look is good enough.
    monkeypatch.setattr("projects_wsgi.storage.sqlite.file._LOOK_SECONDS", 60.0)
    assert "others have begun to change the database" in read_while_it_changes(large, read)


@needs_root
def test_a_file_that_was_taken_for_unchanging_and_changes_is_503(shared: Path) -> None:
    is_ready, is_changed = os.pipe(), os.pipe()

    def read() -> str:
        with closing(SQLiteStore(shared, read_only=True)) as store:
            assert names(store) == ["default"]
            os.write(is_ready[1], b"x")
            os.read(is_changed[0], 1)
            return str(names(store))

    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(as_user(OTHER, read)))
    reader.start()
    os.read(is_ready[0], 1)
    as_user(OWNER, lambda: SQLiteStore(shared).create("new"))
    os.write(is_changed[1], b"x")
    reader.join()
    assert "others have begun to change the database" in seen[0]
