"""The tables in an SQLite file: those of each version, and whether a file holds them or another program's."""

from __future__ import annotations

from collections.abc import Sequence

from ...model import StoreUnavailable
from ..pool import Session

NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"

# MIGRATIONS[n] turns a file of version n (PRAGMA user_version) into one of version n + 1.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # AUTOINCREMENT: an id is never used twice. description is last, so scans skip it.
        """CREATE TABLE projects (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            folded_name TEXT NOT NULL,
            kind TEXT NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            description TEXT
        )""",
        # Default pages and searches stay cheap among any number of experiment projects.
        "CREATE INDEX projects_listed ON projects (id, folded_name) WHERE kind = 'standard'",
        f"""INSERT INTO projects (id, name, folded_name, kind, created_at, updated_at, description)
            VALUES (1, 'default', 'default', 'standard', {NOW}, {NOW}, 'Default project')""",
    ),
)
# What has a name that they need, in SQLite's eyes: case tells no names apart, and triggers have their own.
_MADE = "type <> 'trigger' AND name COLLATE NOCASE IN ('projects', 'projects_listed')"
_COLUMNS = {"id", "name", "folded_name", "kind", "created_at", "updated_at", "description"}
_OF_PROJECTS = "name = 'projects' COLLATE NOCASE"


def read_version(session: Session, path: str, begin: str = "BEGIN") -> int:
    """Begin a transaction and return the version of a file's tables in it; 0: there are none yet.

    Raises StoreUnavailable where they are another program's, or newer, or where the file cannot keep every
    text; then close the connection.
    """
    session.execute(begin)
    (version,) = session.execute("PRAGMA user_version").fetchone()
    version = abs(version)
    columns = columns_of(session, "projects")
    if version > len(MIGRATIONS) and columns:
        raise StoreUnavailable(
            f"the database {path} has schema version {version}, but this program knows only versions up"
            f" to {len(MIGRATIONS)}: upgrade projects_wsgi or choose another file"
        )
    if version:
        is_ours = columns >= _COLUMNS  # a host may add columns of its own
    else:
        is_ours = not session.execute(f"SELECT 1 FROM sqlite_master WHERE {_MADE}").fetchone()
    if not is_ours:
        raise StoreUnavailable(f"the database {path} belongs to another program: choose another file")
    (encoding,) = session.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":  # SQLite makes U+FFFD of some characters that it reads in UTF-16
        raise StoreUnavailable(
            f"the database {path} keeps texts in {encoding}, which loses some characters: choose another"
            " file; projects that are in this one can be imported"
        )
    return int(version)


def columns_of(session: Session, table: str) -> set[str]:
    """Return the names of a table's columns, in small letters; none if there is no such table."""
    # PRAGMA table_info might answer from what the connection remembers; a query never does.
    sql = "SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE"
    if not session.execute(sql, (table,)).fetchone():
        return set()
    return {column[0].lower() for column in session.execute(f"SELECT * FROM {table} LIMIT 0").description}


def last_id(session: Session) -> int:
    """Return the largest id that was ever given; 0 where that is not noted."""
    if columns_of(session, "sqlite_sequence"):
        row = session.execute(f"SELECT seq FROM sqlite_sequence WHERE {_OF_PROJECTS}").fetchone()
        if row and isinstance(row[0], int):
            return row[0]
    return 0


def reserve_ids(session: Session, last_id: int) -> None:
    """See to it that the next id that is given is larger than this one."""
    session.execute(f"UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE {_OF_PROJECTS}", (last_id,))


def is_copy(session: Session) -> bool:
    """Tell whether a file is a backup that nobody has opened yet: its version is below 0, until migrate."""
    return bool(session.execute("PRAGMA user_version").fetchone()[0] < 0)


def migrate(session: Session, path: str) -> None:
    """Make the tables, or bring those of an earlier version to this one; see read_version for errors."""
    # Read again, now that nobody else can be doing the same.
    version = read_version(session, path, "BEGIN IMMEDIATE")
    for migration in MIGRATIONS[version:]:
        for statement in migration:
            session.connection.execute(statement)
    session.connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    session.execute("COMMIT")
