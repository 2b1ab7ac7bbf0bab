"""What every engine promises, to a host's own tables too, and what SQLite's file does."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from contextlib import ExitStack, closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, TypeVar

import pytest

from projects_wsgi import (
    ChangeForbidden,
    DefaultProjectProtected,
    Project,
    ProjectExists,
    ProjectKey,
    ProjectKind,
    ProjectNotFound,
    SQLiteStore,
    Store,
    StoreBusy,
    StoreUnavailable,
    make_app,
)
from projects_wsgi.storage.pool import Loan

from .support.databases import Database, connect, names
from .support.engines import NewDatabase
from .support.process import start_together

Result = TypeVar("Result")


# Every engine


def test_a_fresh_store_holds_the_default_project(store: Store) -> None:
    store.ping()
    assert store.list_rows() == [(1, "default", "Default project")]
    assert store.get(1) == store.get("default")
    assert store.get(1)[:4] == (1, "default", "Default project", "standard")


def test_a_project_is_found_by_id_and_by_name(store: Store) -> None:
    project = store.create("agent", "first")
    assert project[:4] == (2, "agent", "first", "standard")
    assert store.get(project.id) == store.get("agent") == project


def test_projects_are_immutable(store: Store) -> None:
    with pytest.raises(AttributeError):
        store.get("default").name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", [" ", "a/b", "nul\x00x", "\x00", "é", "e\u0301", "🚀", "\n", "x" * 5_000, "%"]
)
def test_a_name_is_kept_as_it_came(store: Store, name: str) -> None:
    project = store.create(name, name)
    assert store.get(name) == project
    assert project[:3] == (project.id, name, name)


def test_names_are_unique_and_case_sensitive(store: Store) -> None:
    store.create("agent")
    store.create("Agent")
    with pytest.raises(ProjectExists, match="'agent'"):
        store.create("agent", "other")
    assert store.get("agent").description is None


def test_an_empty_name_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="^a project's name must have at least one character$"):
        store.create("")


def test_an_unknown_kind_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="'odd'"):
        store.create("x", kind="odd")
    with pytest.raises(ProjectNotFound):
        store.get("x")


def test_an_update_sets_the_description_and_none_leaves_it(store: Store) -> None:
    project = store.create("agent", "first")
    assert store.update("agent", "second").description == "second"
    assert store.update(project.id, None).description == "second"
    assert store.update(project.id, "") == store.get("agent")
    assert store.get("agent")[:3] == (project.id, "agent", "")


@pytest.mark.parametrize("key", [2, 0, -1, 2**63 - 1, 2**63, -(2**80), "nobody", ""])
def test_what_does_not_exist_is_not_found(store: Store, key: int | str) -> None:
    for act in (
        lambda: store.get(key),
        lambda: store.get_row(key),
        lambda: store.update(key, None),
        lambda: store.update(key, "x"),
        lambda: store.delete(key),
    ):
        with pytest.raises(ProjectNotFound) as caught:
            act()
        assert caught.value.key == key


def test_ids_are_never_used_twice(store: Store) -> None:
    first = store.create("newest")
    store.delete(first.id)
    second = store.create("newest")
    assert second.id > first.id
    store.delete(second.id)
    with pytest.raises(ProjectExists):
        store.create("default")
    assert store.create("newest").id > second.id


def test_the_default_project_can_be_described_but_not_deleted(store: Store) -> None:
    for key in (1, "default"):
        with pytest.raises(DefaultProjectProtected):
            store.delete(key)
    assert store.update(1, "mine") == store.get("default")
    assert store.get("default")[:3] == (1, "default", "mine")


def test_pages_are_ordered_by_descending_id_and_start_at_an_id(store: Store) -> None:
    ids = [store.create(f"p{number}").id for number in range(5)]
    assert [row[0] for row in store.list_rows()] == [*reversed(ids), 1]
    assert [row[0] for row in store.list_rows(limit=2)] == [ids[4], ids[3]]
    assert [row[0] for row in store.list_rows(start_id=ids[2], limit=2)] == [ids[2], ids[1]]
    store.delete(ids[2])
    assert [row[0] for row in store.list_rows(start_id=ids[2], limit=2)] == [ids[1], ids[0]]
    assert store.list_rows(start_id=1) == [(1, "default", "Default project")]
    assert store.list_rows(start_id=0) == []
    assert store.list_rows(start_id=-(2**70)) == []
    assert len(store.list_rows(start_id=2**70, limit=2**70)) == 5


def test_rows_are_fetched_only_as_far_as_a_page_needs_them(store: Store) -> None:
    for number in range(100):
        store.create(f"{number:010}", "x" * 990)
    # Those with which the page is longer than that, and the one after them.
    assert len(store.list_rows(max_size=2500)) == 4
    assert len(store.list_rows(max_size=1000)) == 3
    assert len(store.list_rows(max_size=999)) == 2
    assert len(store.list_rows()) == 100
    assert len(store.list_rows(limit=200)) == 101


def test_a_search_folds_case_and_takes_every_character_as_itself(store: Store) -> None:
    for name in ("Straße", "100% sure", "under_score", "star*", "back\\slash", "ΣΊΣΥΦΟΣ", "nul\x00x"):
        store.create(name)
    assert names(store, name_contains="STRASSE") == ["Straße"]
    assert names(store, name_contains="σίσυφος") == ["ΣΊΣΥΦΟΣ"]
    assert names(store, name_contains="%") == ["100% sure"]
    assert names(store, name_contains="_") == ["under_score"]
    assert names(store, name_contains="*") == ["star*"]
    assert names(store, name_contains="\\") == ["back\\slash"]
    assert names(store, name_contains="\x00X") == ["nul\x00x"]
    assert names(store, name_contains="nowhere") == []
    assert names(store, name_contains="S", limit=1) == ["back\\slash"]


def test_kinds_decide_what_a_list_shows_and_nothing_else(store: Store) -> None:
    store.create("run", kind=ProjectKind.EXPERIMENT)
    store.create("judge", kind="dataset_evaluator")
    store.create("agent")
    everything = {*ProjectKind}
    assert names(store) == ["agent", "default"]
    assert names(store, kinds=[ProjectKind.STANDARD, ProjectKind.EXPERIMENT]) == ["agent", "run", "default"]
    assert names(store, kinds=[ProjectKind.DATASET_EVALUATOR]) == ["judge"]
    assert names(store, kinds=everything) == ["agent", "judge", "run", "default"]
    assert names(store, kinds=everything, name_contains="U") == ["judge", "run", "default"]
    assert names(store, kinds=[]) == []
    assert store.update("run", "done") == store.get("run")
    store.delete("run")
    assert names(store, kinds=everything) == ["agent", "judge", "default"]


def test_the_playground_is_always_listed(store: Store) -> None:
    store.create("playground", kind=ProjectKind.EXPERIMENT)
    assert names(store) == ["playground", "default"]


def test_a_project_shows_its_kind_its_times_and_its_global_id(store: Store) -> None:
    before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
    project = store.create("run", kind="experiment")
    assert project.kind is ProjectKind.EXPERIMENT
    assert before <= project.created_at == project.updated_at <= datetime.now(timezone.utc)
    assert project.created_at.tzinfo is timezone.utc
    assert project.global_id == "UHJvamVjdDoy"
    assert store.get("run") == project
    time.sleep(0.005)
    changed = store.update("run", "x")
    assert changed.created_at == project.created_at < changed.updated_at


def test_a_project_is_addressed_by_itself_its_id_its_name_or_its_global_id(store: Store) -> None:
    project = store.create("agent")
    for key in (project, 2, "agent", "UHJvamVjdDoy"):
        assert store.get(key) == project
        assert store.get_row(key) == project[:3]
    assert store.update(project, "x").description == "x"
    assert store.update("UHJvamVjdDoy", "y").description == "y"
    store.delete(project)
    with pytest.raises(ProjectNotFound):
        store.get(project)


@pytest.mark.parametrize("key", [None, True, 2.0, b"agent", ("agent",)])
def test_anything_else_addresses_nothing(store: Store, key: Any) -> None:
    for act in (store.get, store.get_row, store.delete, lambda key: store.update(key, "x")):
        with pytest.raises(TypeError, match="a project is addressed by a Project, an int or a str"):
            act(key)
    assert names(store) == ["default"]


@pytest.mark.parametrize("name", ["UHJvamVjdDox", "UHJvamVjdDo5OTk=", "UHJvamVjdDox!"])
def test_a_name_that_reads_as_an_id_is_refused(store: Store, name: str) -> None:
    for make in (store.create, store.get_or_create):
        with pytest.raises(ValueError, match="reads as a project's id and would address another project"):
            make(name)
    assert names(store) == ["default"]


@pytest.mark.parametrize("text", [5, b"x", ["x"]])
def test_what_is_no_text_is_refused(store: Store, text: Any) -> None:
    for what, act in (
        ("name", lambda: store.create(text)),
        ("name", lambda: store.get_or_create(text)),
        ("description", lambda: store.create("x", text)),
        ("description", lambda: store.update("default", text)),
    ):
        with pytest.raises(TypeError, match=f"^a project's {what} must be a str, not "):
            act()
    assert store.list_rows() == [(1, "default", "Default project")]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused(store: Store, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be at least 1 row"):
        store.list_rows(limit=limit)


def test_a_change_that_others_got_in_the_way_of_is_tried_once_more_as_it_was_asked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(method: str) -> None:
        """Let a method find nothing done, as when others undo between two steps what they did."""
        work = getattr(store, method)
        failures = iter([True])
        monkeypatch.setattr(
            store, method, lambda *arguments: None if next(failures, False) else work(*arguments)
        )

    fail_once("_insert")
    assert store.create("agent", "first", "experiment")[1:4] == ("agent", "first", "experiment")
    fail_once("_set_description")
    assert store.update("agent", "second").description == "second"
    fail_once("_remove")
    store.delete("agent")
    assert names(store) == ["default"]


def test_get_or_create_makes_a_project_once(store: Store) -> None:
    made, is_new = store.get_or_create("agent", "first", kind="experiment")
    found, is_new_again = store.get_or_create("agent", "other")
    assert (made, is_new, is_new_again) == (found, True, False)
    assert found.description == "first"
    assert names(store) == ["default"]


def test_get_or_create_of_many_threads_makes_one_project(store: Store) -> None:
    results = in_threads(16, lambda _: store.get_or_create("agent"))
    assert len({project.id for project, _ in results}) == 1
    assert sorted(is_new for _, is_new in results) == [False] * 15 + [True]


def test_threads_share_a_store(store: Store) -> None:
    def work(number: int) -> None:
        for turn in range(10):
            name = f"{number}-{turn}"
            project = store.create(name)
            assert store.update(name, "x").id == project.id
            assert project.id in [row[0] for row in store.list_rows(limit=1000)]
            if turn % 2:
                store.delete(project.id)

    in_threads(8, work)
    assert len(store.list_rows(limit=1000)) == 1 + 8 * 5


def in_threads(count: int, work: Callable[[int], Result]) -> list[Result]:
    """Run work(number) in threads, all at once; return the results or raise the first error."""
    results: list[Result] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results.append(work(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def test_a_closed_store_says_so(store: Store) -> None:
    store.list_rows()
    store.close()
    for act in (store.list_rows, store.ping, lambda: store.create("x"), lambda: store.delete("default")):
        with pytest.raises(StoreUnavailable, match="closed"):
            act()
    store.close()


def test_text_that_is_none_is_refused_and_harms_nothing(store: Store) -> None:
    for act in (
        lambda: store.get("\ud800"),
        lambda: store.create("x", "\ud800"),
        lambda: store.update("default", "\ud800"),
        lambda: store.list_rows(name_contains="\ud800"),
    ):
        with pytest.raises(UnicodeEncodeError):
            act()
    assert store.list_rows() == [(1, "default", "Default project")]


def test_make_app_takes_a_store(store: Store) -> None:
    assert make_app(store).store is store


def test_projects_outlive_the_store(database: Database) -> None:
    with closing(database.open_store()) as store:
        made = store.create("agent", "kept")
    with closing(database.open_store()) as store:
        assert store.get("agent") == made


def test_a_search_for_a_long_text_takes_no_quadratic_time(store: Store) -> None:
    store.create("a" * 500_000)
    began = time.monotonic()
    assert names(store, name_contains="a" * 200_000 + "b") == []
    assert time.monotonic() - began < 4  # quadratic, it would be minutes


@pytest.mark.parametrize("database", [None, 5, b"projects.db", object()])
def test_make_app_takes_nothing_else(database: object) -> None:
    with pytest.raises(TypeError, match="path"):
        make_app(database)  # type: ignore[arg-type]


# Every engine, with a host's own tables and triggers beside the projects

HOST_TABLE = "CREATE TABLE traces (project_id BIGINT REFERENCES projects (id) %s)"

ACTS: dict[str, Callable[[Store], object]] = {
    "INSERT": lambda store: store.create("x"),
    "UPDATE": lambda store: store.update("agent", "x"),
    "DELETE": lambda store: store.delete("agent"),
}
REFUSED = {
    "INSERT": "'x' from being created",
    "UPDATE": "'agent' from being changed",
    "DELETE": "'agent' from being deleted",
}
events = pytest.mark.parametrize("event", ACTS)


def test_rows_of_a_hosts_own_table_go_with_their_project(database: Database, shared_store: Store) -> None:
    kept, gone = shared_store.create("kept"), shared_store.create("gone")
    with database.connect() as connection:
        connection.execute(HOST_TABLE % "ON DELETE CASCADE")
        connection.execute(f"INSERT INTO traces VALUES ({kept.id}), ({gone.id}), ({gone.id})")
        shared_store.delete("gone")
        assert connection.execute("SELECT project_id FROM traces").fetchall() == [(kept.id,)]


def test_a_deletion_that_fails_leaves_the_project_and_all_its_rows(
    database: Database, shared_store: Store
) -> None:
    project = shared_store.create("agent")
    with database.connect() as connection:
        connection.execute(HOST_TABLE % "ON DELETE CASCADE")
        connection.execute(f"INSERT INTO traces VALUES ({project.id})")
        database.create_trigger("refuse", "AFTER DELETE ON traces", database.forbid["abort"])
        with pytest.raises(ChangeForbidden):
            shared_store.delete("agent")
        assert connection.execute("SELECT count(*) FROM traces").fetchone() == (1,)
    assert shared_store.get("agent") == project


@pytest.mark.parametrize("constraint", ["ON DELETE RESTRICT", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_hosts_table_can_forbid_a_deletion(
    database: Database, shared_store: Store, constraint: str
) -> None:
    project = shared_store.create("agent")
    with database.connect() as connection:
        connection.execute(HOST_TABLE % constraint)
        connection.execute(f"INSERT INTO traces VALUES ({project.id})")
        with pytest.raises(ChangeForbidden):
            shared_store.delete("agent")
        assert shared_store.get("agent") == project
        connection.execute("DELETE FROM traces")
    shared_store.delete("agent")


@events
def test_a_hosts_trigger_can_forbid_any_change(database: Database, shared_store: Store, event: str) -> None:
    shared_store.create("agent")
    before = shared_store.list_rows()
    database.create_trigger("refuse", f"BEFORE {event} ON projects", database.forbid["abort"])
    with pytest.raises(ChangeForbidden, match="the host refuses"):
        ACTS[event](shared_store)
    assert shared_store.list_rows() == before


@events
@pytest.mark.parametrize("moment", ["BEFORE", "AFTER"])
@pytest.mark.parametrize("way", ["abort", "fail", "roll back", "ignore"])
def test_however_a_trigger_forbids_a_change_nothing_is_changed_or_told(
    database: Database, event: str, moment: str, way: str
) -> None:
    told: list[str] = []
    with closing(database.open_store(on_change=lambda event, _: told.append(event))) as store:
        store.create("agent")
        before, told[:] = store.list_rows(), []
        database.create_trigger("host", f"{moment} {event} ON projects", database.forbid[way])
        if (moment, way) == ("AFTER", "ignore"):  # by then the row is changed, and stays so
            ACTS[event](store)
            assert (store.list_rows() != before, len(told)) == (True, 1)
        else:
            reason = f"kept {REFUSED[event]}$" if way == "ignore" else None
            with pytest.raises(ChangeForbidden, match=reason):
                ACTS[event](store)
            assert (store.list_rows(), told) == (before, [])
        database.drop_trigger("host", "projects")
        assert store.create("after").name == "after"  # no transaction is left open


@pytest.mark.parametrize("assignment", ["kind = 'foo'", "created_at = 'long ago'", "created_at = X'00'"])
def test_a_row_that_can_be_no_project_is_named_and_left_as_it_is(tmp_path: Path, assignment: str) -> None:
    file = tmp_path / "projects.db"
    with closing(SQLiteStore(file)) as store, connect(file) as connection:
        project = store.create("agent", "before")
        connection.execute(f"UPDATE projects SET {assignment} WHERE id = {project.id}")
        for act in (
            lambda: store.get("agent"),
            lambda: store.get_or_create("agent"),
            lambda: store.update("agent", "after"),
            lambda: store.delete("agent"),
            lambda: list(store.read_all()),
        ):
            with pytest.raises(
                StoreUnavailable, match="the project 2 cannot be read, whose name is 'agent': "
            ):
                act()
        assert store.get_row("agent") == (2, "agent", "before")


def test_an_answer_names_the_project_as_it_is_whatever_triggers_do(
    database: Database, shared_store: Store
) -> None:
    with database.connect() as connection:
        connection.execute("CREATE TABLE log (text TEXT)")
    actions = (
        "INSERT INTO log VALUES (new.name)",
        "UPDATE projects SET description = 'by the host' WHERE id = new.id",
    )
    database.create_trigger("host", "AFTER INSERT ON projects", "; ".join(actions))
    project = shared_store.create("agent", "mine")
    assert project == shared_store.get("agent")
    assert project.description == "by the host"
    database.create_trigger("away", "AFTER INSERT ON projects", "DELETE FROM projects WHERE id = new.id")
    with pytest.raises(ChangeForbidden, match="kept 'gone' from being created"):
        shared_store.create("gone")
    assert names(shared_store) == ["agent", "default"]


def test_a_name_that_exists_is_told_from_one_that_the_host_forbids(
    database: Database, shared_store: Store
) -> None:
    shared_store.create("agent")
    with database.connect() as connection:
        connection.execute("CREATE UNIQUE INDEX host ON projects (lower(name))")
        connection.execute("CREATE TABLE other_projects (name TEXT UNIQUE)")
        connection.execute("INSERT INTO other_projects VALUES ('taken')")
    database.create_trigger(
        "copy_name", "AFTER INSERT ON projects", "INSERT INTO other_projects VALUES (new.name)"
    )
    for name in ("Agent", "taken"):
        for make in (shared_store.create, shared_store.get_or_create):
            with pytest.raises(ChangeForbidden):
                make(name)
    with pytest.raises(ProjectExists):
        shared_store.create("agent")
    assert shared_store.get_or_create("agent")[1] is False


def test_a_host_may_add_a_column(database: Database) -> None:
    with closing(database.open_store()) as store, database.connect() as connection:
        connection.execute("ALTER TABLE projects ADD COLUMN team TEXT")
        store.create("agent")
    with closing(database.open_store()) as store:
        assert names(store) == ["agent", "default"]
        assert store.update("agent", "x").description == "x"


# Every engine, opened by processes at the same moment

OPEN_AND_CREATE = """
import json, sys
from projects_wsgi.storage import open_store
print("ready", flush=True)
sys.stdin.readline()
for number, (database, options) in enumerate(json.loads(sys.argv[1])):
    store = open_store(database, **options)
    print(number, store.create(sys.argv[2]).id)
    store.close()
