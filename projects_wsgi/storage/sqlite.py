"""The embedded engine: one SQLite file, or a database in memory."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Callable

from ..model import (
    DEFAULT_PROJECT_ID,
    PLAYGROUND_PROJECT_NAME,
    ChangeForbidden,
    DefaultProjectProtected,
    Project,
    ProjectExists,
    ProjectKey,
    ProjectKind,
    ProjectNotFound,
    ProjectRow,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from . import Store

logger = logging.getLogger("projects_wsgi")

MEMORY = ":memory:"
MAX_ID = 2**63 - 1  # SQLite's largest rowid

# Connections of one process. More would not be faster, and each holds three file descriptors.
_MAX_CONNECTIONS = 16

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"

# _MIGRATIONS[n] turns a file of version n (PRAGMA user_version) into one of version n + 1.
_MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # AUTOINCREMENT: an id is never used twice. description is last, so that scans need not
        # step over it.
        """CREATE TABLE projects (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            folded_name TEXT NOT NULL,
            kind TEXT NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            description TEXT
        )""",
        # Default pages and searches stay cheap among any number of experiment projects.
        "CREATE INDEX projects_listed ON projects (id, folded_name) WHERE kind = 'standard'",
        f"""INSERT INTO projects (id, name, folded_name, kind, created_at, updated_at, description)
            VALUES (1, 'default', 'default', 'standard', {_NOW}, {_NOW}, 'Default project')""",
    ),
)
SCHEMA_VERSION = len(_MIGRATIONS)
_COLUMNS = {"id", "name", "folded_name", "kind", "created_at", "updated_at", "description"}

_SELECT = "SELECT id, name, description FROM projects"
_SELECT_BY_ID = f"{_SELECT} WHERE id = ?"
_SELECT_BY_NAME = f"{_SELECT} WHERE name = ?"
_INSERT = (
    "INSERT INTO projects (name, folded_name, kind, created_at, updated_at, description)"
    f" VALUES (?, ?, ?, {_NOW}, {_NOW}, ?)"
)
_UPDATE = f"UPDATE projects SET description = ?, updated_at = {_NOW} WHERE id = ?"
_DELETE = "DELETE FROM projects WHERE id = ?"


class SQLiteStore(Store):
    """Keeps projects in one SQLite file, safe from any thread and process.

    database: the file's path, made if missing (its folder must exist), or ":memory:".
    synchronous: "FULL" (the default: an answered write survives a power cut) or "NORMAL"
        (several times the writes a second; a power cut may lose the last of them, kill -9 none).
    busy_timeout: seconds, > 0, that a call waits for a connection, for this process's writers
        and for those of others, each, before it raises StoreBusy.
    Raises StoreUnavailable when the file cannot be opened, is not a database, holds another
    program's tables or was made by a newer version; the file is then left as it was.

    A host may keep tables of its own in the file; its user_version belongs to the store.
    A database in memory is one connection, so its calls run one at a time; it ends with close().
    """

    def __init__(
        self,
        database: str | os.PathLike[str],
        *,
        synchronous: str = "FULL",
        busy_timeout: float = 5.0,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f'synchronous must be "FULL" or "NORMAL", not {synchronous!r}')
        name = os.fspath(database)
        if not name:
            raise ValueError('database must be the path of a file or ":memory:"')
        # Absolute, because connections are opened later and the host may change its folder.
        self.path = name if name == MEMORY else os.path.abspath(name)
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._is_closed = False
        self._inherited: list[_Connections] = []
        connection = self._connect()
        try:
            self._prepare(connection)
        except sqlite3.Error as error:
            connection.close()
            raise self._translated(error) from error
        except BaseException:
            connection.close()
            raise
        self._connections: _Connections
        if self.path == MEMORY:
            self._connections = _MemoryConnection(connection)
        else:
            # Nothing stays open until the first call: a process that forks right after the
            # application was made (gunicorn --preload) hands no connection to its children.
            connection.close()
            self._connections = _Connections(self._connect, _MAX_CONNECTIONS)
        self._close_before_forks()

    # Reading: single statements, in autocommit.

    def list_rows(
        self,
        start_id: int | None = None,
        limit: int = 100,
        name_contains: str = "",
        kinds: Collection[ProjectKind] = (ProjectKind.STANDARD,),
    ) -> list[ProjectRow]:
        first_id = MAX_ID if start_id is None else max(-MAX_ID, min(start_id, MAX_ID))
        conditions = ["id <= ?"]
        parameters: list[Any] = [first_id]
        wanted = {ProjectKind(kind) for kind in kinds}
        if wanted == {ProjectKind.STANDARD}:
            # Written out, because SQLite takes a partial index only for its very condition.
            conditions.append("kind = 'standard'")
        elif len(wanted) < len(ProjectKind):
            conditions.append(f"kind IN ({', '.join('?' * len(wanted))})")
            parameters.extend(kind.value for kind in wanted)
        if name_contains:
            conditions.append("instr(folded_name, ?)")
            parameters.append(name_contains.casefold())
        parameters.append(min(limit, MAX_ID))
        where = " AND ".join(conditions)
        return self._read(f"{_SELECT} WHERE {where} ORDER BY id DESC LIMIT ?", parameters)

    def get(self, key: ProjectKey) -> Project:
        rows = self._read(*_selection(key))
        if not rows:
            raise ProjectNotFound(key)
        return Project(*rows[0])

    def ping(self) -> None:
        self._read("SELECT 1 FROM projects LIMIT 1", ())

    # Writing: one transaction each.

    def create(
        self,
        name: str,
        description: str | None = None,
        kind: ProjectKind | str = ProjectKind.STANDARD,
    ) -> Project:
        if not name:
            raise ValueError("a project's name must have at least one character")
        kind = ProjectKind.STANDARD if name == PLAYGROUND_PROJECT_NAME else ProjectKind(kind)
        parameters = (name, name.casefold(), kind.value, description)
        with self._transaction() as connection:
            try:
                cursor = connection.execute(_INSERT, parameters)
            except sqlite3.IntegrityError as error:
                if "projects.name" in str(error):
                    raise ProjectExists(name) from None
                raise
            project_id = cursor.lastrowid
        assert project_id is not None
        return Project(project_id, name, description)

    def update(self, key: ProjectKey, description: str | None) -> Project:
        if description is None:
            return self.get(key)
        with self._transaction() as connection:
            project = _find(connection, key)
            connection.execute(_UPDATE, (description, project.id))
        return project._replace(description=description)

    def delete(self, key: ProjectKey) -> None:
        with self._transaction() as connection:
            project = _find(connection, key)
            if project.id == DEFAULT_PROJECT_ID:
                raise DefaultProjectProtected
            connection.execute(_DELETE, (project.id,))

    def close(self) -> None:
        if not self._is_closed:
            connections = self._own_connections()
            self._is_closed = True
            connections.close()

    # Connections and transactions.

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        connections = self._own_connections()
        connection = connections.acquire(self._busy_timeout)
        try:
            return connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._translated(error) from error
        finally:
            connections.release(connection)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block inside one write transaction; its errors undo it.

        Writers of this process queue at a lock, which wakes them at once; only for writers of
        other processes does SQLite poll.
        """
        connections = self._own_connections()
        if not connections.write_lock.acquire(timeout=self._busy_timeout):
            raise StoreBusy("another thread has been writing for longer than the busy timeout")
        try:
            connection = connections.acquire(self._busy_timeout)
            try:
                with _immediate_transaction(connection):
                    yield connection
            except sqlite3.IntegrityError as error:
                raise ChangeForbidden(str(error)) from error
            except sqlite3.Error as error:
                raise self._translated(error) from error
            finally:
                connections.release(connection)
        finally:
            connections.write_lock.release()

    def _own_connections(self) -> _Connections:
        """Return this process's connections.

        A connection must not cross a fork. Those of a parent that forked behind Python's back are
        kept referenced and never closed: that would drop the locks that SQLite counts by process.
        """
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
        connections = self._connections
        if connections.pid != os.getpid():
            self._inherited.append(connections)
            self._connections = connections = connections.after_fork()
        return connections

    def _close_before_forks(self) -> None:
        """Have no connection open at the moment of a fork, whichever thread forks.

        With one open, SQLite in the child would take the parent's file locks for its own: when the
        parent then ends, it would remove the write-ahead log under the child's feet. The interpreter
        keeps the hooks for good; all that they hold of the store is a weak reference.
        """
        if not hasattr(os, "register_at_fork"):
            return
        reference = weakref.ref(self)

        def hook(act: Callable[[_Connections], None]) -> Callable[[], None]:
            def call() -> None:
                store = reference()
                if store is not None and not store._is_closed:
                    act(store._own_connections())

            return call

        timeout = self._busy_timeout
        os.register_at_fork(
            before=hook(lambda connections: connections.pause(timeout)),
            after_in_parent=hook(_Connections.resume),
        )

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path,
                timeout=self._busy_timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self._translated(error) from error
        return connection

    def _translated(self, error: sqlite3.Error) -> StoreError:
        # By its text, because sqlite3 shows SQLite's result code only from Python 3.11 on.
        text = str(error)
        if "locked" in text:
            return StoreBusy(
                f"the database {self.path} has been locked by others for too long; try again later"
            )
        if "is full" in text:
            return StoreFull(f"there is no room left to write to the database {self.path}")
        return StoreUnavailable(f"cannot use the database {self.path}: {_diagnosis(self.path) or text}")

    # The schema.

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Bring the file to this version's schema, or refuse it untouched."""
        version = self._checked_version(connection)
        if self.path != MEMORY:
            self._use_wal(connection)
        if version == SCHEMA_VERSION:
            return
        with _immediate_transaction(connection):
            # Again, now that nobody else can be migrating.
            for migration in _MIGRATIONS[self._checked_version(connection) :]:
                for statement in migration:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _checked_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        columns = {row[1] for row in connection.execute("PRAGMA table_info(projects)")}
        if version > SCHEMA_VERSION and columns:
            raise StoreUnavailable(
                f"the database {self.path} has schema version {version}, this program knows versions up to"
                f" {SCHEMA_VERSION}: upgrade projects_wsgi or choose another file"
            )
        if columns != (_COLUMNS if version else set()):
            raise StoreUnavailable(
                f"the database {self.path} belongs to another program: choose another file"
            )
        return version

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch the file to the write-ahead log, where readers and a writer don't wait for each other."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                # SQLite does not wait here for others who open the same new file.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            logger.warning(
                "the file system of %s does not support SQLite's write-ahead log; using the rollback journal:"
                " nothing is lost, but writers and readers wait for each other",
                self.path,
            )


