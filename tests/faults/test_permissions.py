"""What a user may not read or write is refused in one line, or answered with 503, and is not touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import SQLiteStore

from ..promises.test_read_only import TEXT
from ..support.databases import names
from ..support.process import environment, refusal, run, running_server

# The superuser may do everything: run as one who is held to permissions like anybody else.
AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose permissions a test may change."""
    folder = tmp_path / "folder"
    folder.mkdir()
    yield folder
    folder.chmod(0o700)


@pytest.fixture
def file(folder: Path) -> Path:
    """A database in that folder."""
    file = folder / "projects.db"
    with closing(SQLiteStore(file)) as store:
        store.create("kept")
    return file


def expect_refusal(file: Path, text: str) -> None:
    """Expect that neither the server nor the other commands start, in one line that says why."""
    for command in (["serve"], ["check"], ["backup", "copy.db"]):
        line = refusal(*command, "--db", str(file), cwd=file.parent.parent, prefix=AS_USER)
        assert str(file) in line
        assert text in line


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_to_read_what_is_not_there_fails_for_that_and_not_for_the_folder(folder: Path) -> None:
    folder.chmod(0o500)
    for command in (["serve", "--read-only"], ["export"], ["check"], ["backup", "copy.db"]):
        line = refusal(*command, "--db", str(folder / "none.db"), cwd=folder.parent, prefix=AS_USER)
        assert "there is no" in line


NOT_ACCESSIBLE = "the file is not readable and writable; change its permissions or choose another file"


@pytest.mark.parametrize("mode", [0o000, 0o200])
def test_a_file_that_cannot_be_read_is_refused(file: Path, mode: int) -> None:
    before = contents(file.parent)
    file.chmod(mode)
    expect_refusal(file, NOT_ACCESSIBLE)
    file.chmod(0o600)
    assert contents(file.parent) == before


def test_a_file_that_cannot_be_written_is_refused(file: Path) -> None:
    before = contents(file.parent)
    file.chmod(0o400)
    assert NOT_ACCESSIBLE in refusal("--db", str(file), cwd=file.parent.parent, prefix=AS_USER)
    assert contents(file.parent) == before


def test_a_folder_that_cannot_be_written_is_refused(file: Path) -> None:
    before = contents(file.parent)
    file.parent.chmod(0o500)
    line = refusal("--db", str(file), cwd=file.parent.parent, prefix=AS_USER)
    assert f"the folder {file.parent} is not writable" in line
    missing = file.with_name("missing.db")
    line = refusal("--db", str(missing), cwd=file.parent.parent, prefix=AS_USER)
    assert f"the folder {file.parent} is not writable" in line
    assert contents(file.parent) == before


def test_a_folder_that_cannot_be_entered_is_refused(file: Path) -> None:
    before = contents(file.parent)
    file.parent.chmod(0o000)
    line = refusal("--db", str(file), cwd=file.parent.parent, prefix=AS_USER)
    assert f"the folder {file.parent}" in line
    file.parent.chmod(0o700)
    assert contents(file.parent) == before


def mounted_read_only(folder: Path) -> list[str]:
    """Return what runs a process that sees a folder mounted read-only."""
    mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]


def test_a_file_on_a_disk_that_is_mounted_read_only_is_refused(file: Path) -> None:
    before = contents(file.parent)
    line = refusal("--db", str(file), cwd=file.parent.parent, prefix=mounted_read_only(file.parent))
    assert str(file.parent) in line
    assert contents(file.parent) == before


def test_a_disk_that_is_mounted_read_only_is_served_for_reading(file: Path) -> None:
    prefix = mounted_read_only(file.parent)
    options = ("--quiet", "--read-only", "--db", str(file))
    with running_server(*options, cwd=file.parent.parent, prefix=prefix) as process:
        assert process.ask("GET", "/v1/projects/kept")[0] == 200
        assert process.ask("GET", "/v1/projects?name_contains=k")[0] == 200
        assert process.ask("GET", "/readyz")[0] == 200
        assert process.ask("POST", "/v1/projects", {"name": "x"})[::2] == (403, TEXT)
    assert "is taken for one that nobody changes" in process.log
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_log_that_cannot_be_read_there_is_not_ignored(file: Path) -> None:
    # A process that was killed leaves a log with what it wrote; without shared memory it is no use.
    script = f"import os, projects_wsgi as p; s = p.SQLiteStore({str(file)!r}); s.create('b'); os._exit(0)"
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True)
    file.with_name(f"{file.name}-shm").unlink()
    prefix = mounted_read_only(file.parent)
    line = refusal("--read-only", "--db", str(file), cwd=file.parent.parent, prefix=prefix)
    assert "has a log beside it that cannot be read here" in line
    with closing(SQLiteStore(file)) as store:
        assert names(store) == ["b", "kept", "default"]


