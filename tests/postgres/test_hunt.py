"""No test may show the password of a database; this one tests that the hunt for it finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..support.cluster import PASSWORD
from ..support.process import environment, run, running_server

SHOWS_IT = f"""
import logging, os, sys
import pytest

URL = "postgresql://me:{PASSWORD}@example/x"

@pytest.fixture
def shows_it_at_last():
    yield
    print(URL)

def test_print():
    print(URL)

def test_descriptor():
    os.write(2, URL.encode())

def test_log():
    logging.getLogger("projects_wsgi").warning("cannot use %s", URL)

def test_error():
    raise ValueError(URL)

def test_fixture(shows_it_at_last):
    pass

def test_nothing():
    pass
"""


def test_a_test_that_shows_the_password_fails(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(SHOWS_IT)
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.engines", "-q", "--tb=no", str(file)]
    result = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert "4 failed, 2 passed, 1 error" in result.stdout


def test_a_process_that_shows_the_password_fails_its_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="was shown"):
        run(PASSWORD, cwd=tmp_path)  # which argparse repeats
    with pytest.raises(AssertionError, match="was shown"), running_server(cwd=tmp_path) as process:
        process.ask("GET", f"/v1/projects/{PASSWORD}")
