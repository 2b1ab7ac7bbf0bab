"""What each error of the server becomes."""

from __future__ import annotations

import re
import time
from contextlib import closing
from typing import Callable

import pytest

from projects_wsgi import (
    ChangeForbidden,
    OutcomeUnknown,
    ProjectKind,
    ProjectsError,
    Store,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
)
from projects_wsgi.storage import open_store
from projects_wsgi.storage.postgres.database import MEANINGS

from ..support.cluster import Cluster
from ..support.databases import Database

# One state at least for each row of the table, and what stands in no row.
STATES: dict[str, type[ProjectsError]] = {
    "09000": ChangeForbidden,  # triggered_action_exception
    "22001": ChangeForbidden,  # string_data_right_truncation
    "22012": ChangeForbidden,  # division_by_zero
    "23000": ChangeForbidden,  # integrity_constraint_violation
    "23502": ChangeForbidden,  # not_null_violation
    "23503": ChangeForbidden,  # foreign_key_violation
    "23505": ChangeForbidden,  # unique_violation, of another name
    "23514": ChangeForbidden,  # check_violation
    "23P01": ChangeForbidden,  # exclusion_violation
    "27000": ChangeForbidden,  # triggered_data_change_violation
    "38000": ChangeForbidden,  # external_routine_exception
    "39000": ChangeForbidden,  # external_routine_invocation_exception
    "44000": ChangeForbidden,  # with_check_option_violation
    "45000": ChangeForbidden,  # what SQL gives to users
    "P0001": ChangeForbidden,  # raise_exception
    "P0004": ChangeForbidden,  # assert_failure
    "40001": StoreBusy,  # serialization_failure
    "40P01": StoreBusy,  # deadlock_detected
    "55P03": StoreBusy,  # lock_not_available
    "57014": StoreBusy,  # query_canceled
    "53100": StoreFull,  # disk_full
    "08006": StoreUnavailable,  # connection_failure, of the server to another one
    "25006": StoreUnavailable,  # read_only_sql_transaction
    "26000": StoreUnavailable,  # invalid_sql_statement_name
    "42P05": StoreUnavailable,  # duplicate_prepared_statement
    "42501": StoreUnavailable,  # insufficient_privilege
    "42P01": StoreUnavailable,  # undefined_table
    "53200": StoreUnavailable,  # out_of_memory
    "54000": StoreUnavailable,  # program_limit_exceeded
    "57P01": StoreUnavailable,  # admin_shutdown, of another connection
    "58030": StoreUnavailable,  # io_error
    "XX000": StoreUnavailable,  # internal_error
}


@pytest.mark.parametrize("state", STATES)
def test_an_error_of_the_server_has_its_meaning_and_changes_nothing(database: Database, state: str) -> None:
    with closing(database.open_store(busy_timeout=0.2)) as store:
        project = store.create("agent")
        raising = f"RAISE 'the server says so' USING ERRCODE = '{state}'"
        database.create_trigger("host", "BEFORE INSERT OR UPDATE OR DELETE ON projects", raising)
        for act in (
            lambda: store.create("other"),
            lambda: store.update("agent", "x"),
            lambda: store.delete("agent"),
        ):
            with pytest.raises(ProjectsError, match="the server says so") as caught:
                act()
            assert caught.type is STATES[state]
        database.drop_trigger("host", "projects")
        assert store.list_rows()[:-1] == [project[:3]]


def test_what_the_server_quotes_stays_on_one_line(database: Database) -> None:
    with closing(database.open_store()) as store:
        action = "RAISE insufficient_privilege USING MESSAGE = new.name"
        database.create_trigger("quote", "BEFORE INSERT ON projects", action)
        with pytest.raises(StoreUnavailable) as raised:
            store.create("first\n\x1b[31msecond")
    assert str(raised.value).endswith(r": first\n\x1b[31msecond")


def test_every_row_of_the_table_is_tested() -> None:
    for beginning in MEANINGS:
        assert any(state.startswith(beginning) for state in STATES)


def test_a_lock_is_waited_for_as_long_as_the_busy_timeout(database: Database) -> None:
    with closing(database.open_store(busy_timeout=0.3)) as store, database.connect() as connection:
        store.create("agent")
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE projects IN EXCLUSIVE MODE")
        with pytest.raises(StoreBusy, match=r"statement timeout; try again later"):
            store.update("agent", "x")
        assert store.get("agent").description is None
        connection.execute("ROLLBACK")
        assert store.update("agent", "x").description == "x"


