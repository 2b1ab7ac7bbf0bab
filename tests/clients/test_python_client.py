"""The official Python client, unmodified, against the running server.

Run by `make test-clients`, in a virtual environment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from phoenix.client import AsyncClient, Client
from phoenix.client.exceptions import PhoenixException
from phoenix.client.resources.projects import Projects
from phoenix.client.utils.server_requirements import RouteRequirement, Version

from projects_wsgi import Role
from projects_wsgi.keys import add_key
from projects_wsgi.testing import live_server
from tests.support.engines import NewDatabase
from tests.support.process import run, running_server
from tests.support.readme import block

ROOT = Path(__file__).parents[2]
NAME = "Agent: naïve & 100% +x 🚀"


@pytest.fixture(params=["plain", "slash", "live"])
def url(request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path: Path) -> Iterator[str]:
    """The address of a server: a process, without and with a slash at its end; one within this process."""
    is_live = request.param == "live"
    with new_database(None if is_live else tmp_path) as database:
        if is_live:
            with live_server(database=database.name, **database.options) as url:
                yield url
        else:
            with running_server("--quiet", *database.arguments, cwd=tmp_path) as process:
                slash = "/" if request.param == "slash" else ""
                yield f"http://{process.host}:{process.port}{slash}"


@pytest.fixture
def projects(url: str) -> Iterator[Projects]:
    client = Client(base_url=url)
    yield client.projects
    client._client.close()  # it has no public way


def test_the_client_does_all_that_it_can(projects: Projects) -> None:
    made = projects.create(name=NAME, description="first")
    assert made == {"name": NAME, "description": "first", "id": "UHJvamVjdDoy"}
    assert projects.get(project_id=made["id"]) == projects.get(project_name=NAME) == made
    assert projects.update(project_name=NAME, description="second")["description"] == "second"
    assert projects.update(project_id=made["id"], description="")["description"] == ""
    assert [project["name"] for project in projects.list()] == [NAME, "default"]
    projects.delete(project_name=NAME)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        projects.get(project_id=made["id"])
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        projects.delete(project_name="default")
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        projects.create(name="default")


def test_the_client_lists_over_several_pages_and_searches(projects: Projects) -> None:
    names = [f"Project {number}" for number in range(250)]
    for name in names:
        projects.create(name=name)
    assert [project["name"] for project in projects.list()] == [*reversed(names), "default"]
    found = projects.list(name_contains="PROJECT 24")
    assert [project["name"] for project in found] == [
        f"Project {number}" for number in (*range(249, 239, -1), 24)
    ]


def test_the_asynchronous_client_does_all_that_it_can(url: str) -> None:
    async def use() -> None:
        client = AsyncClient(base_url=url)
        projects = client.projects
        made = await projects.create(name=NAME, description="first")
        assert await projects.get(project_id=made["id"]) == await projects.get(project_name=NAME) == made
        assert (await projects.update(project_id=made["id"], description="x"))["description"] == "x"
        await asyncio.gather(*(projects.create(name=f"p{number}") for number in range(150)))
        assert len(await projects.list()) == 152
        assert {project["name"] for project in await projects.list(name_contains="P14")} == {
            "p14",
            *(f"p{number}" for number in range(140, 150)),
        }
        await projects.delete(project_id=made["id"])
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await projects.get(project_name=NAME)
        await client._client.aclose()

    asyncio.run(use())


def test_the_client_takes_the_server_for_the_phoenix_it_passes_for(projects: Projects) -> None:
    projects._guard.require(RouteRequirement("GET", "/v1/projects", Version(20, 26, 1)))
    with pytest.raises(PhoenixException, match=r"connected to server 20\.26\.1"):
        projects._guard.require(RouteRequirement("GET", "/v1/projects", Version(20, 26, 2)))


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_the_client_sends_its_key(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {role: add_key(tmp_path / "projects.keys", role.value, role) for role in Role}
    with live_server(["a"], keys=tmp_path / "projects.keys") as url:

        @contextlib.contextmanager
        def projects_of(key: str | None) -> Iterator[Projects]:
            if way == "environment":
                monkeypatch.delenv("PHOENIX_API_KEY", raising=False)
                if key:
                    monkeypatch.setenv("PHOENIX_API_KEY", key)
                client = Client(base_url=url)
            else:
                client = Client(base_url=url, api_key=key)
            yield client.projects
            client._client.close()

        with projects_of(roles[Role.ADMIN]) as projects:
            made = projects.create(name=NAME)
            assert projects.update(project_id=made["id"], description="x")["description"] == "x"
            projects.delete(project_id=made["id"])
        with projects_of(roles[Role.MEMBER]) as projects:
            projects.create(name="b")
            with pytest.raises(httpx.HTTPStatusError, match="403"):
                projects.delete(project_name="b")
        with projects_of(roles[Role.VIEWER]) as projects:
            assert [project["name"] for project in projects.list()] == ["b", "a", "default"]
            with pytest.raises(httpx.HTTPStatusError, match="403"):
                projects.create(name="c")
        for key in (None, "wrong"):
            with projects_of(key) as projects, pytest.raises(httpx.HTTPStatusError, match="401"):
                projects.list()


def test_the_readmes_block_runs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = block("python", "phoenix.client")
    assert len(text.splitlines()) <= 6
    namespace: dict[str, Any] = {}
    exec(text.replace("http://127.0.0.1:6006", url), namespace)
    assert capsys.readouterr().out == "['my agent']\n"
    namespace["projects"]._client.close()


def test_projects_that_come_from_a_phoenix_have_their_ids_names_and_descriptions(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    file = ROOT / "tests" / "phoenix" / "phoenix-20.26.1.db.gz"
    (tmp_path / "phoenix.db").write_bytes(gzip.decompress(file.read_bytes()))
    with new_database(tmp_path) as database:
        assert run("import", "phoenix.db", *database.arguments, cwd=tmp_path).returncode == 0
        with running_server("--quiet", *database.arguments, cwd=tmp_path) as process:
            client = Client(base_url=f"http://{process.host}:{process.port}")
            mine = {"name": "mine", "description": "kept ✓", "id": "UHJvamVjdDoz"}
            default = {"name": "default", "description": "Default project", "id": "UHJvamVjdDox"}
            assert client.projects.list() == [mine, default]
            assert client.projects.get(project_id=mine["id"]) == mine
            experiment = "Experiment-119d8540f5b94535a729f22c"
            assert client.projects.get(project_id="UHJvamVjdDoy")["name"] == experiment
            client._client.close()
