from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from hypothesis import HealthCheck, settings

from projects_wsgi import ProjectsApp, SQLiteStore, Store

from .support.databases import Database
from .support.process import Process, running_server

pytest_plugins = ["tests.support.engines"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell has its background jobs ignore it, and whatever they start with them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def store(any_database: Database) -> Iterator[Store]:
    """A fresh store of each kind."""
    with closing(any_database.open_store()) as store:
        yield store


@pytest.fixture
def shared_store(database: Database) -> Iterator[Store]:
    """A fresh store in a database that others can get at as well."""
    with closing(database.open_store()) as store:
        yield store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a database file may be made."""
    return tmp_path / "projects.db"


@pytest.fixture
def file_store(file: Path) -> Iterator[SQLiteStore]:
    """A fresh store in that file."""
    with closing(SQLiteStore(file)) as store:
        yield store


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
def projects_app(database: Database) -> Iterator[ProjectsApp]:
    """The application over a fresh database."""
    app = database.make_app()
    with closing(app.store):
        yield app


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


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[Process]:
    """`python -m projects_wsgi` over a fresh database."""
    with running_server("--quiet", *database.arguments, cwd=tmp_path) as process:
        yield process
