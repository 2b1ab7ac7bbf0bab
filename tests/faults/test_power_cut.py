"""A power cut at any moment: what was reported as done is on the disk, and nothing is there by half.

The server and the commands run on a file system that notes all that is done to it; from its journal, the
disk is made anew as a cut at a moment may leave it, and is looked at. A failure names the moment and the
seed of the dice that made it.
"""

from __future__ import annotations

import logging
import random
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from projects_wsgi import Project, ProjectNotFound, SQLiteStore
from projects_wsgi.keys import read_keys
from projects_wsgi.storage import upkeep
from projects_wsgi.storage.sqlite import schema

from ..support.databases import connect
from ..support.process import run, running_server
from .forgetful import Disk, Entry, Mount, mounted

CUTS = 250  # of each scenario, in each mode

Files = dict[str, bytes]


class Cut(NamedTuple):
    """moment: how many entries of the journal had come. seed: of the dice. files: what is left."""

    moment: int
    seed: int
    files: Files


def cuts(journal: list[Entry], *, first: int = 0, is_ext4: bool, is_lying: bool = False) -> Iterator[Cut]:
    """Make CUTS cuts at moments from first to the end of a journal."""
    disk = Disk(is_ext4=is_ext4, is_lying=is_lying)
    noted = 0
    for seed in range(CUTS):
        moment = first + (len(journal) - first) * seed // (CUTS - 1)
        for entry in journal[noted:moment]:
            disk.note(entry)
        noted = moment
        yield Cut(moment, seed, disk.cut(random.Random(seed)))


