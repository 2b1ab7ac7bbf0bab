"""Reading the projects in an SQLite file that others own, a Phoenix's first of all."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projects_wsgi import Project, ProjectKind, SQLiteStore, StoreUnavailable, transfer
from projects_wsgi.model import ProjectsInvalid
from projects_wsgi.transfer import open_source

from .support.databases import connect
from .support.process import environment, refusal
from .test_transfer import project

FIXTURE = Path(__file__).parent / "phoenix" / "phoenix-20.26.1.db.gz"


@pytest.fixture
def phoenix(tmp_path: Path) -> Path:
    """The file of a real Phoenix 20.26.1."""
    file = tmp_path / "phoenix.db"
    file.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    return file


def brought_from(file: Path, **options: Any) -> list[Project]:
    """Return what a fresh store holds after an import."""
    with closing(SQLiteStore(":memory:")) as store:
        with open_source(str(file)) as source:
            transfer.import_projects(store, source, **options)
        return list(transfer.export_projects(store))


def brief(projects: list[Project]) -> list[tuple[int, str, str]]:
    return [(it.id, it.name, it.kind.value) for it in projects]


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of each file in a folder, but of the memory that SQLite's processes share."""
    return {
        file.name: "" if file.name.endswith("-shm") else hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
    }


HELD = [
    (1, "default", "standard"),
    (2, "Experiment-119d8540f5b94535a729f22c", "experiment"),
    (3, "mine", "standard"),
]


def test_the_projects_of_a_phoenix_come_with_ids_descriptions_kinds_and_times(phoenix: Path) -> None:
    before = contents(phoenix.parent)
    default, experiment, mine = brought_from(phoenix)
    assert brief([default, experiment, mine]) == HELD
    assert (default.description, mine.description) == ("Default project", "kept ✓")
    assert default.updated_at.isoformat() == "2026-11-24T01:13:16+00:00"
    assert mine.created_at.isoformat() == "2026-11-24T01:13:37+00:00"
    assert contents(phoenix.parent) == before


def test_a_phoenix_that_is_writing_is_read_as_of_one_moment_and_left_alone(phoenix: Path) -> None:
    with connect(phoenix) as owner:
        owner.execute("INSERT INTO projects (name) VALUES ('only in the log')")
        owner.execute("BEGIN IMMEDIATE")
        owner.execute("INSERT INTO projects (name) VALUES ('not committed')")
        before = contents(phoenix.parent)
        assert set(before) == {"phoenix.db", "phoenix.db-wal", "phoenix.db-shm"}
        assert brief(brought_from(phoenix)) == [*HELD, (4, "only in the log", "standard")]
        assert contents(phoenix.parent) == before
        owner.execute("COMMIT")
        assert len(brought_from(phoenix)) == 5


def leave_log(phoenix: Path) -> None:
    """Leave a project in the log of a Phoenix that is killed."""
    program = (
        "import os, sqlite3; connection = sqlite3.connect('phoenix.db', isolation_level=None);"
        "connection.execute(\"INSERT INTO projects (name) VALUES ('only in the log')\"); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=phoenix.parent, check=False)


@pytest.mark.parametrize("keeps_memory", [True, False])
def test_what_a_phoenix_that_was_killed_left_in_its_log_is_read_and_left(
    phoenix: Path, keeps_memory: bool
) -> None:
    leave_log(phoenix)
    if not keeps_memory:
        (phoenix.parent / "phoenix.db-shm").unlink()
    before = contents(phoenix.parent)
    assert "phoenix.db-wal" in before
    assert brief(brought_from(phoenix)) == [*HELD, (4, "only in the log", "standard")]
    assert contents(phoenix.parent) == before


def test_a_file_that_nobody_may_write_is_read(phoenix: Path) -> None:
    phoenix.chmod(0o444)
    phoenix.parent.chmod(0o555)
    try:
        assert brief(brought_from(phoenix)) == HELD
    finally:
        phoenix.parent.chmod(0o755)


def test_a_file_without_a_log_is_read_under_its_owners_locks(phoenix: Path) -> None:
    with connect(phoenix) as owner:
        owner.execute("PRAGMA journal_mode = DELETE")
        before = contents(phoenix.parent)
        assert brief(brought_from(phoenix)) == HELD
        assert contents(phoenix.parent) == before
        owner.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(Exception, match="others have locked the database"),
            open_source(str(phoenix)) as source,
        ):
            list(source.numbered)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DROP TABLE experiments", [HELD[0], (2, HELD[1][1], "standard"), HELD[2]]),
        ("ALTER TABLE experiments DROP COLUMN project_name", [HELD[0], (2, HELD[1][1], "standard"), HELD[2]]),
        ("DROP TABLE dataset_evaluators", HELD),
        (
            "INSERT INTO dataset_evaluators (dataset_id, evaluator_id, name, output_configs, input_mapping,"
            " project_id) VALUES (1, 1, 'x', '', '', 3)",
            [*HELD[:2], (3, "mine", "dataset_evaluator")],
        ),
        (
            "UPDATE projects SET name = 'playground' WHERE id = 2",
            [HELD[0], (2, "playground", "standard"), HELD[2]],
        ),
        ("UPDATE experiments SET project_name = NULL", [HELD[0], (2, HELD[1][1], "standard"), HELD[2]]),
    ],
)
def test_of_other_versions_only_what_they_have_is_read(
    phoenix: Path, change: str, expected: list[tuple[int, str, str]]
) -> None:
    with connect(phoenix) as owner:
        owner.execute("DROP INDEX ix_experiments_project_name")
        if "DROP COLUMN" in change and sqlite3.sqlite_version_info < (3, 35):
            pytest.skip("this SQLite drops no columns")
        owner.execute(change)
    assert brief(brought_from(phoenix)) == expected


