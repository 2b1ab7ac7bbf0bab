"""Connections are lent in order, come back whatever happens, and never cross a fork."""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Callable, NoReturn

import pytest

from projects_wsgi import SQLiteStore, Store, StoreBusy, StoreUnavailable
from projects_wsgi.storage import pool
from projects_wsgi.storage.sqlite.database import Database

from .support.databases import connect, names
from .support.process import environment


class TimeLimit(BaseException):
    """What a host's signal handler raises."""


@contextmanager
def running(*works: Callable[[], object]) -> Iterator[None]:
    """Run functions in threads beside the block; wait for them at its end."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


@contextmanager
def single_writer(store: Store) -> Iterator[None]:
    """Leave one connection to all who write, as SQLite does by itself."""
    with ExitStack() as held:
        for _ in store._writers.places[1:]:
            held.enter_context(pool.Loan(store._writers, 1.0))
        yield


def exhausted(*_: object) -> NoReturn:
    raise MemoryError


def wait_for_queue(lender: pool.Pool, length: int) -> None:
    """Wait until so many wait for a connection."""
    while len(lender._waiting) < length:
        time.sleep(0.001)


def is_idle(store: Store) -> bool:
    """Tell whether nothing of a store is lent and nobody waits."""
    pools = (store._readers, store._writers)
    return not any(each._holders or each._waiting for each in pools)


def test_a_connection_that_no_memory_is_left_to_reset_is_closed_and_locks_nobody_out(
    file: Path, file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Database, "reset", exhausted)
        patch.setattr(file_store, "_set_description", exhausted)
        with pytest.raises(MemoryError):
            file_store.update("default", "x")
    with connect(file) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    assert file_store.update("default", "y").description == "y"


# Whatever ends a wait


@pytest.mark.parametrize("error", [TimeLimit, KeyboardInterrupt, MemoryError])
def test_who_is_broken_off_while_waiting_keeps_nobody_from_writing(
    store: Store, error: type[BaseException]
) -> None:
    def interrupt(signal_: int, frame: FrameType | None) -> None:
        raise error

    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with store._writing() as session:
            store._begin(session, 0)
            is_held.set()
            may_end.wait()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with single_writer(store), running(hold):
            is_held.wait()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(error):
                store.create("interrupted")
            assert not store._writers._waiting
            may_end.set()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert store.create("after").name == "after"
    assert is_idle(store)


@pytest.mark.parametrize("is_still_queued", [True, False])
def test_who_was_given_a_connection_by_somebody_broken_off_before_telling_has_it(
    file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, is_still_queued: bool
) -> None:
    monkeypatch.setattr(Database, "turn", 60.0)  # so that nobody else is given one meanwhile
    readers = file_store._readers
    still_waiting: list[pool.Loan] = []

    def read() -> None:
        with file_store._reading() as session:
            session.execute("SELECT 1")
            still_waiting.extend(readers._waiting)

    with file_store._reading(), running(read):
        wait_for_queue(readers, 1)
        with readers._lock:
            readers._turn_ends = 0.0
            assert readers._lend(readers._waiting[0])
            if not is_still_queued:
                readers._waiting.popleft()
    assert still_waiting == []
    assert is_idle(file_store)


@pytest.mark.skipif(
    sys.version_info < (3, 10), reason="Python 3.9 may leave a with block without releasing its lock"
)
def test_no_moment_at_which_an_exception_comes_leaves_anything_lent_or_begun(store: Store) -> None:
    # Another thread writes as well, so that the main thread sometimes waits and is handed over to.
    done = threading.Event()
    is_armed = False

    def write() -> None:
        while not done.is_set():
            store.update("default", "by the other")

    def interrupt(signal_: int, frame: FrameType | None) -> None:
        if is_armed:
            raise TimeLimit

    before = signal.signal(signal.SIGALRM, interrupt)
    deadline = time.monotonic() + 1.5
    interrupted = turns = 0
    with running(write):
        try:
            while time.monotonic() < deadline:
                turns += 1
                try:
                    is_armed = True
                    # After up to about as long as both take, a little later each time.
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + turns % 97 * 3e-6)
                    store.update("default", "by me")
                    store.get("default")
                    is_armed = False
                except TimeLimit:
                    is_armed = False
                    interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            done.set()
    signal.signal(signal.SIGALRM, before)
    assert interrupted > 50
    gc.collect()
    assert store.update("default", "at last").description == "at last"
    for each in (store._readers, store._writers):
        each._hand_over()
        assert not any(mark() is not None for mark in each._holders.values())
    with ExitStack() as held:  # all that there are can still be lent
        for _ in store._readers.places:
            held.enter_context(store._reading())


def test_a_connection_with_a_transaction_left_open_is_cleaned_before_it_is_lent_again(store: Store) -> None:
    with contextlib.suppress(ZeroDivisionError), store._reading() as session:
        session.execute("BEGIN")
        raise ZeroDivisionError
    assert store.create("agent").name == "agent"


def test_a_loan_that_dies_without_being_given_back_is_taken_back(file: Path) -> None:
    with closing(SQLiteStore(file, busy_timeout=1)) as store:
        session = pool.Loan(store._writers, 1.0).__enter__()
        session.execute("BEGIN IMMEDIATE")
        del session
        assert store.create("agent").id == 2


# In order


def test_those_who_wait_are_served_in_the_order_in_which_they_came(store: Store) -> None:
    order: list[int] = []

    def write(number: int) -> None:
        with store._writing() as session:
            store._begin(session, 0)
            order.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    with single_writer(store):
        with store._writing() as session:
            store._begin(session, 0)
            for number, thread in enumerate(threads, 1):
                thread.start()
                wait_for_queue(store._writers, number)
        for thread in threads:
            thread.join()
    assert order == list(range(8))


def test_another_reader_is_lent_when_the_last_has_been_out_for_a_turn(file_store: SQLiteStore) -> None:
    file_store.list_rows()
    waited = []

    def read() -> None:
        began = time.monotonic()
        file_store.get("default")
        waited.append(time.monotonic() - began)

    with file_store._reading(), running(read):
        pass
    with file_store._reading():
        time.sleep(0.02)
        with running(read):
            pass
    assert min(waited) < 0.1  # neither waits for the other to end
    with closing(SQLiteStore(file_store.path)) as store, store._reading():
        began = time.monotonic()
        store.get("default")
        assert time.monotonic() - began >= 0.004


def test_who_comes_after_a_turn_queues_behind_those_who_wait_for_its_end(
    file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "turn", 0.2)
    monkeypatch.setattr(pool, "_LOOK_SECONDS", 10.0)  # so that they wait for the reader to end
    order: list[str] = []

    def read(name: str) -> None:
        with file_store._reading():
            order.append(name)

    with ExitStack() as stack, file_store._reading():
        for number, name in enumerate(("the first", "the second"), 1):
            stack.enter_context(running(functools.partial(read, name)))
            wait_for_queue(file_store._readers, number)
            time.sleep(0.3)  # the turn is over
        assert order == []
    assert order == ["the first", "the second"]


def test_searches_leave_most_readers_to_others(file: Path) -> None:
    with closing(SQLiteStore(file, busy_timeout=0.2)) as store, ExitStack() as held:
        for _ in range(5):
            held.enter_context(pool.Loan(store._searchers, 1.0))
        with pytest.raises(StoreBusy, match="other threads have used"):
            store.list_rows(name_contains="x")
        assert names(store) == ["default"]
        assert store.get(1).name == "default"


def test_searches_that_wait_keep_nobody_else_waiting(file: Path) -> None:
    with closing(SQLiteStore(file, busy_timeout=5)) as store:

        def search() -> None:
            store.list_rows(name_contains="x")

        with ExitStack() as stack:
            held = stack.enter_context(ExitStack())
            for _ in range(5):
                held.enter_context(pool.Loan(store._searchers, 1.0))
            stack.enter_context(running(*[search] * 8))
            stack.callback(held.close)
            wait_for_queue(store._searchers, 8)
            began = time.monotonic()
            store.get("default")
            assert time.monotonic() - began < 3


@pytest.mark.parametrize("text", ["no such text", "x" * 40])
def test_reads_are_quick_while_many_clients_search(file: Path, text: str) -> None:
    with closing(SQLiteStore(file, busy_timeout=25)) as store:
        with connect(file) as connection:
            connection.execute("BEGIN")
            rows = ((f"{'x' * 30} {number}", f"{'x' * 30} {number}") for number in range(20_000))
            connection.executemany(
                "INSERT INTO projects (name, folded_name, kind, created_at, updated_at)"
                " VALUES (?, ?, 'standard', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z')",
                rows,
            )
            connection.execute("COMMIT")
        done = threading.Event()
        seconds = []

        def search() -> None:
            while not done.is_set():
                assert store.list_rows(name_contains=text) == []

        with running(*[search] * 80):
            time.sleep(0.1)
            for number in range(30):
                began = time.monotonic()
                (lambda: store.get("default"), lambda: store.get(5), store.list_rows)[number % 3]()
                seconds.append(time.monotonic() - began)
            done.set()
        assert statistics.median(seconds) < 0.5  # a single one may have waited for the processor


def test_waiting_for_a_database_that_answers_at_once_does_not_burn_the_processor(file: Path) -> None:
    SQLiteStore(file).close()
    with connect(file) as other, closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as own:
        other.execute("BEGIN IMMEDIATE")
        session = pool.Session(Database(str(file)), own, time.monotonic() + 0.5)
        began = time.process_time()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            session.execute("BEGIN IMMEDIATE")
        assert time.process_time() - began < 0.25
        other.execute("ROLLBACK")


def test_a_statement_that_fails_is_executed_again_until_the_deadline_if_the_driver_says_so(
    file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def may_retry(driver: object, session: pool.Session, sql: str, error: Exception) -> bool:
        asked.append((session, sql, str(error)))
        return True

    monkeypatch.setattr(Database, "may_retry", may_retry)
    with pool.Loan(file_store._readers, 0.2) as session:
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError):
            session.execute("NOTHING")
        assert time.monotonic() - began >= 0.1
    assert len(asked) > 1
    assert set(asked) == {(session, "NOTHING", 'near "NOTHING": syntax error')}


def test_only_a_block_that_failed_is_undone(file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    undone = []
    reset = Database.reset

    def note(driver: Database, connection: sqlite3.Connection) -> None:
        undone.append(connection)
        reset(driver, connection)

    monkeypatch.setattr(Database, "reset", note)
    file_store.create("agent")
    assert names(file_store) == ["agent", "default"]
    assert undone == []
    with pytest.raises(ZeroDivisionError), file_store._writing() as session:
        raise ZeroDivisionError
    assert undone == [session.connection]


def test_a_connection_that_was_given_back_is_lent_again(file_store: SQLiteStore) -> None:
    connections = []
    for _ in range(2):
        with pool.Loan(file_store._writers, 1.0) as session:
            connections.append(session.connection)
    assert connections[0] is connections[1]


def test_a_connection_that_is_renewed_is_closed_and_the_new_one_is_kept(file_store: SQLiteStore) -> None:
    with pool.Loan(file_store._writers, 1.0) as session:
        lost = session.connection
        session.renew()
        assert session.is_renewed
        renewed = session.connection
        assert names(file_store) == ["default"]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        lost.execute("SELECT 1")
    with pool.Loan(file_store._writers, 1.0) as session:
        assert session.connection is renewed
        assert not session.is_renewed


def test_a_connection_that_could_not_be_renewed_is_made_by_who_comes_next(
    file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(file_store._writers.driver), "connect", exhausted)
        with pytest.raises(MemoryError), pool.Loan(file_store._writers, 1.0) as session:
            session.renew()
    assert file_store.create("agent").name == "agent"


# Closing


def test_who_waits_for_a_store_that_is_closed_is_told_at_once(store: Store) -> None:
    errors: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(StoreUnavailable, match="^the store is closed$") as caught:
            store.create("agent")
        errors.append(caught.value)

    with single_writer(store), store._writing() as session, running(wait):
        store._begin(session, 0)
        wait_for_queue(store._writers, 1)
        store.close()
    assert len(errors) == 1


@pytest.mark.parametrize("database", ["projects.db", ":memory:"])
def test_a_dropped_store_closes_its_connections_at_once_and_silently(tmp_path: Path, database: str) -> None:
    program = """