@pytest.fixture(params=["strict", "ext4"])
def is_ext4(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "ext4")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Hide the warning that a database is without a log: it comes after each cut."""
    caplog.set_level(logging.ERROR, "projects_wsgi")


class Step(NamedTuple):
    """Something that was asked for at one moment, and reported as done at another. state: after it."""

    began: int
    done: int
    state: Any


def allowed(steps: Iterable[Step], moment: int, state: Any) -> list[Any]:
    """Return the states that may be found after a cut: the one last reported, and what was under way.

    state: the one before all steps.
    """
    states = [state]
    for step in steps:
        if step.done <= moment:
            states = [step.state]
        elif step.began < moment:
            states.append(step.state)
    return states


def unpacked(cut: Cut, folder: Path) -> Path:
    """Put what a cut left into a new folder, whose name tells the cut in whatever fails on it."""
    shutil.rmtree(folder, ignore_errors=True)
    left = folder / f"moment-{cut.moment}-seed-{cut.seed}"
    left.mkdir(parents=True)
    for name, content in cut.files.items():
        (left / name).write_bytes(content)
    return left


def contents(file: Path) -> dict[str, str | None]:
    """Return the descriptions in a database by the names; it must have no fault."""
    with upkeep.opened_as_it_is(str(file)) as session:
        assert upkeep.find_faults(session) == []
    with closing(SQLiteStore(file)) as store:
        return {name: description for _, name, description in store.list_rows(limit=10**6)}


# The server under 4 writers


class Writer(threading.Thread):
    """Creates, describes and deletes projects of its own; notes what was answered, and when."""

    def __init__(self, number: int, ask: Callable[..., Any], now: Callable[[], int]) -> None:
        super().__init__()
        self.number = number
        self.ask = ask
        self.now = now
        self.steps: dict[str, list[Step]] = {}

    def run(self) -> None:
        for count in range(100):
            name = f"{self.number}-{count}"
            self.step(name, "x", "POST", "/v1/projects", {"name": name, "description": "x"})
            self.step(name, "y" * 3000, "PUT", f"/v1/projects/{name}", {"description": "y" * 3000})
            if count % 3 == 0:
                self.step(name, None, "DELETE", f"/v1/projects/{name}")

    def step(self, name: str, state: str | None, *request: Any) -> None:
        began = self.now()
        assert self.ask(*request)[0] in (200, 204)
        self.steps.setdefault(name, []).append(Step(began, self.now(), state))


@pytest.fixture(scope="module", params=["log", "journal"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Mount, dict[str, list[Step]]]:
    """What a server has done, from its first start on, under 4 writers; and what it has answered.

    With SQLite's log, and with its rollback journal, which serves where there can be no log.
    """
    tmp_path = tmp_path_factory.mktemp("written")
    steps: dict[str, list[Step]] = {}
    with mounted(tmp_path) as mount:
        database = str(mount.folder / "projects.db")
        if request.param == "journal":
            SQLiteStore(database).close()
            with connect(Path(database)) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")
        with running_server("--quiet", "--db", database, cwd=tmp_path) as process:
            writers = [Writer(number, process.ask, mount.now) for number in range(4)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
                steps |= writer.steps
    return mount, steps


def first_answer(steps: dict[str, list[Step]]) -> int:
    """Return the moment of the first answer."""
    return min(step.done for own in steps.values() for step in own)


def lost(cut: Cut, steps: dict[str, list[Step]], folder: Path) -> list[str]:
    """Return the projects that are not as they were answered to be."""
    file = unpacked(cut, folder) / "projects.db"
    if not file.exists():
        assert cut.moment < first_answer(steps), cut[:2]
        return []
    found = contents(file)
    return [name for name, own in steps.items() if found.get(name) not in allowed(own, cut.moment, None)]


def test_what_a_server_has_answered_survives(
    written: tuple[Mount, dict[str, list[Step]]], is_ext4: bool, tmp_path: Path
) -> None:
    mount, steps = written
    count = sum(map(len, steps.values()))
    for cut in cuts(mount.journal, is_ext4=is_ext4):
        assert lost(cut, steps, tmp_path / "left") == [], cut[:2]
    print(f"{count} acknowledged changes, {CUTS} cuts, 0 lost")


def test_what_a_server_has_answered_first_survives_a_cut_at_each_moment_from_its_first_start_on(
    written: tuple[Mount, dict[str, list[Step]]], is_ext4: bool, tmp_path: Path
) -> None:
    # The start is a hundredth of the journal: of the cuts above, one or two come as early.
    mount, steps = written
    beginning = mount.journal[: first_answer(steps) + 20]
    assert len(beginning) < CUTS
    for cut in cuts(beginning, is_ext4=is_ext4):
        assert lost(cut, steps, tmp_path / "left") == [], cut[:2]


def test_a_disk_that_only_says_that_it_has_synced_loses_something(
    written: tuple[Mount, dict[str, list[Step]]], tmp_path: Path
) -> None:
    # Else the tests above would prove nothing.
    mount, steps = written
    losses = 0
    for cut in cuts(mount.journal, is_ext4=True, is_lying=True):
        try:
            losses += bool(lost(cut, steps, tmp_path / "left"))
        except Exception:  # not even the database is whole
            losses += 1
    assert losses > CUTS / 2


# The commands


def done(mount: Mount, cwd: Path, state: Any, *command: str) -> Step:
    """Run a command that must succeed, and change what is there to a state."""
    began = mount.now()
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return Step(began, mount.now(), state)


def test_keys_that_were_reported_as_added_or_revoked_are_so(is_ext4: bool, tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        options = ("--keys", str(mount.folder / "k.keys"))
        steps = [
            done(mount, tmp_path, ["a"], "keys", "add", "a", "--role", "admin", *options),
            done(mount, tmp_path, ["a", "b"], "keys", "add", "b", "--role", "viewer", *options),
            done(mount, tmp_path, ["b"], "keys", "revoke", "a", *options),
            done(mount, tmp_path, ["b", "c"], "keys", "add", "c", "--role", "viewer", *options),
            done(mount, tmp_path, ["c"], "keys", "revoke", "b", *options),
        ]
    for cut in cuts(mount.journal, is_ext4=is_ext4):
        file = unpacked(cut, tmp_path / "left") / "k.keys"
        found = [key.name for key in read_keys(file)] if file.exists() else None
        assert found in allowed(steps, cut.moment, None), cut[:2]


def test_a_backup_that_was_reported_is_there_and_whole(is_ext4: bool, tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        database, backup = (str(mount.folder / name) for name in ("p.db", "b.db"))
        steps = []
        with closing(SQLiteStore(database)) as store:
            for count, extra in enumerate(([], ["--force"], ["--force"])):
                store.create(f"agent {count}", "x" * 20_000)
                state = {name: text for _, name, text in store.list_rows()}
                steps.append(done(mount, tmp_path, state, "backup", backup, "--db", database, *extra))
    for cut in cuts(mount.journal, is_ext4=is_ext4):
        file = unpacked(cut, tmp_path / "left") / "b.db"
        found = contents(file) if file.exists() else None
        assert found in allowed(steps, cut.moment, None), cut[:2]


def test_a_restore_that_was_reported_holds_and_none_is_there_by_half(is_ext4: bool, tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        database, backup = (str(mount.folder / name) for name in ("p.db", "b.db"))
        with closing(SQLiteStore(database)) as store:
            for count in range(20):
                store.create(f"good {count}", "x" * 2_000)
            store.backup(backup)
            good = {name: text for _, name, text in store.list_rows()}
            for count in range(20):
                store.delete(f"good {count}")
                store.create(f"bad {count}", "y" * 1_000)
            bad = {name: text for _, name, text in store.list_rows()}
            first = mount.now()
            steps = [done(mount, tmp_path, good, "restore", backup, "--db", database)]
            store.create("later")
            steps.append(Step(steps[0].done, mount.now(), {**good, "later": None}))
    for cut in cuts(mount.journal, first=first, is_ext4=is_ext4):
        found = contents(unpacked(cut, tmp_path / "left") / "p.db")
        assert found in allowed(steps, cut.moment, bad), cut[:2]


def test_an_upgrade_is_done_or_not_begun(
    is_ext4: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(file: Path) -> Project | None:
        with closing(SQLiteStore(file)) as store:
            try:
                return store.get("agent")
            except ProjectNotFound:
                return None

    old = schema.MIGRATIONS
    new = (
        *old,
        ("ALTER TABLE projects ADD COLUMN later TEXT", "CREATE INDEX projects_later ON projects (later)"),
    )
    with mounted(tmp_path) as mount:
        file = mount.folder / "p.db"
        with closing(SQLiteStore(file)) as store:
            project = store.create("agent", "x")
        first = mount.now()
        monkeypatch.setattr(schema, "MIGRATIONS", new)
        SQLiteStore(file).close()
        opened = mount.now()
    for cut in cuts(mount.journal, first=first, is_ext4=is_ext4):
        file = unpacked(cut, tmp_path / "left") / "p.db"
        with connect(file) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(projects)")]
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        assert version == (2 if "later" in columns else 1), cut[:2]
        assert version == 2 or cut.moment < opened, cut[:2]
        assert found(file) == project, cut[:2]
