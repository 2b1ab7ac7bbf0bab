"""SQLite's log beside a database file: whether it is the file's own, and where it has gone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time

from ...files import copy_permissions, sync_folder
from ...model import StoreUnavailable
from .database import SQLITE_PATIENCE_SECONDS, WRITE, Database, identity_of, size_of

# In the header of a file (sqlite.org/fileformat2.html, 1.3): it has no log. One that has a log never says so.
_ROLLBACK = b"\1\1"

_HEADER_SIZE = 100

_LOG_SECONDS = 1.0  # for which a log may be missing beside a file that others have just opened
_SETTLING_SECONDS = 0.05  # longer than a change that has begun takes to end


def check_log(path: str, deadline: float, mode: str = WRITE) -> None:
    """Raise StoreUnavailable if the log beside a file is another's, or if others have lost theirs.

    Either way, SQLite would spoil the file without a word. mode: in which the file will be opened.
    """
    deadline = min(deadline, time.monotonic() + _LOG_SECONDS)
    while stale := _stale_log(path):
        if time.monotonic() >= deadline:
            raise StoreUnavailable(
                f"{path} was replaced by a backup, but {stale} belongs to what was there before and would"
                " undo that: move it away, and next time use the command restore"
            )
        time.sleep(SQLITE_PATIENCE_SECONDS)  # or another process is opening the backup right now
    database = Database(path)
    while mode == WRITE and size_of(path) and not os.path.exists(f"{path}-wal"):
        try:
            with database.session(deadline) as session:
                # In this mode, SQLite begins with a lock that it gets only if nobody has the log open.
                session.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                session.connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            return
        except sqlite3.Error as error:
            if not database.is_busy(error):
                return  # for whoever opens it to find out
            if time.monotonic() >= deadline:
                if read_header(path)[18:20] == _ROLLBACK:
                    raise
                if _bring_back(path):
                    return
                raise StoreUnavailable(
                    f"others have the database {path} open, but the log {path}-wal is not there: put it back,"
                    " or stop them first"
                ) from None
        time.sleep(SQLITE_PATIENCE_SECONDS)


def _bring_back(path: str) -> bool:
    """Put a log that was removed back, from the process that still has it open; tell whether that was done.

    Linux shows the open files of this user's processes. From then on that process refuses all changes,
    because the log is not the one that it has open.
    """
    import glob  # here, because few servers ever need them, and a start would take 3 ms longer
    import shutil
    import tempfile

    log = f"{path}-wal"
    removed: dict[object, str] = {}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == f"{log} (deleted)" and not link.startswith(f"/proc/{os.getpid()}/"):
                removed[identity_of(link)] = link
    if len(removed) != 1:  # none is to be seen, or they are not of one mind
        return False
    (link,) = removed.values()
    try:
        folder = os.path.dirname(log)
        with open(link, "rb") as source, tempfile.NamedTemporaryFile(dir=folder) as copy:
            before = os.fstat(source.fileno())
            copy_permissions(link, copy.fileno())
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
            os.link(copy.name, log)
        with contextlib.suppress(OSError):
            sync_folder(folder)
            time.sleep(_SETTLING_SECONDS)
            after = os.stat(link)
            if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
                return True
        os.unlink(log)  # a change was under way, which the copy lacks
    except OSError:
        pass
    return False


def mark_copy(path: str) -> None:
    """Mark a whole database file as a backup: what opens it next begins a new log, and knows an old one."""
    with open(path, "r+b") as file:
        header = bytearray(file.read(64))
        version = int.from_bytes(header[60:64], "big", signed=True)
        if header[18:20] != _ROLLBACK and version > 0:
            header[18:20] = _ROLLBACK
            header[60:64] = (-version).to_bytes(4, "big", signed=True)
            file.seek(0)
            file.write(header)
        file.flush()
        os.fsync(file.fileno())


def _stale_log(path: str) -> str:
    """Return the log or journal beside a file that is a backup and was never opened, see mark_copy; or ""."""
    for log in (f"{path}-wal", f"{path}-journal"):
        header = read_header(path) if size_of(log) else b""
        if header[18:20] == _ROLLBACK and header[60:61] >= b"\x80":
            return log
    return ""


def read_header(path: str) -> bytes:
    """Return the beginning of a file; nothing if it cannot be read.

    To close a file ends all locks that the process has on it, SQLite's too. So where this process has it
    open already, it is read through that.
    """
    with contextlib.suppress(OSError):
        descriptor = _open_descriptor(path)
        if descriptor is not None:
            return os.pread(descriptor, _HEADER_SIZE, 0)
        with open(path, "rb") as file:
            return file.read(_HEADER_SIZE)
    return b""


def _open_descriptor(path: str) -> int | None:
    """Return a descriptor by which this process has a file open, as far as that can be told."""
    with contextlib.suppress(OSError):
        wanted = os.stat(path)
        for descriptor in map(int, os.listdir("/dev/fd")):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), wanted):
                    return descriptor
    return None
