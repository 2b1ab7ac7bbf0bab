"""A database that may not grow any further says so, loses nothing, and lets itself be emptied."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import webtest

from projects_wsgi import SQLiteStore, StoreFull, make_app

from ..support.databases import connect, names

SIZE = 200_000
TEXT = "The database is full. Nothing was changed; make room, then try again"


def fill(app: webtest.TestApp) -> list[str]:
    """Create projects until there is no room; return the names of those that were acknowledged."""
    made: list[str] = []
    for size in (20_000, 2_000, 1):
        while True:
            name = f"project {len(made)}"
            document = {"name": name, "description": "x" * size}
            response = app.post_json("/v1/projects", document, expect_errors=True)
            if response.status_int == 507:
                assert response.text == TEXT
                break
            assert response.status_int == 200
            made.append(name)
    return made


def test_a_full_database_refuses_what_would_grow_it_and_goes_on_otherwise(file: Path) -> None:
    store = SQLiteStore(file, max_database_size=SIZE)
    app = webtest.TestApp(make_app(store))
    with closing(store):
        made = fill(app)
        before = store.list_rows(limit=10_000)
        assert [row[1] for row in before] == [*reversed(made), "default"]
        path = f"/v1/projects/{quote(made[0])}"
        assert app.put_json(path, {"description": "x" * 30_000}, status=507).text == TEXT
        assert app.get(path).json["data"]["description"] == "x" * 20_000
        assert app.get("/v1/projects?limit=1000", status=200).json["next_cursor"] is None
        assert store.list_rows(limit=10_000) == before
        app.get("/readyz", status=200)
        # What shrinks it is welcome, and makes room.
        app.put_json(path, {"description": ""}, status=200)
        app.put_json(path, {"description": "y" * 15_000}, status=200)
        # In any order, down to the last one.
        random.Random(0).shuffle(made)
        for name in made:
            app.delete(f"/v1/projects/{quote(name)}", status=204)
        assert names(store) == ["default"]
        assert len(fill(app)) > 5
    assert file.stat().st_size <= SIZE
    with connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_log_says_what_to_do(file: Path) -> None:
    with closing(SQLiteStore(file, max_database_size=SIZE)) as store:
        with pytest.raises(
            StoreFull, match="delete projects, make room on its disk, or raise max_database_size"
        ):
            store.create("x", "x" * SIZE)
        assert store.create("small").id == 2


def test_a_file_that_is_larger_already_stays_as_large(file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        store.create("large", "x" * SIZE)
    with closing(SQLiteStore(file, max_database_size=SIZE)) as store:
        with pytest.raises(StoreFull):
            store.create("another", "x" * 10_000)
        store.delete("large")
        assert store.create("another", "x" * 10_000).id == 3


def test_a_database_in_memory_can_be_bounded_too() -> None:
    with closing(SQLiteStore(":memory:", max_database_size=SIZE)) as store:
        with pytest.raises(StoreFull):
            store.create("x", "x" * SIZE)
        assert names(store) == ["default"]


@pytest.mark.parametrize("size", [0, -1, 65_535])
def test_a_size_that_holds_nothing_is_refused(file: Path, size: int) -> None:
    with pytest.raises(ValueError, match="max_database_size must be an integer of at least 65536, not"):
        make_app(file, max_database_size=size)
    assert not file.exists()


def test_the_smallest_size_holds_a_few_projects(file: Path) -> None:
    with closing(SQLiteStore(file, max_database_size=65_536)) as store:
        for number in range(10):
            store.create(f"agent {number}", "x" * 500)
    assert file.stat().st_size <= 65_536
