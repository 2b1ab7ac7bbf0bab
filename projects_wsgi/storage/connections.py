"""SQLite's connections: opened alike, lent to one thread at a time, never carried across a fork."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Callable
from urllib.parse import quote

from ..model import StoreBusy, StoreError, StoreFull, StoreUnavailable

MEMORY = ":memory:"

# Takes a file for one that nobody changes, and so needs neither locks nor memory shared with others.
IMMUTABLE = "ro&immutable=1"

# Opens a connection, waiting for others until a deadline by time.monotonic().
Connect = Callable[[float], sqlite3.Connection]

# More readers at a time would not be faster, and each holds three file descriptors.
_MAX_READERS = 15

# SQLite looks for a lock again after 1, 2 and 5 ms, then ever more seldom: among many writers it would
# come too late for seconds. So it gives up after this time, and execute_patiently begins anew.
_SQLITE_PATIENCE_SECONDS = 0.004

# How long a fork waits for a transaction: longer than any lasts on a disk that answers, because a
# child that inherits one could never write.
_WRITE_PATIENCE_SECONDS = 60.0

_BUSY = ("database is locked", "database table is locked", "database schema is locked", "locking protocol")


def connect(
    path: str,
    deadline: float,
    *,
    mode: str = "rw",
    is_exclusive: bool = False,
    synchronous: str | None = None,
) -> sqlite3.Connection:
    """Return a new connection, in autocommit, with foreign keys on; any thread may use it.

    path: absolute, or ":memory:". deadline: until when it waits for others, by time.monotonic().
    mode: "rw"; "rwc", which makes a missing file; "ro"; or IMMUTABLE.
    is_exclusive: whether it keeps all others out, and so needs no memory shared with them.
    synchronous: "FULL" or "NORMAL"; None for a connection that does not write.
    Raises sqlite3.Error.
    """
    database = path
    if path != MEMORY:
        database = f"file:{quote(os.fsencode(path.replace(os.sep, '/')))}?mode={mode}"
    connection = sqlite3.connect(
        database,
        timeout=_SQLITE_PATIENCE_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=path != MEMORY,
    )
    try:
        if is_exclusive:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if synchronous is not None:
            # This reads the schema, and so may meet somebody who writes.
            execute_patiently(connection, deadline, f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def execute_patiently(
    connection: sqlite3.Connection, deadline: float, sql: str, parameters: Sequence[Any] = ()
) -> sqlite3.Cursor:
    """Execute a statement; while others stand in its way, try again until the deadline.

    deadline: by time.monotonic(). Raises sqlite3.Error.
    """
    while True:
        try:
            return connection.execute(sql, parameters)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(0.001)  # in some cases SQLite does not wait at all


@contextlib.contextmanager
def immediate_transaction(connection: sqlite3.Connection, deadline: float) -> Iterator[None]:
    """Run the block inside a transaction that writes from its start; its errors undo it."""
    execute_patiently(connection, deadline, "BEGIN IMMEDIATE")
    try:
        yield
        # Without a write-ahead log, this waits for those who read.
        execute_patiently(connection, deadline, "COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class Pool:
    """At most size connections, each lent to one thread at a time: to whoever has waited longest.

    connect: opens one, given a deadline. size: connections, > 0. when_busy: what StoreBusy says.

    Without a lock: deques' own methods are atomic. Whoever gives back looks for one who waits, and
    whoever begins to wait looks for what was given back, so that neither misses the other.
    """

    def __init__(self, connect: Connect, size: int, when_busy: str) -> None:
        self._connect = connect
        self._size = size
        self._when_busy = when_busy
        self._is_closed = False
        self._paused = 0
        # Those that nobody uses, on the right those used last; None stands for one not yet opened.
        self._free: deque[sqlite3.Connection | None] = deque([None] * size)
        self._waiting: deque[SimpleQueue[sqlite3.Connection | None]] = deque()

    def acquire(self, deadline: float) -> sqlite3.Connection:
        """Lend a connection. Raises StoreBusy when none is free until the deadline."""
        connection = self._take(deadline)
        try:
            if self._is_closed:
                raise _closed()
            return self._connect(deadline) if connection is None else connection
        except BaseException:
            self.release(connection)
            raise

    def release(self, connection: sqlite3.Connection | None) -> None:
        """Take a connection back."""
        if connection is None or self._is_closed:
            self._dispose(connection)
            self._free.appendleft(None)
        else:
            self._free.append(connection)
        if self._waiting:
            self._hand_over()

    def pause(self, deadline: float) -> None:
        """Wait until no connection is in use, let none be, and close them.

        What is still in use at the deadline is let be: a fork must not wait for ever.
        """
        with contextlib.suppress(StoreBusy):
            while self._paused < self._size:
                self._dispose(self._take(deadline))
                self._paused += 1

    def resume(self) -> None:
        """Lend connections again."""
        while self._paused:
            self._paused -= 1
            self.release(None)

    def close(self) -> None:
        """Close all connections: those in use when they come back."""
        self._is_closed = True
        for _ in range(self._size):
            with contextlib.suppress(IndexError):
                self.release(self._free.pop())

    def _take(self, deadline: float) -> sqlite3.Connection | None:
        if not self._waiting:
            try:  # contextlib.suppress would cost more than all the rest
                return self._free.pop()
            except IndexError:
                pass
        mine: SimpleQueue[sqlite3.Connection | None] = SimpleQueue()
        self._waiting.append(mine)
        self._hand_over()
        try:
            return mine.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            try:
                self._waiting.remove(mine)
            except ValueError:  # one was handed over at the last moment
                return mine.get()
            raise StoreBusy(self._when_busy) from None

    def _hand_over(self) -> None:
        while self._waiting:
            try:
                connection = self._free.pop()
            except IndexError:
                return
            try:
                self._waiting.popleft().put(connection)
            except IndexError:  # nobody waits any more
                self._free.append(connection)

    def _dispose(self, connection: sqlite3.Connection | None) -> None:
        if connection is not None:
            connection.close()


class _MemoryPool(Pool):
    """The one connection that a database in memory is; closing it ends the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(lambda _: connection, 1, "other threads have used the database for too long")
        self._free = deque([connection])

    def _dispose(self, connection: sqlite3.Connection | None) -> None:
        if self._is_closed:
            super()._dispose(connection)


