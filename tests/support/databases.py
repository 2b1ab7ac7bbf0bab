"""Looks into database files and stores."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from projects_wsgi import Store


def connect(file: Path) -> closing[sqlite3.Connection]:
    """Return a connection of its own to a file, in autocommit, to be used in a with block."""
    return closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False))


def names(store: Store, **parameters: object) -> list[str]:
    """Return the names on a page of a store."""
    return [row[1] for row in store.list_rows(**parameters)]  # type: ignore[arg-type]
