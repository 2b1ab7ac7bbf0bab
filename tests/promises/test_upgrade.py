"""Files of earlier versions open, are brought to this one in one transaction, and keep their data.

schemas/N.db is a file as version N of the schema made it; there is one for each.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import ProjectKind, SQLiteStore, StoreUnavailable
from projects_wsgi.storage.sqlite import schema

from ..support.databases import connect, names
from ..support.process import environment

SCHEMAS = Path(__file__).parent / "schemas"
VERSION = len(schema.MIGRATIONS)

# The projects in each of those files: (id, name, description), kind.
KEPT = [
    ((1, "default", "mine"), "standard"),
    ((2, "Straße/🚀", None), "standard"),
    ((4, "run", "x" * 5_000), "experiment"),
    ((5, "judge", ""), "dataset_evaluator"),
]


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_file_of_every_version_keeps_its_data(file: Path, version: int) -> None:
    shutil.copy(SCHEMAS / f"{version}.db", file)
    with closing(SQLiteStore(file)) as store:
        rows = {kind: [row for row, its_kind in KEPT if its_kind == kind] for _, kind in KEPT}
        for kind, expected in rows.items():
            assert store.list_rows(kinds=[ProjectKind(kind)])[::-1] == expected
        assert names(store, name_contains="STRASSE") == ["Straße/🚀"]
        assert store.create("new").id == 6  # of id 3, which was deleted, and of 5, none is used again
    with connect(file) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fresh_file_is_of_the_version_that_is_kept_last(file: Path, tmp_path: Path) -> None:
    SQLiteStore(file).close()
    kept = tmp_path / "kept.db"
    shutil.copy(SCHEMAS / f"{VERSION}.db", kept)
    sql = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    with connect(file) as fresh, connect(kept) as old:
        assert fresh.execute(sql).fetchall() == old.execute(sql).fetchall()


# What a later version might do; how it is broken off is what each test adds.
NEXT = (
    "ALTER TABLE projects ADD COLUMN colour TEXT",
    "UPDATE projects SET colour = 'red', description = NULL",
    "CREATE INDEX colours ON projects (colour)",
)

UPGRADE = """
import os, signal, sys
from projects_wsgi import SQLiteStore
from projects_wsgi.storage.sqlite import schema

def next_migration():
    for number, statement in enumerate({next}):
        if str(number) == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        yield statement

schema.MIGRATIONS = (*schema.MIGRATIONS, next_migration())
SQLiteStore("projects.db")
"""


@pytest.mark.parametrize("moment", ["0", "1", "2"])
def test_a_process_killed_while_it_upgrades_leaves_the_old_file_good(file: Path, moment: str) -> None:
    shutil.copy(SCHEMAS / f"{VERSION}.db", file)
    script = UPGRADE.format(next=NEXT)
    line = [sys.executable, "-W", "error", "-c", script, moment]
    result = subprocess.run(line, cwd=file.parent, env=environment(), timeout=30)
    assert result.returncode == -signal.SIGKILL
    with closing(SQLiteStore(file)) as store:
        assert store.list_rows(kinds=list(ProjectKind)) == [row for row, _ in reversed(KEPT)]
    with connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert "colour" not in str(connection.execute("PRAGMA table_info(projects)").fetchall())


def test_an_upgrade_that_fails_leaves_the_old_file_good(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SCHEMAS / f"{VERSION}.db", file)
    with monkeypatch.context() as patch:
        broken = (*NEXT, "INSERT INTO nowhere VALUES (1)")
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        with pytest.raises(StoreUnavailable, match="nowhere"):
            SQLiteStore(file)
    with closing(SQLiteStore(file)) as store:
        assert store.get("default").description == "mine"


def test_a_creation_that_fails_leaves_nothing_behind(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (*schema.MIGRATIONS[0], "INSERT INTO nowhere VALUES (1)")
    monkeypatch.setattr(schema, "MIGRATIONS", (broken,))
    with pytest.raises(StoreUnavailable, match="nowhere"):
        SQLiteStore(file)
    monkeypatch.undo()
    with closing(SQLiteStore(file)) as store:
        assert names(store) == ["default"]
