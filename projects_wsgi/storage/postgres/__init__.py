"""PostgreSQL, and what is built of it, for when one machine is not enough."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from ...model import (
    DEFAULT_PROJECT_ID,
    OutcomeUnknown,
    Project,
    ProjectKind,
    ProjectRow,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)
from ...options import BUSY_TIMEOUT, MAX_CONNECTIONS
from .. import OnChange, PageQuery, Record, Store, unreadable
from ..pool import Loan, Pool, Session
from . import schema as tables
from .database import MORE_SECONDS, Database

# For longer texts, LIKE can take so long, in quadratic time, that no timeout of the server's ends it.
_MAX_LIKE_LENGTH = 255

_ROW = "id, name, description"
_PROJECT = f"{_ROW}, kind, created_at AT TIME ZONE 'UTC', updated_at AT TIME ZONE 'UTC'"
_HAS_TRIGGERS = (
    "EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = projects.tableoid AND NOT tgisinternal)"
)
_FETCHED = 100  # rows at a time, when all are read
_COMMIT_SECONDS = 60.0  # that the end of a long transaction may take

_COLUMNS = "name, name_hash, folded_name, kind, created_at, updated_at, description"

# PostgreSQL's texts hold no NUL. No word of this code lies across two others, so that one text contains
# another if, and only if, its code contains the other's.
_WORDS = {"\0": "\1\1\1\2", "\1": "\1\1\2\2", "\2": "\1\2\2\2"}
_ENCODING = str.maketrans(_WORDS)
_DECODING = {word: character for character, word in _WORDS.items()}


class PostgresStore(Store):
    """Keeps projects in one schema of a PostgreSQL database, safe from any thread, process and machine.

    url: postgresql://user:password@host:port/database?parameter=value, as libpq takes it; what it leaves
        out comes from libpq's environment variables and files.
    schema: where the tables are, made if missing. None: the first that the connection would make them in.
    max_connections: > 0, of this process at a time; a third of them are for searches alone, and another
        one for other reads, so that no number of writes that wait for a lock keeps them waiting.
    busy_timeout, on_change, read_only: see SQLiteStore. For a server that does not answer at all, a call
        waits a second longer, and for a new connection 2 seconds at least.
    Raises ValueError for an option out of its range and a malformed URL; StoreUnavailable when the driver
    is missing, the database cannot be used, or the schema holds another program's tables or a newer
    version's; it is left as it was.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        max_connections: int = MAX_CONNECTIONS.default,
        busy_timeout: float = BUSY_TIMEOUT.default,
        on_change: OnChange | None = None,
        read_only: bool = False,
    ) -> None:
        BUSY_TIMEOUT.check(busy_timeout)
        MAX_CONNECTIONS.check(max_connections)
        is_name = schema is None or re.fullmatch("[^\0\ud800-\udfff]+", schema)
        if not is_name or (schema and len(schema.encode()) > 63):
            raise ValueError(f"schema must be a name of 1 to 63 bytes, not {schema!r}")
        self._database = database = Database(url, busy_timeout)
        # Nothing stays open: a process that only forks others would keep it for good.
        with contextlib.closing(Pool(database, 1, None)) as pool, Loan(pool, busy_timeout) as session:
            schema = tables.prepare(session, schema, database.location, read_only)
        self._table = f"{tables.quoted(schema)}.projects"
        third = max_connections // 3
        writers = Pool(database, max_connections - 2 * third, None)
        super().__init__(
            database.location,
            Pool(database, third, None) if third else writers,
            Pool(database, third, None) if third else writers,
            writers,
            busy_timeout=busy_timeout,
            on_change=on_change,
            read_only=read_only,
        )

    # What the base class asks of an engine. Each change is one statement, which is its own transaction.

    def _select_page(self, session: Session, query: PageQuery) -> Iterable[ProjectRow]:
        first_id, limit, folded, kinds, max_size = query
        if len(folded) > _MAX_LIKE_LENGTH:
            return islice(self._search(session, query), limit)
        conditions = ["id <= $1"]
        parameters: list[Any] = [first_id, limit]
        if kinds == {ProjectKind.STANDARD}:
            # Written out, because PostgreSQL takes a partial index only for its very condition.
            conditions.append("kind = 'standard'")
        elif len(kinds) < len(ProjectKind):
            parameters.append([kind.value for kind in kinds])
            conditions.append(f"kind = ANY(${len(parameters)})")
        if folded:
            parameters.append("%" + re.sub(r"([\\%_])", r"\\\1", _encode(folded)) + "%")
            conditions.append(f"folded_name LIKE ${len(parameters)}")
        where = f"FROM {self._table} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT $2"
        sql = f"SELECT {_ROW} {where}"
        if max_size is not None:
            # All rows that the server finds are sent at once, so it must end the page itself: after the row
            # that makes it too long and one more.
            parameters.append(4 * max_size)  # bytes: no character takes more
            size = "octet_length(name) + coalesce(octet_length(description), 0)"
            before = "OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)"
            sql = f"SELECT {_ROW} FROM (SELECT {_ROW}, sum({size}) {before} AS size_before {where}) AS page"
            sql += f" WHERE coalesce(size_before, 0) <= ${len(parameters)} ORDER BY id DESC"
        return map(_parse_row, session.execute(sql, parameters))

    def _search(self, session: Session, query: PageQuery) -> Iterator[ProjectRow]:
        """Give the rows whose names hold a long text, of those that hold its beginning."""
        part = query._replace(folded=query.folded[:_MAX_LIKE_LENGTH], limit=max(query.limit, _FETCHED))
        while rows := list(self._select_page(session, part)):
            yield from (row for row in rows if query.folded in row[1].casefold())
            part = part._replace(first_id=rows[-1][0] - 1)
            if time.monotonic() >= session.deadline:
                raise StoreBusy("too many names begin like this text: search for a shorter part of it")

    def _select_row(self, session: Session, key: int | str) -> ProjectRow | None:
        row = self._find(session, _ROW, key)
        return row and _parse_row(row)

    def _select(self, session: Session, key: int | str) -> Project | None:
        row = self._find(session, _PROJECT, key)
        return row and _parse_project(row)

    def _find(self, session: Session, columns: str, key: int | str) -> Any:
        condition, value = _address(key)
        return session.execute(f"SELECT {columns} FROM {self._table} WHERE {condition}", (value,)).fetchone()

    def _insert(
        self, session: Session, name: str, folded: str, kind: ProjectKind, description: str | None
    ) -> Project | None:
        sql = (
            f"INSERT INTO {self._table} ({_COLUMNS}) VALUES ($1, $2, $3, $4, {tables.NOW}, {tables.NOW}, $5)"
            " ON CONFLICT (name_hash) DO NOTHING"
        )
        values = _encode(name), _hash(name), _encode(folded), kind.value, description and _encode(description)
        return self._change(session, sql, values)

    def _set_description(self, session: Session, key: int | str, description: str) -> Project | None:
        condition, value = _address(key)
        sql = f"UPDATE {self._table} SET description = $2, updated_at = {tables.NOW} WHERE {condition}"
        return self._change(session, sql, (value, _encode(description)))

    def _remove(self, session: Session, key: int | str) -> Project | None:
        condition, value = _address(key)
        sql = f"DELETE FROM {self._table} WHERE {condition} AND id <> {DEFAULT_PROJECT_ID}"
        return self._returned(session, sql, (value,))[0]

    def _change(self, session: Session, sql: str, parameters: Sequence[Any]) -> Project | None:
        """Execute a statement that makes or changes a project; return that as it is then."""
        project, has_triggers = self._returned(session, sql, parameters)
        if project and has_triggers:
            # A host's own may have changed it since. If it cannot be read, the change is made all the same.
            with contextlib.suppress(StoreError, session.driver.error):
                return self._select(session, project.id)
        return project

    def _returned(self, session: Session, sql: str, parameters: Sequence[Any]) -> tuple[Project | None, bool]:
        """Execute a change; return its project, if it has changed one, and whether a host has triggers.

        Raises OutcomeUnknown for a project that cannot be read: by then, the change is committed.
        """
        cursor = session.execute(f"{sql} RETURNING {_PROJECT}, {_HAS_TRIGGERS}", parameters)
        try:
            row = cursor.fetchone()
            return (_parse_project(row[:-1]), row[-1]) if row else (None, False)
        except (StoreError, session.driver.error) as error:
            raise OutcomeUnknown(f"the change was made, but not read again: {error}") from error

    # What read_all and bring_in ask for: transactions of many statements. Session.execute has no part
    # in them, because it tries again, and on another connection if need be.

    def _within(self, session: Session, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Execute a statement of a transaction and return its cursor."""
        session.connection.deadline = time.monotonic() + self._busy_timeout + MORE_SECONDS
        return session.connection.execute(sql, parameters)

    def _select_all(self, session: Session) -> Iterator[Project]:
        self._within(session, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._within(session, f"DECLARE every CURSOR FOR SELECT {_PROJECT} FROM {self._table} ORDER BY id")
        while rows := self._within(session, f"FETCH {_FETCHED} FROM every").fetchall():
            yield from map(_parse_project, rows)
        self._within(session, "COMMIT")

    def _last_id(self, session: Session) -> int:
        sequence = self._sequence(session, "USAGE, SELECT")
        sql = f"SELECT greatest(pg_sequence_last_value($1::regclass), max(id), 0) FROM {self._table}"
        (last_id,) = self._within(session, sql, (sequence,)).fetchone()
        return int(last_id)

    def _sequence(self, session: Session, privileges: str) -> str:
        """Return the name of what gives ids. Raises StoreUnavailable without one of the privileges."""
        sql = (
            "SELECT it, current_user, has_sequence_privilege(it, $2) FROM pg_get_serial_sequence($1, 'id') it"
        )
        sequence, user, may = self._within(session, sql, (self._table, privileges)).fetchone()
        if not may:
            privilege = privileges.rpartition(" ")[2]
            raise StoreUnavailable(
                f"the user {user} of {self.location} cannot be sure that no id is given twice: have its"
                f" owner GRANT {privilege} ON SEQUENCE {sequence} TO {user}, or give all projects new ids"
            )
        return str(sequence)

    @contextlib.contextmanager
    def _bringing_in(self, session: Session) -> Iterator[None]:
        self._within(session, "BEGIN ISOLATION LEVEL READ COMMITTED")
        self._within(session, f"LOCK TABLE {self._table} IN SHARE ROW EXCLUSIVE MODE")
        yield
        session.connection.deadline = time.monotonic() + _COMMIT_SECONDS
        self._database.commit(session)

    def _holds_projects(self, session: Session) -> bool:
        sql = f"SELECT 1 FROM {self._table} WHERE id <> {DEFAULT_PROJECT_ID} LIMIT 1"
        return self._within(session, sql).fetchone() is not None

    def _reserve_ids(self, session: Session, last_id: int) -> None:
        sequence = self._sequence(session, "UPDATE")
        sql = "SELECT setval($1::regclass, greatest(nextval($1::regclass) - 1, $2))"
        self._within(session, sql, (sequence, last_id))

    def _find_descriptions(self, session: Session, names: Sequence[str]) -> Mapping[str, str | None]:
        sql = f"SELECT {_ROW} FROM {self._table} WHERE name_hash = ANY($1::bytea[])"
        rows = self._within(session, sql, ([_hash(name) for name in names],)).fetchall()
        return {name: description for _, name, description in map(_parse_row, rows)}

    def _bring_in(self, session: Session, records: Sequence[Record], keeps_ids: bool, size: int) -> int:
        session.connection.deadline = time.monotonic() + self._busy_timeout + MORE_SECONDS
        columns = f"id, {_COLUMNS}" if keeps_ids else _COLUMNS
        cursor = session.connection.cursor()
        with cursor.copy(f"COPY {self._table} ({columns}) FROM STDIN") as copy:
            for project_id, name, description, kind, *times in records:
                texts = _encode(name), _hash(name), _encode(name.casefold()), kind
                row = *texts, *times, description and _encode(description)
                copy.write_row((project_id, *row) if keeps_ids else row)
        count: int = cursor.rowcount
        return count

    def _set_descriptions(self, session: Session, records: Sequence[Record], with_times: bool) -> int:
        times = f"updated_at = {tables.NOW}"
        if with_times:
            times = "created_at = new.created_at, updated_at = new.updated_at"
        sql = (
            f"UPDATE {self._table} AS it SET description = new.description, {times}"
            " FROM unnest($1::bytea[], $2::text[], $3::timestamptz[], $4::timestamptz[])"
            " AS new (hash, description, created_at, updated_at) WHERE it.name_hash = new.hash"
        )
        rows = [
            (_hash(name), description and _encode(description), *times)
            for _, name, description, _, *times in records
        ]
        count: int = self._within(session, sql, [list(column) for column in zip(*rows)]).rowcount
        return count


def _address(key: int | str) -> tuple[str, int | str]:
    return ("name_hash = $1", _hash(key)) if isinstance(key, str) else ("id = $1", key)


def _hash(name: str) -> str:
    # As text, because libpq escapes bytes twice where standard_conforming_strings is off.
    return rf"\x{hashlib.sha256(name.encode()).hexdigest()}"


def _parse_row(row: Any) -> ProjectRow:
    project_id, name, description = row
    try:
        return project_id, _decode(name), description and _decode(description)
    except TypeError as error:  # a host has changed a column
        raise unreadable(project_id, name, error) from None


def _parse_project(row: Any) -> Project:
    project_id, name, description, kind, *times = row
    try:
        aware = (time.replace(tzinfo=datetime.timezone.utc) for time in times)
        return Project(*_parse_row((project_id, name, description)), ProjectKind(kind), *aware)
    except (ValueError, AttributeError) as error:
        raise unreadable(project_id, name, error) from None


def _encode(text: str) -> str:
    return text.translate(_ENCODING)


def _decode(text: str) -> str:
    # What is no word of the code was written by a host.
    return re.sub("\1[\1\2]{2}\2", lambda it: _DECODING.get(it[0], it[0]), text) if "\1" in text else text
