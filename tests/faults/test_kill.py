"""What was acknowledged outlives kill -9, and what was not is there whole or not at all."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote

from projects_wsgi import ProjectKind, SQLiteStore

from ..support.databases import connect
from ..support.process import Process, environment, running_server

ROUNDS = 20
CLIENTS = 8

# A project's id and description; None: there is no such project.
State = Optional[tuple[str, Optional[str]]]


class Client(threading.Thread):
    """Creates, updates and deletes projects of its own until the server is gone.

    states: for each name, what the last acknowledged change made of it.
    unanswered: the name and the new description of the change that was never answered, if any.
    """

    def __init__(self, server: Process, number: int, states: dict[str, State], generation: int) -> None:
        super().__init__()
        self.server = server
        self.random = random.Random(f"{number} {generation}")
        self.prefix = f"{number}-{generation}"
        self.states = states
        self.unanswered: tuple[str, Any] | None = None
        self.acknowledged = 0
        self.made_ids: list[str] = []

    def run(self) -> None:
        with (
            closing(http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)) as connection,
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            while True:
                self.change_something(connection)
                self.acknowledged += 1
                self.unanswered = None

    def change_something(self, connection: http.client.HTTPConnection) -> None:
        living = [name for name, state in self.states.items() if state]
        kind = self.random.choice(["POST", "POST", "PUT", "DELETE"]) if living else "POST"
        name = f"{self.prefix}-{len(self.states)}" if kind == "POST" else self.random.choice(living)
        description = "x" * self.random.choice([0, 10, 10_000, 100_000]) + str(self.random.random())
        self.unanswered = (name, None if kind == "DELETE" else description)
        path = "/v1/projects" if kind == "POST" else f"/v1/projects/{quote(name)}"
        body = None if kind == "DELETE" else json.dumps({"name": name, "description": description})
        connection.request(kind, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if kind == "DELETE":
            assert response.status == 204
            self.states[name] = None
            return
        assert response.status == 200
        project = json.loads(answer)["data"]
        assert (project["name"], project["description"]) == (name, description)
        self.states[name] = (project["id"], description)
        if kind == "POST":
            self.made_ids.append(project["id"])


def test_twenty_kills_lose_no_acknowledged_write_and_leave_none_half_done(file: Path) -> None:
    states: list[dict[str, State]] = [{} for _ in range(CLIENTS)]
    acknowledged = unanswered = 0
    ids: list[str] = []
    for generation in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(running_server("--quiet", cwd=file.parent, must_obey=False))
            clients = [Client(process, number, states[number], generation) for number in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(random.Random(generation).uniform(0.1, 0.8))
            process.popen.kill()
            for client in clients:
                client.join()
        acknowledged += sum(client.acknowledged for client in clients)
        unanswered += sum(client.unanswered is not None for client in clients)
        ids += [id_ for client in clients for id_ in client.made_ids]

        # A new server on the same file, which it brings in order by itself.
        with running_server("--quiet", cwd=file.parent) as process:
            found = {project["name"]: project for project in every_project(process)}
        for client in clients:
            if client.unanswered is not None:
                accept_either(client, found)
            for name, state in client.states.items():
                project = found.pop(name, None)
                assert state == (project and (project["id"], project["description"]))
        assert list(found) == ["default"]
        with connect(file) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert acknowledged > ROUNDS * CLIENTS
    assert len(ids) == len(set(ids))
    print(f"{ROUNDS} kills, {acknowledged} acknowledged writes, 0 lost; {unanswered} unanswered, 0 half done")


def every_project(process: Process) -> list[dict[str, Any]]:
    projects: list[dict[str, Any]] = []
    cursor = ""
    with closing(http.client.HTTPConnection(process.host, process.port, timeout=30)) as connection:
        while True:
            connection.request("GET", f"/v1/projects?limit=100&cursor={quote(cursor)}")
            page = json.loads(connection.getresponse().read())
            projects += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return projects


def accept_either(client: Client, found: dict[str, Any]) -> None:
    """Take what has become of the change that was never answered, if it is all or nothing of it."""
    assert client.unanswered is not None
    name, description = client.unanswered
    before = client.states.get(name)
    project = found.get(name)
    now = project and (project["id"], project["description"])
    if now != before:
        assert (now and now[1]) == description
        assert before is None or now is None or now[0] == before[0]
    client.states[name] = now


def test_a_killed_writer_of_the_store_itself_loses_nothing_either(file: Path) -> None:
    # The bare store, in a loop as tight as can be, killed within its transactions.
    script = """
import itertools
from projects_wsgi import SQLiteStore
store = SQLiteStore("projects.db")
start = store.list_rows(limit=1)[0][0]
for number in itertools.count(start):
    project = store.create(str(number), "x" * 5000)
    store.update(project.id, "done " + "x" * 5000)
    print(project.id, flush=True)
"""
    done: set[int] = set()
    for generation in range(ROUNDS):
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=file.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(random.Random(generation).uniform(0.2, 0.5))
        process.kill()
        lines = process.communicate()[0].splitlines(keepends=True)
        done |= {int(line) for line in lines if line.endswith("\n")}
    assert len(done) > ROUNDS
    with closing(SQLiteStore(file)) as store:
        rows = {row[0]: row[2] or "" for row in store.list_rows(limit=10**6, kinds=list(ProjectKind))}
    assert all(rows[project_id].startswith("done ") for project_id in done)
    assert len(rows) <= 1 + len(done) + ROUNDS
