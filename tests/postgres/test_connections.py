"""How many connections a store has, and for what."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from projects_wsgi import StoreBusy
from projects_wsgi.storage.pool import Loan

from ..support.databases import Database, names


@pytest.mark.parametrize(("max_connections", "third"), [(1, 0), (2, 0), (3, 1), (10, 3)])
def test_a_third_of_the_connections_is_for_searches_alone_and_another_for_other_reads(
    database: Database, max_connections: int, third: int
) -> None:
    options = {"max_connections": max_connections, "busy_timeout": 0.2}
    with closing(database.open_store(**options)) as store, ExitStack() as held:
        for _ in range(max_connections - 2 * third):
            held.enter_context(Loan(store._writers, 1.0))
        with pytest.raises(StoreBusy, match="other threads"):
            store.create("agent")
        if third:
            assert store.get("default").id == 1
        for _ in range(third):
            held.enter_context(Loan(store._readers, 1.0))
        with pytest.raises(StoreBusy, match="other threads"):
            store.get("default")
        if third:
            assert store.list_rows(name_contains="x") == []
        for _ in range(third):
            held.enter_context(Loan(store._searchers, 1.0))
        with pytest.raises(StoreBusy, match="other threads"):
            store.list_rows(name_contains="x")


def test_reads_go_on_while_any_number_of_writes_wait_for_a_lock(database: Database) -> None:
    with (
        closing(database.open_store()) as store,
        database.connect() as connection,
        ThreadPoolExecutor(12) as threads,
    ):
        store.create("agent")
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE projects IN EXCLUSIVE MODE")
        writes = [threads.submit(store.update, "agent", "x") for _ in range(12)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while connection.execute(waiting).fetchone() != (len(store._writers.places),):
            time.sleep(0.01)
        began = time.monotonic()
        store.ping()
        assert store.get("agent").description is None
        assert names(store) == names(store, name_contains="a") == ["agent", "default"]
        assert time.monotonic() - began < 3
        connection.execute("COMMIT")
        assert {write.result().description for write in writes} == {"x"}


def test_a_store_opens_no_connection_before_it_needs_one(database: Database) -> None:
    with closing(database.open_store()), database.connect() as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'projects_wsgi'"
        assert connection.execute(others).fetchone() == (0,)


def test_a_connection_that_is_closed_is_replaced_whatever_has_its_descriptor_now(database: Database) -> None:
    with closing(database.open_store(max_connections=1)) as store, ExitStack() as others:
        store.create("agent")
        store._writers._connections[0].close()
        for end in (end for _ in range(5) for end in socket.socketpair()):
            others.enter_context(end)
        assert store.create("other").name == "other"
