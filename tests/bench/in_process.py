"""One WSGI callable beside the others, in one process and one thread."""

from __future__ import annotations

import gc
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

from projects_wsgi import SQLiteStore, make_app
from projects_wsgi.model import render_global_id

from .contenders import bottle_app, falcon_app, flask_app, floor
from .files import Files, name_of
from .measure import OURS, Check, Row, Sizes, Table, interleave, medians, ratio

App = Callable[..., Any]
MakeRequest = Callable[[int], dict[str, Any]]

WRITES = 20  # of a round, as many by each contender

PEERS: Mapping[str, Callable[[Path], App]] = {
    "falcon": falcon_app.make_app,
    "bottle": bottle_app.make_app,
    "flask": flask_app.make_app,
}


def make_environ(method: str, path: str, query: str = "", body: object = None) -> dict[str, Any]:
    """Return the environ of a request as servers make it."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "6006",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:6006",
        "HTTP_ACCEPT": "*/*",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate",
        "HTTP_CONNECTION": "keep-alive",
        "HTTP_USER_AGENT": "python-httpx/0.28.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body is not None:
        content = json.dumps(body).encode()
        environ["CONTENT_TYPE"] = "application/json"
        environ["CONTENT_LENGTH"] = str(len(content))
        environ["wsgi.input"] = io.BytesIO(content)
    return environ


class Forgetful(SQLiteStore):
    """A store by which no page is remembered, so that each is read anew, as after a change."""

    def version(self) -> None:
        super().version()


def make_forgetful_app(file: Path) -> App:
    return make_app(Forgetful(file))


class Caller:
    """Sends one kind of request to one callable, and times it.

    make_request: the environ of the n-th request.
    """

    def __init__(self, app: App, make_request: MakeRequest) -> None:
        self._app = app
        self._requests = map(make_request, itertools.count())
        self._statuses: set[str] = set()
        self._headers: list[tuple[str, str]] = []

    def answer(self) -> tuple[str, str, Any]:
        """Send a request; return what matters in its answer: status, type and decoded JSON."""
        self._statuses.clear()
        body = self._call(next(self._requests))
        (status,) = self._statuses
        types = [value for name, value in self._headers if body and name.lower() == "content-type"]
        return status[:3], types[0] if types else "", json.loads(body) if body else None

    def time(self, count: int) -> float:
        """Send requests; return the seconds that one takes."""
        environs = list(itertools.islice(self._requests, count))
        self._statuses.clear()
        begin = time.perf_counter()
        for environ in environs:
            self._call(environ)
        seconds = time.perf_counter() - begin
        assert all(status.startswith("20") for status in self._statuses), self._statuses
        return seconds / count

    def _call(self, environ: dict[str, Any]) -> bytes:
        answer = self._app(environ, self._start_response)
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return body

    def _start_response(self, status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        self._statuses.add(status)
        self._headers = headers


def compare(
    sizes: Sizes, callers: Mapping[str, Caller], *, count: int | None = None, answers_agree: bool = True
) -> dict[str, list[float]]:
    """Time callers in turn; return the seconds per request of each one's rounds.

    count: requests of a round; None: as many as fill its seconds.
    answers_agree: whether all must give the same answers; asserted before anything is timed.
    """
    for _ in range(3):
        answers = [caller.answer() for caller in callers.values()]
        assert all(status in ("200", "204") for status, _, _ in answers), answers
        assert not answers_agree or all(answer == answers[0] for answer in answers), answers
    counts = {
        name: count or max(1, int(sizes.seconds / min(caller.time(3) for _ in range(3))))
        for name, caller in callers.items()
    }
    # What was made until now is not looked at by every collection of the garbage made from now on.
    gc.collect()
    gc.freeze()
    rounds = {
        name: lambda caller=caller, count=counts[name]: caller.time(count) for name, caller in callers.items()
    }
    return interleave(sizes.rounds, rounds)


class Case(NamedTuple):
    """One kind of request.

    make_request: the environ of the n-th. make_floor: the floor's callable for it.
    of_floor, of_falcon: the most that the package may take of their times; None: any.
    writes: whether it changes the file.
    """

    make_request: MakeRequest
    make_floor: Callable[[Path], App]
    of_floor: float
    of_falcon: float | None = None
    writes: bool = False


def cases(sizes: Sizes) -> dict[str, Case]:
    first, most = 2, sizes.few - 1

    def path(number: int) -> str:
        return f"/v1/projects/{render_global_id(number)}"

    def body(number: int) -> dict[str, str]:
        return {"name": f"Made {number:08}", "description": f"What project {number} is for, said anew."}

    return {
        "get by id": Case(
            lambda n: make_environ("GET", path(first + n * 7 % most)), floor.get_by_id, 1.7, 0.75
        ),
        "get by name": Case(
            lambda n: make_environ("GET", f"/v1/projects/{name_of(first + n * 7 % most)}"),
            floor.get_by_name,
            1.8,
            0.75,
        ),
        "page of 100": Case(lambda _: make_environ("GET", "/v1/projects"), floor.list_page, 1.15, 0.75),
        "create": Case(
            lambda n: make_environ("POST", "/v1/projects", body=body(n)), floor.create, 1.15, writes=True
        ),
        "update": Case(
            lambda n: make_environ("PUT", path(first + n * 7 % most), body=body(n)),
            floor.update,
            1.15,
            writes=True,
        ),
        "delete": Case(lambda n: make_environ("DELETE", path(first + n)), floor.delete, 1.15, writes=True),
    }


def measure(sizes: Sizes, files: Files, case: Case, folder: Path | None = None) -> Row:
    """Measure a case, over files in a folder."""
    # A deletion needs a project for each request.
    count = sizes.many if case.make_floor is floor.delete else sizes.few

    def open_with(make: Callable[[Path], App], file: Path) -> Caller:
        return Caller(make(files.copy(file, folder)), case.make_request)

    callers = {
        "floor": open_with(case.make_floor, files.filled(count)),
        OURS: open_with(make_forgetful_app, files.filled(count)),
        **{name: open_with(make, files.filled_for_peers(count)) for name, make in PEERS.items()},
    }
    figures = compare(sizes, callers, count=WRITES if case.writes else None)
    checks = [Check("{} x floor", ratio(figures, OURS, "floor"), case.of_floor)]
    if case.of_falcon is not None:
        checks.append(Check("{} x falcon", ratio(figures, OURS, "falcon"), case.of_falcon))
    return Row(medians(figures, "{:.1f}", 1e6), checks)


def measure_on_a_ram_disk(sizes: Sizes, files: Files, case: Case) -> Row:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        return measure(sizes, files, case._replace(of_floor=1.4), Path(folder))


def table(sizes: Sizes, files: Files) -> Table:
    rows: dict[str, Callable[[], Row]] = {}
    for what, case in cases(sizes).items():
        rows[f"{what}, durable" if case.writes else what] = lambda case=case: measure(sizes, files, case)
    rows["create, on a RAM disk"] = lambda: measure_on_a_ram_disk(sizes, files, cases(sizes)["create"])
    return Table(
        "In one process",
        ["floor", OURS, *PEERS],
        rows,
        f"Microseconds per request, {sizes.few:,} projects, medians of {sizes.rounds} rounds; the contenders"
        " take turns, and a ratio is the median of the rounds' ratios. No page is remembered.",
    )
