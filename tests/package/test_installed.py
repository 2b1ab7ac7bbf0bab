"""The tests that run beside these import the installed wheel, in their own process and in others."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import projects_wsgi

from ..support.process import environment, running_server

INSTALLED = Path(sysconfig.get_path("purelib"), "projects_wsgi")
COMMAND = Path(sysconfig.get_path("scripts"), "projects-wsgi")
ROOT = Path(__file__).parents[2]


def test_the_package_that_is_tested_is_the_installed_one(tmp_path: Path) -> None:
    assert Path(projects_wsgi.__file__).parent == INSTALLED
    line = [sys.executable, "-c", "import projects_wsgi; print(projects_wsgi.__file__)"]
    for cwd in (tmp_path, ROOT):
        file = subprocess.check_output(line, cwd=cwd, env=environment(), text=True).strip()
        assert Path(file).parent == INSTALLED


def test_the_command_says_its_version_and_serves_the_page(tmp_path: Path) -> None:
    version = subprocess.check_output([COMMAND, "--version"], cwd=tmp_path, text=True)
    assert version == f"projects-wsgi {metadata.version('projects-wsgi')}\n"
    page = (INSTALLED / "page.html").read_text(encoding="utf-8")
    with running_server("--quiet", cwd=tmp_path, command=[str(COMMAND)]) as process:
        assert process.ask("GET", "/")[::2] == (200, page)
