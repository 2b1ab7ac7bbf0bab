"""A store on PostgreSQL beside one on SQLite, and beside its driver alone."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import psycopg

from projects_wsgi import Store
from projects_wsgi.storage import open_store
from tests.support.cluster import Cluster, running_cluster

from . import processes
from .files import MOMENT, Files, description_of, name_of
from .load import Load
from .measure import Check, Row, Sizes, Table, interleave, medians, ratio
from .processes import Server, serving
from .scale import STEP
from .served import Loads, creating, get, rates, with_p99s

SQLITE, POSTGRES = "on SQLite", "on PostgreSQL"
WITH_TRIGRAMS = "with trigrams"
BARE = "psycopg, bare"

# A server that loses nothing of what it answered.
SETTINGS = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "shared_buffers": "128MB"}
TRIGRAMS_DATABASE = "trigrams"

Call = Callable[[int], object]  # the n-th


def connect(url: str) -> psycopg.Connection[Any]:
    """Return a connection with the settings of a store's."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=None, cursor_factory=psycopg.RawCursor)


def fill(url: str, count: int) -> None:
    """Put as many projects into a fresh database as a file of Files has, and the same ones."""
    open_store(url).close()
    columns = "id, name, name_hash, folded_name, kind, created_at, updated_at, description"
    with connect(url) as connection:
        with connection.cursor().copy(f"COPY projects ({columns}) FROM STDIN") as copy:
            for number in range(2, count + 1):
                name = name_of(number)
                digest = hashlib.sha256(name.encode()).digest()
                kind_and_times = "standard", MOMENT, MOMENT
                copy.write_row(
                    (number, name, digest, name.casefold(), *kind_and_times, description_of(number))
                )
        connection.execute("SELECT setval(pg_get_serial_sequence('projects', 'id'), $1)", (count,))
        connection.execute("VACUUM ANALYZE projects")


@contextlib.contextmanager
def opened(sizes: Sizes, files: Files, count: int) -> Iterator[tuple[Cluster, dict[str, Store]]]:
    """Run a server, and open a store on it and one on a file, which hold the same projects."""
    with running_cluster(**SETTINGS) as cluster, contextlib.ExitStack() as stack:
        fill(cluster.url(), count)
        names = {SQLITE: str(files.copy(files.filled(count))), POSTGRES: cluster.url()}
        stores = {contender: open_store(name) for contender, name in names.items()}
        for store in stores.values():
            stack.callback(store.close)
        yield cluster, stores


