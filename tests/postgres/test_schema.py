"""Which schemas a store opens, makes, or leaves as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing

import pytest

from projects_wsgi import StoreReadOnly, StoreUnavailable
from projects_wsgi.storage import open_store
from projects_wsgi.storage.postgres import schema as tables

from ..support.cluster import Cluster
from ..support.databases import Database, connect_to_postgres, names


def contents(database: Database) -> list[tuple[str, str]]:
    """Return all tables, views and indexes of a schema, and who may use them."""
    with database.connect() as connection:
        found: list[tuple[str, str]] = connection.execute(
            "SELECT relname, relacl::text FROM pg_class"
            " WHERE relnamespace = quote_ident(current_schema())::regnamespace"
        ).fetchall()
        return sorted(found, key=str)


@contextlib.contextmanager
def new_user(cluster: Cluster) -> Iterator[str]:
    """Make a user with no rights, and drop all that has to do with it."""
    cluster.execute("CREATE USER guest")
    try:
        yield "guest"
    finally:
        cluster.execute("DROP OWNED BY guest CASCADE")
        cluster.execute("DROP USER guest")


@contextlib.contextmanager
def new_database(cluster: Cluster, settings: str = "") -> Iterator[str]:
    """Make a database and drop it; give its name."""
    cluster.execute(f"CREATE DATABASE fresh TEMPLATE template0 {settings}")
    try:
        yield "fresh"
    finally:
        cluster.execute("DROP DATABASE fresh WITH (FORCE)")


def schema_of(database: Database) -> str:
    schema: str = database.options["schema"]
    return tables.quoted(schema)


def test_a_schema_is_made_if_it_is_missing_whatever_its_name(cluster: Cluster) -> None:
    for name in ('a "b" {c} %s é', "x" * 63, "$1"):
        for expected in (["default"], ["made", "default"]):
            with closing(open_store(cluster.url(), schema=name)) as store:
                assert names(store) == expected
                store.get_or_create("made")
        cluster.execute(f"DROP SCHEMA {tables.quoted(name)} CASCADE")


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "a\0b", "\udcff"])
def test_a_name_that_no_schema_has_is_refused(cluster: Cluster, name: str) -> None:
    with pytest.raises(ValueError, match="schema must be a name of 1 to 63 bytes"):
        open_store(cluster.url(), schema=name)


def test_without_a_name_it_is_the_one_in_which_the_connection_makes_tables(
    cluster: Cluster,
) -> None:
    with new_database(cluster) as name:
        with closing(open_store(cluster.url(database=name))) as store:
            store.create("in public")
        assert cluster.execute("SELECT name FROM public.projects ORDER BY id", name) == [
            "default",
            "in public",
        ]
        cluster.execute("ALTER DATABASE fresh SET search_path TO nowhere")
        with pytest.raises(
            StoreUnavailable, match="no schema to make tables in: name one with the option schema"
        ):
            open_store(cluster.url(database=name))


def test_two_schemas_know_nothing_of_each_other(cluster: Cluster, database: Database) -> None:
    with (
        closing(database.open_store()) as one,
        closing(open_store(cluster.url(), schema="other tenant")) as other,
    ):
        one.create("agent", "mine")
        assert names(other) == ["default"]
        assert other.create("agent", "yours").id == one.get("agent").id
        other.delete("agent")
        assert one.get("agent").description == "mine"
    cluster.execute('DROP SCHEMA "other tenant" CASCADE')


def test_no_search_path_leads_astray(cluster: Cluster, database: Database) -> None:
    with closing(database.open_store()) as store:
        store.create("agent")
    with closing(open_store(cluster.url(options="-csearch_path=nowhere"), **database.options)) as store:
        assert names(store) == ["agent", "default"]


def test_a_user_needs_no_right_to_make_tables_when_they_are_there(
    cluster: Cluster, database: Database
) -> None:
    with new_user(cluster) as user:
        url = cluster.url(user=user)
        with pytest.raises(StoreUnavailable, match="may not make the tables: open it once as one who may"):
            open_store(url, **database.options)
        assert contents(database) == []
        with closing(database.open_store()) as store:
            store.create("agent")
        with pytest.raises(StoreUnavailable, match="permission denied for schema"):
            open_store(url, **database.options)
        schema = schema_of(database)
        for grant in (
            f"GRANT CONNECT ON DATABASE postgres TO {user}",
            f"GRANT USAGE ON SCHEMA {schema} TO {user}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.projects TO {user}",
            f"GRANT SELECT ON {schema}.projects_version TO {user}",
        ):
            cluster.execute(grant)
        with closing(open_store(url, **database.options)) as store:
            made = store.create("other")
            assert store.update("other", "x").id == made.id
            assert names(store, name_contains="OTHER") == ["other"]
            store.delete("agent")
            store.ping()
        cluster.execute(f"REVOKE INSERT ON {schema}.projects FROM {user}")
        with closing(open_store(url, **database.options)) as store:
            with pytest.raises(StoreUnavailable, match="guest@.*permission denied for table projects"):
                store.create("third")
            assert names(store) == ["other", "default"]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE projects (id bigint, title text)",
        "CREATE VIEW projects AS SELECT 1 AS id",
        "CREATE TABLE projects_version (version integer)",
        "CREATE TABLE projects_version (other integer)",
        "CREATE VIEW projects_version AS SELECT 1 AS version",
        "CREATE SEQUENCE projects",
    ],
)
def test_another_programs_tables_are_refused_and_left_as_they_are(database: Database, sql: str) -> None:
    with database.connect() as connection:
        connection.execute(sql)
    before = contents(database)
    with pytest.raises(StoreUnavailable, match="holds another program's projects: choose another schema"):
        database.open_store()
    assert contents(database) == before


def test_our_tables_without_their_version_are_refused(database: Database) -> None:
    with closing(database.open_store()) as store:
        store.create("agent")
    with database.connect() as connection:
        for sql in ("DELETE FROM projects_version", "DROP TABLE projects_version"):
            connection.execute(sql)
            with pytest.raises(StoreUnavailable, match="another program's"):
                database.open_store()
        assert connection.execute("SELECT count(*) FROM projects").fetchone() == (2,)


def test_a_newer_version_is_refused_and_left_as_it_is(database: Database) -> None:
    with closing(database.open_store()) as store:
        store.create("agent")
    with database.connect() as connection:
        connection.execute("UPDATE projects_version SET version = 9")
        with pytest.raises(StoreUnavailable, match="has version 9, .* only versions up to 1: upgrade"):
            database.open_store()
        assert connection.execute("SELECT version FROM projects_version").fetchall() == [(9,)]


def test_an_earlier_version_is_upgraded_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(database.open_store()) as store:
        store.create("agent")
    upgrade = "ALTER TABLE {schema}.projects ADD COLUMN team text NOT NULL DEFAULT 'ours'"
    monkeypatch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, (upgrade,)))
    with pytest.raises(StoreUnavailable, match="an earlier version's: open it once without read_only"):
        database.open_store(read_only=True)
    for _ in range(2):
        with closing(database.open_store()) as store:
            assert names(store) == ["agent", "default"]
    with database.connect() as connection:
        assert connection.execute("SELECT version FROM projects_version").fetchall() == [(2,)]
        assert connection.execute("SELECT DISTINCT team FROM projects").fetchall() == [("ours",)]


def test_an_upgrade_that_fails_leaves_the_earlier_version(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(database.open_store()) as store:
        store.create("agent")
    upgrade = ("ALTER TABLE {schema}.projects ADD COLUMN team text", "SELECT 1 / 0")
    with monkeypatch.context() as patch:
        patch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, upgrade))
        with pytest.raises(Exception, match="division by zero"):
            database.open_store()
    with closing(database.open_store()) as store, database.connect() as connection:
        assert names(store) == ["agent", "default"]
        assert "team" not in {
            column.name for column in connection.execute("SELECT * FROM projects LIMIT 0").description
        }


def test_read_only_makes_nothing_and_changes_nothing(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="has no projects, .*: open it once without read_only"):
        database.open_store(read_only=True)
    assert contents(database) == []
    with closing(database.open_store()) as store:
        store.create("agent")
    with closing(database.open_store(read_only=True)) as store:
        assert names(store) == ["agent", "default"]
        with pytest.raises(StoreReadOnly):
            store.create("other")


def test_it_is_opened_where_the_operator_lets_nobody_write(cluster: Cluster, database: Database) -> None:
    with closing(database.open_store()) as store:
        store.create("agent")
    url = cluster.url(options="-cdefault_transaction_read_only=on")
    with closing(open_store(url, **database.options)) as store:
        assert names(store) == ["agent", "default"]
        with pytest.raises(StoreUnavailable, match="read-only transaction"):
            store.create("other")
        assert store.get("agent").name == "agent"


def test_where_an_event_trigger_forbids_tables_it_is_unavailable(cluster: Cluster) -> None:
    with new_database(cluster) as name:
        raising = "RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no tables on Fridays'; END $$"
        cluster.execute(f"CREATE FUNCTION refuse() {raising}", name)
        cluster.execute("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()", name)
        with pytest.raises(StoreUnavailable, match=r"cannot make the tables in .*: no tables on Fridays"):
            open_store(cluster.url(database=name))


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_name_is_refused(cluster: Cluster, encoding: str) -> None:
    settings = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    with new_database(cluster, settings) as name:
        expected = f"has the encoding {encoding}, not UTF8: choose another database"
        with pytest.raises(StoreUnavailable, match=expected):
            open_store(cluster.url(database=name))


def test_searches_use_trigrams_where_the_database_has_them(cluster: Cluster) -> None:
    with new_database(cluster) as name:
        url = cluster.url(database=name)
        open_store(url, schema="without").close()
        cluster.execute('CREATE SCHEMA "the extensions"', name)
        cluster.execute('CREATE EXTENSION pg_trgm SCHEMA "the extensions"', name)
        with closing(open_store(url, schema="with")) as store, connect_to_postgres(url) as connection:
            indexes = connection.execute(
                "SELECT schemaname FROM pg_indexes WHERE indexdef LIKE '%gin_trgm_ops%'"
            ).fetchall()
            assert indexes == [("with",)]
            connection.execute(
                'INSERT INTO "with".projects (name, name_hash, folded_name, kind, created_at, updated_at)'
                " SELECT n, sha256(n::bytea), n, 'standard', now(), now()"
                " FROM (SELECT 'project ' || number FROM generate_series(1, 20000) AS number) AS made (n)"
            )
            connection.execute('VACUUM ANALYZE "with".projects')
            store.create("Agent\0%")
            plan = connection.execute(
                'EXPLAIN SELECT id FROM "with".projects WHERE folded_name LIKE $$%agent%$$'
            ).fetchall()
            assert "projects_searched" in str(plan)
            assert names(store, name_contains="AGENT\0%") == ["Agent\0%"]


def test_who_may_not_use_the_trigrams_does_without(cluster: Cluster) -> None:
    with new_user(cluster) as user, new_database(cluster) as name:
        cluster.execute("CREATE SCHEMA hidden", name)
        cluster.execute("CREATE EXTENSION pg_trgm SCHEMA hidden", name)
        cluster.execute(f"CREATE SCHEMA mine AUTHORIZATION {user}", name)
        with closing(open_store(cluster.url(database=name, user=user), schema="mine")) as store:
            store.create("agent")
            assert names(store, name_contains="GEN") == ["agent"]
