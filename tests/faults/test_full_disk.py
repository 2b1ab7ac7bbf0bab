"""A disk that is full, a real one: nothing is lost, and deleting goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..promises.test_full import TEXT
from ..support.process import Process, refusal, run, running_server

SIZE = 1_048_576  # bytes
INODES = 50


class Disk(NamedTuple):
    """A small disk that only some processes see.

    folder: where they see it. outside: the same, for all others. prefix: runs a process that sees it.
    """

    folder: Path
    outside: Path
    prefix: list[str]

    def fill(self) -> Path:
        """Have another program take all that is left, to the last byte; return what it wrote."""
        filler = self.outside / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        status = os.statvfs(self.outside)
        assert status.f_bavail == 0
        return filler


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 1 MiB and few files, mounted where only this test's processes see it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    is_root = os.geteuid() == 0
    mount = f"mount -t tmpfs -o size={SIZE},nr_inodes={INODES} tmpfs {folder} && echo mounted && exec cat"
    unshare = ["unshare", "--mount", *([] if is_root else ["--map-root-user"]), "sh", "-c", mount]
    with subprocess.Popen(unshare, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "mounted\n"
        target = ["nsenter", "--target", str(keeper.pid), "--mount"]
        prefix = target if is_root else [*target, "--user", "--preserve-credentials"]
        yield Disk(folder, Path(f"/proc/{keeper.pid}/root{folder}"), prefix)
        keeper.stdin.close()


@contextlib.contextmanager
def serving(disk: Disk, *, must_obey: bool = True) -> Iterator[Process]:
    database = str(disk.folder / "projects.db")
    with running_server(
        "--quiet", "--db", database, cwd=disk.folder.parent, prefix=disk.prefix, must_obey=must_obey
    ) as process:
        yield process


def every_project(process: Process) -> list[dict[str, Any]]:
    status, _, text = process.ask("GET", "/v1/projects?limit=10000")
    assert status == 200
    projects: list[dict[str, Any]] = json.loads(text)["data"]
    return projects


def fill_with_projects(process: Process) -> list[dict[str, Any]]:
    """Create ever smaller projects until there is room for none; return them, the newest first."""
    made: list[dict[str, Any]] = []
    for size in (50_000, 2_000, 1):
        while True:
            document = {"name": f"project {len(made)}", "description": "x" * size}
            status, _, text = process.ask("POST", "/v1/projects", document)
            if status == 507:
                assert text == TEXT
                break
            assert status == 200
            made.insert(0, json.loads(text)["data"])
    return made


def test_projects_that_fill_a_disk_are_all_kept_and_can_all_be_deleted(disk: Disk) -> None:
    with serving(disk, must_obey=False) as process:
        made = fill_with_projects(process)
        assert len(made) > 10
        path = f"/v1/projects/{made[-1]['id']}"
        assert process.ask("PUT", path, {"description": "x" * 200_000})[::2] == (507, TEXT)
        assert every_project(process)[:-1] == made
        process.popen.kill()
    with serving(disk) as process:
        assert every_project(process)[:-1] == made
        random.Random(0).shuffle(made)
        for project in made:
            assert process.ask("DELETE", f"/v1/projects/{project['id']}")[0] == 204
        assert [project["name"] for project in every_project(process)] == ["default"]
        # What was freed serves again, and the smaller ones find room in what the larger ones leave.
        assert len(fill_with_projects(process)) > 10
    checked = run(
        "check", "--db", str(disk.folder / "projects.db"), cwd=disk.folder.parent, prefix=disk.prefix
    )
    assert checked.stdout.endswith("projects.db: ok\n")


def test_a_disk_that_others_fill_takes_no_writes_until_there_is_room_and_loses_nothing(disk: Disk) -> None:
    with serving(disk) as process:
        for number in range(4):
            document = {"name": f"project {number}", "description": "x" * 20_000}
            assert process.ask("POST", "/v1/projects", document)[0] == 200
        before = every_project(process)
        filler = disk.fill()
        document = {"name": "too much", "description": "x" * 20_000}
        assert process.ask("POST", "/v1/projects", document)[::2] == (507, TEXT)
        assert process.ask("PUT", "/v1/projects/default", {"description": "x" * 20_000})[::2] == (507, TEXT)
        assert process.ask("GET", "/readyz")[0] == 200
        assert every_project(process) == before
        # Not even a deletion is sure of room for SQLite's log, if others take the last byte of it.
        status = process.ask("DELETE", "/v1/projects/project%201")[0]
        assert status in (204, 507)
        if status == 204:
            del before[2]
        assert every_project(process) == before
        filler.unlink()
        assert process.ask("DELETE", "/v1/projects/project%202")[0] == 204
        assert process.ask("POST", "/v1/projects", document)[0] == 200
        assert process.ask("PUT", "/v1/projects/default", {"description": "x" * 20_000})[0] == 200
    assert "Traceback" not in process.log


def test_a_server_that_starts_on_a_full_disk_says_so_in_one_line(disk: Disk) -> None:
    disk.fill()
    line = refusal("--db", str(disk.folder / "projects.db"), cwd=disk.folder.parent, prefix=disk.prefix)
    assert "there is no room left to write to the database" in line


@pytest.mark.parametrize("left", [0, 1])
def test_a_file_keeps_its_log_where_the_disk_has_no_room_for_that(disk: Disk, left: int) -> None:
    with serving(disk):
        pass
    while os.statvfs(disk.outside).f_favail > left:
        (disk.outside / f"filler {os.statvfs(disk.outside).f_favail}").touch()
    line = refusal("--db", str(disk.folder / "projects.db"), cwd=disk.folder.parent, prefix=disk.prefix)
    assert "No space left on device; make room on the disk" in line
    assert (disk.outside / "projects.db").read_bytes()[18:20] == b"\2\2"  # sqlite.org/fileformat2.html, 1.3
