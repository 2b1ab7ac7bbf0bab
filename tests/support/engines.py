"""A plugin of pytest: runs the tests that depend on no engine on the one that `--engine` says.

It also watches that no test shows the password of a database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from .cluster import PASSWORD, Cluster, running_cluster
from .databases import Database, SQLiteDatabase, connect_to_postgres, fresh_schema

# Takes the folder for a file; None: nothing but its store needs it, so that memory will do.
NewDatabase = Callable[[Optional[Path]], AbstractContextManager[Database]]

TESTS_OF_POSTGRES = Path(__file__).parents[1] / "postgres"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=["sqlite", "postgres"],
        default="sqlite",
        help="what the projects of tests are kept in; postgres: only tests to which that matters are run",
    )


def _is_on_postgres(config: pytest.Config) -> bool:
    return bool(config.getoption("--engine") == "postgres")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path == TESTS_OF_POSTGRES and not _is_on_postgres(config) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_database" in metafunc.fixturenames:
        places = ["schema"] if _is_on_postgres(metafunc.config) else ["file", "memory"]
        metafunc.parametrize("any_database", places, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _is_on_postgres(config):
        others = [item for item in items if not _matters_to_postgres(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _matters_to_postgres(item)]


def _matters_to_postgres(item: pytest.Item) -> bool:
    return "new_database" in getattr(item, "fixturenames", ()) or TESTS_OF_POSTGRES in item.path.parents


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test if what it wrote, logged or raised holds the password."""
    report = yield
    # Those of earlier steps are in it too.
    texts = [text for title, text in report.sections if title.endswith(report.when or "")]
    if any(PASSWORD in text for text in (report.longreprtext, *texts)):
        report.outcome = "failed"
        report.longrepr = f"the password of the database was shown\n\n{report.longreprtext}"
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL server of this session."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest) -> Iterator[NewDatabase]:
    """What makes a fresh database, in the engine that is tested."""
    if _is_on_postgres(request.config):
        cluster: Cluster = request.getfixturevalue("cluster")
        with contextlib.closing(connect_to_postgres(cluster.url())) as connection:
            yield lambda _: fresh_schema(cluster, connection)
    else:
        yield lambda folder: contextlib.nullcontext(
            SQLiteDatabase(":memory:" if folder is None else folder / "projects.db")
        )


@pytest.fixture
def database(new_database: NewDatabase, tmp_path: Path) -> Iterator[Database]:
    """A fresh database that others can get at as well."""
    with new_database(tmp_path) as database:
        yield database


@pytest.fixture
def any_database(
    request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path: Path
) -> Iterator[Database]:
    """A fresh database, of each kind that the engine has."""
    place: Any = request.param
    with new_database(None if place == "memory" else tmp_path) as database:
        yield database
