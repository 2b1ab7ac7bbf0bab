"""What the README shows of PostgreSQL is what happens."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import Store, StoreUnavailable
from projects_wsgi.storage import open_store

from ..support.cluster import Cluster
from ..support.process import running_server
from ..support.readme import ROOT, TEXT, block, blocks, commands

GRANTS, TRIGRAMS = (block.splitlines() for block in blocks("sql"))


@pytest.fixture
def server(cluster: Cluster) -> Iterator[Cluster]:
    """The server of this session, without what the README makes, before and after."""
    yield cluster
    for what in ("DATABASE IF EXISTS projects", "DATABASE IF EXISTS new", "ROLE IF EXISTS app"):
        cluster.execute(f"DROP {what}")


@pytest.fixture
def store(server: Cluster) -> Iterator[Store]:
    """A store in the database that the README names."""
    server.execute("CREATE DATABASE projects")
    with closing(open_store(server.url(database="projects"))) as store:
        yield store


def type_line(line: str, server: Cluster, user: str) -> None:
    """Type a line that runs a program of PostgreSQL's, as a user of this server's."""
    environ = {
        **os.environ,
        **where(server),
        "PGUSER": user,
        "PATH": f"{server.programs}:{os.environ['PATH']}",
    }
    subprocess.run(line, shell=True, check=True, env=environ, timeout=30)


def where(server: Cluster) -> dict[str, str]:
    return {"PGHOST": str(server.folder), "PGPORT": str(server.port)}


def requirement(pip: str) -> str:
    """Return what a command installs, which must be what the package's extra names."""
    (found,) = re.findall('"(.+)"', pip)
    assert f"postgres =\n    {found}\n" in (ROOT / "setup.cfg").read_text()
    return str(found)


def test_its_lines_lead_a_newcomer_to_an_answer(server: Cluster, tmp_path: Path) -> None:
    apt, createuser, createdb, pip, serve, curl = commands(block("console", "sudo apt install postgresql"))
    assert apt.startswith("sudo apt install postgresql ")
    assert requirement(pip)
    for line in (createuser, createdb):
        type_line(line.removeprefix("sudo -u postgres "), server, "postgres")
    variable, url, *command = re.split("[= ]", serve)
    assert command == [".venv/bin/python", "-m", "projects_wsgi"]
    with running_server(cwd=tmp_path, environ={**where(server), variable: url}) as process:
        path = curl.partition(":6006")[2]
        assert f"{process.ask('GET', path)[2]}\n" in commands(blocks("console")[0]).values()
    assert server.execute("SELECT name FROM projects", "projects") == ["default"]


def test_its_three_lines_serve_a_database(server: Cluster, tmp_path: Path) -> None:
    createdb, pip, serve = commands(block("console", "$ createdb"))
    assert requirement(pip)
    type_line(createdb, server, "postgres")
    python, *arguments = serve.split()
    assert [python, *arguments[:2]] == ["python", "-m", "projects_wsgi"]
    environ = {**where(server), "PGUSER": "postgres"}
    with running_server(*arguments[2:], cwd=tmp_path, environ=environ) as process:
        assert process.ask("GET", "/v1/projects/default")[0] == 200
    assert server.execute("SELECT name FROM projects", "projects") == ["default"]


@pytest.mark.parametrize("missing", [None, *GRANTS])
def test_a_role_needs_the_rights_that_it_names_and_no_more(
    server: Cluster, store: Store, missing: str | None
) -> None:
    server.execute("CREATE ROLE app LOGIN")
    server.execute(
        "REVOKE ALL ON DATABASE projects FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC", "projects"
    )
    for grant in GRANTS:
        if grant != missing:
            server.execute(grant, "projects")

    def use() -> None:
        with closing(open_store(server.url(user="app", database="projects"), schema="public")) as own:
            project = own.create("agent")
            own.update(project, "first steps")
            own.delete(project)
            assert [name for _, name, _ in own.list_rows()] == ["default"]

    if missing is None:
        use()
    else:
        with pytest.raises(StoreUnavailable, match="permission denied|may not make the tables"):
            use()


def test_its_index_for_searches_is_the_one_that_a_new_database_gets(server: Cluster, store: Store) -> None:
    find_index = "SELECT indexdef FROM pg_indexes WHERE indexname = 'projects_searched'"
    assert server.execute(find_index, "projects") == []
    for line in TRIGRAMS:
        server.execute(line, "projects")
    server.execute("CREATE DATABASE new")
    server.execute("CREATE EXTENSION pg_trgm", "new")
    open_store(server.url(database="new")).close()
    (index,) = server.execute(find_index, "projects")
    assert server.execute(find_index, "new") == [index]


def test_the_rows_of_a_hosts_own_table_go_with_their_project(server: Cluster, store: Store) -> None:
    (column,) = re.findall("`(project_id bigint .+?)`", TEXT)
    server.execute(f"CREATE TABLE traces ({column})", "projects")
    project = store.create("agent")
    server.execute(f"INSERT INTO traces VALUES ({project.id}), (1)", "projects")
    store.delete(project)
    assert server.execute("SELECT * FROM traces", "projects") == ["1"]
