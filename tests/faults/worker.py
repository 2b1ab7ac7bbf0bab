"""Works on projects from many threads at once; prints what it did and saw as JSON.

Usage: worker.py NAME THREADS SECONDS TARGET, TARGET being a database file or the URL of a server.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import random
import sys
import threading
import time
from contextlib import closing
from typing import Any, Callable, Optional
from urllib.parse import quote, unquote, urlsplit
from wsgiref.util import setup_testing_defaults

from projects_wsgi import make_app

Send = Callable[[str, str, Optional[Any]], tuple[int, Any]]

# Names that everybody wants, and a project that everybody describes.
CONTESTED = [f"contested {number}" for number in range(200)]
SHARED = "default"


def decode(status: int, body: bytes) -> Any:
    return json.loads(body) if body[:1] == b"{" else body.decode()


def sending_to_app(app: Any) -> contextlib.AbstractContextManager[Send]:
    def send(method: str, path: str, document: Any | None = None) -> tuple[int, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
        setup_testing_defaults(environ)
        statuses: list[str] = []
        answer = b"".join(app(environ, lambda status, headers: statuses.append(status)))
        return int(statuses[0][:3]), decode(int(statuses[0][:3]), answer)

    return contextlib.nullcontext(send)


@contextlib.contextmanager
def sending_to_server(url: str) -> Any:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)) as connection:

        def send(method: str, path: str, document: Any | None = None) -> tuple[int, Any]:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, decode(response.status, response.read())

        yield send


class Worker(threading.Thread):
    """One thread: creates, reads, lists, describes and deletes until its time is over."""

    def __init__(self, name: str, seconds: float, connect: Callable[[], Any]) -> None:
        super().__init__()
        self.label = name
        self.random = random.Random(name)
        self.end = time.monotonic() + seconds
        self.connect = connect
        self.own: dict[str, Any] = {}  # name: [id, description] as last acknowledged
        self.made: list[str] = []  # every id that was ever given to this thread
        self.won: list[str] = []  # the contested names that it was given
        self.shared: str | None = None  # what it last made of the shared project
        self.statuses: dict[str, int] = {}
        self.longest_write = 0.0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            with self.connect() as send:
                self.send = send
                while time.monotonic() < self.end:
                    self.random.choice(
                        [self.create, self.update, self.delete, self.get, self.list, self.contest, self.share]
                    )()
        except Exception as error:
            self.wrong.append(repr(error))

    def ask(self, expected: int, method: str, path: str, document: Any | None = None) -> tuple[int, Any]:
        began = time.monotonic()
        status, answer = self.send(method, path, document)
        if method != "GET":
            self.longest_write = max(self.longest_write, time.monotonic() - began)
        key = f"{method} {status}"
        self.statuses[key] = self.statuses.get(key, 0) + 1
        if status != expected and (status, expected) != (409, 200):
            self.wrong.append(f"{method} {path}: {status} {answer}")
        return status, answer

    def create(self) -> None:
        name = f"{self.label}-{len(self.made)}"
        status, answer = self.ask(200, "POST", "/v1/projects", {"name": name, "description": "new"})
        if status == 200:
            self.made.append(answer["data"]["id"])
            self.own[name] = [answer["data"]["id"], "new"]

    def update(self) -> None:
        if self.own:
            name = self.random.choice(list(self.own))
            description = str(self.random.random())
            status, answer = self.ask(200, "PUT", f"/v1/projects/{quote(name)}", {"description": description})
            if status == 200:
                self.own[name][1] = answer["data"]["description"]

    def delete(self) -> None:
        if len(self.own) > 5:
            name = self.random.choice(list(self.own))
            if self.ask(204, "DELETE", f"/v1/projects/{self.own[name][0]}")[0] == 204:
                del self.own[name]

    def get(self) -> None:
        if self.own:
            name = self.random.choice(list(self.own))
            _, answer = self.ask(
                200, "GET", f"/v1/projects/{self.random.choice([quote(name), self.own[name][0]])}"
            )
            if [answer["data"]["id"], answer["data"]["description"]] != self.own[name]:
                self.wrong.append(f"{answer} is not {name} {self.own[name]}")

    def list(self) -> None:
        query = self.random.choice(
            ["", "?limit=10", f"?name_contains={self.label}", "?name_contains=CONTESTED"]
        )
        _, answer = self.ask(200, "GET", f"/v1/projects{query}")
        if not answer["data"] and self.own and "=CON" not in query:
            self.wrong.append(f"{query} lists nothing")

    def contest(self) -> None:
        name = self.random.choice(CONTESTED)
        status, answer = self.ask(200, "POST", "/v1/projects", {"name": name})
        if status == 200:
            self.won.append(name)
            self.made.append(answer["data"]["id"])

    def share(self) -> None:
        description = f"{self.label} {self.random.random()}"
        if self.ask(200, "PUT", f"/v1/projects/{SHARED}", {"description": description})[0] == 200:
            self.shared = description


def main(name: str, threads: str, seconds: str, target: str) -> None:
    app = None
    if target.startswith("http://"):
        connect: Callable[[], Any] = lambda: sending_to_server(target)  # noqa: E731
    else:
        app = make_app(target)
        connect = lambda: sending_to_app(app)  # noqa: E731
    print("ready", flush=True)
    sys.stdin.readline()
    workers = [Worker(f"{name}.{number}", float(seconds), connect) for number in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if app is not None:
        app.store.close()
    fields = ("own", "made", "won", "shared", "statuses", "longest_write", "wrong")
    print(json.dumps([{field: getattr(worker, field) for field in fields} for worker in workers]))


if __name__ == "__main__":
    main(*sys.argv[1:])
