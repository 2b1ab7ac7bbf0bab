"""What is done to a database file now and then: copying it while it is in use, and checking it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Callable

from ...model import StoreFull, StoreUnavailable
from ...options import BUSY_TIMEOUT
from ..pool import Session
from .file import MAKE, Database, diagnosis

# Told now and then how many pages are copied, and how many there are.
Progress = Callable[[int, int], None]

_STEP_PAGES = 1_000  # after which progress is told


@contextlib.contextmanager
def opened_as_it_is(path: str) -> Iterator[Session]:
    """Give a session on a file that exists, and is neither made nor upgraded. Raises StoreError."""
    path = os.path.abspath(path)
    if not os.path.exists(path):
        raise StoreUnavailable(f"there is no database {path}")
    database = Database(path)
    try:
        session = database.session(time.monotonic() + BUSY_TIMEOUT.default)
        with closing(session.connection):
            yield session
    except sqlite3.Error as error:
        raise database.translated(error) from error


def copy(session: Session, path: str, progress: Progress | None = None, *, overwrite: bool = False) -> None:
    """Copy the database of a session, as it is at this moment, to a file; see SQLiteStore.backup."""
    path = os.path.abspath(path)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already")
    _check_target(session, path)
    # It gets its name when it is complete.
    unfinished = f"{path}.{os.getpid()}.unfinished"
    try:
        _copy(session, unfinished, progress)
        os.replace(unfinished, path)
        _sync_folder(os.path.dirname(path))
    except sqlite3.Error as error:
        # SQLite does not say which of the two files it means.
        if "is full" in str(error):
            raise StoreFull(f"there is no room for {path}") from error
        reason = diagnosis(unfinished) or error
        raise StoreUnavailable(f"cannot copy the database to {path}: {reason}") from error
    except OSError as error:
        raise StoreUnavailable(f"cannot copy the database to {path}: {error.strerror}") from error
    finally:
        for suffix in ("", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished + suffix)


def _check_target(session: Session, path: str) -> None:
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreUnavailable(f"cannot copy the database to {path}: it is not a file")
    ((_, _, source),) = session.execute("PRAGMA database_list")
    if source and os.path.exists(path) and os.path.samefile(path, source):
        raise StoreUnavailable(f"cannot copy the database to {path}: that is the database itself")
    for suffix in ("-wal", "-journal"):
        # SQLite would take it for the new file's, and spoil that.
        if os.path.exists(path + suffix):
            raise StoreUnavailable(
                f"cannot copy the database to {path}: {path}{suffix} shows that a database there is in use;"
                " choose another name"
            )


def _copy(session: Session, path: str, progress: Progress | None) -> None:
    def tell(_: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    # A transaction holds the source still: what others write does not make the copying begin anew.
    session.execute("BEGIN")
    session.execute("SELECT count(*) FROM sqlite_master").fetchone()
    target = Database(path, synchronous="FULL").session(session.deadline, MAKE)
    with closing(target.connection):
        session.connection.backup(target.connection, pages=_STEP_PAGES, progress=tell)
    session.execute("ROLLBACK")


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def find_faults(session: Session) -> list[str]:
    """Return what is wrong with a database, one line each. Raises sqlite3.OperationalError."""
    faults = []
    try:
        faults += [line for (line,) in session.execute("PRAGMA integrity_check") if line != "ok"]
        for table, row_id, parent, _ in session.execute("PRAGMA foreign_key_check"):
            faults.append(f"row {row_id} of {table} refers to a row of {parent} that is not there")
    except sqlite3.OperationalError:  # nothing is wrong with the file, as far as can be told
        raise
    except sqlite3.DatabaseError as error:
        faults.append(str(error))
    return faults