def test_the_case_of_names_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    with connect(file) as owner:
        owner.execute("CREATE TABLE Projects (Id INTEGER PRIMARY KEY AUTOINCREMENT, NAME)")
        owner.execute("INSERT INTO projects VALUES (1, 'default'), (9, 'a'), (12, 'b')")
        owner.execute("DELETE FROM projects WHERE id = 12")
    with open_source(str(file)) as source:
        assert [number for number, _ in source.numbered] == [1, 9]
        assert source.last_id() == 12


def test_columns_that_are_missing_are_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    with connect(file) as owner:
        owner.execute("CREATE TABLE projects (id INTEGER PRIMARY KEY, name)")
        owner.execute("INSERT INTO projects VALUES (1, 'default'), (9, 'a')")
    default, a = brought_from(file)
    assert (default.description, a.id, a.description, a.kind) == (None, 9, None, ProjectKind.STANDARD)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("''", "at least one"),
        ("7.5", "must be a str"),
        ("x'ff'", "must be a str"),
        ("CAST(x'ff' AS TEXT)", "surrogate"),
    ],
)
def test_a_row_that_can_be_no_project_is_told_with_its_id(tmp_path: Path, name: str, reason: str) -> None:
    file = tmp_path / "old.db"
    with connect(file) as owner:
        owner.execute("CREATE TABLE projects (id INTEGER PRIMARY KEY, name, created_at)")
        owner.execute(
            f"INSERT INTO projects VALUES (1, 'default', NULL), (9, {name}, NULL), (10, 'a', 'noon')"
        )
    with pytest.raises(ProjectsInvalid) as caught:
        brought_from(file)
    assert caught.value.reasons[0].startswith("project 9: ")
    assert reason in caught.value.reasons[0]
    assert caught.value.reasons[1].startswith("project 10: 'noon' is no time")
    assert len(brought_from(file, skip_invalid=True)) == 1


