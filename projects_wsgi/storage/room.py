"""Keeps the last room on a disk for deletions.

SQLite writes even a deletion to its write-ahead log first, and empties that log into a file which
may have to grow for it: once a disk is full to its last byte, neither is possible any more.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from .connections import execute_patiently

_PLENTY = 67_108_864  # bytes; with that much free, nobody has to look closely, nor at each change
_PLENTY_SECONDS = 1.0
_PLENTY_CHANGES = _PLENTY // 8  # bytes, so that some processes together cannot use it up unseen

# What one change may write, in bytes, at most: some pages, and up to 4 bytes for each character of
# a name in the table and in three indexes.
_PAGES_OF_A_CHANGE = 65_536
_BYTES_PER_CHARACTER = 16

_KEPT_FOR_DELETIONS = 131_072  # bytes


class DiskRoom:
    """The room that is left on the disk of a database file; asked by one thread at a time.

    path: the database file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # Until when, and for how many bytes of changes, there is plenty.
        self._plenty_until = 0.0
        self._plenty_for = 0

    def is_enough(
        self, connection: sqlite3.Connection, now: float, deadline: float, growth: int | None
    ) -> bool:
        """Tell whether a change leaves enough for the log to be emptied, and for deletions.

        connection: one that is in no transaction; where room is scarce, its log is emptied.
        now, deadline: by time.monotonic(); it waits for others until then.
        growth: characters to be stored; None for a deletion, which always may.
        Raises sqlite3.Error.
        """
        needed = _PAGES_OF_A_CHANGE + _BYTES_PER_CHARACTER * (growth or 0)
        self._plenty_for -= needed
        if self._plenty_for > 0 and now < self._plenty_until:
            return True
        free = _free_bytes(self._path)
        if free is None or free > _PLENTY:
            self._plenty_until = now + _PLENTY_SECONDS
            self._plenty_for = _PLENTY_CHANGES
            return True
        if free < log_size(self._path) + 2 * needed + _KEPT_FOR_DELETIONS:
            with contextlib.suppress(sqlite3.OperationalError):  # others are reading, or it is full already
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            free = _free_bytes(self._path) or 0
        if growth is None:
            return True
        (page_size,) = execute_patiently(connection, deadline, "PRAGMA page_size").fetchone()
        (unused_pages,) = execute_patiently(connection, deadline, "PRAGMA freelist_count").fetchone()
        grows_by: int = max(0, needed - unused_pages * page_size)
        return free >= log_size(self._path) + needed + grows_by + _KEPT_FOR_DELETIONS


def _free_bytes(path: str) -> int | None:
    """Return what is free on a file's disk; None where the system does not tell."""
    try:
        status = os.statvfs(path)
    except (AttributeError, OSError):  # AttributeError: on Windows
        return None
    return status.f_bavail * status.f_frsize


def log_size(path: str) -> int:
    """Return the bytes of the write-ahead log beside a database file; 0 where there is none."""
    try:
        return os.path.getsize(f"{path}-wal")
    except OSError:
        return 0
