"""While projects come in, servers of the same database go on reading, and show all of them or none."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import Store, StoreBusy, transfer

from ..support.databases import Database
from ..support.process import Process, environment, running_server
from ..test_transfer import lines_of, project

COUNT = 3_000


def listed(server: Process) -> int:
    """Return how many projects a server lists."""
    status, _, text = server.ask("GET", "/v1/projects?limit=10000")
    assert status == 200
    return len(json.loads(text)["data"])


@pytest.mark.parametrize("fails", [False, True])
def test_a_server_reads_on_and_shows_all_or_nothing(database: Database, tmp_path: Path, fails: bool) -> None:
    seen: list[tuple[int, int, int]] = []
    with running_server("--quiet", "--busy-timeout", "0.2", *database.arguments, cwd=tmp_path) as server:
        assert listed(server) == 1

        def look(done: int, total: int | None) -> None:
            if total is not None:
                written, headers, _ = server.ask("POST", "/v1/projects", {"name": "mine"})
                assert headers["Retry-After"] == "1"
                seen.append((listed(server), server.ask("GET", "/v1/projects/p2")[0], written))
                if fails and done == total:
                    raise KeyboardInterrupt

        with closing(database.open_store()) as store:
            projects = [project(it, f"p{it}") for it in range(2, COUNT + 2)]
            try:
                transfer.import_projects(store, projects, progress=look)
            except KeyboardInterrupt:
                assert fails
            assert len(seen) > 2
            assert set(seen) == {(1, 404, 503)}
            assert listed(server) == (1 if fails else COUNT + 1)
            assert server.ask("GET", "/v1/projects/p2")[0] == (404 if fails else 200)
            assert server.ask("POST", "/v1/projects", {"name": "mine"})[0] == 200


def test_who_writes_for_long_keeps_projects_out_for_the_busy_timeout(
    database: Database, shared_store: Store
) -> None:
    before = lines_of(shared_store)
    with closing(database.open_store(busy_timeout=0.2)) as store:
        for fails in (True, False):
            with database.connect() as connection:
                connection.execute("BEGIN")
                connection.execute("UPDATE projects SET kind = kind WHERE id = 1")
                if fails:
                    with pytest.raises(StoreBusy):
                        transfer.import_projects(store, [project(5, "x")])
                    assert lines_of(shared_store) == before
                connection.execute("ROLLBACK")
        assert transfer.import_projects(store, [project(5, "x")]).made == 1


def test_a_slow_source_keeps_nobody_from_writing(database: Database, tmp_path: Path) -> None:
    with closing(database.open_store()) as store:
        command = [sys.executable, "-m", "projects_wsgi", "import", "-", *database.arguments]
        with subprocess.Popen(
            [*command, "--on-conflict", "update"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as popen:
            assert popen.stdin is not None
            popen.stdin.write('{"id":"UHJvamVjdDo1","name":"a","description":"theirs"}\n')
            popen.stdin.flush()
            assert store.create("a").id == 2
            assert popen.communicate(timeout=30)[0].startswith("0 projects made, 1 updated, 0 skipped")
        assert store.get("a").description == "theirs"
