"""Where tests keep projects, and what looks into it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from projects_wsgi import ProjectsApp, Store, make_app
from projects_wsgi.storage import open_store

from .cluster import Cluster


class Database(ABC):
    """A place for projects, in one of the engines.

    name, options: what make_app and open_store take for it.
    forbid: what a trigger does to forbid a change, in several ways; the last is silent.
    """

    forbid: ClassVar[Mapping[str, str]]

    def __init__(self, name: str | Path, **options: Any) -> None:
        self.name = os.fspath(name)
        self.options = options

    def make_app(self, **options: Any) -> ProjectsApp:
        return make_app(self.name, **self.options, **options)

    def open_store(self, **options: Any) -> Store:
        return open_store(self.name, **self.options, **options)

    @property
    def arguments(self) -> list[str]:
        """What the command line takes for it."""
        return ["--db", self.name, *(f"--{name}={value}" for name, value in self.options.items())]

    def in_module(self, module: str) -> str:
        """Return a module that makes its application from this database instead of projects.db."""
        arguments = [repr(self.name), *(f"{name}={value!r}" for name, value in self.options.items())]
        return module.replace('make_app("projects.db"', f"make_app({', '.join(arguments)}")

    @abstractmethod
    def connect(self) -> closing[Any]:
        """Return a connection of a host's own, in autocommit, to be used in a with block."""

    @abstractmethod
    def create_trigger(self, name: str, when: str, action: str) -> None:
        """Make a trigger of the host's own. when: such as "BEFORE INSERT ON projects"; action: SQL."""

    @abstractmethod
    def drop_trigger(self, name: str, table: str) -> None:
        """Drop a trigger."""


class SQLiteDatabase(Database):
    """A file, or ":memory:"."""

    forbid: ClassVar = {
        "abort": "SELECT RAISE(ABORT, 'the host refuses')",
        "fail": "SELECT RAISE(FAIL, 'the host refuses')",
        "roll back": "SELECT RAISE(ROLLBACK, 'the host refuses')",
        "ignore": "SELECT RAISE(IGNORE)",
    }

    def in_module(self, module: str) -> str:
        return module  # whoever runs it can get at a file beside it

    def connect(self) -> closing[Any]:
        return connect(Path(self.name))

    def create_trigger(self, name: str, when: str, action: str) -> None:
        with self.connect() as connection:
            connection.execute(f"CREATE TRIGGER {name} {when} BEGIN {action}; END")

    def drop_trigger(self, name: str, table: str) -> None:
        with self.connect() as connection:
            connection.execute(f"DROP TRIGGER {name}")


class PostgresDatabase(Database):
    """A schema in a database of a server. url: with a password that nobody may show."""

    forbid: ClassVar = {
        "abort": "RAISE 'the host refuses'",
        "fail": "RAISE 'the host refuses' USING ERRCODE = 'triggered_action_exception'",
        "roll back": "RAISE 'the host refuses' USING ERRCODE = 'check_violation'",
        "ignore": "RETURN NULL",
    }

    def __init__(self, url: str, schema: str) -> None:
        super().__init__(url, schema=schema)

    def connect(self) -> closing[Any]:
        connection = connect_to_postgres(self.name)
        connection.execute(f"SET search_path TO {_quoted(self.options['schema'])}")
        return closing(connection)

    def create_trigger(self, name: str, when: str, action: str) -> None:
        with self.connect() as connection:
            connection.execute(
                f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
                # Whoever fires it has a search path of their own.
                " SET search_path FROM CURRENT"
                f" AS $$ BEGIN {action}; RETURN coalesce(new, old); END $$"
            )
            connection.execute(f"CREATE TRIGGER {name} {when} FOR EACH ROW EXECUTE FUNCTION {name}()")

    def drop_trigger(self, name: str, table: str) -> None:
        with self.connect() as connection:
            connection.execute(f"DROP TRIGGER {name} ON {table}")


_numbers = itertools.count(1)


@contextlib.contextmanager
def fresh_schema(cluster: Cluster, connection: Any) -> Iterator[PostgresDatabase]:
    """Make a schema through a connection of the superuser's, and drop it with all that it holds.

    It must have been used: a test that goes on with SQLite all the same would prove nothing.
    """
    name = f'test "{next(_numbers)}" 100%'  # which has to be quoted wherever it stands
    connection.execute(f"CREATE SCHEMA {_quoted(name)}")
    yield PostgresDatabase(cluster.url(), name)
    query = "SELECT count(*) FROM pg_class WHERE relnamespace = quote_ident(%s)::regnamespace"
    (count,) = connection.execute(query, [name]).fetchone()
    connection.execute(f"DROP SCHEMA {_quoted(name)} CASCADE")
    assert count > 0, "the test did not use its database"


def connect_to_postgres(url: str) -> Any:
    """Return a connection in autocommit, which waits for no lock longer than 10 seconds."""
    import psycopg  # which is not there where the tests run on SQLite

    return psycopg.connect(url, autocommit=True, options="-c lock_timeout=10s -c client_min_messages=warning")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def connect(file: Path) -> closing[sqlite3.Connection]:
    """Return a connection of its own to a file, in autocommit, to be used in a with block."""
    return closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False))


def names(store: Store, **parameters: object) -> list[str]:
    """Return the names on a page of a store."""
    return [row[1] for row in store.list_rows(**parameters)]  # type: ignore[arg-type]