class _Connections:
    """The connections of one process, at most size of them, and the lock of its writers."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], size: int) -> None:
        self.pid = os.getpid()
        self.write_lock = threading.Lock()
        self._connect = connect
        self._size = size
        self._is_closed = False
        self._pause = threading.Lock()
        self._paused = 0
        # Both are C's, and so cheap: a token for each connection that is not in use, and those
        # of them that have been opened.
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._idle: deque[sqlite3.Connection] = deque()
        for _ in range(size):
            self._tokens.put(None)

    def acquire(self, timeout: float) -> sqlite3.Connection:
        try:
            self._tokens.get(timeout=timeout)
        except Empty:
            raise StoreBusy("all connections have been in use for longer than the busy timeout") from None
        try:
            if self._is_closed:
                raise StoreUnavailable("the store is closed")
            try:
                return self._idle.pop()
            except IndexError:
                return self._connect()
        except BaseException:
            self._tokens.put(None)
            raise

    def release(self, connection: sqlite3.Connection) -> None:
        self._idle.append(connection)
        if self._is_closed:
            self._close_idle()
        self._tokens.put(None)

    def pause(self, timeout: float) -> None:
        """Wait until no connection is in use, let none be, and close them.

        What is still in use after timeout seconds is let be: a fork must not wait for ever.
        """
        self._pause.acquire()
        deadline = time.monotonic() + timeout
        with contextlib.suppress(Empty):
            while self._paused < self._size:
                self._tokens.get(timeout=max(0.0, deadline - time.monotonic()))
                self._paused += 1
        self._close_idle()

    def resume(self) -> None:
        while self._paused:
            self._paused -= 1
            self._tokens.put(None)
        self._pause.release()

    def after_fork(self) -> _Connections:
        return _Connections(self._connect, self._size)

    def close(self) -> None:
        self._is_closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


class _MemoryConnection(_Connections):
    """The one connection that a database in memory is; closing it ends the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(lambda: connection, 1)
        self._idle.append(connection)

    def _close_idle(self) -> None:
        if self._is_closed:
            super()._close_idle()

    def after_fork(self) -> _Connections:
        # A child has its own copy of the parent's memory, and so of the database.
        return _MemoryConnection(self._connect())


