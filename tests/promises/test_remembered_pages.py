"""A page that was made before is given again only while nobody has changed anything."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest
import webtest

from projects_wsgi import SQLiteStore, make_app
from projects_wsgi import app as rooms

from ..support.databases import connect
from .test_rollback_journal import refuse_wal

SECONDS = float(os.environ.get("REMEMBERED_SECONDS", "2"))
PROCESSES = 4


def names(app: webtest.TestApp, query: str = "") -> list[str]:
    return [project["name"] for project in app.get(f"/v1/projects{query}").json["data"]]


class Counting(SQLiteStore):
    """A store that counts the pages it reads."""

    pages = 0

    def list_rows(self, *arguments: Any, **parameters: Any) -> Any:
        self.pages += 1
        return super().list_rows(*arguments, **parameters)


@pytest.fixture(params=["a file", "a rollback journal", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counting]:
    if request.param == "a rollback journal":
        refuse_wal(tmp_path / "projects.db")
    with closing(Counting(":memory:" if request.param == "memory" else tmp_path / "projects.db")) as store:
        yield store


def test_a_page_is_read_once_while_nothing_changes(store: Counting) -> None:
    app = webtest.TestApp(make_app(store))
    for _ in range(3):
        assert names(app) == ["default"]
        assert names(app, "?limit=1") == ["default"]
    assert store.pages == 2


def by_sql(store: SQLiteStore, tmp_path: Path) -> None:
    with connect(Path(store.path)) as other:
        other.execute("UPDATE projects SET name = 'renamed' WHERE name = 'one'")


def by_restoring(store: SQLiteStore, tmp_path: Path) -> None:
    store.restore(tmp_path / "backup.db")


def by_restoring_with_an_error_at_the_end(store: SQLiteStore, tmp_path: Path) -> None:
    def fail_at_the_end(done: int, total: int) -> None:
        if done == total:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        store.restore(tmp_path / "backup.db", fail_at_the_end)


def by_another_store(store: SQLiteStore, tmp_path: Path) -> None:
    with closing(SQLiteStore(store.path)) as other:
        other.create("two")


CHANGES: dict[str, Callable[[SQLiteStore, Path], object]] = {
    "create": lambda store, _: store.create("two"),
    "delete": lambda store, _: store.delete("one"),
    "restore": by_restoring,
    "restore, with an error at the end": by_restoring_with_an_error_at_the_end,
    "another process's SQL": by_sql,
    "another store": by_another_store,
}
WHERE = [
    (where, change)
    for where in ("a file", "a rollback journal", "memory")
    for change in CHANGES
    if where != "memory" or "another" not in change  # whom nobody else can reach
]


@pytest.mark.parametrize(("store", "change"), WHERE, indirect=["store"])
def test_after_any_change_the_page_is_another(store: Counting, tmp_path: Path, change: str) -> None:
    store.backup(tmp_path / "backup.db")
    store.create("one")
    app = webtest.TestApp(make_app(store))
    before = names(app)
    assert names(app) == before
    CHANGES[change](store, tmp_path)
    assert names(app) == [row[1] for row in store.list_rows()]
    assert names(app) != before


def test_an_update_shows_on_the_next_page(store: Counting) -> None:
    app = webtest.TestApp(make_app(store))
    for number in range(3):
        store.update("default", str(number))
        assert app.get("/v1/projects").json["data"][0]["description"] == str(number)


def test_a_query_that_makes_no_sense_is_422_whatever_the_state_of_the_store(store: Counting) -> None:
    app = webtest.TestApp(make_app(store))
    store.close()
    assert app.get("/v1/projects?limit=0", status=422)
    assert app.get("/v1/projects", status=503)


def test_what_is_remembered_is_bounded(store: Counting) -> None:
    app = make_app(store)
    client = webtest.TestApp(app)
    for number in range(3 * rooms._MAX_REMEMBERED_PAGES):
        names(client, f"?limit={number + 1}")
        assert len(app._pages) <= rooms._MAX_REMEMBERED_PAGES
    store.create("long", "x" * rooms._MAX_REMEMBERED_SIZE)
    before = store.pages
    for _ in range(3):
        assert names(client)[0] == "long"
    assert store.pages == before + 3
    assert sum(map(len, app._pages.values())) <= rooms._MAX_REMEMBERED_PAGES * rooms._MAX_REMEMBERED_SIZE


def write(file: str, number: int, begin: Any, known: Any) -> None:
    with closing(SQLiteStore(file, synchronous="NORMAL")) as store:
        begin.wait(30)
        ends = time.monotonic() + SECONDS
        count = 0
        while time.monotonic() < ends:
            count += 1
            store.update(f"of {number}", str(count))
            known[number] = count
            time.sleep(random.random() * 0.003)


def read(file: str, begin: Any, known: Any, stale: Any, pages: Any) -> None:
    with closing(Counting(file)) as store:
        app = webtest.TestApp(make_app(store))
        begin.wait(30)
        ends = time.monotonic() + SECONDS
        asked = 0
        while time.monotonic() < ends:
            before = list(known)
            answer = {
                project["name"]: int(project["description"])
                for project in json.loads(app.get("/v1/projects").body)["data"][:-1]
            }
            if any(answer[f"of {number}"] < count for number, count in enumerate(before)):
                stale.value = True
            asked += 1
            if random.random() < 0.3:
                time.sleep(random.random() * 0.003)
        with pages.get_lock():
            pages[0] += asked
            pages[1] += store.pages


def test_no_page_is_older_than_the_last_change_that_was_known_when_it_was_asked_for(tmp_path: Path) -> None:
    file = str(tmp_path / "projects.db")
    with closing(SQLiteStore(file)) as store:
        for number in range(PROCESSES):
            store.create(f"of {number}", "0")
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(2 * PROCESSES)
    known: Any = context.Array("q", PROCESSES)
    stale: Any = context.Value("b", False)
    pages: Any = context.Array("q", 2)
    processes = [
        *[context.Process(target=write, args=(file, number, begin, known)) for number in range(PROCESSES)],
        *[context.Process(target=read, args=(file, begin, known, stale, pages)) for _ in range(PROCESSES)],
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS + 30)
        assert process.exitcode == 0
    asked, made = pages
    print(f"{asked} pages were asked for, {made} of them read anew, while {sum(known)} changes were made")
    assert min(known) > 10
    assert 0 < made < asked
    assert not stale.value