def test_what_is_taken_away_while_it_is_served_is_503_and_loses_nothing(file: Path) -> None:
    cwd = file.parent.parent
    with running_server("--quiet", "--db", str(file), cwd=cwd, prefix=AS_USER) as process:
        file.chmod(0o000)  # before the first connection is opened
        assert process.ask("GET", "/healthz")[0] == 200
        for method, path, document in (
            ("GET", "/v1/projects", None),
            ("POST", "/v1/projects", {"name": "lost"}),
            ("DELETE", "/v1/projects/kept", None),
            ("GET", "/readyz", None),
        ):
            status, _, text = process.ask(method, path, document)
            assert (status, text) == (
                503,
                "The database does not answer. Nothing was changed; see the server's log",
            )
        file.chmod(0o600)
        assert process.ask("POST", "/v1/projects", {"name": "found"})[0] == 200
        assert process.ask("GET", "/v1/projects/kept")[0] == 200
    assert NOT_ACCESSIBLE in process.log
    assert run("check", "--db", str(file), cwd=cwd).returncode == 0


def test_a_copy_that_cannot_be_written_is_refused(file: Path) -> None:
    target = file.parent.parent / "closed"
    target.mkdir(0o500)
    line = refusal("backup", str(target / "copy.db"), "--db", str(file), cwd=target.parent, prefix=AS_USER)
    assert f"the folder {target} is not writable" in line
    assert list(target.iterdir()) == []


def mounted_alone(source: Path, target: Path, prepare: str = "true") -> list[str]:
    """Return what runs a process that sees a file as a mount of its own at a target, as containers do."""
    target.touch()
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return [*unshare, "sh", "-c", f'{prepare} && mount --bind {source} {target} && exec "$@"', "sh"]


def test_a_database_that_is_a_mount_of_its_own_is_served_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    source, target = tmp_path / "volume" / "p.db", tmp_path / "p.db"
    prepare = f"mount -t tmpfs tmpfs {source.parent} && touch {source}"
    prefix = mounted_alone(source, target, prepare)
    with running_server("--quiet", "--db", str(target), cwd=tmp_path, prefix=prefix) as process:
        assert process.ask("POST", "/v1/projects", {"name": "new"})[0] == 200
    (line,) = process.log.splitlines()
    assert (
        f"the database {target} is mounted alone or has other names: its log is beside this name only" in line
    )


@pytest.fixture
def keys(file: Path) -> Path:
    """A keys file outside of where it is mounted."""
    keys = file.with_name("outside.keys")
    for name in ("ci", "other"):
        run("keys", "add", name, "--role", "viewer", "--keys", str(keys), cwd=file.parent)
    return keys


def test_a_keys_file_that_is_mounted_alone_and_replaced_outside_is_an_error_at_every_look(
    file: Path, keys: Path
) -> None:
    cwd = file.parent.parent
    mounted = file.with_name("mounted.keys")
    options = ("--quiet", "--db", str(file), "--keys", str(mounted))
    with running_server(*options, cwd=cwd, prefix=mounted_alone(keys, mounted)) as process:
        assert process.ask("GET", "/v1/projects", key="x")[0] == 401
        assert run("keys", "revoke", "ci", "--keys", str(keys), cwd=cwd).returncode == 0
        for _ in range(3):
            time.sleep(1.1)
            process.ask("GET", "/v1/projects", key="x")
    lines = process.log.splitlines()
    assert len(lines) == 3
    text = f"the keys file {mounted} was replaced, but here it is still the old one: mount its folder"
    assert all(text in line for line in lines)


def test_a_keys_file_that_is_mounted_alone_is_not_changed_there(file: Path, keys: Path) -> None:
    before = keys.read_bytes()
    mounted = file.with_name("mounted.keys")
    command = ("keys", "revoke", "ci", "--keys", str(mounted))
    line = refusal(*command, cwd=file.parent, prefix=mounted_alone(keys, mounted))
    assert line.endswith("Device or resource busy; if it is mounted alone, change it where it comes from")
    assert keys.read_bytes() == before
    assert not file.with_name("mounted.keys.unfinished").exists()


def test_the_shell_agrees_that_permissions_hold(file: Path) -> None:
    # Else all of the above would prove nothing.
    file.chmod(0o000)
    result = subprocess.run([*AS_USER, "cat", str(file)], capture_output=True)
    assert result.returncode != 0
