"""Projects move between both engines, and nothing about them changes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects_wsgi import ProjectExists, ProjectKind, SQLiteStore, Store, StoreUnavailable, transfer
from projects_wsgi.storage import open_store
from projects_wsgi.transfer import open_source

from ..support.cluster import Cluster
from ..support.process import run
from ..test_transfer import WILD, lines_of, project, source_of, texts
from .test_schema import new_database, new_user


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> Iterator[str]:
    """The URL of a database whose projects no other test of this module needs."""
    cluster.execute("CREATE DATABASE moving TEMPLATE template0")
    yield cluster.url(database="moving")
    cluster.execute("DROP DATABASE moving WITH (FORCE)")


def emptied(url: str) -> Store:
    """Return a store that holds nothing but its default project."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("DROP TABLE IF EXISTS projects, projects_version")
    return open_store(url)


@settings(max_examples=60)
@given(
    st.dictionaries(
        texts.filter(bool), st.tuples(st.none() | texts, st.sampled_from(ProjectKind)), max_size=8
    )
)
def test_whatever_either_engine_holds_is_the_same_in_the_other_byte_for_byte(
    url: str, projects: dict[str, Any]
) -> None:
    memory = ":memory:"
    with (
        closing(SQLiteStore(memory)) as one,
        closing(SQLiteStore(memory)) as other,
        closing(emptied(url)) as store,
    ):
        for name, (description, kind) in projects.items():
            with contextlib.suppress(ValueError):
                one.get_or_create(name, description, kind)
        one.update("default", "".join(projects))
        lines = lines_of(one)
        transfer.import_projects(store, source_of(lines))
        assert lines_of(store) == lines
        transfer.import_projects(other, transfer.export_projects(store))
        assert lines_of(other) == lines
        assert store.create("\1next").id == one.create("\1next").id


def test_commands_move_all_to_postgres_and_back(url: str, tmp_path: Path) -> None:
    with closing(SQLiteStore(tmp_path / "one.db")) as store:
        for number, name in enumerate(WILD):
            store.create(name, WILD[-number - 1], list(ProjectKind)[number % 3])
        store.delete(WILD[-1])
    emptied(url).close()
    result = run("import", "one.db", "--db", url, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert run("import", url, "--db", "other.db", cwd=tmp_path).returncode == 0
    one, middle, other = (
        run("export", "--db", database, cwd=tmp_path).stdout for database in ("one.db", url, "other.db")
    )
    assert one == middle == other
    # The last id is gone, and nobody gets it again.
    with closing(SQLiteStore(tmp_path / "other.db")) as store, closing(open_store(url)) as middle_store:
        assert store.create("next").id == middle_store.create("next").id == len(WILD) + 2


def test_what_came_in_is_found_whatever_strings_mean_to_the_server(cluster: Cluster) -> None:
    with new_database(cluster) as name:
        for setting in ("standard_conforming_strings = off", "array_nulls = off", "bytea_output = escape"):
            cluster.execute(f"ALTER DATABASE {name} SET {setting}")
        with closing(open_store(cluster.url(database=name))) as store:
            transfer.import_projects(store, [project(5, "a\\"), project(3, "NULL")])
            assert (store.get("a\\").id, store.get("NULL").id) == (5, 3)
            transfer.import_projects(store, [project(5, "a\\", "\\b")], on_conflict="update")
            assert store.get("a\\").description == "\\b"
            assert store.create("a").id == 6
            with pytest.raises(ProjectExists):
                store.create("NULL")


def test_a_user_who_does_not_own_the_tables_is_told_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    with new_user(cluster) as user, new_database(cluster) as name:
        owner_url, url = cluster.url(database=name), cluster.url(database=name, user=user)

        def grant(rights: str) -> None:
            with closing(psycopg.connect(owner_url, autocommit=True)) as connection:
                connection.execute(f"GRANT {rights} TO {user}")

        with closing(open_store(owner_url)) as store:
            store.delete(store.create("gone"))
        grant("SELECT, INSERT, UPDATE, DELETE ON projects")
        grant("SELECT ON projects_version")
        with closing(open_store(url)) as store:
            incoming = [project(5, "a"), project(3, "b")]
            message = (
                "cannot be sure that no id is given twice: have its owner GRANT UPDATE ON SEQUENCE"
                " public.projects_id_seq TO guest, or give all projects new ids"
            )
            with pytest.raises(StoreUnavailable, match=message):
                transfer.import_projects(store, incoming)
            assert len(list(store.read_all())) == 1
            # New ids need no such right.
            transfer.import_projects(store, incoming, new_ids=True)
            assert [it.id for it in store.read_all()] == [1, 3, 4]
            # Nor do descriptions.
            transfer.import_projects(store, [project(5, "a", "b")], on_conflict="update")
            for it in ("a", "b"):
                store.delete(it)
            grant("UPDATE ON SEQUENCE projects_id_seq")
            transfer.import_projects(store, incoming)
            assert [it.id for it in store.read_all()] == [1, 3, 5]
            assert store.create("c").id == 6
            # It may not see, as a source, which ids were given.
            with open_source(url) as source, closing(SQLiteStore(":memory:")) as target:
                with pytest.raises(StoreUnavailable, match="GRANT SELECT ON SEQUENCE public.projects_id_seq"):
                    transfer.import_projects(target, source)
                assert len(list(target.read_all())) == 1
            assert run("export", "--db", url, cwd=tmp_path).stdout.count("\n") == 4
            grant("SELECT ON SEQUENCE projects_id_seq")
            assert store.last_id() == 6


def test_a_source_that_is_no_database_of_ours_is_told_without_its_password(
    cluster: Cluster, tmp_path: Path
) -> None:
    for source in (cluster.url(), cluster.url(database="nowhere")):
        result = run("import", source, cwd=tmp_path)
        assert result.returncode == 2
        assert re.search("has no projects|does not exist", result.stderr)
    assert list(tmp_path.iterdir()) == []