def compare(sizes: Sizes, calls: Mapping[str, Call]) -> dict[str, list[float]]:
    """Time calls in turn, which must return the same; return the seconds per call of each one's rounds."""
    for number in range(3):
        answers = [call(number) for call in calls.values()]
        assert all(answer == answers[0] for answer in answers), answers

    def run(call: Call, numbers: Iterator[int], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            call(next(numbers))
        return (time.perf_counter() - begin) / count

    rounds = {}
    for name, call in calls.items():
        numbers = itertools.count()
        count = max(1, int(sizes.seconds / min(run(call, numbers, 3) for _ in range(3))))
        rounds[name] = functools.partial(run, call, numbers, count)
    return interleave(sizes.rounds, rounds)


def show(figures: Mapping[str, list[float]]) -> dict[str, str]:
    return {name: f"{text} µs" for name, text in medians(figures, "{:,.1f}", 1e6).items()}


def check_cost(figures: Mapping[str, list[float]], base: str, limit: float | None = None) -> Check:
    """Hold our time against another's; limit: how many times that it may reach."""
    return Check(f"{{}} x {base.removeprefix('on ')}", ratio(figures, POSTGRES, base), limit)


def measure_get(sizes: Sizes, files: Files) -> Row:
    count = sizes.many
    query = "SELECT id, name, description FROM projects WHERE id = $1"
    with opened(sizes, files, count) as (cluster, stores), connect(cluster.url()) as connection:

        def number(n: int) -> int:
            return 2 + n * STEP % (count - 1)

        def bare(n: int) -> Any:
            return connection.execute(query, (number(n),), binary=True).fetchone()

        calls: dict[str, Call] = {
            name: lambda n, store=store: store.get_row(number(n)) for name, store in stores.items()
        }
        figures = compare(sizes, {**calls, BARE: bare})
    return Row(show(figures), [check_cost(figures, BARE, 1.5), check_cost(figures, SQLITE)])


def measure_page(sizes: Sizes, files: Files) -> Row:
    with opened(sizes, files, sizes.many) as (_, stores):
        figures = compare(
            sizes, {name: lambda _, store=store: store.list_rows() for name, store in stores.items()}
        )
    return Row(show(figures), [check_cost(figures, SQLITE)])


def measure_search(sizes: Sizes, files: Files) -> Row:
    with opened(sizes, files, sizes.many) as (cluster, stores):
        cluster.execute(f"CREATE DATABASE {TRIGRAMS_DATABASE}")
        cluster.execute("CREATE EXTENSION pg_trgm", TRIGRAMS_DATABASE)
        url = cluster.url(database=TRIGRAMS_DATABASE)
        fill(url, sizes.many)
        with contextlib.closing(open_store(url)) as other:
            figures = compare(
                sizes._replace(rounds=sizes.load_rounds),
                {
                    name: lambda _, store=store: store.list_rows(name_contains="nowhere")
                    for name, store in {**stores, WITH_TRIGRAMS: other}.items()
                },
            )
    of_sqlite = Check("{} x SQLite, with trigrams", ratio(figures, WITH_TRIGRAMS, SQLITE), None)
    return Row(show(figures), [check_cost(figures, SQLITE), of_sqlite])


def compare_rates(loads: Loads) -> Row:
    return Row(with_p99s(loads), [Check("{} x SQLite", ratio(rates(loads), POSTGRES, SQLITE), None)])


def measure_create(sizes: Sizes, files: Files, threads: int) -> Row:
    with opened(sizes, files, sizes.few) as (_, stores), ThreadPoolExecutor(threads) as pool:
        numbers = itertools.count()

        def create(store: Store) -> Load:
            begin = time.perf_counter()

            def create_until_over(_: int) -> list[float]:
                latencies = []
                now = time.perf_counter()
                while now - begin < sizes.load_seconds:
                    before = now
                    store.create(f"Made {next(numbers):07}", "from a thread")
                    now = time.perf_counter()
                    latencies.append(now - before)
                return latencies

            latencies = [latency for its in pool.map(create_until_over, range(threads)) for latency in its]
            return Load(time.perf_counter() - begin, latencies)

        loads = interleave(
            sizes.load_rounds, {name: functools.partial(create, store) for name, store in stores.items()}
        )
    return compare_rates(loads)


def measure_served(sizes: Sizes, files: Files, run: Callable[[Server], Callable[[], Load]]) -> Row:
    """Measure a load, over 8 connections, on gunicorn with 2 workers of 4 threads."""
    with running_cluster(**SETTINGS) as cluster, contextlib.ExitStack() as stack:
        fill(cluster.url(), sizes.few)
        file = files.copy(files.filled(sizes.few))
        servers = {
            name: stack.enter_context(serving(processes.gunicorn_with_ours(database), file))
            for name, database in {SQLITE: str(file), POSTGRES: cluster.url()}.items()
        }
        assert servers[SQLITE].answer == servers[POSTGRES].answer, servers
        loads = interleave(sizes.load_rounds, {name: run(server) for name, server in servers.items()})
    return compare_rates(loads)


def table(sizes: Sizes, files: Files) -> Table:
    served = "gunicorn 2 x 4, connections: 8"
    rows: dict[str, Callable[[], Row]] = {
        "in the store, get by id": lambda: measure_get(sizes, files),
        "in the store, page of 100": lambda: measure_page(sizes, files),
        f"in the store, name_contains without a match at {sizes.many:,}": lambda: measure_search(
            sizes, files
        ),
        "in the store, create, durable, threads: 1": lambda: measure_create(sizes, files, 1),
        "in the store, create, durable, threads: 8": lambda: measure_create(sizes, files, 8),
        f"{served}, GET by id": lambda: measure_served(
            sizes, files, lambda server: functools.partial(get, server, 8, sizes.load_seconds)
        ),
        f"{served}, create, durable": lambda: measure_served(
            sizes, files, lambda server: creating(server, 8, sizes.load_seconds)
        ),
    }
    return Table(
        "On PostgreSQL",
        [SQLITE, POSTGRES, WITH_TRIGRAMS, BARE],
        rows,
        f"Microseconds per call of a store, medians of {sizes.rounds} rounds, of a search of"
        f" {sizes.load_rounds}; creations and requests per second, medians of {sizes.load_rounds} rounds of"
        f" {sizes.load_seconds:g} s. They take turns, and a ratio is the median of the rounds' ratios. The"
        " database server runs on this machine and syncs what it answers, as by default; gunicorn has 2"
        " workers of 4 threads. psycopg, bare, is the driver's own call of the same query.",
    )
