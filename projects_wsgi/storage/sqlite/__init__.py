"""The embedded engine: one SQLite file, or a database in memory."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...model import DEFAULT_PROJECT_ID, Project, ProjectKind, ProjectRow, StoreReadOnly
from ...options import BUSY_TIMEOUT, MAX_DATABASE_SIZE
from .. import OnChange, PageQuery, Record, Store, unreadable, upkeep
from ..pool import Loan, Pool, Session
from . import schema
from .database import MEMORY, Database, Memory
from .file import File, real_path
from .schema import NOW

_MAX_READERS = 10  # more would not be faster, and each holds three file descriptors
_MAX_SEARCHERS = 5
_MAX_TRANSACTION_SECONDS = 60.0  # longer than any lasts on a disk that answers

_BRING_IN_CACHE_KIB = 65_536  # while many projects come in, whose names are all over an index

# For longer texts, instr() can take quadratic time, and Python's own search does not.
_MAX_INSTR_LENGTH = 32

_SELECT_ROWS = "SELECT id, name, description FROM projects"
_SELECT = "SELECT id, name, description, kind, created_at, updated_at FROM projects"
_SELECT_ROW_BY_ID = f"{_SELECT_ROWS} WHERE id = ?"
_SELECT_ROW_BY_NAME = f"{_SELECT_ROWS} WHERE name = ?"
_INSERT = (  # with NULL for a new id
    "INSERT INTO projects (id, name, folded_name, kind, created_at, updated_at, description)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class SQLiteStore(Store):
    """Keeps projects in one SQLite file, safe from any thread and process.

    database: the file's path, made if missing (its folder must exist), or ":memory:".
    synchronous: "FULL" (the default: an answered write survives a power cut) or "NORMAL"
        (several times the writes a second; a power cut may lose the last of them, kill -9 none).
    busy_timeout: seconds, > 0 and <= 25, that a call waits for others in all; then it raises StoreBusy.
    max_database_size: bytes, >= 65,536; a change that needs a larger file raises StoreFull. None: only
        the disk sets a limit. SQLite's log beside the file takes 4 MiB more, up to 16 MiB while readers
        overlap all the time, and what one change writes.
    on_change: called with "created", "updated" or "deleted" and the project, in the thread that made
        the change, after it is committed; what it raises is logged and changes nothing.
    read_only: whether the file is only read, and neither made nor upgraded; others may write to it.
    Raises ValueError for an option out of its range; StoreUnavailable when the file cannot be opened,
    is not a database, holds another program's tables or was made by a newer version; it is left as it was.

    A host may keep tables of its own in the file; its user_version belongs to the store.
    A database in memory is one connection, so its calls run one at a time; it ends with close().
    """

    def __init__(
        self,
        database: str | os.PathLike[str],
        *,
        synchronous: str = "FULL",
        busy_timeout: float = BUSY_TIMEOUT.default,
        max_database_size: int | None = MAX_DATABASE_SIZE.default,
        on_change: OnChange | None = None,
        read_only: bool = False,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f'synchronous must be "FULL" or "NORMAL", not {synchronous!r}')
        BUSY_TIMEOUT.check(busy_timeout)
        MAX_DATABASE_SIZE.check(max_database_size)
        name = os.fspath(database)
        if not name or "\0" in name:
            raise ValueError('database must be the path of a file or ":memory:"')
        if read_only and name == MEMORY:
            raise ValueError("a database in memory begins empty: read_only needs a file")
        # Absolute, because connections are opened later, when the host may have changed its folder.
        self.path = name if name == MEMORY else real_path(name)
        options = self.path, synchronous, max_database_size
        self._database: Database = (
            Memory(*options) if name == MEMORY else File(*options, patience=busy_timeout, read_only=read_only)
        )
        # Where readers and writers lock each other out, all of a process queue for one connection, or
        # the readers would be too late for every gap between writers.
        readers = searchers = writers = Pool(self._database, 1, _MAX_TRANSACTION_SECONDS)
        if self._database.is_concurrent:
            readers = Pool(self._database, _MAX_READERS, busy_timeout)
            searchers = Pool(self._database, _MAX_SEARCHERS, busy_timeout)
        self._restorations = 0
        super().__init__(
            self.path,
            readers,
            searchers,
            writers,
            busy_timeout=busy_timeout,
            on_change=on_change,
            read_only=read_only,
        )

    def version(self) -> object:
        """Return what is another value after every change of whomever."""
        with self._reading() as session:
            # Of other connections' changes the pragma tells (sqlite.org/pragma.html#pragma_data_version), of
            # this one's own the counts.
            (others,) = session.execute("PRAGMA data_version").fetchone()
            return session.connection, others, session.connection.total_changes, self._restorations

    def backup(
        self,
        path: str | os.PathLike[str],
        progress: upkeep.Progress | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Copy the database, as it is at this moment, to a file, while others go on using it.

        path: the file, which appears when it is complete. overwrite: whether it may exist already.
        progress: see Progress. Raises FileExistsError; StoreError when the file cannot be written.
        """
        with self._reading() as session:
            upkeep.copy(session, os.fspath(path), progress, overwrite=overwrite)

    def restore(self, path: str | os.PathLike[str], progress: upkeep.Progress | None = None) -> None:
        """Replace all that the database holds by a backup, in one transaction, while others go on using it.

        path: of the backup. progress: see Progress. Ids that were used since are not used again. on_change
        is not called. Raises StoreError where the backup is damaged, of another version or not there.
        """
        if self._read_only:
            raise StoreReadOnly
        # First, because to check and to copy a backup takes long.
        with upkeep.copied(os.fspath(path), self.path) as copy:
            self.restore_copy(copy, progress)

    def restore_copy(self, source: Session, progress: upkeep.Progress | None = None) -> None:
        """Replace all that the database holds by what a copy of a backup does; see upkeep.copied, restore."""
        with Loan(self._writers, self._busy_timeout) as session:
            self._restorations += 1  # first: progress may raise when all is replaced
            upkeep.replace(source, session, progress)

    # What the base class asks of an engine

    def _select_page(self, session: Session, query: PageQuery) -> Iterable[ProjectRow]:
        # The rows come one by one, so nothing need be done for max_size.
        first_id, limit, folded, kinds, _ = query
        conditions = ["id <= ?"]
        parameters: list[Any] = [first_id]
        if kinds == {ProjectKind.STANDARD}:
            # Written out, because SQLite takes a partial index only for its very condition.
            conditions.append("kind = 'standard'")
        elif len(kinds) < len(ProjectKind):
            conditions.append(f"kind IN ({', '.join('?' * len(kinds))})")
            parameters.extend(kind.value for kind in kinds)
        if folded:
            function = "instr" if len(folded) <= _MAX_INSTR_LENGTH else "contains"
            conditions.append(f"{function}(folded_name, ?)")
            parameters.append(folded)
        parameters.append(limit)
        where = " AND ".join(conditions)
        sql = f"{_SELECT_ROWS} WHERE {where} ORDER BY id DESC LIMIT ?"
        rows: Iterable[ProjectRow] = session.execute(sql, parameters)
        return rows

    def _select_row(self, session: Session, key: int | str) -> ProjectRow | None:
        sql = _SELECT_ROW_BY_NAME if isinstance(key, str) else _SELECT_ROW_BY_ID
        row: ProjectRow | None = session.execute(sql, (key,)).fetchone()
        return row

    def _select(self, session: Session, key: int | str) -> Project | None:
        row = session.execute(f"{_SELECT} WHERE {_column(key)} = ?", (key,)).fetchone()
        return row and _parse_project(row)

    def _insert(
        self, session: Session, name: str, folded: str, kind: ProjectKind, description: str | None
    ) -> Project | None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        text = now.replace("+00:00", "Z")
        changes_before = session.connection.total_changes
        cursor = session.execute(_INSERT, (None, name, folded, kind.value, text, text, description))
        if session.connection.total_changes - changes_before == 1:
            time = datetime.datetime.fromisoformat(now)
            return Project(cursor.lastrowid, name, description, kind, time, time)
        # A trigger of the host's has done more, or has skipped the row.
        return self._select(session, name) if cursor.rowcount else None

    def _set_description(self, session: Session, key: int | str, description: str) -> Project | None:
        sql = f"UPDATE projects SET description = ?, updated_at = {NOW} WHERE {_column(key)} = ?"
        is_set = session.execute(sql, (description, key)).rowcount
        return self._select(session, key) if is_set else None

    def _remove(self, session: Session, key: int | str) -> Project | None:
        project = self._select(session, key)
        if project is None or project.id == DEFAULT_PROJECT_ID:
            return None
        is_removed = session.execute("DELETE FROM projects WHERE id = ?", (project.id,)).rowcount
        return project if is_removed else None

    def _select_all(self, session: Session) -> Iterator[Project]:
        # One statement sees the database as of one moment.
        with contextlib.closing(session.execute(f"{_SELECT} ORDER BY id")) as rows:
            yield from map(_parse_project, rows)

    def _last_id(self, session: Session) -> int:
        return schema.last_id(session)

    @contextlib.contextmanager
    def _bringing_in(self, session: Session) -> Iterator[None]:
        (cache_size,) = session.execute("PRAGMA cache_size").fetchone()
        session.execute(f"PRAGMA cache_size = -{_BRING_IN_CACHE_KIB}")
        try:
            self._begin(session, 0)
            yield
            session.deadline = time.monotonic() + self._busy_timeout
            self._commit(session)
        finally:
            session.execute(f"PRAGMA cache_size = {cache_size}")

    def _holds_projects(self, session: Session) -> bool:
        sql = "SELECT 1 FROM projects WHERE id <> ? LIMIT 1"
        return session.execute(sql, (DEFAULT_PROJECT_ID,)).fetchone() is not None

    def _reserve_ids(self, session: Session, last_id: int) -> None:
        schema.reserve_ids(session, last_id)

    def _find_descriptions(self, session: Session, names: Sequence[str]) -> Mapping[str, str | None]:
        places = ", ".join("?" * len(names))
        return dict(
            session.execute(f"SELECT name, description FROM projects WHERE name IN ({places})", names)
        )

    def _bring_in(self, session: Session, records: Sequence[Record], keeps_ids: bool, size: int) -> int:
        self._database.check_room(session, size)
        rows = [
            (number if keeps_ids else None, name, name.casefold(), kind, created_at, updated_at, description)
            for number, name, description, kind, created_at, updated_at in records
        ]
        count: int = session.connection.executemany(_INSERT, rows).rowcount
        return count

    def _set_descriptions(self, session: Session, records: Sequence[Record], with_times: bool) -> int:
        self._database.check_room(session, sum(len(record[2] or "") for record in records))
        times = "created_at = ?, updated_at = ?" if with_times else f"updated_at = {NOW}"
        sql = f"UPDATE projects SET description = ?, {times} WHERE name = ?"
        rows = [
            (description, *(given if with_times else ()), name) for _, name, description, _, *given in records
        ]
        count: int = session.connection.executemany(sql, rows).rowcount
        return count

    def _begin(self, session: Session, growth: int | None) -> None:
        self._database.begin(session, growth)

    def _commit(self, session: Session) -> None:
        self._database.commit(session)


def _column(key: int | str) -> str:
    return "name" if isinstance(key, str) else "id"


def _parse_project(row: Any) -> Project:
    project_id, name, description, kind, *times = row
    try:
        return Project(project_id, name, description, ProjectKind(kind), *map(_parse_time, times))
    except (ValueError, TypeError, AttributeError) as error:  # the types of SQLite's columns bind nobody
        raise unreadable(project_id, name, error) from None


def _parse_time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.rstrip("Z")).replace(tzinfo=datetime.timezone.utc)
