"""The embedded engine: one SQLite file, or a database in memory."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from typing import Any, Callable, TypeVar

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
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    resolve_key,
)
from . import DEFAULT_BUSY_TIMEOUT, MAX_BUSY_TIMEOUT, MIN_DATABASE_SIZE, OnChange, Store, upkeep
from .connections import (
    IMMUTABLE,
    MEMORY,
    Connections,
    connect,
    diagnosis,
    execute_patiently,
    immediate_transaction,
    translated,
)
from .room import DiskRoom, log_size

logger = logging.getLogger("projects_wsgi")

Result = TypeVar("Result")
Execute = Callable[..., sqlite3.Cursor]  # takes a statement and its parameters

MAX_ID = 2**63 - 1  # SQLite's largest rowid

# What SQLite says where processes cannot share memory, which its write-ahead log needs; among others.
_WITHOUT_SHARED_MEMORY = ("unable to open database file", "disk I/O error")

# Of pages that a connection keeps, twice SQLite's own: among experiment projects, the listed ones lie
# scattered, and a page of them touches as many of the file's as it has rows.
_CACHE_KIB = 4_096

# Of a longer text, instr() would compare every byte at every place of a long name; Python is wiser.
_MAX_INSTR_LENGTH = 32

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

_SELECT_ROWS = "SELECT id, name, description FROM projects"
_SELECT = "SELECT id, name, description, kind, created_at, updated_at FROM projects"
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
    busy_timeout: seconds, > 0 and <= 25, that a call waits in all for connections and for other
        writers before it raises StoreBusy; the official clients give up after 30.
    max_database_size: bytes, >= 65,536, beyond which the file does not grow, StoreFull is raised
        instead; None: as large as the disk. SQLite's log beside it takes a few MiB more.
    on_change: called with "created", "updated" or "deleted" and the project, in the thread that made
        the change, after it is committed; what it raises is logged and changes nothing.
    read_only: whether the file is only read, not even made or upgraded; others may go on writing.
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
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
        max_database_size: int | None = None,
        on_change: OnChange | None = None,
        read_only: bool = False,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f'synchronous must be "FULL" or "NORMAL", not {synchronous!r}')
        if not 0 < busy_timeout <= MAX_BUSY_TIMEOUT:
            raise ValueError(
                f"busy_timeout must be above 0 and at most {MAX_BUSY_TIMEOUT:g} seconds, not {busy_timeout}"
            )
        if max_database_size is not None and max_database_size < MIN_DATABASE_SIZE:
            raise ValueError(
                f"max_database_size must be at least {MIN_DATABASE_SIZE} bytes, not {max_database_size}"
            )
        name = os.fspath(database)
        if not name or "\0" in name:
            raise ValueError('database must be the path of a file or ":memory:"')
        if read_only and name == MEMORY:
            raise ValueError("a database in memory begins empty: read_only needs a file")
        # Absolute, because connections are opened later and the host may change its folder.
        self.path = name if name == MEMORY else os.path.abspath(name)
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._max_size = max_database_size
        self._on_change = on_change
        self._read_only = read_only
        self._mode = "ro" if read_only else "rw"
        connection = self._open_for_reading() if read_only else self._open()
        if self.path == MEMORY:
            self._connections = Connections.to_memory(connection, busy_timeout)
        else:
            # Nothing stays open until the first call: a process that forks right after the
            # application was made (gunicorn --preload) hands no connection to its children.
            has_wal = connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            connection.close()
            if not has_wal and not read_only:
                logger.warning(
                    "the database %s does without SQLite's write-ahead log, which its file system may not"
                    " support: nothing is lost, but writers and readers wait for each other",
                    self.path,
                )
            self._file = _identity(self.path)
            self._room = DiskRoom(self.path)
            connect_writer = functools.partial(self._connect, writes=True)
            connect_reader = self._connect if has_wal or read_only else None
            self._connections = Connections.to_file(connect_writer, connect_reader, busy_timeout)

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
            folded = name_contains.casefold()
            function = "instr" if len(folded) <= _MAX_INSTR_LENGTH else "contains"
            conditions.append(f"{function}(folded_name, ?)")
            parameters.append(folded)
        parameters.append(min(limit, MAX_ID))
        where = " AND ".join(conditions)
        return self._read(f"{_SELECT_ROWS} WHERE {where} ORDER BY id DESC LIMIT ?", parameters)

    def get(self, key: ProjectKey) -> Project:
        rows = self._read(*_selection(key))
        if not rows:
            raise ProjectNotFound(key)
        return _project(rows[0])

    def ping(self) -> None:
        self._check_file()
        self._read("SELECT 1 FROM projects LIMIT 1", ())

    # Writing: single statements too, which SQLite makes transactions of their own. What update and
    # delete read before cannot mislead them: a name never changes, and an id is never used again.

    def create(
        self,
        name: str,
        description: str | None = None,
        kind: ProjectKind | str = ProjectKind.STANDARD,
    ) -> Project:
        if not name:
            raise ValueError("a project's name must have at least one character")
        if kind is not ProjectKind.STANDARD:
            kind = ProjectKind.STANDARD if name == PLAYGROUND_PROJECT_NAME else ProjectKind(kind)
        growth = len(name) + len(description or "")
        parameters = (name, name.casefold(), kind.value, description)
        try:
            project = self._write(
                growth, lambda execute: _find(execute, execute(_INSERT, parameters).lastrowid)
            )
        except ChangeForbidden as error:
            if "projects.name" in str(error):
                raise ProjectExists(name) from None
            raise
        return self._changed("created", project)

    def update(self, key: ProjectKey, description: str | None) -> Project:
        if description is None:
            return self.get(key)

        def change(execute: Execute) -> Project:
            project = _find(execute, key)
            if not execute(_UPDATE, (description, project.id)).rowcount:
                raise ProjectNotFound(key)  # somebody has just deleted it
            return _find(execute, project.id)

        return self._changed("updated", self._write(len(description), change))

    def delete(self, key: ProjectKey) -> None:
        def change(execute: Execute) -> Project:
            project = _find(execute, key)
            if project.id == DEFAULT_PROJECT_ID:
                raise DefaultProjectProtected
            if not execute(_DELETE, (project.id,)).rowcount:
                raise ProjectNotFound(key)
            return project

        self._changed("deleted", self._write(None, change))

    def _changed(self, event: str, project: Project) -> Project:
        """Tell whoever wants to know of a committed change; return the project."""
        if self._on_change is not None:
            try:
                self._on_change(event, project)
            except Exception:
                logger.exception("on_change failed for %s %r", event, project)
        return project

    def close(self) -> None:
        self._connections.close()

    # Upkeep.

    def backup(
        self,
        path: str | os.PathLike[str],
        progress: Callable[[int, int], None] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Copy the whole database, as it is at this moment, to a new file, while others go on using it.

        path: the file; it appears when it is complete. overwrite: whether it may exist already.
        progress: called now and then with how many pages are copied, and how many there are.
        Raises FileExistsError; StoreError when the file cannot be written.
        """
        readers = self._connections.readers
        connection = readers.acquire(time.monotonic() + self._busy_timeout)
        try:
            upkeep.copy(connection, os.fspath(path), progress, overwrite=overwrite)
        finally:
            readers.release(connection)

    # Connections and transactions.

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        deadline = time.monotonic() + self._busy_timeout
        readers = self._connections.readers
        connection = readers.acquire(deadline)
        try:
            return execute_patiently(connection, deadline, sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            readers.release(connection)

    def _write(self, growth: int | None, change: Callable[[Execute], Result]) -> Result:
        """Do what changes something, given a way to execute statements; return what it does.

        growth: characters to be stored; None for a deletion.

        Writers of this process queue for their one connection, and wake at once; only for writers
        of other processes is the file looked at again and again.
        """
        if self._read_only:
            raise StoreReadOnly
        now = time.monotonic()
        deadline = now + self._busy_timeout
        writer = self._connections.writer
        connection = writer.acquire(deadline)
        try:
            self._check_file()
            if self.path != MEMORY and not self._room.is_enough(connection, now, deadline, growth):
                raise StoreFull(f"the disk of {self.path} is almost full; delete projects or make room on it")
            return change(functools.partial(execute_patiently, connection, deadline))
        except sqlite3.IntegrityError as error:
            raise ChangeForbidden(str(error)) from error
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            writer.release(connection)

    def _check_file(self) -> None:
        """Raise StoreUnavailable where the path no longer names the file that was opened.

        What is written to a file that was removed would be gone with the last connection.
        """
        if self.path != MEMORY and _identity(self.path) != self._file:
            raise StoreUnavailable(
                f"the database {self.path} was removed or replaced while it was open;"
                " put it back, or start again with what is there now"
            )

    def _connect(self, deadline: float, *, writes: bool = False) -> sqlite3.Connection:
        try:
            synchronous = None if self._read_only else self._synchronous
            connection = connect(self.path, deadline, mode=self._mode, synchronous=synchronous)
            try:
                self._check_file()
                connection.create_function("contains", 2, _contains, deterministic=True)
                execute_patiently(connection, deadline, f"PRAGMA cache_size = -{_CACHE_KIB}")
                if writes:
                    self._limit_size(connection, deadline)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        return connection

    def _limit_size(self, connection: sqlite3.Connection, deadline: float) -> None:
        if self._max_size is not None:
            (page_size,) = execute_patiently(connection, deadline, "PRAGMA page_size").fetchone()
            execute_patiently(connection, deadline, f"PRAGMA max_page_count = {self._max_size // page_size}")

    # The schema.

    def _open(self) -> sqlite3.Connection:
        """Open the file, bring it to this version's schema, or refuse it untouched."""
        deadline = time.monotonic() + self._busy_timeout
        if self.path != MEMORY and os.path.exists(self.path) and not os.access(self.path, os.W_OK):
            # SQLite would open it all the same, for reading only.
            raise StoreUnavailable(f"cannot use the database {self.path}: {diagnosis(self.path)}")
        try:
            try:
                return self._open_in_any_mode(deadline)
            except sqlite3.OperationalError as error:
                if str(error) not in _WITHOUT_SHARED_MEMORY:
                    raise
                # SQLite notices only after it has switched the file to the write-ahead log.
                with contextlib.suppress(sqlite3.Error):
                    self._leave_wal(deadline)
                    return self._open_in_any_mode(deadline, may_use_wal=False)
                raise
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def _open_for_reading(self) -> sqlite3.Connection:
        """Open the file as it is, or refuse it."""
        deadline = time.monotonic() + self._busy_timeout
        try:
            try:
                return self._open_current(deadline)
            except sqlite3.OperationalError as error:
                if str(error) not in _WITHOUT_SHARED_MEMORY or not os.path.exists(self.path):
                    raise
                # On a disk that is mounted read-only, nothing can be shared with those who write.
                if log_size(self.path):
                    raise StoreUnavailable(
                        f"the database {self.path} has a log beside it that cannot be used here: open and"
                        " close it once where it can be written"
                    ) from error
                logger.warning("the database %s is taken for one that nobody changes", self.path)
                self._mode = IMMUTABLE
                return self._open_current(deadline)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def _open_current(self, deadline: float) -> sqlite3.Connection:
        connection = connect(self.path, deadline, mode=self._mode)
        try:
            if self._checked_version(connection, deadline) < SCHEMA_VERSION:
                raise StoreUnavailable(
                    f"the database {self.path} is not of this version: open it once without read-only"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_in_any_mode(self, deadline: float, *, may_use_wal: bool = True) -> sqlite3.Connection:
        connection = connect(self.path, deadline, mode="rwc", synchronous=self._synchronous)
        try:
            self._limit_size(connection, deadline)
            self._prepare(connection, deadline, may_use_wal=may_use_wal)
            if self.path == MEMORY:
                connection.create_function("contains", 2, _contains, deterministic=True)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, deadline: float, *, may_use_wal: bool) -> None:
        version = self._checked_version(connection, deadline)
        if version == 0 and may_use_wal and self.path != MEMORY:
            # Only a new file is switched: switching one in use would disturb those who use it.
            execute_patiently(connection, deadline, "PRAGMA journal_mode = WAL")
            self._checked_version(connection, deadline)
        if version == SCHEMA_VERSION:
            return
        with immediate_transaction(connection, deadline):
            # Again, now that nobody else can be migrating.
            for migration in _MIGRATIONS[self._version_in_transaction(connection, deadline) :]:
                for statement in migration:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _leave_wal(self, deadline: float) -> None:
        """Switch the file to the rollback journal, which needs no memory shared between processes."""
        with closing(connect(self.path, deadline, is_exclusive=True)) as connection:
            self._checked_version(connection, deadline)
            execute_patiently(connection, deadline, "PRAGMA journal_mode = DELETE")

    def _checked_version(self, connection: sqlite3.Connection, deadline: float) -> int:
        connection.execute("BEGIN")
        try:
            return self._version_in_transaction(connection, deadline)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _version_in_transaction(self, connection: sqlite3.Connection, deadline: float) -> int:
        """Return the file's schema version; version and columns are of the same moment.

        Raises StoreUnavailable where they are not this program's, and so neither is the file.
        """
        (version,) = execute_patiently(connection, deadline, "PRAGMA user_version").fetchone()
        columns = set()
        # PRAGMA table_info might answer from what the connection remembers; a query never does.
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'projects'").fetchone():
            columns = {
                column[0] for column in connection.execute("SELECT * FROM projects LIMIT 0").description
            }
        if version > SCHEMA_VERSION and columns:
            raise StoreUnavailable(
                f"the database {self.path} has schema version {version}, this program knows versions up to"
                f" {SCHEMA_VERSION}: upgrade projects_wsgi or choose another file"
            )
        if columns != (_COLUMNS if version else set()):
            raise StoreUnavailable(
                f"the database {self.path} belongs to another program: choose another file"
            )
        return int(version)


def _contains(text: str, part: str) -> bool:
    return part in text


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells one file from another at the same path; None for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _project(row: Any) -> Project:
    project_id, name, description, kind, made, changed = row
    return Project(project_id, name, description, ProjectKind(kind), _time(made), _time(changed))


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text[:-1]).replace(tzinfo=datetime.timezone.utc)


def _selection(key: ProjectKey) -> tuple[str, tuple[int | str]]:
    """Return the statement, with its parameters, that selects the project of this id or name."""
    key = resolve_key(key)
    if isinstance(key, str):
        return _SELECT_BY_NAME, (key,)
    # An integer that SQLite cannot hold addresses no project; nor does 0.
    return _SELECT_BY_ID, (key if 0 < key <= MAX_ID else 0,)


def _find(execute: Execute, key: Any) -> Project:
    row = execute(*_selection(key)).fetchone()
    if row is None:
        raise ProjectNotFound(key)
    return _project(row)
