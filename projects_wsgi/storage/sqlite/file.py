"""One SQLite database: a file, with the files that SQLite keeps beside it, or memory."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

from ...model import ChangeForbidden, ProjectsError, StoreBusy, StoreFull, StoreUnavailable
from ..pool import Session
from . import schema

logger = logging.getLogger("projects_wsgi")

MEMORY = ":memory:"

# How a file is opened, in SQLite's URIs; the last is for a file that nobody changes, and takes no locks.
MAKE, WRITE, READ, _READ_UNCHANGING = "rwc", "rw", "ro", "ro&immutable=1"

# Among many writers, SQLite would look for a lock too rarely; the session tries again instead.
_SQLITE_PATIENCE_SECONDS = 0.004

# How the messages of errors begin: sqlite3 shows SQLite's result codes only from Python 3.11 on.
_BUSY = ("database is locked", "database table is locked", "database schema is locked", "locking protocol")
_FULL = "database or disk is full"

# What SQLite says, among others, where processes cannot share the memory that its log needs.
_WITHOUT_SHARED_MEMORY = ("unable to open database file", "disk I/O error")

# Twice SQLite's own: a page of listed projects that lie scattered among others touches many of the file's.
_CACHE_KIB = 4_096

# What one change may write at most, in bytes: some pages, and up to 4 bytes for each character of a
# name, in the table and in three indexes.
_BYTES_OF_A_CHANGE = 65_536
_BYTES_PER_CHARACTER = 16

# Kept free on a disk: SQLite writes even a deletion to its log first, and may then grow the file.
_BYTES_FOR_DELETIONS = 131_072
_PLENTY = 2**30  # bytes: more than the log and a change can be together


class Database:
    """Opens sessions on what is at a path, absolute or ":memory:", and says what its errors mean."""

    error: type[Exception] = sqlite3.Error
    is_lasting = False
    is_concurrent = False  # whether readers and writers can work at the same time

    def __init__(self, path: str, synchronous: str | None = None, max_size: int | None = None) -> None:
        self.path = path
        self._synchronous = synchronous
        self._max_size = max_size

    def session(self, deadline: float, mode: str = WRITE) -> Session:
        """Return a session on a new connection, in autocommit, for any thread. Raises sqlite3.Error."""
        is_file = self.path != MEMORY
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path.replace(os.sep, '/')))}?mode={mode}" if is_file else MEMORY,
            timeout=_SQLITE_PATIENCE_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=is_file,
        )
        session = Session(self, connection, deadline)
        with _closed_if_it_fails(session):
            connection.execute("PRAGMA foreign_keys = ON")
            connection.create_function("contains", 2, _contains, deterministic=True)
            if self._synchronous is not None:
                session.execute(f"PRAGMA synchronous = {self._synchronous}")
                session.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if self._max_size is not None:
                (page_size,) = session.execute("PRAGMA page_size").fetchone()
                session.execute(f"PRAGMA max_page_count = {self._max_size // page_size}")
        return session

    def connect(self, deadline: float) -> Any:
        return self.session(deadline).connection

    def is_busy(self, error: Exception) -> bool:
        return str(error).startswith(_BUSY)

    def translated(self, error: Exception) -> ProjectsError:
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

    def reset(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def check_unchanged(self) -> None:
        """Raise StoreUnavailable where the path no longer names what was opened."""

    def check_room(self, session: Session, growth: int | None) -> None:
        """Raise StoreFull where a change would leave too little room. session: in no transaction."""


class Memory(Database):
    """A database in memory: one connection, which is the database."""

    is_lasting = True

    def connect(self, deadline: float) -> Any:
        session = self.session(deadline)
        with _closed_if_it_fails(session):
            schema.migrate(session, self.path)
        return session.connection


class File(Database):
    """A database file, made if missing, brought to this version's tables, or refused as it was.

    patience: seconds that others are waited for. The rest, and errors: see SQLiteStore.
    """

    def __init__(
        self, path: str, synchronous: str, max_size: int | None, *, patience: float, read_only: bool
    ) -> None:
        super().__init__(path, synchronous, max_size)
        self._log = f"{path}-wal"
        self._mode = READ if read_only else WRITE
        self.is_concurrent = read_only
        deadline = time.monotonic() + patience
        try:
            if read_only:
                self._open_to_read(deadline)
            else:
                self._open(deadline)
        except sqlite3.Error as error:
            raise self.translated(error) from error
        if not self.is_concurrent:
            logger.warning(
                "the database %s does without SQLite's write-ahead log, which its file system may not"
                " support: nothing is lost, but writers and readers wait for each other",
                path,
            )
        self._identity = _identity(path)

    def connect(self, deadline: float) -> Any:
        session = self.session(deadline, self._mode)
        with _closed_if_it_fails(session):
            self.check_unchanged()
        return session.connection

    def check_unchanged(self) -> None:
        # What is written to a file that was removed would be gone with the last connection.
        if _identity(self.path) != self._identity:
            raise StoreUnavailable(
                f"the database {self.path} was removed or replaced while it was open;"
                " put it back, or start again with what is there now"
            )

    def check_room(self, session: Session, growth: int | None) -> None:
        # Enough must be left to empty the log and to delete; a deletion is always let through.
        free = self._free_bytes()
        needed = _BYTES_OF_A_CHANGE + _BYTES_PER_CHARACTER * (growth or 0)
        if free > _PLENTY or free >= self._log_size() + 2 * needed + _BYTES_FOR_DELETIONS:
            return
        with contextlib.suppress(sqlite3.OperationalError):  # others are reading, or it is full already
            session.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if growth is None:
            return
        (page_size,) = session.execute("PRAGMA page_size").fetchone()
        (unused_pages,) = session.execute("PRAGMA freelist_count").fetchone()
        grows_by = max(0, needed - unused_pages * page_size)
        if self._free_bytes() < self._log_size() + needed + grows_by + _BYTES_FOR_DELETIONS:
            raise StoreFull(f"the disk of {self.path} is almost full; delete projects or make room on it")

    def _free_bytes(self) -> float:
        """Return what is free on the disk; infinity where the system does not tell."""
        try:
            status = os.statvfs(self.path)
        except (AttributeError, OSError):  # AttributeError: on Windows
            return math.inf
        return status.f_bavail * status.f_frsize

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except OSError:
            return 0

    # Opening

    def _open(self, deadline: float) -> None:
        """Open the file with this version's tables, and with SQLite's log where there can be one."""
        if os.path.exists(self.path) and not os.access(self.path, os.W_OK):
            # SQLite would open it all the same, for reading only.
            raise StoreUnavailable(f"cannot use the database {self.path}: {diagnosis(self.path)}")
        try:
            self._open_and_migrate(deadline, may_use_log=True)
        except sqlite3.OperationalError as error:
            if str(error) not in _WITHOUT_SHARED_MEMORY:
                raise
            # SQLite notices only after it has switched the file to its log.
            with contextlib.suppress(sqlite3.Error):
                self._switch_log_off(deadline)
                return self._open_and_migrate(deadline, may_use_log=False)
            raise

    def _open_and_migrate(self, deadline: float, *, may_use_log: bool) -> None:
        session = self.session(deadline, MAKE)
        with closing(session.connection):
            version = schema.read_version(session, self.path)
            session.execute("COMMIT")
            if version == 0 and may_use_log:
                # Only a new file is switched: to switch one in use would disturb its users.
                session.execute("PRAGMA journal_mode = WAL")
            if version < len(schema.MIGRATIONS):
                schema.migrate(session, self.path)
            self.is_concurrent = session.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def _switch_log_off(self, deadline: float) -> None:
        """Switch the file to the rollback journal, which needs no memory shared between processes."""
        session = Database(self.path).session(deadline)
        with closing(session.connection):
            session.execute("PRAGMA locking_mode = EXCLUSIVE")
            schema.read_version(session, self.path)
            session.execute("COMMIT")
            session.execute("PRAGMA journal_mode = DELETE")

    def _open_to_read(self, deadline: float) -> None:
        """Open the file as it is."""
        try:
            self._check_version(deadline)
        except sqlite3.OperationalError as error:
            if str(error) not in _WITHOUT_SHARED_MEMORY or not os.path.exists(self.path):
                raise
            # On a disk that is mounted read-only, no memory can be shared with those who write.
            if self._log_size():
                raise StoreUnavailable(
                    f"the database {self.path} has a log beside it that cannot be read here: open and"
                    " close it once where it can be written"
                ) from error
            logger.warning("the database %s is taken for one that nobody changes", self.path)
            self._mode = _READ_UNCHANGING
            self._check_version(deadline)

    def _check_version(self, deadline: float) -> None:
        session = self.session(deadline, self._mode)
        with closing(session.connection):
            if schema.read_version(session, self.path) < len(schema.MIGRATIONS):
                raise StoreUnavailable(
                    f"the database {self.path} is not of this version: open it once without read-only"
                )


@contextlib.contextmanager
def _closed_if_it_fails(session: Session) -> Iterator[None]:
    try:
        yield
    except BaseException:
        session.connection.close()
        raise


def _contains(text: str, part: str) -> bool:
    return part in text


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


def _identity(path: str) -> object:
    """Return what tells one file from another at the same path; None for no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
