"""Opens SQLite connections, and says what their errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from ...files import scarcity
from ...model import ChangeForbidden, ProjectsError, StoreBusy, StoreFull, StoreUnavailable
from ..pool import Session
from . import schema

MEMORY = ":memory:"

# How a file is opened, in SQLite's URIs; the last is for a file that nobody changes, and takes no locks.
MAKE, WRITE, READ, READ_UNCHANGING = "rwc", "rw", "ro", "ro&immutable=1"

# Among many writers, SQLite would look for a lock too rarely; the session tries again instead.
SQLITE_PATIENCE_SECONDS = 0.004

# The log is cut to this, in bytes, whenever SQLite begins it anew.
LOG_LIMIT = 4_194_304

# How the messages of errors begin: sqlite3 shows SQLite's result codes only from Python 3.11 on.
_BUSY = ("database is locked", "database table is locked", "database schema is locked", "locking protocol")
_FULL = "database or disk is full"

# Twice SQLite's own: a page of listed projects that lie scattered among others touches many of the file's.
_CACHE_KIB = 4_096


class Database:
    """Opens sessions on what is at a path, real and absolute or ":memory:", and translates their errors."""

    error: type[Exception] = sqlite3.Error
    is_lasting = False
    # SQLite gives up the interpreter at each step: many readers at a time are three times as slow as one
    # after the other. So another connection is lent when the last has come back, or after this time.
    turn = 0.005
    is_concurrent = False  # whether readers and writers can work at the same time

    def __init__(self, path: str, synchronous: str | None = None, max_size: int | None = None) -> None:
        self.path = path
        self._synchronous = synchronous
        self._max_size = max_size
        self._appearance: object = None  # of a file that is taken for one that nobody changes

    def session(self, deadline: float, mode: str = WRITE) -> Session:
        """Return a session on a new connection, in autocommit, for any thread. Raises sqlite3.Error."""
        is_file = self.path != MEMORY
        # The empty authority: SQLite would take the beginning of a path like //name for one.
        name = quote(os.fsencode(self.path.replace(os.sep, "/")))
        connection = sqlite3.connect(
            f"file://{'' if name.startswith('/') else '/'}{name}?mode={mode}" if is_file else MEMORY,
            timeout=SQLITE_PATIENCE_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=is_file,
        )
        session = Session(self, connection, deadline)
        with closed_if_it_fails(session):
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
            connection.create_function("contains", 2, _contains, deterministic=True)
            if self._synchronous is not None:
                # With the rollback journal, FULL does not sync the end of a change: a power cut may undo it.
                # With the log, both are the same (sqlite.org/pragma.html#pragma_synchronous).
                level = "EXTRA" if self._synchronous == "FULL" else self._synchronous
                session.execute(f"PRAGMA synchronous = {level}")
                session.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if self._max_size is not None:
                (page_size,) = session.execute("PRAGMA page_size").fetchone()
                session.execute(f"PRAGMA max_page_count = {self._max_size // page_size}")
        return session

    # What a pool asks of it

    def connect(self, deadline: float) -> Any:
        return self.session(deadline).connection

    def check(self, session: Session) -> None:
        """Raise StoreUnavailable if what a session has open is no longer there."""

    def take_for_unchanging(self) -> None:
        """Take the file for one that nobody changes, from now on."""
        self._appearance = _appearance(self.path)

    def check_unchanged(self) -> None:
        """Raise StoreUnavailable if a file that was taken for one that nobody changes was changed.

        What was read of it, without any locks, may be of several moments then.
        """
        if self._appearance is not None and _appearance(self.path) != self._appearance:
            raise StoreUnavailable(f"others have begun to change the database {self.path}; start again")

    def disconnect(self, connection: Any) -> None:
        connection.close()

    def reset(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def may_retry(self, session: Session, sql: str, error: Exception) -> bool:
        return self.is_busy(error)

    def is_busy(self, error: Exception) -> bool:
        """Tell whether others have locked what was asked for."""
        return str(error).startswith(_BUSY)

    def translated(self, error: Exception) -> ProjectsError:
        try:
            self.check_unchanged()
        except StoreUnavailable as reason:  # why it looks damaged
            return reason
        if isinstance(error, sqlite3.IntegrityError):
            return ChangeForbidden(str(error))
        if self.is_busy(error):
            return StoreBusy(f"others have locked the database {self.path} for too long; try again later")
        if _FULL in str(error):
            return StoreFull(
                f"there is no room left to write to the database {self.path};"
                " delete projects, make room on its disk, or raise max_database_size"
            )
        return StoreUnavailable(f"cannot use the database {self.path}: {diagnosis(self.path) or error}")

    # What a change asks of it

    def begin(self, session: Session, growth: int | None) -> None:
        """Begin to change the database. growth: characters to store; None: the change only deletes."""
        session.execute("BEGIN IMMEDIATE")

    def check_room(self, session: Session, growth: int | None) -> None:
        """Raise StoreFull if there is too little room for a part of a change. growth: as in begin."""

    def commit(self, session: Session) -> None:
        """End a change: when this returns, it is on the disk."""
        session.execute("COMMIT")


class Memory(Database):
    """A database in memory: one connection, which is the database."""

    is_lasting = True

    def connect(self, deadline: float) -> Any:
        session = self.session(deadline)
        with closed_if_it_fails(session):
            schema.migrate(session, self.path)
        return session.connection


@contextlib.contextmanager
def closed_if_it_fails(session: Session) -> Iterator[None]:
    """Close a session's connection if the block raises."""
    try:
        yield
    except BaseException:
        session.connection.close()
        raise


