"""Behind pgbouncer, which lends its connections for one transaction at a time to whoever comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import webtest

from projects_wsgi import make_app
from projects_wsgi.storage import open_store

from ..support.cluster import Cluster
from ..support.differences import judge
from ..support.pgbouncer import running_pgbouncer
from ..support.replay import RECORDED, read_steps, send_to_app
from .conftest import ROLE
from .test_concurrency import verify, work

FIXED = next(file for file in RECORDED if file.stem == "fixed")


@pytest.fixture
def pooled_url(cluster: Cluster, url: str) -> Iterator[str]:
    """The URL of a fresh database, through pgbouncer."""
    with running_pgbouncer(cluster, ROLE) as port:
        yield url.replace(str(cluster.port), str(port))


class Preparer(threading.Thread):
    """Another program, which prepares its statements under the names that psycopg gives them.

    prepared: how often it did; it is often told that it cannot, and sometimes answered by another statement.
    """

    def __init__(self, url: str, table: str) -> None:
        super().__init__()
        self.url = url
        self.table = table
        self.prepared = 0
        self.has_ended = threading.Event()

    def run(self) -> None:
        while not self.has_ended.is_set():
            with contextlib.suppress(psycopg.Error), closing(
                psycopg.connect(self.url, autocommit=True, prepare_threshold=0)
            ) as connection:
                for number in range(10):
                    connection.execute(f"INSERT INTO {self.table} VALUES (%s)", (number,))
                    self.prepared += 1


@contextlib.contextmanager
def others(url: str) -> Iterator[None]:
    """Run two programs that prepare statements on the same connections."""
    preparers = [Preparer(url, table) for table in ("theirs", "also_theirs")]
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        for preparer in preparers:
            connection.execute(f"CREATE TABLE {preparer.table} (number integer)")
    for preparer in preparers:
        preparer.start()
    try:
        yield
    finally:
        for preparer in preparers:
            preparer.has_ended.set()
        for preparer in preparers:
            preparer.join()
    assert min(preparer.prepared for preparer in preparers) > 0


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_every_recorded_answer_is_the_same(pooled_url: str) -> None:
    app = make_app(pooled_url)
    with closing(app.store), others(pooled_url):
        judge(send_to_app(webtest.TestApp(app)), read_steps(FIXED))


def test_threads_of_several_processes_work_unharmed_by_what_others_prepare(
    pooled_url: str, tmp_path: Path
) -> None:
    with closing(open_store(pooled_url)) as store, others(pooled_url):
        verify(store, work(pooled_url, 2, 4, tmp_path, seconds=4), 8)


def test_who_only_reads_leaves_those_who_write_alone(pooled_url: str) -> None:
    with closing(open_store(pooled_url)) as store, closing(open_store(pooled_url, read_only=True)) as reader:
        for number in range(10):
            store.create(str(number))
            assert reader.get(str(number)).name == str(number)
