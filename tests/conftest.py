from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pytest
import webtest
from hypothesis import HealthCheck, settings

from projects_wsgi import ProjectsApp, SQLiteStore, Store, make_app

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A fresh store of each engine."""
    store = SQLiteStore(tmp_path / "projects.db" if request.param == "file" else ":memory:")
    yield store
    store.close()


def mount(prefix: str, app: Any) -> Any:
    """Return a WSGI callable that serves an application under a prefix, and nothing beside it."""

    def mounted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert environ["PATH_INFO"].startswith(prefix)
        environ["SCRIPT_NAME"] += prefix
        environ["PATH_INFO"] = environ["PATH_INFO"][len(prefix) :]
        answer: Iterable[bytes] = app(environ, start_response)
        return answer

    return mounted


@pytest.fixture
def projects_app(tmp_path: Path) -> Iterator[ProjectsApp]:
    """The application over a fresh file."""
    app = make_app(tmp_path / "projects.db")
    yield app
    app.store.close()


class PrefixedApp(webtest.TestApp):
    """webtest's client, whose every path begins with the prefix at which the application is mounted."""

    def __init__(self, app: Any, prefix: str) -> None:
        super().__init__(mount(prefix, app))
        self._prefix = prefix

    def do_request(self, req: Any, *args: Any, **kwargs: Any) -> Any:
        req.environ["PATH_INFO"] = self._prefix + req.environ["PATH_INFO"]
        return super().do_request(req, *args, **kwargs)


@pytest.fixture(params=["", "/phoenix/api"], ids=["root", "prefix"])
def app(request: pytest.FixtureRequest, projects_app: ProjectsApp) -> webtest.TestApp:
    """webtest's client, its lint on, at the root and mounted under a prefix."""
    return PrefixedApp(projects_app, request.param)


class Process:
    """A server that runs as a process of its own.

    host, port: where. output, log: what it printed and logged, complete when it has ended.
    """

    def __init__(self, popen: subprocess.Popen[str], log: IO[str]) -> None:
        self.popen = popen
        assert popen.stdout is not None
        self.output = popen.stdout.readline()
        match = re.search(r"http://(\S+):(\d+)", self.output)
        assert match is not None, f"the server said {self.output!r}"
        self.host, self.port = match[1], int(match[2])
        self._log = log
        self.log = ""

    def end(self) -> None:
        """Wait for the process; collect what it left."""
        self.output += self.popen.communicate(timeout=10)[0]
        self._log.seek(0)
        self.log = self._log.read()


def environment(**environ: str) -> dict[str, str]:
    """Return the environment of a process that can import the package from wherever it runs."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **environ}


@contextlib.contextmanager
def running_server(
    *arguments: str,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[Process]:
    """Run `python -m projects_wsgi` on a free port; stop it with a signal, which it must obey with 0."""
    command = [sys.executable, "-W", "error", "-m", "projects_wsgi", "--port", "0", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**(environ or {})),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            process = Process(popen, log)
            yield process
            popen.send_signal(stop)
            process.end()
        finally:
            popen.kill()
            popen.communicate()
        assert popen.returncode == 0, process.log


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    """`python -m projects_wsgi` over a fresh file."""
    with running_server("--quiet", cwd=tmp_path) as process:
        yield process