def test_a_file_of_ours_gives_all_that_it_knows(tmp_path: Path, file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        store.create("a", "of a", "dataset_evaluator")
        store.delete(store.create("b"))
        held = list(transfer.export_projects(store))
        store.backup(tmp_path / "backup.db")
    for source_file in (file, tmp_path / "backup.db"):
        with closing(SQLiteStore(":memory:")) as target, open_source(str(source_file)) as source:
            transfer.import_projects(target, source)
            assert list(transfer.export_projects(target)) == held
            assert target.create("c").id == 4


@pytest.mark.parametrize("sql", ["", "CREATE TABLE other (id)", "CREATE TABLE projects (id, title)"])
def test_a_file_without_projects_is_refused(tmp_path: Path, sql: str) -> None:
    file = tmp_path / "other.db"
    with connect(file) as owner:
        owner.execute("PRAGMA user_version = 1")
        owner.execute(sql)
    with pytest.raises(StoreUnavailable, match=r"other\.db holds no projects, neither Phoenix's nor ours"):
        brought_from(file)


def test_a_damaged_file_is_refused(phoenix: Path) -> None:
    with open(phoenix, "r+b") as file:
        file.seek(4_096)
        file.write(os.urandom(phoenix.stat().st_size - 4_096))
    with pytest.raises(StoreUnavailable, match=r"cannot use the database .*phoenix\.db"):
        brought_from(phoenix)


def test_of_a_file_that_others_begin_to_change_nothing_comes_in(file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        transfer.import_projects(store, [project(it, f"p{it}") for it in range(2, 2_000)])

    def change(done: int, total: int | None) -> None:
        with connect(file) as other:
            other.execute("UPDATE projects SET description = 'new'")

    with closing(SQLiteStore(":memory:")) as target:
        with open_source(str(file)) as source, pytest.raises(StoreUnavailable, match="begun to change"):
            transfer.import_projects(target, source, progress=change)
        assert len(target.list_rows()) == 1


START_WHILE_IT_IS_COPIED = """
import sqlite3, sys
from projects_wsgi.cli import main

started = []

def start(event, arguments):
    if event == "shutil.copyfile" and arguments[0].endswith("-wal") and not started:
        started.append(sqlite3.connect("phoenix.db", isolation_level=None))
        started[0].execute(sys.argv[1])
        if sys.argv[2] == "ends":
            started[0].close()

sys.addaudithook(start)
sys.exit(main(["import", "phoenix.db", "--db", "new.db"]))
"""


@pytest.mark.parametrize("then", ["stays", "ends"])
@pytest.mark.parametrize(
    "change", ["PRAGMA wal_checkpoint(TRUNCATE)", "INSERT INTO projects (name) VALUES ('y')"]
)
def test_of_a_phoenix_that_is_started_while_its_log_is_copied_nothing_comes_in(
    phoenix: Path, change: str, then: str
) -> None:
    leave_log(phoenix)
    (phoenix.parent / "phoenix.db-shm").unlink()
    line = [sys.executable, "-c", START_WHILE_IT_IS_COPIED, change, then]
    result = subprocess.run(line, cwd=phoenix.parent, env=environment(), capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.endswith(f"others have begun to change the database {phoenix}; start again\n")
    assert "Traceback" not in result.stderr
    assert not phoenix.with_name("new.db").exists()


def test_the_copy_of_a_log_goes_when_it_is_read(phoenix: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with connect(phoenix) as owner:
        owner.execute("INSERT INTO projects (name) VALUES ('x')")
        folder = tmp_path / "copy"
        folder.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{phoenix}{suffix}", folder / f"phoenix.db{suffix}")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert len(brought_from(folder / "phoenix.db")) == 4
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "prefix", "text"),
    [
        (0o000, [], "cannot read {}-wal: Permission denied"),
        (
            0o600,
            ["prlimit", "--fsize=0"],
            "cannot copy {} to a temporary file: No usable temporary directory",
        ),
        (0o600, ["prlimit", "--fsize=9999"], "cannot copy {} to a temporary file: File too large; TMPDIR"),
    ],
)
def test_a_log_that_cannot_be_copied_is_told_in_one_line(
    phoenix: Path, mode: int, prefix: list[str], text: str
) -> None:
    leave_log(phoenix)
    phoenix.with_name("phoenix.db-shm").unlink()
    phoenix.with_name("phoenix.db-wal").chmod(mode)
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *prefix]
    line = refusal("import", "phoenix.db", "--db", "new.db", cwd=phoenix.parent, prefix=prefix)
    assert text.format(phoenix) in line
    assert not phoenix.with_name("new.db").exists()


def test_to_look_at_a_file_ends_no_lock_that_the_process_has_on_it(tmp_path: Path) -> None:
    file = tmp_path / "projects.db"
    with closing(SQLiteStore(file)) as store:
        store.create("agent")
        assert [project.name for project in brought_from(file)] == ["default", "agent"]
        # Who closes a file last, as far as the locks tell, removes its log.
        program = (
            "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT 1 FROM projects').fetchall()"
        )
        subprocess.run([sys.executable, "-c", program, file], check=True, timeout=30)
        assert Path(f"{file}-wal").exists()
        assert store.create("other").id == 3
