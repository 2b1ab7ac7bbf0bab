"""What the peers share: a plain store over sqlite3, and the checks that a sensible engineer makes."""

from __future__ import annotations

import base64
import sqlite3
import threading
from pathlib import Path
from typing import Any, Union

Key = Union[int, str]

DEFAULT_PROJECT_ID = 1


class NotFound(Exception):
    """No project has this id or name."""


class Exists(Exception):
    """Another project has this name."""


class Protected(Exception):
    """The default project cannot be deleted."""


class Store:
    """Keeps projects in an SQLite file: durably, without an ORM, over one kept connection per thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._local = threading.local()
        with self._connection as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS projects"
                " (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, description TEXT)"
            )
            connection.execute("INSERT OR IGNORE INTO projects VALUES (1, 'default', 'Default project')")

    @property
    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self._file, timeout=5)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
        return self._local.connection

    def page(self, start_id: int | None, limit: int, name_contains: str | None) -> list[dict[str, Any]]:
        sql, parameters = "SELECT id, name, description FROM projects WHERE 1", []
        if start_id is not None:
            sql += " AND id <= ?"
            parameters.append(start_id)
        if name_contains:
            sql += " AND instr(lower(name), lower(?))"
            parameters.append(name_contains)
        rows = self._connection.execute(sql + " ORDER BY id DESC LIMIT ?", (*parameters, limit))
        return [as_dict(row) for row in rows]

    def get(self, key: Key) -> dict[str, Any]:
        column = "id" if isinstance(key, int) else "name"
        row = self._connection.execute(
            f"SELECT id, name, description FROM projects WHERE {column} = ?", (key,)
        ).fetchone()
        if row is None:
            raise NotFound(key)
        return as_dict(row)

    def create(self, name: str, description: str | None) -> dict[str, Any]:
        try:
            with self._connection as connection:
                cursor = connection.execute(
                    "INSERT INTO projects (name, description) VALUES (?, ?)", (name, description)
                )
        except sqlite3.IntegrityError:
            raise Exists(name) from None
        return as_dict({"id": cursor.lastrowid, "name": name, "description": description})

    def update(self, key: Key, description: str | None) -> dict[str, Any]:
        column = "id" if isinstance(key, int) else "name"
        if description is not None:
            with self._connection as connection:
                connection.execute(
                    f"UPDATE projects SET description = ? WHERE {column} = ?", (description, key)
                )
        return self.get(key)

    def delete(self, key: Key) -> None:
        column = "id" if isinstance(key, int) else "name"
        if key in (DEFAULT_PROJECT_ID, "default"):
            raise Protected
        with self._connection as connection:
            if not connection.execute(f"DELETE FROM projects WHERE {column} = ?", (key,)).rowcount:
                raise NotFound(key)

    def close(self) -> None:
        """Close this thread's connection."""
        self._connection.close()


def as_dict(row: Any) -> dict[str, Any]:
    return {"name": row["name"], "description": row["description"], "id": global_id(row["id"])}


def global_id(number: int) -> str:
    return base64.b64encode(f"Project:{number}".encode()).decode()


def parse_cursor(cursor: str | None) -> int | None:
    if not cursor:
        return None
    return int(base64.b64decode(cursor).decode().partition(":")[2])


def parse_key(identifier: str) -> Key:
    try:
        type_name, _, number = base64.b64decode(identifier, validate=True).decode().partition(":")
        return int(number) if type_name == "Project" else identifier
    except ValueError:
        return identifier


def parse_create(body: Any) -> tuple[str, str | None]:
    if not isinstance(body, dict):
        raise ValueError("the body must be an object")
    name = body.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("name must be a string that is not empty")
    return name, parse_update(body)


def parse_update(body: Any) -> str | None:
    if not isinstance(body, dict):
        raise ValueError("the body must be an object")
    description = body.get("description")
    if description is not None and not isinstance(description, str):
        raise ValueError("description must be a string or null")
    return description


def as_page(projects: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Return a page; projects: one more than limit if there is a next page."""
    next_cursor = projects[limit]["id"] if len(projects) > limit else None
    return {"data": projects[:limit], "next_cursor": next_cursor}
