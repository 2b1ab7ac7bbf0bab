"""The bundled server beside others, each a process of its own, asked over real sockets."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import multiprocessing
import resource
import sqlite3
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

from projects_wsgi.model import render_global_id

from . import processes
from .files import DESCRIPTION_SIZE, Files, time_syncs
from .load import Load, connect, fetch, load, make_request, receive
from .measure import OURS, Check, Row, Sizes, Table, interleave, medians, percentile, ratio
from .processes import PATH, Command, Server, memory, serving

SERVERS: Mapping[str, Command] = {
    OURS: processes.bundled,
    "with its log": processes.bundled_with_log,
    "waitress + falcon": processes.waitress,
    "gunicorn + falcon": processes.gunicorn,
    "granian + falcon": processes.granian,
    "granian + our app": processes.granian_with_ours,
}
GET = make_request("GET", PATH)
NOTHING = b'{"data":[],"next_cursor":null}'


class Contender(NamedTuple):
    """A server that runs, and the file that is its own."""

    server: Server
    file: Path


Loads = Mapping[str, Sequence[Load]]  # of each contender, its rounds'


@contextlib.contextmanager
def serving_all(files: Files, count: int) -> Iterator[dict[str, Contender]]:
    """Run all servers, each over a file with the same projects, and see that they answer alike."""
    with contextlib.ExitStack() as stack:
        contenders = {}
        for name, command in SERVERS.items():
            file = files.copy(files.filled_for_peers(count) if "falcon" in name else files.filled(count))
            contenders[name] = Contender(stack.enter_context(serving(command, file)), file)
        answers = [json.loads(contender.server.answer) for contender in contenders.values()]
        assert all(answer == answers[0] for answer in answers), answers
        yield contenders


def load_all(sizes: Sizes, files: Files, run: Callable[[Contender], Load]) -> Loads:
    """Run a load against each server, in rounds that take turns."""
    with serving_all(files, sizes.few) as contenders:
        return interleave(
            sizes.load_rounds,
            {name: lambda contender=contender: run(contender) for name, contender in contenders.items()},
        )


def rates(loads: Loads) -> dict[str, list[float]]:
    return {name: [load.per_second for load in its] for name, its in loads.items()}


def p99s(loads: Loads) -> dict[str, float]:
    """Return each contender's median of its rounds' p99s, in milliseconds."""
    return {
        name: statistics.median(percentile(load.latencies, 99) for load in its) * 1000
        for name, its in loads.items()
    }


def with_p99s(loads: Loads) -> dict[str, str]:
    """Return each contender's requests per second and p99, as text."""
    figures, p99 = medians(rates(loads), "{:,.0f}"), p99s(loads)
    return {name: f"{figure}, p99 {p99[name]:.1f} ms" for name, figure in figures.items()}


def check_rate(loads: Loads, peer: str, limit: float | None = None) -> Check:
    """Hold our rate against a peer's; limit: how many times it we must reach."""
    return Check(f"{{}} x {peer.partition(' ')[0]}", ratio(rates(loads), OURS, peer), limit, at_least=True)


def get(server: Server, connections: int, seconds: float) -> Load:
    return load(server.port, itertools.repeat((GET, server.answer)), connections, seconds)


def measure_get(sizes: Sizes, files: Files, connections: int) -> Row:
    loads = load_all(sizes, files, lambda contender: get(contender.server, connections, sizes.load_seconds))
    of_waitress, of_granian = {1: (1.6, None), 4: (5, 1.1), 32: (5, 1.1)}.get(connections, (None, None))
    checks = [
        check_rate(loads, "waitress + falcon", of_waitress),
        check_rate(loads, "granian + falcon", of_granian),
    ]
    return Row(with_p99s(loads) if connections >= 32 else medians(rates(loads), "{:,.0f}"), checks)


def page_path(project: int) -> str:
    """Return the path of the page of 100 that begins with a project."""
    return f"/v1/projects?limit=100&cursor={render_global_id(project)}"


def get_page(project: int) -> tuple[bytes, bytes]:
    """Return the request for that page, and what its answer ends with: the cursor of the next."""
    return make_request("GET", page_path(project)), f'"{render_global_id(project - 100)}"}}'.encode()