class _Pools:
    """The connections of one process: its writer and its readers, which may be one."""

    def __init__(self, writer: Pool, readers: Pool) -> None:
        self.pid = os.getpid()
        self.writer = writer
        self.readers = readers
        self.all = [writer] if writer is readers else [writer, readers]
        self.fork_lock = threading.Lock()  # two threads may fork at once: one after the other


class Connections:
    """The connections to one database, in whichever process this is.

    make_pools: makes those of a process. read_patience: seconds that a fork waits for those who read.

    No connection may cross a fork: with one open, SQLite in the child would take the parent's file
    locks for its own, and when the parent then ends, it would remove the write-ahead log under the
    child's feet. So they are closed before a fork, whichever thread forks.
    """

    def __init__(self, make_pools: Callable[[], _Pools], read_patience: float) -> None:
        self._make_pools = make_pools
        self._read_patience = read_patience
        self._pools = make_pools()
        self._inherited: list[_Pools] = []
        self._is_closed = False
        self._close_before_forks()

    @classmethod
    def to_file(
        cls,
        connect_writer: Connect,
        connect_reader: Connect | None,
        read_patience: float,
    ) -> Connections:
        """Return those to a file: those who write come one at a time, and those who read don't wait.

        connect_reader: None where the file's readers and writers lock each other out: then all of a
        process queue for one connection, or the readers would be too late for every gap between writers.
        """

        def make_pools() -> _Pools:
            writer = Pool(
                connect_writer, 1, "another thread has been writing for longer than the busy timeout"
            )
            if connect_reader is None:
                return _Pools(writer, writer)
            when_busy = "all connections have been in use for longer than the busy timeout"
            return _Pools(writer, Pool(connect_reader, _MAX_READERS, when_busy))

        return cls(make_pools, read_patience)

    @classmethod
    def to_memory(cls, connection: sqlite3.Connection, read_patience: float) -> Connections:
        """Return the one to a database in memory, of which a child has its own copy after a fork."""

        def make_pools() -> _Pools:
            pool = _MemoryPool(connection)
            return _Pools(pool, pool)

        return cls(make_pools, read_patience)

    @property
    def writer(self) -> Pool:
        """The pool of the one connection that writes. Raises StoreUnavailable after close()."""
        return self._own().writer

    @property
    def readers(self) -> Pool:
        """The pool of those that read. Raises StoreUnavailable after close()."""
        return self._own().readers

    def close(self) -> None:
        """Close them all, for good."""
        if not self._is_closed:
            pools = self._own()
            self._is_closed = True
            for pool in pools.all:
                pool.close()

    def _own(self) -> _Pools:
        """Return this process's pools.

        Those of a parent that forked behind Python's back are kept referenced and never closed:
        that would drop the locks that SQLite counts by process.
        """
        if self._is_closed:
            raise _closed()
        pools = self._pools
        if pools.pid != os.getpid():
            self._inherited.append(pools)
            self._pools = pools = self._make_pools()
        return pools

    def _close_before_forks(self) -> None:
        # The interpreter keeps hooks for good: all that they hold is a weak reference.
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)
            os.register_at_fork(
                before=lambda: _call_alive(reference, Connections._pause),
                after_in_parent=lambda: _call_alive(reference, Connections._resume),
            )

    def _pause(self) -> None:
        pools = self._own()
        pools.fork_lock.acquire()
        pools.writer.pause(time.monotonic() + _WRITE_PATIENCE_SECONDS)
        if pools.readers is not pools.writer:
            pools.readers.pause(time.monotonic() + self._read_patience)

    def _resume(self) -> None:
        pools = self._own()
        for pool in pools.all:
            pool.resume()
        pools.fork_lock.release()


def _call_alive(reference: weakref.ref[Connections], act: Callable[[Connections], None]) -> None:
    connections = reference()
    if connections is not None and not connections._is_closed:
        act(connections)


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the store is closed")


# What goes wrong


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether others stood in a statement's way."""
    # By its text, because sqlite3 shows SQLite's result code only from Python 3.11 on.
    return str(error).startswith(_BUSY)


def translated(error: sqlite3.Error, path: str) -> StoreError:
    """Return the model's error for one of SQLite's, saying what can be done."""
    if is_busy(error):
        return StoreBusy(f"the database {path} has been locked by others for too long; try again later")
    if "is full" in str(error):
        return StoreFull(
            f"there is no room left to write to the database {path};"
            " delete projects, make room on its disk, or raise max_database_size"
        )
    return StoreUnavailable(f"cannot use the database {path}: {diagnosis(path) or error}")


def diagnosis(path: str) -> str:
    """Say why a file cannot be opened, read or written, where SQLite says only that it cannot."""
    folder = os.path.dirname(path)
    if path == MEMORY:
        return ""
    if os.path.isdir(path):
        return "it is a folder; name a file"
    if not os.path.isdir(folder):
        return f"there is no folder {folder}; make it first"
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        return "the file is not readable and writable; change its permissions or choose another file"
    if not os.access(folder, os.W_OK | os.X_OK):  # where SQLite keeps its log as well
        return f"the folder {folder} is not writable; change its permissions or choose another file"
    return "" if os.path.exists(path) else "there is no such file"
