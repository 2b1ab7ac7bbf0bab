"""What is done to an SQLite file now and then: copying and restoring it while it is in use, checking it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Callable, cast

from ..files import copy_permissions, sync_folder, unfinished_file
from ..model import StoreBusy, StoreFull, StoreUnavailable
from .pool import Session
from .sqlite import schema
from .sqlite.database import MEMORY, READ, READ_UNCHANGING, WRITE, Database, diagnosis
from .sqlite.file import mode_to_look, opened, real_path
from .sqlite.log import mark_copy

# Told now and then how many pages are copied, and how many there are.
Progress = Callable[[int, int], object]

_STEP_PAGES = 1_000  # after which progress is told
_RESTORED_PAGES = 50  # likewise; fewer than a cache holds, so that the first are not in the file at once
_RETRY_SECONDS = 0.001  # among many writers, a longer wait would miss every gap
_BUSY_STATUSES = (5, 6)  # SQLITE_BUSY and SQLITE_LOCKED


@contextlib.contextmanager
def opened_as_it_is(path: str) -> Iterator[Session]:
    """Give a session on a file that exists, and is neither made nor upgraded. Raises StoreError."""
    path = real_path(path)
    if not os.path.exists(path):
        raise StoreUnavailable(f"there is no database {path}")
    with opened(path, mode_to_look(path, WRITE)) as session:
        yield session


def _database(session: Session) -> Database:
    return cast(Database, session.driver)


# Backups


def copy(session: Session, path: str, progress: Progress | None = None, *, overwrite: bool = False) -> None:
    """Copy the database of a session, as it is at this moment, to a file; see SQLiteStore.backup."""
    try:
        with new_file(path, _database(session).path, overwrite=overwrite) as unfinished:
            _copy(session, unfinished, progress)
            mark_copy(unfinished)
    except sqlite3.Error as error:
        session.driver.check_unchanged()
        # SQLite does not say which of the two files it means.
        if "is full" in str(error):
            raise StoreFull(f"there is no room for {path}") from error
        raise StoreUnavailable(f"cannot copy the database to {path}: {error}") from error


@contextlib.contextmanager
def new_file(path: str, source: str, *, overwrite: bool) -> Iterator[str]:
    """Give the path of an unfinished file; when the block ends, it is at its own path, and lasts.

    Whoever cannot read the database source cannot read it. Raises FileExistsError; StoreError.
    """
    path = real_path(path, "copy the database to")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already")
    if reason := _refusal(source, path):
        raise StoreUnavailable(f"cannot copy the database to {path}: {reason}")
    try:
        mode = 0o666 if source == MEMORY else 0o600
        with unfinished_file(os.path.dirname(path), mode) as (unfinished, descriptor):
            yield unfinished
            if source != MEMORY:
                # Only now: a database that nobody may write has a copy that nobody may write.
                copy_permissions(source, descriptor)
            _publish(unfinished, path, overwrite=overwrite)
        sync_folder(os.path.dirname(path))
    except FileExistsError:
        raise
    except OSError as error:
        raise StoreUnavailable(f"cannot copy the database to {path}: {_reason(error, path)}") from error


def _reason(error: OSError, path: str) -> str:
    """Say why no file can be made at a path, or beside what is there."""
    is_missing = isinstance(error, (FileNotFoundError, PermissionError)) and not os.path.exists(path)
    return (diagnosis(path) if is_missing else "") or str(error.strerror)


def _refusal(source: str, path: str) -> str:
    """Say why a backup of the database source must not take the place of what is at a path; or ""."""
    if os.path.exists(path) and source != MEMORY and os.path.samefile(path, source):
        return "that is the database itself"
    for suffix in ("-wal", "-shm", "-journal"):
        base = path[: -len(suffix)]
        if path.endswith(suffix) and os.path.exists(base):
            return f"SQLite keeps that file for the database {base}; choose another name"
        # SQLite would take it for the new file's, and spoil that.
        if os.path.exists(path + suffix):
            return f"{path}{suffix} shows that a database there is in use; choose another name"
    return ""


def _copy(session: Session, path: str, progress: Progress | None) -> None:
    def tell(_: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    # A transaction holds the source still: what others write does not make the copying begin anew.
    session.execute("BEGIN")
    session.execute("SELECT count(*) FROM sqlite_master").fetchone()
    # Nobody else knows of the file, so it needs no journal; it is synced when it is whole.
    with Database(path, synchronous="OFF").session(session.deadline) as target:
        target.execute("PRAGMA journal_mode = OFF")
        session.connection.backup(target.connection, pages=_STEP_PAGES, progress=tell)
    session.execute("ROLLBACK")
    session.driver.check_unchanged()


def _publish(unfinished: str, path: str, *, overwrite: bool) -> None:
    """Give a file its name, which only with overwrite may be another's already."""
    if not overwrite:
        try:
            os.link(unfinished, path)
            return
        except (OSError, NotImplementedError, AttributeError):  # it exists, or there are no links
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists already") from None
    os.replace(unfinished, path)


