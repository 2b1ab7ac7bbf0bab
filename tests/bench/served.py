"""The bundled server beside others, each a process of its own, asked over real sockets."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import resource
import statistics
from collections.abc import Iterator, Mapping
from typing import Callable

from . import processes
from .files import Files, time_syncs
from .load import Load, connect, load, make_request, receive
from .measure import OURS, Check, Row, Sizes, Table, interleave, medians, percentile, ratio
from .processes import PATH, Command, Server, memory, serving

SERVERS: Mapping[str, Command] = {
    OURS: processes.bundled,
    "with its log": processes.bundled_with_log,
    "waitress + falcon": processes.waitress,
    "gunicorn + falcon": processes.gunicorn,
}
GET = make_request("GET", PATH)
SEARCH = make_request("GET", "/v1/projects?name_contains=nowhere")
NOTHING = b'{"data":[],"next_cursor":null}'


@contextlib.contextmanager
def serving_all(files: Files, count: int) -> Iterator[dict[str, Server]]:
    """Run all servers, each over a file with the same projects, and see that they answer alike."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, command in SERVERS.items():
            file = files.filled_for_peers(count) if "falcon" in name else files.filled(count)
            servers[name] = stack.enter_context(serving(command, files.copy(file)))
        answers = [json.loads(server.answer) for server in servers.values()]
        assert all(answer == answers[0] for answer in answers), answers
        yield servers


def get(server: Server, connections: int, seconds: float) -> Load:
    return load(server.port, itertools.repeat(GET), server.answer, connections, seconds)


def measure_get(sizes: Sizes, files: Files, connections: int) -> Row:
    with serving_all(files, sizes.few) as servers:
        loads = interleave(
            sizes.load_rounds,
            {
                name: lambda server=server: get(server, connections, sizes.load_seconds)
                for name, server in servers.items()
            },
        )
    figures = {name: [load.per_second for load in its] for name, its in loads.items()}
    return Row(
        medians(figures, "{:,.0f}"),
        [
            Check("{} x waitress", ratio(figures, OURS, "waitress + falcon"), 1.3, at_least=True),
            Check("{} x gunicorn", ratio(figures, OURS, "gunicorn + falcon"), 1.8, at_least=True),
        ],
    )


def measure_create(sizes: Sizes, files: Files) -> Row:
    requests = [
        make_request("POST", "/v1/projects", {"name": f"Made {number:05}", "description": "over a socket"})
        for number in range(100_000)  # more than any of them can answer
    ]

    def create(server: Server) -> Callable[[], Load]:
        waiting = iter(requests)
        return lambda: load(server.port, waiting, b'"}}', 4, sizes.load_seconds)

    def sync() -> Load:
        latencies = time_syncs(files.folder, sizes.load_seconds)
        return Load(sum(latencies), latencies)

    with serving_all(files, sizes.few) as servers:
        contenders = {name: create(server) for name, server in servers.items()}
        loads = interleave(sizes.load_rounds, {**contenders, "the disk": sync})
    p99 = {
        name: statistics.median(percentile(load.latencies, 99) for load in its) * 1000
        for name, its in loads.items()
    }
    rates = medians({name: [load.per_second for load in its] for name, its in loads.items()}, "{:,.0f}")
    return Row(
        {name: f"{rates[name]}, p99 {p99[name]:.1f} ms" for name in servers},
        # Four wait for each other's syncs: what the disk does decides.
        [Check(f"p99 {{}} ms; of a bare sync {p99['the disk']:.2f} ms", p99[OURS], 10)],
    )


def measure_beside_a_search(sizes: Sizes, files: Files) -> Row:
    with serving(processes.bundled, files.filled(sizes.most)) as server:
        seconds = sizes.load_seconds * sizes.load_rounds
        alone = get(server, 1, seconds)
        # In a process of its own: the load of one should not wait for the other's.
        search = multiprocessing.get_context("fork").Process(
            target=load, args=(server.port, itertools.repeat(SEARCH), NOTHING, 1, 1e9), daemon=True
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
        }
    )


def table(sizes: Sizes, files: Files) -> Table:
    rows: dict[str, Callable[[], Row]] = {}
    for connections in (1, 4, 32):
        rows[f"GET by id, connections: {connections}"] = lambda connections=connections: measure_get(
            sizes, files, connections
        )
    rows["create, durable, connections: 4"] = lambda: measure_create(sizes, files)
    rows[f"GET by id while another searches {sizes.most:,} projects"] = lambda: measure_beside_a_search(
        sizes, files
    )
    rows[f"GET by id beside {sizes.idle:,} idle connections"] = lambda: measure_idle_connections(sizes, files)
    return Table(
        "Served",
        list(SERVERS),
        rows,
        f"Requests per second over kept connections, medians of {sizes.load_rounds} rounds of"
        f" {sizes.load_seconds:g} s; the servers take turns, and a ratio is the median of the rounds' ratios,"
        " a p99 of the rounds' p99s."
        " projects_wsgi runs with --quiet, because the others log no requests either."
        " waitress has 4 threads, gunicorn one worker of 4 threads.",
    )
