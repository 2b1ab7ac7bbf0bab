"""The rules by which projects move in and out, on every engine."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects_wsgi import (
    ChangeForbidden,
    Project,
    ProjectKind,
    SQLiteStore,
    Store,
    StoreFull,
    StoreReadOnly,
    transfer,
)
from projects_wsgi.model import NamesExist, ProjectsInvalid
from projects_wsgi.transfer.lines import read_lines
from projects_wsgi.transfer.sources import Source

from .support.databases import Database

EARLY = datetime.datetime(2020, 2, 29, 23, 59, 59, 999_999, datetime.timezone.utc)
LATE = datetime.datetime(2026, 1, 1, 5, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30)))

WILD = [
    "a",
    "A",
    " a ",
    "ß",
    "\0",
    "a\0b",
    "\1\1\1\2",
    "\u202e",
    "\ud7ff\ue000",
    "🦜" * 300,
    "x" * 9_000,
    "'\\\n\t",
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def project(number: int, name: str, description: str | None = None, kind: Any = "standard") -> Project:
    return Project(number, name, description, kind, EARLY, LATE)


def lines_of(store: Store) -> bytes:
    file = io.BytesIO()
    transfer.write_lines(store, file)
    return file.getvalue()


def source_of(lines: bytes) -> Source:
    return Source("line", read_lines(io.BytesIO(lines)))


def everything(store: Store) -> list[tuple[int, str, str | None]]:
    return [(it.id, it.name, it.description) for it in transfer.export_projects(store)]


DEFAULT = (1, "default", "Default project")


def test_a_store_gives_out_what_it_holds_in_order_of_id(store: Store) -> None:
    made = [store.create(name, f"of {name}", kind) for name, kind in zip("cba", ProjectKind)]
    store.delete(made[1])
    assert list(transfer.export_projects(store)) == [store.get(1), made[0], made[2]]


def test_what_is_given_out_is_the_store_as_it_was_at_the_first_project(shared_store: Store) -> None:
    for number in range(250):
        shared_store.create(str(number))
    projects = transfer.export_projects(shared_store)
    first = next(projects)
    shared_store.delete("200")
    shared_store.update("100", "changed")
    shared_store.create("later")
    rest = list(projects)
    assert [first.name, *(it.name for it in rest)] == ["default", *map(str, range(250))]
    assert {it.description for it in rest} == {None}


def test_who_stops_in_the_middle_of_it_leaves_the_connection_to_others(store: Store) -> None:
    for number in range(250):
        store.create(str(number))
    for _ in range(30):
        projects = transfer.export_projects(store)
        next(projects)
        del projects
    store.create("later")


def test_a_fresh_store_takes_ids_kinds_and_times(store: Store) -> None:
    projects = [project(2**40, "far"), project(7, "run", "", "experiment"), project(3, "near", "x" * 5_000)]
    report = transfer.import_projects(store, projects)
    assert report == (3, 0, 0, 0, True, [])
    near, run, far = list(transfer.export_projects(store))[1:]
    early = EARLY.replace(microsecond=999_000)
    assert near == Project(3, "near", "x" * 5_000, ProjectKind.STANDARD, early, LATE)
    assert (run.kind, run.description, far.id) == (ProjectKind.EXPERIMENT, "", 2**40)
    assert store.get("near") == near
    assert store.list_rows(name_contains="FAR") == [(2**40, "far", None)]
    assert store.create("next").id == 2**40 + 1


def test_later_ids_are_above_all_that_the_source_ever_gave(store: Store) -> None:
    with closing(SQLiteStore(":memory:")) as other:
        for name in ("a", "b", "c"):
            other.create(name)
        other.delete("c")
        assert other.last_id() == 4
        source = Source("project", source_numbered(other), other.last_id)
        transfer.import_projects(store, source)
    assert everything(store) == [DEFAULT, (2, "a", None), (3, "b", None)]
    assert store.last_id() >= 4
    assert store.create("d").id == 5


def source_numbered(store: Store) -> Iterator[Any]:
    return ((it.id, it) for it in store.read_all())


def test_a_fresh_store_gives_no_id_of_its_own_past_again(store: Store) -> None:
    gone = [store.create(str(number)) for number in range(5)]
    for it in gone:
        store.delete(it)
    assert transfer.import_projects(store, [project(2, "a")]).kept_ids
    assert store.create("b").id > gone[-1].id


@pytest.mark.parametrize("holds_projects", [True, False])
def test_a_store_with_projects_gives_new_ids_in_the_order_of_the_old(
    store: Store, holds_projects: bool
) -> None:
    if holds_projects:
        store.create("mine")
    projects = [project(70, "c"), project(50, "a"), project(60, "b"), project(1, "default", "theirs")]
    report = transfer.import_projects(store, projects, new_ids=not holds_projects)
    assert not report.kept_ids
    names = [name for _, name, _ in everything(store)]
    assert names == ["default", *(["mine"] if holds_projects else []), "a", "b", "c"]
    assert store.last_id() < 50
    # Only a fresh store takes the description of the default project unasked.
    assert store.get(1).description == ("Default project" if holds_projects else "theirs")


@pytest.mark.parametrize("at_a_time", [4, 900])
def test_names_that_exist_fail_unless_they_are_to_be_skipped_or_updated(
    store: Store, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr("projects_wsgi.storage._BATCH_RECORDS", at_a_time)
    for number in range(15):
        store.create(f"name {number}", "ours")
    before = everything(store)
    incoming = [project(100 + number, f"name {number}", "theirs") for number in range(12, -1, -1)]
    incoming += [project(200, "new"), project(201, "name 14"), project(1, "default", "theirs")]
    with pytest.raises(NamesExist) as caught:
        transfer.import_projects(store, incoming)
    assert caught.value.names == [f"name {number}" for number in range(10)]
    assert everything(store) == before

    assert transfer.import_projects(store, incoming, on_conflict="skip")[:3] == (1, 0, 15)
    assert everything(store)[:-1] == before

    times = store.get("name 0").created_at, store.get("name 0").updated_at
    assert transfer.import_projects(store, incoming, on_conflict="update")[:3] == (0, 14, 2)
    # One that comes without a description leaves it.
    assert store.get("name 14").description == "ours"
    assert store.get("default").description == "theirs"
    updated = store.get("name 0")
    assert (updated.description, updated.created_at) == ("theirs", times[0])
    assert updated.updated_at >= times[1]
    assert transfer.import_projects(store, incoming, on_conflict="update")[:3] == (0, 0, 16)


def test_one_name_that_exists_keeps_all_others_out(store: Store) -> None:
    store.create("mine")
    many = [project(number, str(number)) for number in range(2, 2_500)]
    with pytest.raises(NamesExist):
        transfer.import_projects(store, [*many, project(2_500, "mine")])
    assert [name for _, name, _ in everything(store)] == ["default", "mine"]
    assert transfer.import_projects(store, [*many, project(2_500, "mine")], on_conflict="skip").made == 2_498


INVALID: list[tuple[Any, str]] = [
    (project(5, ""), "at least one character"),
    (project(5, 7), "must be a str"),  # type: ignore[arg-type]
    (project(5, "UHJvamVjdDox"), "reads as a project's id"),
    (project(5, "\ud800"), "surrogate"),
    (project(5, "U\ud800"), "surrogate"),
    (project(5, "x", "\udfff"), "surrogate"),
    (project(5, "x", 7), "must be a str"),  # type: ignore[arg-type]
    (project(5, "x", kind="robot"), "'robot' is not a valid ProjectKind"),
    (project(5, "x", kind=[]), "ProjectKind"),
    (project(0, "x"), "0 is the id of no project"),
    (project(-1, "x"), "id of no project"),
    (project(2**62 + 1, "x"), "id of no project"),
    (project(2**70, "x"), "id of no project"),
    (project(True, "x"), "id of no project"),
    (project(1, "x"), "the default project's name"),
    (project(5, "default"), "the default project's name"),
    (project(3, "x"), "its id is that of another"),
    (project(5, "good"), "its name is that of another"),
]


@pytest.mark.parametrize(("wrong", "reason"), INVALID)
def test_what_cannot_be_kept_is_told_and_keeps_all_out_unless_it_is_left_out(
    store: Store, wrong: Project, reason: str
) -> None:
    projects = [project(3, "good"), wrong, project(4, "too")]
    with pytest.raises(ProjectsInvalid, match="1 of the projects cannot be kept here: project 2: ") as caught:
        transfer.import_projects(store, projects)
    assert reason in caught.value.reasons[0]
    assert everything(store) == [DEFAULT]
    report = transfer.import_projects(store, projects, skip_invalid=True)
    assert (report.made, report.invalid, report.reasons) == (2, 1, caught.value.reasons)
    assert [name for _, name, _ in everything(store)] == ["default", "good", "too"]


def test_with_new_ids_old_ones_may_be_the_same(store: Store) -> None:
    projects = [project(3, "a"), project(3, "b"), project(1, "c"), project(9, "default", "d")]
    assert transfer.import_projects(store, projects, new_ids=True).made == 3
    assert everything(store) == [(1, "default", "d"), (2, "c", None), (3, "a", None), (4, "b", None)]


def test_the_playground_is_standard_whoever_made_it(store: Store) -> None:
    transfer.import_projects(store, [project(5, "playground", kind="experiment")])
    assert store.get(5).kind is ProjectKind.STANDARD


@pytest.mark.parametrize("on_conflict", ["fail", "skip", "update"])
@pytest.mark.parametrize("holds_projects", [True, False])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    database: Database, on_conflict: str, holds_projects: bool
) -> None:
    with closing(database.open_store()) as store:
        if holds_projects:
            store.create("a", "ours")
        before = lines_of(store), store.last_id()
        incoming = [project(5, "b"), project(6, "c")]
        incoming += [project(7, "a", "theirs")] if on_conflict != "fail" else []
        with closing(database.open_store(read_only=True)) as reader:
            planned = transfer.import_projects(reader, incoming, on_conflict=on_conflict, dry_run=True)
        assert (lines_of(store), store.last_id()) == before
        assert planned == transfer.import_projects(store, incoming, on_conflict=on_conflict)
        with pytest.raises(NamesExist):
            transfer.import_projects(store, incoming, dry_run=True)


def test_a_store_that_is_read_only_takes_nothing(database: Database) -> None:
    database.open_store().close()
    with closing(database.open_store(read_only=True)) as store, pytest.raises(StoreReadOnly):
        transfer.import_projects(store, [project(5, "x")])


def test_an_unknown_rule_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="on_conflict must be one of fail, skip, update, not 'merge'"):
        transfer.import_projects(store, [], on_conflict="merge")


def test_nobody_is_told_of_projects_that_come_in(database: Database) -> None:
    told: list[object] = []
    with closing(database.open_store(on_change=lambda *event: told.append(event))) as store:
        transfer.import_projects(store, [project(5, "x")])
        assert told == []
        store.update("x", "y")
    assert len(told) == 1


def test_progress_is_told_while_projects_are_read_and_while_they_come_in(store: Store) -> None:
    told: list[tuple[int, int | None]] = []
    projects = (project(number, str(number)) for number in range(2, 2_502))
    transfer.import_projects(store, projects, progress=lambda done, total: told.append((done, total)))
    assert told == [(1_000, None), (2_000, None), (900, 2_500), (1_800, 2_500), (2_500, 2_500)]


def test_progress_counts_what_is_made_updated_and_skipped(store: Store) -> None:
    told: list[tuple[int, int | None]] = []
    store.create("ours", "old")
    store.create("same", "same")
    incoming = [project(5, "ours", "new"), project(6, "same", "same"), project(7, "theirs")]
    report = transfer.import_projects(
        store, incoming, on_conflict="update", progress=lambda done, total: told.append((done, total))
    )
    assert report[:3] == (1, 1, 1)
    assert told == [(3, 3)]


def test_projects_come_in_by_the_million_characters(store: Store) -> None:
    told: list[int] = []
    # As many characters as a project counts for, 50 of them for what is no text.
    sizes = [500_000, 499_999, 60, 500_000, 500_000, 999_999, 60, 60]
    projects = [project(number, str(number), "x" * (size - 51)) for number, size in zip(range(2, 10), sizes)]
    transfer.import_projects(
        store, projects, progress=lambda done, total: told.append(done) if total else None
    )
    assert told == [3, 5, 7, 8]


def test_while_a_dry_run_goes_on_others_write(shared_store: Store) -> None:
    def create(done: int, total: int | None) -> None:
        shared_store.create(f"meanwhile {done}")

    transfer.import_projects(shared_store, [project(5, "b")], dry_run=True, progress=create)
    assert [name for _, name, _ in everything(shared_store)] == ["default", "meanwhile 1"]


def test_an_error_in_the_middle_leaves_the_store_as_it_was_and_usable(store: Store) -> None:
    def fail(done: int, total: int | None) -> None:
        if total is not None:
            raise KeyboardInterrupt

    projects = [project(number, str(number)) for number in range(2, 2_502)]
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            transfer.import_projects(store, projects, progress=fail)
        assert everything(store) == [DEFAULT]
    assert transfer.import_projects(store, projects).made == 2_500


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
@pytest.mark.parametrize("way", ["abort", "fail", "roll back", "ignore"])
def test_a_trigger_that_forbids_one_change_undoes_all(
    database: Database, shared_store: Store, event: str, way: str
) -> None:
    shared_store.create("mine", "ours")
    before = everything(shared_store)
    # In SQL that both engines know.
    action = database.forbid[way]
    condition = "new.name = 'mine' OR new.name = '1999'"
    if isinstance(shared_store, SQLiteStore):
        with database.connect() as connection:
            connection.execute(
                f"CREATE TRIGGER forbids BEFORE {event} ON projects WHEN {condition} BEGIN {action}; END"
            )
    else:
        database.create_trigger(
            "forbids", f"BEFORE {event} ON projects", f"IF {condition} THEN {action}; END IF"
        )
    incoming = [project(9_000, "mine", "theirs"), *(project(it, str(it)) for it in range(2, 2_002))]
    reason = "^something in the database kept a project from coming in$" if way == "ignore" else None
    for projects in (incoming, incoming[:1] if event == "UPDATE" else incoming[-10:]):
        with pytest.raises(ChangeForbidden, match=reason):
            transfer.import_projects(shared_store, projects, on_conflict="update")
        assert everything(shared_store) == before


@pytest.mark.parametrize("is_fresh", [True, False])
def test_lines_come_back_byte_for_byte(store: Store, is_fresh: bool) -> None:
    with closing(SQLiteStore(":memory:")) as other:
        for number, name in enumerate(WILD):
            other.create(name, WILD[-number - 1], list(ProjectKind)[number % 3])
        other.delete("A")
        other.update("default", "")
        lines = lines_of(other)
    if not is_fresh:
        store.create("A")
    report = transfer.import_projects(store, source_of(lines))
    assert report.made == len(WILD) - 1
    if is_fresh:
        assert lines_of(store) == lines
    for name in WILD:
        assert store.get_or_create(name)[1] == (name == "A" and is_fresh)


@given(
    st.dictionaries(
        texts.filter(bool), st.tuples(st.none() | texts, st.sampled_from(ProjectKind)), max_size=8
    )
)
def test_whatever_a_store_holds_comes_back_byte_for_byte(projects: dict[str, Any]) -> None:
    with closing(SQLiteStore(":memory:")) as one, closing(SQLiteStore(":memory:")) as other:
        for name, (description, kind) in projects.items():
            with contextlib.suppress(ValueError):
                one.get_or_create(name, description, kind)
        transfer.import_projects(other, source_of(lines_of(one)))
        assert lines_of(other) == lines_of(one)


def test_a_line_is_spelled_as_on_the_wire(store: Store) -> None:
    transfer.import_projects(store, [project(5, "ü\n\0", "🦜", "dataset_evaluator")])
    line = lines_of(store).splitlines(keepends=True)[1]
    assert line.decode() == (
        '{"id":"UHJvamVjdDo1","name":"ü\\n\\u0000","description":"🦜","kind":"dataset_evaluator",'
        '"created_at":"2020-02-29T23:59:59.999Z","updated_at":"2026-01-01T00:00:00.000Z"}\n'
    )


LINES: list[tuple[bytes, str]] = [
    (b"nonsense", "it is no JSON"),
    (b"{} {}", "it is no JSON"),
    (b'{"id":"UHJvamVjdDo5","name":"x"', "it is no JSON"),
    (b'{"id":"UHJvamVjdDo5","name":"\xff"}', "it is no JSON"),
    (b"[" * 100_000, "it is no JSON"),
    (b"[]", "it is no JSON object"),
    (b"7", "it is no JSON object"),
    (b"{}", "None is the id of no project"),
    (b'{"id":5,"name":"x"}', "5 is the id of no project"),
    (b'{"id":"5","name":"x"}', "'5' is the id of no project"),
    (b'{"id":"U3Bhbjo1","name":"x"}', "'U3Bhbjo1' is the id of no project"),
    (b'{"id":"\\ud800","name":"x"}', "is the id of no project"),
    (b'{"id":"UHJvamVjdDo1"}', "a project's name must be a str, not None"),
    (b'{"id":"UHJvamVjdDo1","name":"x","description":[]}', "description must be a str"),
    (b'{"id":"UHJvamVjdDo1","name":"x","kind":null}', "is not a valid ProjectKind"),
    (b'{"id":"UHJvamVjdDo1","name":"x","created_at":"yesterday"}', "'yesterday' is no time"),
    (b'{"id":"UHJvamVjdDo1","name":"x","updated_at":"2026-02-30T00:00:00.000Z"}', "is no time"),
    (b'{"id":"UHJvamVjdDo1","name":"x","updated_at":7}', "7 is no time"),
]


@pytest.mark.parametrize(("line", "reason"), LINES)
def test_a_line_that_is_no_project_is_told_with_its_number(store: Store, line: bytes, reason: str) -> None:
    lines = b'\xef\xbb\xbf\n \r\n{"id":"UHJvamVjdDo3","name":"a"}\r\n' + line + b"\n"
    with pytest.raises(ProjectsInvalid) as caught:
        transfer.import_projects(store, source_of(lines))
    (told,) = caught.value.reasons
    assert told.startswith("line 4: ")
    assert reason in told


def test_a_line_that_never_ends_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projects_wsgi.transfer.lines.MAX_LINE", 100)
    lines = b'{"id":"UHJvamVjdDo3","name":"%s"}\n{"id":"UHJvamVjdDo0","name":"a"}' % (b"x" * 1_000)
    first, second = read_lines(io.BytesIO(lines))
    assert first == (1, "it is longer than 100 bytes")
    assert second[0] == 2
    assert second[1][:2] == (4, "a")


def test_what_a_line_leaves_out_is_filled_in(store: Store) -> None:
    lines = b'{"id":"UHJvamVjdDo3","name":"a","more":NaN,"created_at":"2026-01-01T01:00:00.120+01:00"}'
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(milliseconds=1)
    transfer.import_projects(store, source_of(lines))
    it = store.get(7)
    assert (it.name, it.description, it.kind) == ("a", None, ProjectKind.STANDARD)
    assert it.created_at == datetime.datetime(2026, 1, 1, 0, 0, 0, 120_000, datetime.timezone.utc)
    assert it.updated_at >= before


def test_hundreds_of_wrong_lines_are_counted_and_the_first_are_told(store: Store) -> None:
    with pytest.raises(ProjectsInvalid) as caught:
        transfer.import_projects(store, source_of(b"7\n" * 700))
    assert (caught.value.count, len(caught.value.reasons)) == (700, 100)


def test_a_database_that_may_not_grow_takes_all_or_nothing(tmp_path: Any) -> None:
    projects = [project(it, str(it), "x" * 1_000) for it in range(2, 2_002)]
    with closing(SQLiteStore(tmp_path / "projects.db", max_database_size=1_000_000)) as store:
        for _ in range(2):
            with pytest.raises(StoreFull, match="max_database_size"):
                transfer.import_projects(store, projects)
            assert everything(store) == [DEFAULT]
        assert transfer.import_projects(store, projects[:500]).made == 500
        store.create("and goes on")


def test_a_temporary_file_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    real = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> Any:
        connection = real(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 100")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    projects = (project(it, str(it), "x" * 1_000) for it in range(2, 2_002))
    with pytest.raises(StoreFull, match="no room for a temporary file"):
        transfer.import_projects(store, projects)


def test_json_of_every_line_is_what_json_says(store: Store) -> None:
    store.create("a\u2028b")
    assert [json.loads(line)["name"] for line in lines_of(store).split(b"\n")[:-1]] == ["default", "a\u2028b"]