def diagnosis(path: str) -> str:
    """Say why a file cannot be opened, read or written, where SQLite says only that it cannot."""
    folder = os.path.dirname(path)
    if path == MEMORY:
        return ""
    if not os.path.isdir(folder):
        return f"there is no folder {folder}; make it first"
    if reason := unusable_file(path):
        return reason
    if not os.access(folder, os.W_OK | os.X_OK):  # where SQLite keeps its log as well
        return f"the folder {folder} is not writable; change its permissions or choose another file"
    return scarcity(folder) or ("" if os.path.exists(path) else "there is no such file")


def unusable_file(path: str) -> str:
    """Say why a database file that is there, or one beside it, cannot be read and written; or ""."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        file = f"{path}{suffix}"
        name = f"the file {file}" if suffix else "the file"
        if os.path.isdir(file):
            return f"{file} is a folder, where SQLite keeps a file; move it away"
        if os.path.exists(file) and not os.access(file, os.R_OK | os.W_OK):
            return (
                f"{name} is not readable and writable; change its permissions or choose another file"
                f" (it belongs to {user_name(os.stat(file).st_uid)})"
            )
    return ""


def user_name(number: int) -> str:
    """Return a user of the system as people know it."""
    with contextlib.suppress(ImportError, KeyError):  # Windows has no such module
        import pwd

        return f"user {pwd.getpwuid(number).pw_name}"
    return f"user {number}"


def status_of(path: str | bytes) -> os.stat_result | None:
    """Return the status of a file; None for no file."""
    try:
        return os.stat(path)
    except OSError:
        return None


def identity_of(path: str | bytes) -> object:
    """Return what tells one file from another at the same path; None for no file."""
    status = status_of(path)
    return status and (status.st_dev, status.st_ino)


def size_of(path: str | bytes) -> int:
    """Return the size of a file in bytes; 0 for no file."""
    status = status_of(path)
    return status.st_size if status else 0


def _appearance(path: str) -> object:
    """Return what becomes another when a database file, or the log beside it, is written to."""
    statuses = [status_of(path), status_of(f"{path}-wal")]
    # An empty log is as good as none.
    return [(it.st_ino, it.st_size, it.st_mtime_ns) if it and it.st_size else None for it in statuses]


def _contains(text: str, part: str) -> bool:
    return part in text