def test_a_change_that_comes_just_when_an_idle_connection_is_ended_is_made(
    cluster: Cluster, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = cluster.url(options="-cidle_session_timeout=500ms")
    with closing(open_store(url, **database.options)) as store:
        for number in range(2):
            store.create(f"before {number}")
            time.sleep(1)
            with monkeypatch.context() as patch:
                patch.setattr("selectors.PollSelector.select", lambda *_: [])  # it looks a moment too soon
                assert store.create(f"after {number}").id


def test_an_import_that_a_server_did_not_wait_for_has_changed_nothing(
    cluster: Cluster, database: Database
) -> None:
    url = cluster.url(options="-cidle_in_transaction_session_timeout=500ms")
    with closing(open_store(url, **database.options)) as store:
        moment = "2026-01-31T23:59:59.999Z"
        with pytest.raises(StoreUnavailable, match="idle-in-transaction timeout") as caught:
            store.bring_in(
                [(5, "agent", None, "standard", moment, moment)],
                lambda: 5,
                on_conflict="fail",
                new_ids=False,
                dry_run=False,
                progress=lambda _: time.sleep(1),
            )
        assert caught.type is StoreUnavailable
        assert [row[1] for row in store.list_rows()] == ["default"]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("DROP TABLE projects", 'relation "[^"]+.*projects" does not exist'),
        ("ALTER TABLE projects RENAME COLUMN description TO text", 'column "description" does not exist'),
        ("ALTER TABLE projects RENAME TO others", "does not exist"),
    ],
)
def test_what_a_host_takes_away_is_named(
    database: Database, shared_store: Store, sql: str, error: str
) -> None:
    with database.connect() as connection:
        connection.execute(sql)
    with pytest.raises(StoreUnavailable, match=error) as caught:
        shared_store.get("default")
    assert re.match(r"cannot use postgresql://postgres@127\.0\.0\.1:\d+/postgres: ", str(caught.value))


@pytest.mark.parametrize(
    ("assignment", "error"),
    [
        ("kind = 'foo'", "'foo' is not a valid ProjectKind"),
        ("created_at = 'infinity'", "timestamp too large"),
        ("updated_at = '-infinity'", "timestamp too small"),
        ("created_at = '4000-01-01 BC'", "timestamp too small"),
        ("created_at = NULL", "'NoneType' object has no attribute 'replace'"),
    ],
)
def test_a_change_of_what_cannot_be_read_is_told_as_made(
    database: Database, shared_store: Store, assignment: str, error: str
) -> None:
    for name in ("a", "b"):
        shared_store.create(name)
    with database.connect() as connection:
        connection.execute("ALTER TABLE projects ALTER created_at DROP NOT NULL")
        connection.execute(f"UPDATE projects SET {assignment} WHERE id > 1")
        for act in (
            lambda: shared_store.get("a"),
            lambda: list(shared_store.read_all()),
        ):
            with pytest.raises(StoreUnavailable, match=re.escape(error)) as caught:
                act()
            assert caught.type is StoreUnavailable
        with pytest.raises(OutcomeUnknown, match="the change was made") as told:
            shared_store.delete("b")
        assert error in str(told.value)
        if "updated_at" not in assignment:  # which this puts right
            with pytest.raises(OutcomeUnknown, match="the change was made"):
                shared_store.update("a", "after")
            found = connection.execute("SELECT name, description FROM projects WHERE id > 1").fetchall()
            assert found == [("a", "after")]


def test_a_project_whose_name_a_host_took_away_is_told(database: Database, shared_store: Store) -> None:
    project = shared_store.create("agent")
    with database.connect() as connection:
        connection.execute("ALTER TABLE projects ALTER name DROP NOT NULL")
        connection.execute("UPDATE projects SET name = NULL WHERE id > 1")
    for act in (lambda: shared_store.get(project.id), shared_store.list_rows):
        with pytest.raises(StoreUnavailable, match=f"the project {project.id} cannot be read"):
            act()


def test_what_a_trigger_makes_unreadable_is_told_as_made(database: Database, shared_store: Store) -> None:
    database.create_trigger("host", "BEFORE INSERT ON projects", "NEW.kind = 'foo'")
    with pytest.raises(OutcomeUnknown, match="the change was made"):
        shared_store.create("agent")
    database.drop_trigger("host", "projects")
    assert [row[1] for row in shared_store.list_rows(kinds=list(ProjectKind))] == ["agent", "default"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda cluster: cluster.url(database="nowhere"), 'database "nowhere" does not exist'),
        (lambda cluster: cluster.url(user="nobody"), 'role "nobody" does not exist'),
        (lambda _: "postgresql://127.0.0.1:1/x", "Connection refused"),
        (lambda _: "postgresql://nowhere.invalid/x", "nowhere.invalid"),
        (lambda _: "postgresql:///x?host=/nowhere", "No such file"),
        (lambda cluster: cluster.url(sslmode="require"), "does not support SSL"),
    ],
)
def test_a_database_that_cannot_be_reached_is_named(
    cluster: Cluster, change: Callable[[Cluster], str], error: str
) -> None:
    url = change(cluster)
    with pytest.raises(
        StoreUnavailable, match=r"^cannot connect to postgresql://\w+@\S*:\d+/\w+: "
    ) as caught:
        open_store(url)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)