"""


def test_processes_can_open_new_databases_at_the_same_moment(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        databases = []
        for number in range(10):
            folder = tmp_path / str(number)
            folder.mkdir()
            database = stack.enter_context(new_database(folder))
            databases.append((database.name, database.options))
        command = ["-c", OPEN_AND_CREATE, json.dumps(databases)]
        processes = start_together([[*command, f"process {number}"] for number in range(8)], tmp_path)
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    made = [line for output in outputs for line in output.splitlines()]
    assert sorted(made) == sorted(f"{number} {id_}" for number in range(10) for id_ in range(2, 10))


# SQLite's file


def test_a_relative_path_is_meant_from_where_the_store_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(SQLiteStore("here.db")) as store:
        monkeypatch.chdir("/")
        store.create("agent")
        assert store.location == str(tmp_path / "here.db")
    with closing(SQLiteStore(tmp_path / "here.db")) as store:
        assert store.get("agent").id == 2


def test_the_file_is_versioned_and_written_ahead_with_full_syncs(file: Path, file_store: SQLiteStore) -> None:
    with connect(file) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with file_store._reading() as session:
        assert session.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
        assert session.execute("PRAGMA foreign_keys").fetchone() == (1,)
    with closing(SQLiteStore(file, synchronous="NORMAL")) as store, store._reading() as session:
        assert session.execute("PRAGMA synchronous").fetchone() == (1,)


@pytest.mark.parametrize("options", [{"synchronous": "OFF"}, {"synchronous": "FULL; DROP TABLE projects"}])
def test_other_synchronous_modes_are_refused(file: Path, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="FULL"):
        SQLiteStore(file, synchronous=options["synchronous"])
    assert not file.exists()


def test_a_connection_that_is_never_free_is_reported(file: Path) -> None:
    with closing(SQLiteStore(file, busy_timeout=0.2)) as store:
        with ExitStack() as held:
            for _ in range(10):
                held.enter_context(store._reading())
            text = "^other threads have used the database for longer than the busy timeout$"
            with pytest.raises(StoreBusy, match=text):
                store.list_rows()
            assert store.create("agent").id == 2  # readers do not hold up writers
        assert names(store) == ["agent", "default"]


def test_default_pages_and_searches_use_the_partial_index(file: Path, file_store: SQLiteStore) -> None:
    with connect(file) as connection:
        statements: list[str] = []
        for pool in (file_store._readers, file_store._searchers):
            with Loan(pool, 1.0) as session:
                session.connection.set_trace_callback(statements.append)
        file_store.list_rows()
        file_store.list_rows(name_contains="x")
        for statement in statements:
            ((*_, plan),) = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            assert "USING INDEX projects_listed (id<?)" in plan
        assert len(statements) == 2


def test_the_largest_id_of_all_is_one_like_others(file: Path, file_store: SQLiteStore) -> None:
    file_store.create("last")
    with connect(file) as connection:
        connection.execute("UPDATE projects SET id = 9223372036854775807 WHERE name = 'last'")
    assert file_store.get(2**63 - 1).name == "last"
    assert names(file_store) == ["last", "default"]
    assert file_store.list_rows(start_id=2**63 - 1, limit=1) == [(2**63 - 1, "last", None)]


def test_the_times_of_making_and_changing_are_kept(file: Path, file_store: SQLiteStore) -> None:
    sql = "SELECT created_at, updated_at FROM projects WHERE name = 'agent'"
    file_store.create("agent")
    with connect(file) as connection:
        made, changed = connection.execute(sql).fetchone()
        assert made == changed
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made)
        time.sleep(0.005)
        file_store.update("agent", "x")
        assert connection.execute(sql).fetchone() > (made, made)
        assert connection.execute(sql).fetchone()[0] == made


def test_get_or_create_ends_even_while_others_create_and_delete_the_project(file: Path) -> None:
    class Unlucky(SQLiteStore):
        def get(self, key: ProjectKey) -> Project:
            with contextlib.suppress(ProjectNotFound):
                self.delete("agent")
            return super().get(key)

        def create(self, *args: Any, **kwargs: Any) -> Project:
            super().create("agent")
            return super().create(*args, **kwargs)

    with closing(Unlucky(file)) as store, pytest.raises(StoreBusy, match="keep creating and deleting"):
        store.get_or_create("agent")


def test_a_connection_keeps_4_mib_of_pages(file_store: SQLiteStore) -> None:
    with file_store._reading() as session:
        assert session.execute("PRAGMA cache_size").fetchone() == (-4_096,)


def test_nothing_is_open_until_the_first_call(file: Path) -> None:
    with closing(SQLiteStore(file)):
        assert not file.with_name("projects.db-wal").exists()