def changed_pages(connection: sqlite3.Connection, project: int) -> Iterator[tuple[bytes, bytes]]:
    """Ask for each page of 100 that holds a project in turn; change the project before each request.

    When a page is asked for again, 100 changes were made to it, more than there are connections: no server
    can answer with what it remembers.
    """
    pages = [get_page(first) for first in range(project, project + 100)]
    for number in itertools.count():
        description = f"Change {number}".ljust(DESCRIPTION_SIZE, "x")
        connection.execute("UPDATE projects SET description = ? WHERE id = ?", (description, project))
        yield pages[number % 100]


def measure_changed_pages(sizes: Sizes, files: Files, connections: int) -> Row:
    """Measure pages that a change precedes, each.

    The client changes the project in the servers' files itself, and does not sync: that costs each of them
    only what it must read anew.
    """
    project = sizes.few // 2

    def run(contender: Contender) -> Load:
        with contextlib.closing(sqlite3.connect(contender.file, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            pages = load(
                contender.server.port, changed_pages(connection, project), connections, sizes.load_seconds
            )
            query = "SELECT description FROM projects WHERE id = ?"
            (description,) = connection.execute(query, (project,)).fetchone()
        assert description.encode() in fetch(contender.server.port, page_path(project)), "a page is stale"
        return pages

    loads = load_all(sizes, files, run)
    return Row(medians(rates(loads), "{:,.0f}"), [check_rate(loads, "waitress + falcon", 3.5)])


def measure_same_page(sizes: Sizes, files: Files, connections: int) -> Row:
    page = make_request("GET", "/v1/projects?limit=100"), get_page(sizes.few)[1]
    loads = load_all(
        sizes,
        files,
        lambda contender: load(
            contender.server.port, itertools.repeat(page), connections, sizes.load_seconds
        ),
    )
    return Row(medians(rates(loads), "{:,.0f}"), [check_rate(loads, "waitress + falcon", 10)])


def measure_log(sizes: Sizes, files: Files) -> Row:
    """Measure what the log costs where it goes to a file, and to a pipe that another process reads."""
    file, log = files.filled(sizes.few), files.folder / "access.log"
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        )
        logs = {"to a file": stack.enter_context(open(log, "wb")), "to a pipe": reader.stdin}
        servers = {
            name: stack.enter_context(serving(processes.bundled_with_log, files.copy(file), output.fileno()))
            for name, output in logs.items()
        }
        servers[OURS] = stack.enter_context(serving(processes.bundled, files.copy(file)))
        loads = interleave(
            sizes.load_rounds,
            {name: lambda it=it: get(it, 4, sizes.load_seconds) for name, it in servers.items()},
        )
    count = log.read_bytes().count(b"\n")
    assert count > sum(len(load.latencies) for load in loads["to a file"]), "requests were not logged"
    figures = with_p99s(loads)
    return Row(
        {OURS: figures[OURS], "with its log": "; ".join(f"{name} {figures[name]}" for name in logs)},
        [Check(f"{name} {{}} x", ratio(rates(loads), name, OURS), 0.85, at_least=True) for name in logs],
    )


def creations() -> Iterator[tuple[bytes, bytes]]:
    for number in itertools.count():
        body = {"name": f"Made {number:07}", "description": "over a socket"}
        yield make_request("POST", "/v1/projects", body), b'"}}'


def creating(server: Server, connections: int, seconds: float) -> Callable[[], Load]:
    """Return a load that makes other projects each time."""
    return functools.partial(load, server.port, creations(), connections, seconds)


def measure_create(sizes: Sizes, files: Files) -> Row:
    def sync() -> Load:
        latencies = time_syncs(files.folder, sizes.load_seconds)
        return Load(sum(latencies), latencies)

    with serving_all(files, sizes.few) as contenders:
        runs = {name: creating(it.server, 4, sizes.load_seconds) for name, it in contenders.items()}
        loads = interleave(sizes.load_rounds, {**runs, "the disk": sync})
    disk = p99s(loads)["the disk"]
    return Row(
        {name: figure for name, figure in with_p99s(loads).items() if name in contenders},
        # Four wait for each other's syncs: what the disk does decides.
        [Check(f"p99 {{}} ms; of a bare sync {disk:.2f} ms", p99s(loads)[OURS], 10)],
    )


def measure_beside_a_search(sizes: Sizes, files: Files) -> Row:
    with serving(processes.bundled, files.filled(sizes.most)) as server:
        seconds = sizes.load_seconds * sizes.load_rounds
        alone = get(server, 1, seconds)
        searches = (  # each for another text: what was found before would be remembered
            (make_request("GET", f"/v1/projects?name_contains=nowhere{number}"), NOTHING)
            for number in itertools.count()
        )
        # In a process of its own: the load of one should not wait for the other's.
        search = multiprocessing.get_context("fork").Process(
            target=load, args=(server.port, searches, 1, 1e9), daemon=True
        )
        search.start()
        beside = get(server, 1, seconds)
        assert search.is_alive()
        search.terminate()
        search.join()
    p99 = percentile(beside.latencies, 99) * 1000
    figure = f"{beside.per_second:,.0f}; without the search {alone.per_second:,.0f}"
    return Row({OURS: figure}, [Check("p99 {} ms", p99, 20)])


def measure_idle_connections(sizes: Sizes, files: Files) -> Row:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * sizes.idle + 100)), hard))
    with serving(processes.bundled, files.filled(sizes.few)) as server, contextlib.ExitStack() as stack:
        alone = get(server, 1, sizes.load_seconds)
        before = memory(server.pid)
        connections = [stack.enter_context(connect(server.port)) for _ in range(sizes.idle)]
        for connection in connections:
            connection.sendall(GET)
            receive(connection, server.answer)
        after = memory(server.pid)
        beside = get(server, 1, sizes.load_seconds)
        for connection in connections:
            connection.sendall(GET)
            receive(connection, server.answer)
    return Row(
        {
            OURS: f"{beside.per_second:,.0f} on one more; with that alone {alone.per_second:,.0f};"
            f" {before:.1f} MiB became {after:.1f}"
        },
        [Check("+ {} MiB", after - before, 2)],
    )


