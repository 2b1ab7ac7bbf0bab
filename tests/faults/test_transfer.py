"""Projects that move, and what comes between: kill -9, a full disk, a million of them."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from projects_wsgi import SQLiteStore
from projects_wsgi.model import render_global_id

from ..promises.test_import import listed
from ..support.databases import connect
from ..support.process import environment, measure, refusal, run, running_server
from .test_full_disk import Disk, every_project, serving
from .test_full_disk import disk as disk  # a fixture

MILLION = 1_000_000


def write_lines(file: Path, count: int, description: str = "one of very many") -> None:
    dice = random.Random(count)
    with open(file, "w") as lines:
        for number in range(2, count + 2):
            lines.write(
                f'{{"id":"{render_global_id(number)}","name":"project {dice.getrandbits(64)}","description":'
                f'"{description}","kind":"standard","created_at":"2026-01-31T23:59:59.999Z",'
                f'"updated_at":"2026-01-31T23:59:59.999Z"}}\n'
            )


def start_import(file: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "projects_wsgi", "import", str(file), "--db", "projects.db"]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)


def test_an_import_that_is_killed_at_any_moment_has_brought_in_all_or_nothing(tmp_path: Path) -> None:
    count = 9_000
    write_lines(tmp_path / "lines", count)
    SQLiteStore(tmp_path / "whole.db").close()
    began = time.monotonic()
    assert run("import", "lines", "--db", "whole.db", cwd=tmp_path).returncode == 0
    whole = time.monotonic() - began
    dice = random.Random(0)
    outcomes = []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        with running_server("--quiet", cwd=folder) as server:
            process = start_import(tmp_path / "lines", folder)
            # Every fourth is killed as soon as all are there.
            moment = time.monotonic() + dice.uniform(0.4, 1.1) * whole if number % 4 else math.inf
            while (found := listed(server)) == 1 and time.monotonic() < moment:
                pass
            assert found in (1, count + 1)
            process.kill()
            process.wait()
            outcomes.append(listed(server))
            assert server.ask("POST", "/v1/projects", {"name": "after"})[0] == 200
        with connect(folder / "projects.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    print(f"killed 20 times: {outcomes.count(1)} brought in nothing, {outcomes.count(count + 1)} all")
    assert set(outcomes) == {1, count + 1}


def test_a_disk_that_fills_takes_nothing_and_serves_on(disk: Disk, tmp_path: Path) -> None:
    write_lines(tmp_path / "many", 5_000)
    write_lines(tmp_path / "few", 50)
    database = ("--db", str(disk.folder / "projects.db"))
    with serving(disk) as process:
        assert process.ask("POST", "/v1/projects", {"name": "mine"})[0] == 200
        line = refusal("import", str(tmp_path / "many"), *database, cwd=tmp_path, prefix=disk.prefix)
        assert "the disk of" in line
        assert "is almost full" in line
        assert [project["name"] for project in every_project(process)] == ["mine", "default"]
        assert process.ask("PUT", "/v1/projects/mine", {"description": "x" * 1_000})[0] == 200
        result = run("import", str(tmp_path / "few"), *database, cwd=tmp_path, prefix=disk.prefix)
        assert result.stdout.startswith("50 projects made")
        # What is exported needs room as well.
        filler = disk.fill()
        out = str(disk.folder / "all.jsonl")
        assert "No space left on device" in refusal(
            "export", out, *database, cwd=tmp_path, prefix=disk.prefix
        )
        assert not (disk.outside / "all.jsonl").exists()
        filler.unlink()
        assert run("export", out, *database, cwd=tmp_path, prefix=disk.prefix).returncode == 0
        assert len((disk.outside / "all.jsonl").read_text().splitlines()) == 52
        assert process.ask("DELETE", "/v1/projects/mine")[0] == 204


def test_a_full_disk_for_temporary_files_is_told(disk: Disk, tmp_path: Path) -> None:
    write_lines(tmp_path / "many", 100_000, "x" * 500)
    line = refusal(
        "import", str(tmp_path / "many"), cwd=tmp_path, prefix=disk.prefix, SQLITE_TMPDIR=str(disk.folder)
    )
    assert "there is no room for a temporary file; TMPDIR says where it is made" in line
    assert sorted(it.name for it in tmp_path.iterdir()) == ["disk", "many"]


def test_a_disk_without_room_for_a_copy_of_a_log_is_told(disk: Disk, tmp_path: Path) -> None:
    program = (
        "import os, sqlite3; connection = sqlite3.connect('phoenix.db', isolation_level=None);"
        "connection.execute('PRAGMA journal_mode = WAL');"
        "connection.execute('CREATE TABLE projects (id INTEGER PRIMARY KEY, name, description)');"
        "connection.execute(\"INSERT INTO projects VALUES (2, 'x', zeroblob(2000000))\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    phoenix, new = tmp_path / "phoenix.db", tmp_path / "new.db"
    phoenix.with_name("phoenix.db-shm").unlink()
    command = ("import", str(phoenix), "--db", str(new))
    line = refusal(*command, cwd=tmp_path, prefix=disk.prefix, TMPDIR=str(disk.folder))
    assert f"there is no room to copy {phoenix} to a temporary file; TMPDIR says where" in line
    assert list(disk.outside.iterdir()) == []
    assert not new.exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a million lines in it."""
    folder = tmp_path_factory.mktemp("million")
    write_lines(folder / "lines", MILLION)
    yield folder
    shutil.rmtree(folder)


def peak(*command: str, folder: Path) -> float:
    """Run a command; return the most memory that it had, in MiB."""
    seconds, most = measure(*command, cwd=folder)
    print(f"{command[0]}: {MILLION / seconds:,.0f} a second, {most:.0f} MiB")
    return most


def test_a_million_lines_come_in_with_memory_flat(folder: Path) -> None:
    assert peak("import", "lines", folder=folder) < 192


def test_a_million_projects_go_out_with_memory_flat(folder: Path) -> None:
    if not (folder / "projects.db").exists():
        peak("import", "lines", folder=folder)
    assert peak("export", "all.jsonl", folder=folder) < 48
    with open(folder / "lines", "rb") as lines, open(folder / "all.jsonl", "rb") as exported:
        next(exported)
        assert all(line == next(exported) for line in lines)
        assert next(exported, None) is None