# Restoring


@contextlib.contextmanager
def copied(path: str, target: str) -> Iterator[Session]:
    """Give a session on a copy of a backup, which is good, beside the database that will hold it.

    path: of the backup. target: of the database, which is not made. Raises StoreError.
    """
    if target != MEMORY:
        target = real_path(target)
    with contextlib.ExitStack() as stack:
        backup = stack.enter_context(opened_as_it_is(path))
        version = schema.read_version(backup, path)
        if version == 0:
            raise StoreUnavailable(f"{path} is no backup: it holds no projects")
        if version < len(schema.MIGRATIONS):
            raise StoreUnavailable(f"the backup {path} is not of this version: open it once, then restore it")
        backup.execute("ROLLBACK")
        damage = _find_damage(backup)
        backup.driver.check_unchanged()
        if damage:
            raise StoreUnavailable(f"the backup {path} is damaged: {damage[0]}")
        copy_path = MEMORY
        if target != MEMORY:
            try:
                copy_path, _ = stack.enter_context(unfinished_file(os.path.dirname(target)))
                _copy(backup, copy_path, None)
            except OSError as error:
                reason = _reason(error, target)
                raise StoreUnavailable(f"cannot copy the backup beside {target}: {reason}") from error
        source = stack.enter_context(Database(copy_path, synchronous="OFF").session(backup.deadline))
        if copy_path == MEMORY:
            backup.connection.backup(source.connection)
            backup.driver.check_unchanged()
        else:
            source.execute("PRAGMA locking_mode = EXCLUSIVE")
            source.execute("PRAGMA journal_mode = OFF")
        source.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")
        yield source


def replace(source: Session, session: Session, progress: Progress | None = None) -> None:
    """Replace the contents of a session's database by those of a copy; see SQLiteStore.restore.

    In the copy, it is noted which ids were used since: they are not used again.
    """
    database = _database(session)
    (page_size,) = session.execute("PRAGMA page_size").fetchone()
    if source.execute("PRAGMA page_size").fetchone() != (page_size,):
        if database.path == MEMORY:
            raise StoreUnavailable("a database in memory cannot hold this backup: its pages differ")
        source.execute(f"PRAGMA page_size = {page_size}")  # which a database with a log cannot change
        source.execute("VACUUM")
    used = [schema.last_id(session)]
    is_locked = False

    def tell(status: int, remaining: int, total: int) -> None:
        nonlocal is_locked
        if status in _BUSY_STATUSES and time.monotonic() >= session.deadline:
            raise StoreBusy(f"others have locked the database {database.path} for too long; try again")
        if status not in _BUSY_STATUSES and not is_locked:
            # From here on, nobody else makes projects; SQLite hands on what is changed in source.
            is_locked = True
            if database.path != MEMORY:
                # Without the log, this process has locked all others out.
                mode = READ if database.is_concurrent else READ_UNCHANGING
                with database.session(session.deadline, mode) as reader:
                    used.append(schema.last_id(reader))
            schema.reserve_ids(source, max(used))
        if progress is not None:
            progress(total - remaining, total)

    (pages,) = source.execute("PRAGMA page_count").fetchone()
    # Not all pages in the first step, after which the transaction would be over.
    source.connection.backup(
        session.connection, pages=min(_RESTORED_PAGES, pages - 1), progress=tell, sleep=_RETRY_SECONDS
    )
    with contextlib.suppress(sqlite3.OperationalError):  # others are reading
        session.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# Checking


def find_faults(session: Session) -> list[str]:
    """Return what is wrong with a database, one line each. Raises sqlite3.OperationalError."""
    faults = _find_damage(session)
    if not faults:
        for table, row_id, parent, _ in session.execute("PRAGMA foreign_key_check"):
            row = "a row" if row_id is None else f"row {row_id}"  # some tables have no numbers
            faults.append(f"{row} of {table} refers to a row of {parent} that is not there")
    session.driver.check_unchanged()
    return faults


def _find_damage(session: Session) -> list[str]:
    try:
        return [line for (line,) in session.execute("PRAGMA integrity_check") if line != "ok"]
    except sqlite3.OperationalError:  # nothing is wrong with the file, as far as can be told
        raise
    except sqlite3.DatabaseError as error:
        return [str(error)]