def measure_workers(sizes: Sizes, files: Files) -> Row:
    """Measure two worker processes beside one.

    Two processes send the requests, half of the connections each, so that the client is not the limit. Yet
    they run on the same processors, and take of the second what its worker could have.
    """
    file = files.filled(sizes.few)
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(command, files.copy(file)))
            for name, command in {OURS: processes.bundled_with_workers, "one": processes.bundled}.items()
        }
        pool = stack.enter_context(multiprocessing.get_context("fork").Pool(2))

        def get_twice(server: Server) -> float:
            loads = pool.starmap(get, [(server, 16, sizes.load_seconds)] * 2, chunksize=1)
            return sum(load.per_second for load in loads)

        figures = interleave(
            sizes.load_rounds,
            {name: lambda server=server: get_twice(server) for name, server in servers.items()},
        )
    rate = medians(figures, "{:,.0f}")
    check = Check("{} x one worker", ratio(figures, OURS, "one"), 1.7, at_least=True)
    return Row({OURS: f"{rate[OURS]}; one worker {rate['one']}"}, [check])


def table(sizes: Sizes, files: Files) -> Table:
    rows: dict[str, Callable[[], Row]] = {}

    def vary(what: str, measure: Callable[[Sizes, Files, int], Row], *counts: int) -> None:
        for count in counts:
            rows[f"{what}, connections: {count}"] = lambda count=count: measure(sizes, files, count)

    vary("GET by id", measure_get, 1, 4, 32, 200)
    vary("page of 100, changed between", measure_changed_pages, 4, 32)
    vary("page of 100, remembered", measure_same_page, 4)
    rows["GET by id with its log, connections: 4"] = lambda: measure_log(sizes, files)
    rows["create, durable, connections: 4"] = lambda: measure_create(sizes, files)
    rows[f"GET by id while another searches {sizes.most:,} projects"] = lambda: measure_beside_a_search(
        sizes, files
    )
    rows[f"GET by id beside {sizes.idle:,} idle connections"] = lambda: measure_idle_connections(sizes, files)
    rows["GET by id with 2 workers, connections: 32"] = lambda: measure_workers(sizes, files)
    return Table(
        "Served",
        list(SERVERS),
        rows,
        f"Requests per second over kept connections, medians of {sizes.load_rounds} rounds of"
        f" {sizes.load_seconds:g} s; the servers take turns, and a ratio is the median of the rounds' ratios,"
        " a p99 of the rounds' p99s."
        " projects_wsgi runs with --quiet, because the others log no requests either."
        " waitress has 4 threads, gunicorn and granian one worker of 4 threads. Where a page changes between,"
        " the client changes a project of it before each request, in the file itself and without a sync.",
    )
