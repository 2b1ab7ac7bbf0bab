"""Threads that change projects while servers fail, and know what may have become of each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Callable, Optional
from urllib.parse import quote

from projects_wsgi import Store
from projects_wsgi.model import render_global_id

from .worker import Send

NOTHING_CHANGED = "Nothing was changed"
MAY_HAVE_CHANGED = "may or may not"

# A project's id and description; None: there is no such project.
State = Optional[tuple[str, Optional[str]]]


class Writer(threading.Thread):
    """Creates, reads, describes and deletes projects of its own until it is told to end.

    states: for each name, what has become of it; several if an answer said that this is unknown.
    statuses: how often each came. answered_at: when the last change was acknowledged.
    wrong: what must not be.
    """

    def __init__(self, number: int, connect: Callable[[], AbstractContextManager[Send]]) -> None:
        super().__init__()
        self.connect = connect
        self.random = random.Random(number)
        self.prefix = f"writer {number}"
        self.has_ended = threading.Event()
        self.states: dict[str, list[State]] = {}
        self.ids: list[str] = []
        self.statuses: dict[str, int] = {}
        self.answered_at = 0.0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            with self.connect() as send:
                self.send = send
                while not self.has_ended.is_set():
                    self.random.choice([self.create, self.create, self.get, self.update, self.delete])()
        except Exception as error:
            self.wrong.append(repr(error))

    def create(self) -> None:
        name = f"{self.prefix}-{len(self.states)}"
        description = "x" * self.random.choice([0, 10, 20_000]) + str(self.random.random())
        document = {"name": name, "description": description}
        self.states[name] = [None]
        self.change(name, "POST", "/v1/projects", document, ("", description))

    def update(self) -> None:
        name = self.known()
        description = str(self.random.random())
        if name:
            project_id = (self.states[name][0] or ("", ""))[0]
            path = f"/v1/projects/{quote(name)}"
            self.change(name, "PUT", path, {"description": description}, (project_id, description))

    def delete(self) -> None:
        name = self.known()
        if name:
            self.change(name, "DELETE", f"/v1/projects/{quote(name)}", None, None)

    def get(self) -> None:
        name = self.known()
        if name:
            status, answer = self.ask("GET", f"/v1/projects/{quote(name)}", None)
            if status == 200:
                seen = answer["data"]["id"], answer["data"]["description"]
                if seen != self.states[name][0]:
                    self.wrong.append(f"{name} is {answer}")

    def known(self) -> str | None:
        """Return the name of a project that is certainly there."""
        names = [name for name, states in self.states.items() if len(states) == 1 and states[0]]
        return self.random.choice(names) if names else None

    def change(self, name: str, method: str, path: str, document: Any, after: State) -> None:
        status, answer = self.ask(method, path, document)
        if status in (200, 204):
            if status == 200:
                after = answer["data"]["id"], answer["data"]["description"]
            if method == "POST":
                self.ids.append(answer["data"]["id"])
            self.states[name] = [after]
            self.answered_at = time.monotonic()
        elif MAY_HAVE_CHANGED in answer:
            self.states[name].append(after)
        elif NOTHING_CHANGED not in answer:
            self.wrong.append(f"{method} {path}: {status} {answer}")

    def ask(self, method: str, path: str, document: Any) -> tuple[int, Any]:
        status, answer = self.send(method, path, document)
        what = "unknown" if MAY_HAVE_CHANGED in str(answer) else status
        self.statuses[f"{method} {what}"] = self.statuses.get(f"{method} {what}", 0) + 1
        if status not in (200, 204, 503):
            self.wrong.append(f"{method} {path}: {status} {answer}")
        if status == 503:
            time.sleep(0.01)
        return status, answer


def end(writers: Iterable[Writer]) -> None:
    """Tell writers to end; wait until they have."""
    for writer in writers:
        writer.has_ended.set()
    for writer in writers:
        writer.join(30)
        assert not writer.is_alive()


def verify(writers: Iterable[Writer], store: Store) -> dict[str, int]:
    """Check that what was acknowledged is there, and nothing by half; return how often each answer came."""
    rows = {name: (render_global_id(id_), text) for id_, name, text in store.list_rows(limit=10**6)}
    assert rows.pop("default")
    statuses: dict[str, int] = {}
    for writer in writers:
        assert writer.wrong == []
        for key, count in writer.statuses.items():
            statuses[key] = statuses.get(key, 0) + count
        for name, states in writer.states.items():
            found = rows.pop(name, None)
            # Nobody was told the id of a project that may have been made.
            assert found in states or (found and ("", found[1]) in states), (name, found, states)
    assert rows == {}
    ids = [id_ for writer in writers for id_ in writer.ids]
    assert len(ids) == len(set(ids))
    return dict(sorted(statuses.items()))
