"""Keeps the last room on a disk for deletions.

SQLite writes even a deletion to its write-ahead log first, and empties that log into a file which
may have to grow for it: once a disk is full to its last byte, neither is possible any more.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from .connections import execute_patiently

_PLENTY = 67_108_864  # bytes; with that much free there is no need to look closer

# What one change may write, in bytes, at most: some pages, and up to 4 bytes for each character of
# a name in the table and in three indexes.
_PAGES_OF_A_CHANGE = 65_536
_BYTES_PER_CHARACTER = 16

_KEPT_FOR_DELETIONS = 131_072  # bytes


def has_room(connection: sqlite3.Connection, deadline: float, path: str, growth: int | None) -> bool:
    """Tell whether a change leaves enough room on the disk for the log to be emptied, and for deletions.

    connection: one that is in no transaction; where room is scarce, its log is emptied.
    deadline: until when it waits for others, by time.monotonic().
    path: the database file. growth: characters to be stored; None for a deletion, which always may.
    Raises sqlite3.Error.
    """
    free = _free_bytes(path)
    if free is None or free > _PLENTY:
        return True
    needed = _PAGES_OF_A_CHANGE + _BYTES_PER_CHARACTER * (growth or 0)
    if free < _log_size(path) + 2 * needed + _KEPT_FOR_DELETIONS:
        with contextlib.suppress(sqlite3.OperationalError):  # others are reading, or it is full already
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        free = _free_bytes(path) or 0
    if growth is None:
        return True
    (page_size,) = execute_patiently(connection, deadline, "PRAGMA page_size").fetchone()
    (unused_pages,) = execute_patiently(connection, deadline, "PRAGMA freelist_count").fetchone()
    grows_by: int = max(0, needed - unused_pages * page_size)
    return free >= _log_size(path) + needed + grows_by + _KEPT_FOR_DELETIONS


def _free_bytes(path: str) -> int | None:
    """Return what is free on a file's disk; None where the system does not tell."""
    try:
        status = os.statvfs(path)
    except (AttributeError, OSError):  # AttributeError: on Windows
        return None
    return status.f_bavail * status.f_frsize


def _log_size(path: str) -> int:
    try:
        return os.path.getsize(f"{path}-wal")
    except OSError:
        return 0
