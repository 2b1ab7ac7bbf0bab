"""What a user may not read or write is refused in one line, or answered with 503, and is not touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import SQLiteStore

from ..process import running_server
from ..test_cli import refusal, run

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


def test_a_file_on_a_disk_that_is_mounted_read_only_is_refused(file: Path) -> None:
    before = contents(file.parent)
    mount = f"mount --bind {file.parent} {file.parent} && mount -o remount,bind,ro {file.parent}"
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    prefix = [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    line = refusal("--db", str(file), cwd=file.parent.parent, prefix=prefix)
    assert str(file.parent) in line
    assert contents(file.parent) == before


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


def test_the_shell_agrees_that_permissions_hold(file: Path) -> None:
    # Else all of the above would prove nothing.
    file.chmod(0o000)
    result = subprocess.run([*AS_USER, "cat", str(file)], capture_output=True)
    assert result.returncode != 0