@contextlib.contextmanager
def _immediate_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block inside a transaction that writes from its start; its errors undo it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _selection(key: ProjectKey) -> tuple[str, tuple[ProjectKey]]:
    """Return the statement, with its parameters, that selects the project of this id or name."""
    if isinstance(key, str):
        return _SELECT_BY_NAME, (key,)
    # An integer that SQLite cannot hold addresses no project; nor does 0.
    return _SELECT_BY_ID, (key if 0 < key <= MAX_ID else 0,)


def _find(connection: sqlite3.Connection, key: ProjectKey) -> Project:
    row = connection.execute(*_selection(key)).fetchone()
    if row is None:
        raise ProjectNotFound(key)
    return Project(*row)


def _diagnosis(path: str) -> str:
    """Say why a file cannot be opened, where SQLite says only that it cannot."""
    folder = os.path.dirname(path)
    if path == MEMORY:
        return ""
    if os.path.isdir(path):
        return "it is a folder; name a file"
    if not os.path.isdir(folder):
        return f"there is no folder {folder}; make it first"
    if not os.path.exists(path):
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"the folder {folder} is not writable; change its permissions or choose another file"
    elif not os.access(path, os.R_OK | os.W_OK):
        return "the file is not readable and writable; change its permissions or choose another file"
    return ""