import gc, os, sys, weakref
gc.disable()
seen = []
sys.unraisablehook = lambda unraisable: seen.append(unraisable.exc_value)
from projects_wsgi import SQLiteStore
store = SQLiteStore(sys.argv[1])
store.create("agent")
store.list_rows()
with store._reading() as session:
    connection = session.connection
del session, store
try:
    connection.execute("SELECT 1")
except Exception as error:
    print(error, os.listdir("."), seen)
"""
    line = [sys.executable, "-W", "error", "-c", program, database]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    left = [] if database == ":memory:" else ["projects.db"]
    assert (result.stdout, result.stderr) == (f"Cannot operate on a closed database. {left} []\n", "")


def test_ten_thousand_stores_leave_no_memory_and_no_hooks(file: Path) -> None:
    SQLiteStore(file).close()

    def open_and_close(count: int) -> None:
        for number in range(count):
            with closing(SQLiteStore(":memory:")) as store:
                if number % 10 == 0:
                    store.ping()

    open_and_close(100)
    gc.collect()
    pools = len(pool._pools)  # other tests may have left some
    tracemalloc.start()
    try:
        open_and_close(10)
        before, _ = tracemalloc.get_traced_memory()
        open_and_close(10_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000
    gc.collect()
    assert len(pool._pools) <= pools
    assert pool._hook_into_forks.cache_info().misses == 1
