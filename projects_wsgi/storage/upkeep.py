"""What is done to a database file now and then: copying it while it is in use, and checking it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Callable

from ..model import StoreFull, StoreUnavailable
from . import DEFAULT_BUSY_TIMEOUT
from .connections import connect, diagnosis, execute_patiently, translated

# How long others may be in the way before the work is given up, in seconds.
_PATIENCE = DEFAULT_BUSY_TIMEOUT

# The pages of one step of a copy, after which progress is told.
_STEP_PAGES = 1_000


@contextlib.contextmanager
def opened_as_it_is(path: str) -> Iterator[sqlite3.Connection]:
    """Give a connection to a file that exists, whatever it holds; it is neither made nor upgraded.

    Raises FileNotFoundError; StoreError, also for what SQLite says within the block.
    """
    path = os.path.abspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no database {path}")
    try:
        with closing(connect(path, time.monotonic() + _PATIENCE)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise translated(error, path) from error


def copy(
    source: sqlite3.Connection,
    path: str,
    progress: Callable[[int, int], None] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Copy the database of a connection, as it is at this moment, to a file.

    path, progress, overwrite: see SQLiteStore.backup.
    Raises FileExistsError; StoreError when the file cannot be written.
    """
    path = os.path.abspath(path)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already")
    _check_target(path, source)
    # Complete, or not there at all: it gets its name at the end.
    unfinished = f"{path}.{os.getpid()}.unfinished"
    try:
        _copy(source, unfinished, progress)
        os.replace(unfinished, path)
        _sync_folder(os.path.dirname(path))
    except sqlite3.Error as error:
        # Which of the two files it is about, SQLite does not say.
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


def _check_target(path: str, source: sqlite3.Connection) -> None:
    """Raise StoreUnavailable where a copy would take the place of what it must not."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreUnavailable(f"cannot copy the database to {path}: it is not a file")
    ((_, _, source_path),) = source.execute("PRAGMA database_list")
    if source_path and os.path.exists(path) and os.path.samefile(path, source_path):
        raise StoreUnavailable(f"cannot copy the database to {path}: that is the database itself")
    for suffix in ("-wal", "-journal"):
        # SQLite would take it for the new file's, and spoil that.
        if os.path.exists(path + suffix):
            raise StoreUnavailable(
                f"cannot copy the database to {path}: {path}{suffix} says that it is a database in use;"
                " choose another name"
            )


def _copy(source: sqlite3.Connection, path: str, progress: Callable[[int, int], None] | None) -> None:
    def tell(_: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    # A transaction that reads holds the source still: what others write meanwhile is not copied, and
    # does not make the copying begin anew.
    deadline = time.monotonic() + _PATIENCE
    source.execute("BEGIN")
    try:
        execute_patiently(source, deadline, "SELECT count(*) FROM sqlite_master").fetchone()
        with closing(connect(path, deadline, mode="rwc", synchronous="FULL")) as target:
            source.backup(target, pages=_STEP_PAGES, progress=tell)
    finally:
        source.execute("ROLLBACK")


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def find_faults(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong with a database, one line each; nothing if all is well.

    Raises sqlite3.OperationalError when it cannot be read.
    """
    faults = []
    deadline = time.monotonic() + _PATIENCE
    try:
        lines = execute_patiently(connection, deadline, "PRAGMA integrity_check")
        faults += [line for (line,) in lines if line != "ok"]
        for table, row_id, parent, _ in execute_patiently(connection, deadline, "PRAGMA foreign_key_check"):
            faults.append(f"row {row_id} of {table} refers to a row of {parent} that is not there")
    except sqlite3.OperationalError:  # nothing is wrong with the file, as far as can be told
        raise
    except sqlite3.DatabaseError as error:
        faults.append(str(error))
    return faults
