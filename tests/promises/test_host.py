"""What a host does with the store besides serving it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest
import webtest

from projects_wsgi import Project, ProjectsApp

from ..support.databases import Database


class Told(NamedTuple):
    """An application, and what on_change was told."""

    app: ProjectsApp
    events: list[tuple[str, Project]]


@pytest.fixture
def told(any_database: Database) -> Iterator[Told]:
    events: list[tuple[str, Project]] = []
    app = any_database.make_app(on_change=lambda event, project: events.append((event, project)))
    with closing(app.store):
        yield Told(app, events)


def test_on_change_is_told_of_every_change_through_the_api(told: Told) -> None:
    client = webtest.TestApp(told.app)
    client.post_json("/v1/projects", {"name": "agent", "description": "x"}, status=200)
    client.put_json("/v1/projects/agent", {"description": "y"}, status=200)
    client.delete("/v1/projects/agent", status=204)
    assert [(event, *project[:4]) for event, project in told.events] == [
        ("created", 2, "agent", "x", "standard"),
        ("updated", 2, "agent", "y", "standard"),
        ("deleted", 2, "agent", "y", "standard"),
    ]


def test_on_change_is_told_of_every_change_through_the_store(told: Told) -> None:
    store = told.app.store
    project, _ = store.get_or_create("agent")
    store.get_or_create("agent")
    store.update("agent", "y")
    store.delete(project.id)
    assert [event for event, _ in told.events] == ["created", "updated", "deleted"]


def test_on_change_is_not_told_of_what_changed_nothing(told: Told) -> None:
    client = webtest.TestApp(told.app)
    client.get("/v1/projects", status=200)
    client.post_json("/v1/projects", {"name": "default"}, status=409)
    client.put_json("/v1/projects/default", {}, status=200)
    client.put_json("/v1/projects/nobody", {"description": "x"}, status=404)
    client.delete("/v1/projects/default", status=403)
    assert told.events == []


def test_what_on_change_is_told_is_committed_and_the_store_is_free(database: Database) -> None:
    seen: list[object] = []

    def look(event: str, project: Project) -> None:
        with database.connect() as connection:
            row = connection.execute(f"SELECT name FROM projects WHERE id = {project.id}").fetchone()
        seen.append((event, row))
        if event == "created" and project.name == "agent":
            store.create("from within")

    with closing(database.open_store(busy_timeout=0.5, on_change=look)) as store:
        store.create("agent")
        store.delete("agent")
    assert seen == [("created", ("agent",)), ("created", ("from within",)), ("deleted", None)]


def test_an_error_in_on_change_is_logged_and_changes_nothing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: str, project: Project) -> None:
        raise ZeroDivisionError("of the host")

    app = database.make_app(on_change=fail)
    with closing(app.store):
        client = webtest.TestApp(app)
        with caplog.at_level(logging.ERROR):
            client.post_json("/v1/projects", {"name": "agent"}, status=200)
            client.delete("/v1/projects/agent", status=204)
    created, deleted = caplog.messages
    assert created.startswith("on_change failed for created Project(id=2, name='agent', description=None, ")
    assert deleted.startswith("on_change failed for deleted Project(id=2, name='agent', description=None, ")
    assert created.endswith(")")
    assert caplog.text.count("ZeroDivisionError: of the host") == 2
