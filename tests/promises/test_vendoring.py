"""The package works wherever it is copied to: under another name, in a zip, as one file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import projects_wsgi

from ..support.differences import judge
from ..support.make import ROOT, make, pythons
from ..support.process import running_server
from ..support.replay import RECORDED, read_steps, sending_to_server

PACKAGE = Path(projects_wsgi.__file__).parent
PAGE = (PACKAGE / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what `make vendor` and `make zipapp` need, in which they may write."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(PACKAGE, tree / "projects_wsgi")
    for name in ("CHANGELOG.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, tree)
    return tree


def passes_the_recorded_answers(command: Sequence[str], cwd: Path, path: str) -> None:
    """Run the package as a server, with nothing but a path to import it from; play the recordings."""

    def play(file: Path) -> None:
        arguments = ("--quiet", "--db", f"{file.stem}.db")
        with (
            running_server(*arguments, cwd=cwd, command=command, environ={"PYTHONPATH": path}) as process,
            sending_to_server(process.host, process.port) as send,
        ):
            judge(send, read_steps(file))

    with ThreadPoolExecutor() as threads:
        list(threads.map(play, RECORDED))
    with running_server("--quiet", cwd=cwd, command=command, environ={"PYTHONPATH": path}) as process:
        assert process.ask("GET", "/")[::2] == (200, PAGE)


def test_a_copy_under_another_name_two_levels_deep_passes_the_recorded_answers(tmp_path: Path) -> None:
    copy = tmp_path / "host" / "_vendor" / "pw"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    passes_the_recorded_answers(("-m", "host._vendor.pw"), tmp_path, str(tmp_path))
    program = "from host._vendor.pw import make_app; print(make_app(':memory:').store.get(1).name)"
    output = subprocess.check_output([sys.executable, "-W", "error", "-c", program], cwd=tmp_path, text=True)
    assert output == "default\n"


def test_a_zip_on_the_path_passes_the_recorded_answers(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "host.zip", "w") as archive:
        for file in [*PACKAGE.rglob("*.py"), PACKAGE / "page.html"]:
            archive.write(file, file.relative_to(PACKAGE.parent))
    passes_the_recorded_answers(("-m", "projects_wsgi"), tmp_path, str(tmp_path / "host.zip"))


def test_make_vendor_copies_the_package_with_its_license_and_version(tree: Path, tmp_path: Path) -> None:
    result = make("vendor", f"DEST={tmp_path}/my app/_vendor", cwd=tree)
    assert (result.returncode, result.stderr) == (0, "")
    copy = tmp_path / "my app" / "_vendor" / "projects_wsgi"
    assert result.stdout == f"{copy} is projects_wsgi {projects_wsgi.__version__}\n"
    assert (copy / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (copy / "VERSION").read_text() == f"{projects_wsgi.__version__}\n"
    modules = {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py")}
    others = {Path("page.html"), Path("py.typed"), Path("LICENSE"), Path("VERSION")}
    assert {file.relative_to(copy) for file in copy.rglob("*") if file.is_file()} == modules | others
    again = make("vendor", f"DEST={tmp_path}/my app/_vendor", cwd=tree)
    assert again.returncode != 0
    assert again.stdout.endswith("exists already; remove it first\n")
    assert "make vendor DEST=" in make("vendor", cwd=tree).stdout


@pytest.fixture(scope="module")
def zipapp(tree: Path) -> Path:
    result = make("zipapp", f"PYTHON={sys.executable}", cwd=tree)
    assert (result.returncode, result.stderr) == (0, "")
    return tree / "dist" / "projects-wsgi.pyz"


@pytest.mark.parametrize("python", pythons())
def test_one_file_runs_on_every_python_with_an_empty_environment(
    zipapp: Path, tmp_path: Path, python: str
) -> None:
    empty = ["env", "-i"]
    command = [*empty, python, "-W", "error", str(zipapp)]
    version = subprocess.run(
        [*command, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (version.stdout, version.stderr) == (f"projects-wsgi {projects_wsgi.__version__}\n", "")
    wrong = subprocess.run(
        [*command, "--port", "x"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 2
    with (
        running_server(
            "--quiet", cwd=tmp_path, prefix=empty, python=python, command=[str(zipapp)]
        ) as process,
        sending_to_server(process.host, process.port) as send,
    ):
        judge(send, read_steps(RECORDED[0]))
        assert process.ask("GET", "/")[::2] == (200, PAGE)


def test_one_file_passes_the_recorded_answers(zipapp: Path, tmp_path: Path) -> None:
    passes_the_recorded_answers((str(zipapp),), tmp_path, "")
