"""A database file, and the files that SQLite keeps beside it: its log, shared memory and journal."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any

from ...model import StoreFull, StoreUnavailable
from ...options import BUSY_TIMEOUT
from ..pool import Session
from . import schema
from .database import (
    LOG_LIMIT,
    MAKE,
    READ,
    READ_UNCHANGING,
    SQLITE_PATIENCE_SECONDS,
    WRITE,
    Database,
    closed_if_it_fails,
    diagnosis,
    identity_of,
    size_of,
    status_of,
    unusable_file,
    user_name,
)
from .log import check_log

logger = logging.getLogger("projects_wsgi")

# What SQLite says, among others, where processes cannot share the memory that its log needs.
_WITHOUT_SHARED_MEMORY = ("unable to open database file", "disk I/O error")

# What it says where a part of the log that it looks for is not there.
_WITHOUT_A_PART = ("disk I/O error", "database disk image is malformed")

_MAX_PATH = 504  # bytes; SQLite opens no longer one, with the names of the files beside it

_LOOK_SECONDS = 0.05  # for which a look at the files beside it is good enough for reading

# A log longer than this, in bytes, is emptied before the next change, which waits for readers if need be.
_LONG_LOG = LOG_LIMIT * 3 // 2
_MORE_LOG = LOG_LIMIT // 2  # if that fails, it is tried again when the log is longer by this
_EMPTYING_SECONDS = 1.0

# What one change may write at most, in bytes: some pages, and up to 4 bytes for each character of a
# name, in the table and in three indexes.
_BYTES_OF_A_CHANGE = 65_536
_BYTES_PER_CHARACTER = 16

# Kept free on a disk: SQLite writes even a deletion to its log first, and may then grow the file.
_BYTES_FOR_DELETIONS = 131_072


class File(Database):
    """A database file, made if missing, brought to this version's tables, or refused as it was.

    patience: seconds that others are waited for. The rest, and errors: see SQLiteStore.
    """

    def __init__(
        self, path: str, synchronous: str, max_size: int | None, *, patience: float, read_only: bool
    ) -> None:
        super().__init__(path, synchronous, max_size)
        self._log = f"{path}-wal"
        self._paths = (path, self._log, f"{path}-shm")
        # Looked at all the time, and to encode them would take as long as to look.
        self._encoded_paths = [os.fsencode(each) for each in self._paths]
        self._mode = WRITE
        self._connections: set[Any] = set()  # those that are open, in this process
        self._process = os.getpid()
        self._next_look = 0.0
        self._log_size = self._seen_log_size = 0  # bytes: when it was last whole; at the last look
        self._long_log = _LONG_LOG
        deadline = time.monotonic() + patience
        try:
            if read_only:
                self._open_to_read(deadline)
            else:
                self._open(deadline)
        except sqlite3.Error as error:
            raise self.translated(error) from error
        self._warn()
        self._files = self._look()

    def connect(self, deadline: float) -> Any:
        if self._process != os.getpid():  # what a fork has left here is the parent's
            self._process, self._connections = os.getpid(), set()
        self.check_files()
        session = self.session(deadline, self._mode)
        with closed_if_it_fails(session):
            # From its first look into the file on, a connection keeps SQLite from removing the log.
            session.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            if not self._connections:
                # While none was open, it may have been removed and begun anew.
                self._files = [self._files[0], *self._look()[1:]]
            self.check_files()
            self._connections.add(session.connection)
        return session.connection

    def check(self, session: Session) -> None:
        now = time.monotonic()
        if now >= self._next_look or identity_of(self._encoded_paths[0]) != self._files[0]:
            self.check_files(session)
            self._next_look = now + _LOOK_SECONDS

    def disconnect(self, connection: Any) -> None:
        if self._files[1] and identity_of(self._log) not in (None, self._files[1]):
            # The last to close would remove the log at the path, which others have begun since, unless it
            # cannot empty its own.
            if sys.version_info >= (3, 12):
                connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)
            connection.interrupt()
        self._connections.discard(connection)  # first: with the last one goes the log
        connection.close()

    def begin(self, session: Session, growth: int | None) -> None:
        self.check_files(session)
        if self._log_size > self._long_log:
            self._empty_log(session)
        self.check_room(session, growth)
        session.execute("BEGIN IMMEDIATE")

    def commit(self, session: Session) -> None:
        session.execute("COMMIT")
        self._log_size = size_of(self._encoded_paths[1])

    # The files, while it is open

    def _look(self) -> list[object]:
        """Return what tells the file, its log and its shared memory from others at the same paths."""
        statuses = [status_of(path) for path in self._encoded_paths]
        self._seen_log_size = statuses[1].st_size if statuses[1] else 0
        return [status and (status.st_dev, status.st_ino) for status in statuses]

    def check_files(self, session: Session | None = None) -> None:
        """Raise StoreUnavailable if a path no longer names what was opened there, or the log was cut off.

        What is written to a file that was removed would be gone with the last connection.
        """
        self.check_unchanged()
        # Looked at twice, because other threads may be closing the last connection or opening the first.
        path = self._changed_path() and self._changed_path()
        if path:
            self._next_look = 0.0  # for readers too, from now on
            if session is not None and identity_of(self._log) in (None, self._files[1]):
                # Bring into the file what only a log without a name holds.
                with contextlib.suppress(sqlite3.Error):
                    session.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            raise StoreUnavailable(
                f"the file {path} was removed or replaced while it was open;"
                " put it back, or start again with what is there now"
            )
        if session is not None and self._mode == WRITE and self.is_concurrent:
            self._check_log(session)

    def _changed_path(self) -> str:
        """Return the first path that no longer names what was opened there; "" if all do."""
        watched = self._paths if self._connections else self._paths[:1]
        for path, opened, now in zip(watched, self._files, self._look()):
            if opened is not None and opened != now:
                return path
        return ""

    def _check_log(self, session: Session) -> None:
        """Raise StoreUnavailable if the log was cut off."""
        if self._seen_log_size >= self._log_size and self._seen_log_size:
            self._log_size = self._seen_log_size
            return
        # SQLite makes it shorter as well, once all that it holds is in the file.
        for _ in range(3):  # others may do so right now
            try:
                _, frames, _ = session.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                (page_size,) = session.execute("PRAGMA page_size").fetchone()
            except sqlite3.DatabaseError as error:
                if str(error) not in _WITHOUT_A_PART:
                    raise
                continue
            size = size_of(self._log)
            if frames <= 0 or size >= 32 + frames * (24 + page_size):  # sqlite.org/fileformat2.html, 4.1
                self._log_size = size
                return
        self._next_look = 0.0
        raise StoreUnavailable(f"the log {self._log} was cut off while it was open; start again")

    def _empty_log(self, session: Session) -> None:
        """Bring the log into the file and begin it anew, which readers that overlap prevent for ever."""
        patience = min(_EMPTYING_SECONDS, session.deadline - time.monotonic())
        is_busy = 1
        with contextlib.suppress(sqlite3.OperationalError):
            session.execute(f"PRAGMA busy_timeout = {max(1, int(1000 * patience))}")
            is_busy, _, _ = session.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        session.execute(f"PRAGMA busy_timeout = {int(1000 * SQLITE_PATIENCE_SECONDS)}")
        # Somebody who reads for long must not make every change wait.
        self._long_log = self._log_size + _MORE_LOG if is_busy else _LONG_LOG
        self._log_size = size_of(self._log)

    def check_room(self, session: Session, growth: int | None) -> None:
        """Raise StoreFull where a change would leave too little room to empty the log and to delete."""
        self._log_size = size_of(self._encoded_paths[1])  # what it holds will go into the file
        free = self._free_bytes()
        needed = _BYTES_OF_A_CHANGE + _BYTES_PER_CHARACTER * (growth or 0)
        if free >= self._log_size + 2 * needed + _BYTES_FOR_DELETIONS:
            return
        with contextlib.suppress(sqlite3.OperationalError):  # others are reading, or it is full already
            session.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if growth is None:  # a deletion is always let through
            return
        self._log_size = size_of(self._log)
        (page_size,) = session.execute("PRAGMA page_size").fetchone()
        (unused_pages,) = session.execute("PRAGMA freelist_count").fetchone()
        grows_by = max(0, needed - unused_pages * page_size)
        if self._free_bytes() < self._log_size + needed + grows_by + _BYTES_FOR_DELETIONS:
            raise StoreFull(f"the disk of {self.path} is almost full; delete projects or make room on it")

    def _free_bytes(self) -> float:
        """Return what is free on the disk; infinity where the system does not tell."""
        try:
            status = os.statvfs(self._encoded_paths[0])
        except (AttributeError, OSError):  # AttributeError: on Windows
            return math.inf
        return status.f_bavail * status.f_frsize

    # Opening

    def _open(self, deadline: float) -> None:
        """Open the file with this version's tables, and with SQLite's log where there can be one."""
        if reason := unusable_file(self.path):
            # SQLite would open it all the same, for reading only.
            raise StoreUnavailable(f"cannot use the database {self.path}: {reason}")
        check_log(self.path, deadline)
        try:
            self._open_and_migrate(deadline, may_use_log=True)
        except sqlite3.OperationalError as error:
            if str(error) not in _WITHOUT_SHARED_MEMORY or diagnosis(self.path):
                raise
            # SQLite notices only after it has switched the file to its log.
            with contextlib.suppress(sqlite3.Error):
                self._switch_log_off(deadline)
                return self._open_and_migrate(deadline, may_use_log=False)
            raise

    def _open_and_migrate(self, deadline: float, *, may_use_log: bool) -> None:
        with self.session(deadline, MAKE) as session:
            version = schema.read_version(session, self.path)
            session.execute("COMMIT")
            is_copy = schema.is_copy(session)
            if (version == 0 or is_copy) and may_use_log:
                # Only what is new is switched: to switch a file in use would disturb its users.
                session.execute("PRAGMA journal_mode = WAL")
            if version < len(schema.MIGRATIONS) or is_copy:
                schema.migrate(session, self.path)
            self.is_concurrent = session.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def _switch_log_off(self, deadline: float) -> None:
        """Switch the file to the rollback journal, which needs no memory shared between processes."""
        with Database(self.path).session(deadline) as session:
            session.execute("PRAGMA locking_mode = EXCLUSIVE")
            schema.read_version(session, self.path)
            session.execute("COMMIT")
            session.execute("PRAGMA journal_mode = DELETE")

    def _open_to_read(self, deadline: float) -> None:
        """Open the file as it is."""
        self.is_concurrent = True
        self._mode = mode_to_look(self.path, READ)
        check_log(self.path, deadline, self._mode)
        if self._mode == READ_UNCHANGING:
            self.take_for_unchanging()
            logger.warning("the database %s is taken for one that nobody changes", self.path)
        with self.session(deadline, self._mode) as session:
            if schema.read_version(session, self.path) < len(schema.MIGRATIONS):
                raise StoreUnavailable(
                    f"the database {self.path} is not of this version: open it once without read-only"
                )

    def _warn(self) -> None:
        if not self.is_concurrent:
            logger.warning(
                "the database %s does without SQLite's write-ahead log, which its file system may not"
                " support: nothing is lost, but writers and readers wait for each other",
                self.path,
            )
        if os.path.ismount(self.path) or os.stat(self.path).st_nlink > 1:
            logger.warning(
                "the database %s is mounted alone or has other names: its log is beside this name only, so"
                " use no other while it is open, and copy it with backup; better mount its folder",
                self.path,
            )


# Before a file is opened


def real_path(name: str, purpose: str = "use the database") -> str:
    """Return the path of a database file without links. Raises StoreUnavailable if none can be there.

    purpose: what cannot be done then.
    """
    try:
        path = os.path.realpath(name)
        reason = _misfit(path)
    except FileNotFoundError:
        reason = "the working folder was removed; give an absolute path"
    if name.endswith(("/", os.sep)):
        reason = "it is a folder; name a file"
    if reason:
        raise StoreUnavailable(f"cannot {purpose} {name}: {reason}")
    # POSIX lets two slashes at the start mean something else; Linux and macOS do not.
    return "/" + path.lstrip("/") if os.sep == "/" else path


def _misfit(path: str) -> str:
    """Say why no database file can be at a path, before SQLite makes a part of one there; or ""."""
    if len(os.fsencode(path)) > _MAX_PATH:
        return f"SQLite opens no path of more than {_MAX_PATH} bytes"
    try:
        os.lstat(f"{path}-journal")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "its name is too long"
    status = status_of(path)  # one look: a file that others are about to make is none, or a file
    if status is None or stat.S_ISREG(status.st_mode):
        return ""
    return "it is a folder; name a file" if stat.S_ISDIR(status.st_mode) else "it is not a file"


@contextlib.contextmanager
def opened(path: str, mode: str, copy: str | None = None) -> Iterator[Session]:
    """Give a session on a file that exists, or on a copy of it. Raises StoreError.

    What was read in the mode READ_UNCHANGING counts only if check_unchanged of its driver says so.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT.default
    database = Database(path)
    if mode == READ_UNCHANGING:
        database.take_for_unchanging()
    try:
        check_log(path, deadline, mode)
        with (Database(copy) if copy else database).session(deadline, mode) as session:
            yield session
    except sqlite3.Error as error:
        raise database.translated(error) from error


def mode_to_look(path: str, mode: str) -> str:
    """Return how to open a file to read it so that nothing stays beside it that shuts out its own user.

    mode: how its own user does. Raises StoreUnavailable if only that user can, or there is no file.
    """
    status = status_of(path)
    if status is None:
        raise StoreUnavailable(f"cannot use the database {path}: there is no such file")
    # What SQLite makes beside a file gets its mode, and if root makes it, its owner. A root that may not
    # write to other users' files may not give them any either.
    is_owner = not hasattr(os, "geteuid") or os.geteuid() in (0, status.st_uid)
    is_writable = status.st_mode & stat.S_IWUSR and os.access(path, os.W_OK)
    if is_owner and is_writable and os.access(os.path.dirname(path), os.W_OK):
        return mode
    if os.path.exists(f"{path}-wal") and os.path.exists(f"{path}-shm"):
        return READ
    if size_of(f"{path}-wal") or size_of(f"{path}-journal"):
        raise StoreUnavailable(
            f"the database {path} has a log beside it that cannot be read here: open and close it once where"
            f" it can be written, as {user_name(status.st_uid)}"
        )
    return READ_UNCHANGING
