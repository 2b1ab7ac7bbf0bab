"""What `make build` has made: what is in it, that it is the same again, runs, and shows its types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import projects_wsgi

from ..support.make import ROOT, make, pythons
from ..support.process import running_server

VERSION = projects_wsgi.__version__
NAME = f"projects_wsgi-{VERSION}"
WHEEL = ROOT / "dist" / f"{NAME}-py3-none-any.whl"
SDIST = ROOT / "dist" / f"{NAME}.tar.gz"
ZIPAPP = ROOT / "dist" / "projects-wsgi.pyz"

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "projects_wsgi" / "page.html").read_text(encoding="utf-8")


def files_of(folder: str) -> set[str]:
    """Return the files of a folder of the repository, by their paths in the repository."""
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}


def test_the_newest_release_in_the_changelog_is_this_version_and_has_a_date() -> None:
    newest = re.findall(r"^## (\d.*)$", CHANGELOG, re.MULTILINE)[0]
    assert re.fullmatch(re.escape(VERSION) + r", \d{4}-\d\d-\d\d", newest)


def test_the_wheel_holds_the_package_its_license_and_its_command() -> None:
    package = files_of("projects_wsgi")
    assert {name for name in package if not name.endswith(".py")} == {
        "projects_wsgi/page.html",
        "projects_wsgi/py.typed",
    }
    about = [
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "top_level.txt",
        "zip-safe",
    ]
    with zipfile.ZipFile(WHEEL) as wheel:
        assert sorted(wheel.namelist()) == sorted(package | {f"{NAME}.dist-info/{name}" for name in about})
        for name in package:
            assert wheel.read(name) == (ROOT / name).read_bytes()
        assert wheel.read(f"{NAME}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    (distribution,) = metadata.distributions(path=[str(WHEEL)])
    (command,) = distribution.entry_points
    assert (command.group, command.name, command.value) == (
        "console_scripts",
        "projects-wsgi",
        "projects_wsgi.cli:main",
    )


def test_the_wheel_needs_nothing_and_shows_the_readme() -> None:
    (distribution,) = metadata.distributions(path=[str(WHEEL)])
    assert [need for need in distribution.requires or [] if "extra ==" not in need] == []
    assert distribution.version == VERSION
    assert distribution.metadata["Requires-Python"] == ">=3.9"
    assert README in (distribution.read_text("METADATA") or "")
    # Where it is shown, there are no files that a link could lead to.
    assert re.findall(r"\[[^]\n]*\]\((?!https://|#)[^)]*\)", README) == []


def test_the_sdist_holds_what_git_holds_and_the_metadata() -> None:
    with tarfile.open(SDIST) as sdist, zipfile.ZipFile(WHEEL) as wheel:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
        about = sdist.extractfile(f"{NAME}/PKG-INFO")
        assert about is not None
        assert about.read() == wheel.read(f"{NAME}.dist-info/METADATA")
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    in_git = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    assert names == {*filter(None, in_git), "PKG-INFO"}


def test_no_time_user_or_umask_of_who_packs_is_in_an_archive() -> None:
    # RFC 1952, section 2.3: after the magic number, the method, the flags and the time.
    assert SDIST.read_bytes()[3:8] == bytes(5)
    date = time.strptime(CHANGELOG.partition(f"## {VERSION}, ")[2][:10], "%Y-%m-%d")
    with tarfile.open(SDIST) as sdist:
        for member in sdist:
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert time.gmtime(member.mtime)[:6] == date[:6]
            is_program = member.isdir() or member.name == f"{NAME}/.ci/run"
            assert member.mode == (0o755 if is_program else 0o644), member.name
    for archive in (WHEEL, ZIPAPP):
        with zipfile.ZipFile(archive) as files:
            for info in files.infolist():
                assert info.date_time == date[:6]
                is_record = info.filename.endswith("RECORD")
                mode = 0o755 if info.is_dir() else 0o664 if is_record else 0o644
                assert info.external_attr >> 16 & 0o777 == mode, info.filename


# To what runs in it, this user namespace shows another user, with the same rights. Some machines allow none.
AS_ANOTHER = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]


def test_another_user_gets_the_same_bytes_from_the_sdist_in_another_folder(tmp_path: Path) -> None:
    folder = tmp_path / "another name"
    folder.mkdir()
    can_be_another = subprocess.run([*AS_ANOTHER, "true"], capture_output=True).returncode == 0
    prefix = [*(AS_ANOTHER if can_be_another else []), "sh", "-c", 'umask 077 && exec "$@"', "sh"]
    unpack = ["tar", "--extract", "--touch", "--no-same-permissions", f"--file={SDIST}"]
    subprocess.run([*prefix, *unpack, "--strip-components=1"], cwd=folder, check=True)
    assert (folder / "setup.cfg").stat().st_mode & 0o777 == 0o600
    venv = sys.prefix[: -len("-dist")]
    result = make(
        "build",
        f"PYTHON={sys.executable}",
        f"VENV={venv}",
        f"--old-file={venv}-dist/.installed",
        cwd=folder,
        prefix=prefix,
        TZ="Asia/Tokyo",
        LC_ALL="C",
        HOME=str(tmp_path),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    files = [WHEEL, SDIST, ZIPAPP]
    assert sorted(os.listdir(folder / "dist")) == sorted(file.name for file in files)
    for file in files:
        assert (folder / "dist" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("python", pythons())
def test_the_zipapp_says_its_version_and_serves_the_page_on_every_python(python: str, tmp_path: Path) -> None:
    version = subprocess.check_output([python, "-I", str(ZIPAPP), "--version"], cwd=tmp_path, text=True)
    assert version == f"projects-wsgi {VERSION}\n"
    with running_server("--quiet", cwd=tmp_path, python=python, command=["-I", str(ZIPAPP)]) as process:
        assert process.ask("GET", "/")[::2] == (200, PAGE)


# What a user may write; after each line that is wrong, the error that mypy must find in it.
SNIPPET = """\
from __future__ import annotations

from projects_wsgi import Project, ProjectNotFound, SQLiteStore, make_app
from projects_wsgi.testing import live_server

application = make_app("projects.db", max_page_size=10)
store = application.store
project, is_new = store.get_or_create("agent", "first steps")
names: list[str] = [name for _, name, _ in store.list_rows(limit=5)]


def describe(project: Project) -> str:
    return f"{project.name} {project.description or ''}"


def ask() -> str | None:
    try:
        return describe(store.get(project.id))
    except ProjectNotFound as error:
        return str(error)


with live_server(projects=["agent"]) as url:
    print(url.upper(), names, is_new, ask(), SQLiteStore(":memory:").get("default").created_at.year)

make_app(1.5)  # arg-type
make_app("projects.db", pages=3)  # call-arg
store.get("agent").nickname  # attr-defined
store.get(b"agent")  # arg-type
number: int = store.get("agent").name  # assignment
store.get("agent").description.upper()  # union-attr
store.create(None)  # arg-type
application.stores  # attr-defined
"""


def test_mypy_sees_the_types_of_the_installed_package(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    environ = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    line = [sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "snippet.py"]
    result = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120)
    errors = re.findall(r"^snippet\.py:(\d+): error: .*\[(.*)\]$", result.stdout, re.MULTILINE)
    expected = [
        (str(number), line.partition("  # ")[2])
        for number, line in enumerate(SNIPPET.splitlines(), 1)
        if "  # " in line
    ]
    assert errors == expected, result.stdout + result.stderr
