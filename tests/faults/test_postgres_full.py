"""A tablespace that is full: reads and deletions go on, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projects_wsgi import make_app

from ..promises.test_full import TEXT
from ..support.cluster import Cluster
from .worker import Send, sending_to_app

SIZE = 1_048_576  # bytes


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


@pytest.fixture
def tablespace(cluster: Cluster, admin: Any) -> Iterator[Path]:
    """A small disk, where the database has its tables."""
    folder = cluster.folder / "small"
    folder.mkdir()
    mount(folder, f"size={SIZE},uid={cluster.account['user']}")
    try:
        admin.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        admin.execute("GRANT CREATE ON TABLESPACE small TO public")
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET default_tablespace = small")
        yield folder
        admin.execute("DROP SCHEMA public CASCADE")
        admin.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def fill(send: Send) -> list[Any]:
    """Create ever smaller projects until there is room for none; return them, the newest first."""
    made: list[Any] = []
    for size in (100_000, 2_000, 1):
        while True:
            # Nothing that PostgreSQL could compress.
            document = {"name": f"project {len(made)}", "description": os.urandom(size // 2).hex()}
            status, answer = send("POST", "/v1/projects", document)
            if status == 507:
                assert answer == TEXT
                break
            assert status == 200
            made.insert(0, answer["data"])
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk where others see it")
def test_a_full_tablespace_takes_no_writes_until_there_is_room_and_loses_nothing(
    tablespace: Path, url: str, admin: Any
) -> None:
    app = make_app(url)
    with closing(app.store), sending_to_app(app) as send:
        made = fill(send)
        assert len(made) > 5
        too_much = {"description": os.urandom(50_000).hex()}
        assert send("PUT", f"/v1/projects/{made[0]['id']}", too_much) == (507, TEXT)
        assert send("GET", "/readyz", None)[0] == 200
        assert send("GET", "/v1/projects?limit=10000", None)[1]["data"][:-1] == made
        for project in made[::2]:
            assert send("DELETE", f"/v1/projects/{project['id']}", None)[0] == 204
        del made[::2]
        assert send("GET", "/v1/projects?limit=10000", None)[1]["data"][:-1] == made
        # Deleted rows make no room before the server has cleared them away: somebody makes the disk larger.
        mount(tablespace, f"remount,size={2 * SIZE}")
        assert send("PUT", f"/v1/projects/{made[0]['id']}", too_much)[0] == 200
        assert send("POST", "/v1/projects", {"name": "after", **too_much})[0] == 200
