"""What is set in a PostgreSQL server and what others do to it is not noticed, or costs a clear 503."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import webtest

from projects_wsgi import ProjectsApp, make_app
from projects_wsgi.storage import open_store

from ..promises.test_fork import run_script
from ..support.process import start_together
from .conftest import ROLE
from .test_concurrency import gunicorn, verify, work
from .worker import sending_to_app

BUSY_TIMEOUT = 0.5


@pytest.fixture
def app(url: str) -> Iterator[ProjectsApp]:
    app = make_app(url, busy_timeout=BUSY_TIMEOUT)
    with closing(app.store):
        yield app


# Settings


def test_threads_in_serializable_transactions_notice_no_conflict(
    url: str, admin: Any, tmp_path: Path
) -> None:
    admin.execute(f"ALTER DATABASE {admin.info.dbname} SET default_transaction_isolation = serializable")
    with closing(open_store(url)) as store:
        verify(store, work(url, 1, 8, tmp_path, seconds=3), 8)


def test_a_database_that_becomes_read_only_is_unavailable_for_changes(app: ProjectsApp, admin: Any) -> None:
    with sending_to_app(app) as send:
        agent = send("POST", "/v1/projects", {"name": "agent"})[1]["data"]
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET default_transaction_read_only = on")
        disconnect(admin)
        for method, path in (("POST", ""), ("PUT", "/agent"), ("DELETE", "/agent")):
            status, answer = send(method, f"/v1/projects{path}", {"name": "second", "description": "new"})
            assert (status, "Nothing was changed" in answer) == (503, True)
        assert send("GET", "/v1/projects/agent", None) == (200, {"data": agent})
        admin.execute("SET default_transaction_read_only = off")
        admin.execute(f"ALTER DATABASE {admin.info.dbname} RESET default_transaction_read_only")
        assert send("POST", "/v1/projects", {"name": "second"})[0] == 200


def disconnect(admin: Any) -> None:
    """End all other connections to the database; return when they are gone."""
    admin.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


# Too many connections


@contextlib.contextmanager
def holding_all_connections(url: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(closing(psycopg.connect(url)))
        yield


@pytest.mark.parametrize(
    "limit",
    [
        f"ALTER ROLE {ROLE} CONNECTION LIMIT 2",
        "ALTER DATABASE {0.dbname} CONNECTION LIMIT 3",
        "SELECT 'the server has a limit anyway'",
    ],
    ids=["role", "database", "server"],
)
def test_others_that_hold_all_connections_cost_a_call_the_busy_timeout(
    limit: str, app: ProjectsApp, url: str, admin: Any
) -> None:
    client = webtest.TestApp(app)
    admin.execute(limit.format(admin.info))
    try:
        with holding_all_connections(url):
            for request in (client.get, client.post_json):
                began = time.monotonic()
                response = request("/v1/projects", {"name": "agent"}, status=503)
                assert BUSY_TIMEOUT <= time.monotonic() - began < BUSY_TIMEOUT + 2
                assert response.headers["Retry-After"] == "1"
        assert client.post_json("/v1/projects", {"name": "agent"}).status_int == 200
    finally:
        admin.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


# Processes


def test_gunicorns_preloaded_workers_share_one_database(url: str, tmp_path: Path) -> None:
    with gunicorn(tmp_path, url, "--preload", "--workers", "2", "--threads", "4") as target:
        results = work(target, 1, 8, tmp_path, seconds=3)
    with closing(open_store(url)) as store:
        verify(store, results, 8)


FORKS = """
import os, sys, threading, time, warnings
import psycopg
from projects_wsgi.storage import open_store
warnings.simplefilter("ignore")  # newer Pythons advise against this very thing
url = sys.argv[1]
store = open_store(url)
store.create("before")
store.list_rows(name_contains="before")
other = psycopg.connect(url, autocommit=True)
find = "SELECT pid FROM pg_stat_activity WHERE application_name = 'projects_wsgi' ORDER BY pid"
backends = other.execute(find).fetchall()
assert len(backends) == 2, backends

# While a change is waiting for another program's lock, and has its connection:
other.execute("BEGIN; LOCK TABLE projects IN EXCLUSIVE MODE")
thread = threading.Thread(target=store.create, args=("meanwhile",))
thread.start()
while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
    time.sleep(0.01)

children = []
longest = 0
for number in range(20):
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        assert store.get("before").id == 2
        store.create(f"child {number}")
        if number % 2:
            sys.exit()
        os._exit(0)
    longest = max(longest, time.monotonic() - began)
    children.append(child)
assert longest < 3, longest
other.execute("COMMIT")
thread.join()
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 20
assert set(backends) <= set(other.execute(find))
other.close()
store.create("after")
print(len(store.list_rows()), len(store.list_rows(name_contains="child")))
store.close()
"""


def test_children_of_a_process_with_open_connections_work_and_leave_them_open(
    url: str, tmp_path: Path
) -> None:
    assert run_script(FORKS, url, cwd=tmp_path) == f"{1 + 3 + 20} 20"


START = """
import sys
from projects_wsgi.storage import open_store
print("ready", flush=True)
sys.stdin.readline()
for schema in sys.argv[3:]:
    store = open_store(sys.argv[1], schema=schema)
    store.create("process " + sys.argv[2])
    store.close()
"""


def test_processes_that_start_at_once_on_an_empty_database_make_one_table(
    url: str, admin: Any, tmp_path: Path
) -> None:
    schemas = ["public", *(f"schema {number}" for number in range(5))]
    commands = [["-c", START, url, str(number), *schemas] for number in range(8)]
    processes = start_together(commands, tmp_path)
    assert [process.communicate(timeout=60)[0] for process in processes] == [""] * 8
    assert [process.returncode for process in processes] == [0] * 8
    for schema in schemas:
        with closing(open_store(url, schema=schema)) as store:
            names = sorted(row[1] for row in store.list_rows())
        assert names == ["default", *(f"process {number}" for number in range(8))]
    tables = admin.execute("SELECT count(*) FROM pg_class WHERE relname = 'projects'").fetchone()
    assert tables == (len(schemas),)
