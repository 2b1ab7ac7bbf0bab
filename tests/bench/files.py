"""Database files full of projects, made fast and once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from projects_wsgi import SQLiteStore

from .contenders.projects import Store

MOMENT = "2026-01-01T00:00:00.000Z"
DESCRIPTION_SIZE = 60  # characters, of a usual one


def name_of(number: int) -> str:
    """Return the name of a project; in the order of the names, their numbers are scattered."""
    return f"Agent {number * 0x9E3779B1 & 0xFFFFFFFF:08x}"


def description_of(number: int, size: int = DESCRIPTION_SIZE) -> str:
    return f"What project {number} is for. ".ljust(size, "x")


class Files:
    """The files of one run.

    folder: where they are made. A file that was made once is not made again: who writes, copies it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def filled(self, count: int, description_size: int = DESCRIPTION_SIZE, experiments: int = 0) -> Path:
        """Return a file of SQLiteStore's.

        count: projects. experiments: of 100 projects, how many are experiment projects.
        """
        file = self.folder / f"{count}-{description_size}-{experiments}.db"
        if not file.exists():
            SQLiteStore(file).close()
            rows = (
                (
                    number,
                    name_of(number),
                    name_of(number).casefold(),
                    "experiment" if number % 100 < experiments else "standard",
                    MOMENT,
                    MOMENT,
                    description_of(number, description_size),
                )
                for number in range(2, count + 1)
            )
            insert(file, "INSERT INTO projects VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return file

    def filled_for_peers(self, count: int) -> Path:
        """Return a file of the peers' store with the same projects."""
        file = self.folder / f"{count}-peers.db"
        if not file.exists():
            Store(file).close()
            rows = ((number, name_of(number), description_of(number)) for number in range(2, count + 1))
            insert(file, "INSERT INTO projects VALUES (?, ?, ?)", rows)
        return file

    def copy(self, file: Path, folder: Path | None = None) -> Path:
        """Return a copy of a file that nobody has open; folder: where, if not beside it."""
        self._count += 1
        return Path(shutil.copy(file, (folder or self.folder) / f"copy-{self._count}.db"))


def insert(file: Path, sql: str, rows: Iterator[tuple[Any, ...]]) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")  # KiB
        connection.execute("BEGIN")
        connection.executemany(sql, rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def time_syncs(folder: Path, seconds: float) -> list[float]:
    """Append 4 KiB to a file and sync it until the time is over; return the seconds that each took."""
    latencies = []
    with open(folder / "synced", "wb", buffering=0) as file:
        now = time.perf_counter()
        end = now + seconds
        while now < end:
            begin = now
            file.write(bytes(4_096))
            os.fdatasync(file.fileno())
            now = time.perf_counter()
            latencies.append(now - begin)
    return latencies
