"""Behind pgbouncer, which lends its connections for one transaction at a time to whoever comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import webtest

from projects_wsgi import make_app, transfer
from projects_wsgi.storage import open_store

from ..support.cluster import Cluster
from ..support.differences import judge
from ..support.pgbouncer import SIZE, running_pgbouncer
from ..support.replay import RECORDED, read_steps, send_to_app
from ..test_transfer import project
from .conftest import ROLE
from .test_concurrency import verify, work

FIXED = next(file for file in RECORDED if file.stem == "fixed")


@pytest.fixture
def pooled_url(cluster: Cluster, url: str) -> Iterator[str]:
    """The URL of a fresh database, through pgbouncer."""
    with running_pgbouncer(cluster, ROLE) as port:
        yield url.replace(str(cluster.port), str(port))


@pytest.fixture
def others(pooled_url: str) -> Iterator[None]:
    """Two other programs, which have prepared statements of one name, on each of the pool's connections."""
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(closing(psycopg.connect(pooled_url, prepare_threshold=0)))
            for _ in range(SIZE)
        ]
        for number, program in enumerate(programs):
            program.execute(f"SELECT {number}")  # in a transaction, so that each has a connection of its own
            names = program.execute("SELECT name FROM pg_prepared_statements").fetchall()
            assert ("_pg3_0",) in names
        for program in programs:
            program.commit()
        yield


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
@pytest.mark.usefixtures("others")
def test_every_recorded_answer_is_the_same(pooled_url: str) -> None:
    app = make_app(pooled_url)
    with closing(app.store):
        judge(send_to_app(webtest.TestApp(app)), read_steps(FIXED))


@pytest.mark.usefixtures("others")
def test_threads_of_several_processes_work_on_few_connections(pooled_url: str, tmp_path: Path) -> None:
    with closing(open_store(pooled_url)) as store:
        verify(store, work(pooled_url, 2, 4, tmp_path, seconds=4), 8)


def test_who_only_reads_leaves_those_who_write_alone(pooled_url: str) -> None:
    with closing(open_store(pooled_url)) as store, closing(open_store(pooled_url, read_only=True)) as reader:
        for number in range(10):
            store.create(str(number))
            assert reader.get(str(number)).name == str(number)


@pytest.mark.usefixtures("others")
def test_projects_move_in_and_out(pooled_url: str) -> None:
    projects = [project(it, str(it), "x" * 1_000) for it in range(2, 3_002)]
    with closing(open_store(pooled_url)) as store:
        assert transfer.import_projects(store, projects).made == 3_000
        assert [it.id for it in transfer.export_projects(store)] == [*range(1, 3_002)]
        assert store.create("next").id == 3_002
