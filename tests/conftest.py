from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import webtest

from projects_wsgi import ProjectsApp, SQLiteStore, Store, make_app


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


class Process(NamedTuple):
    """A server that runs as a process of its own."""

    popen: subprocess.Popen[str]
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def start_server(*arguments: str, cwd: Path, **environ: str) -> Process:
    """Start `python -m projects_wsgi` on a free port; return when it says that it serves."""
    root = Path(__file__).parent.parent
    popen = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "projects_wsgi", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(root), **environ},
        text=True,
    )
    assert popen.stdout is not None
    line = popen.stdout.readline()
    match = re.search(r"http://(\S+):(\d+)", line)
    assert match is not None, f"the server said {line!r}"
    return Process(popen, match[1], int(match[2]))


def stop_server(process: Process) -> int:
    """Stop a server as a service manager would; return its exit status."""
    process.popen.send_signal(signal.SIGTERM)
    process.popen.communicate(timeout=10)
    return process.popen.returncode


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    """`python -m projects_wsgi` over a fresh file."""
    process = start_server("--quiet", cwd=tmp_path)
    yield process
    assert stop_server(process) == 0
