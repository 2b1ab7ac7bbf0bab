"""The package at one size beside itself at another."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any, Callable

from projects_wsgi.model import render_global_id

from . import processes
from .contenders import floor
from .files import Files, name_of
from .in_process import WRITES, Caller, MakeRequest, compare, make_environ, make_forgetful_app
from .measure import OURS, Check, Row, Sizes, Table, medians, ratio
from .processes import forget_peak, memory, serving

BASE = "compared with"

# Prime, so that by steps of it every project comes once before any comes again.
STEP = 7919

EVERY_KIND = "&include_experiment_projects=1&include_dataset_evaluator_projects=1"


def get_by_id(count: int) -> MakeRequest:
    return lambda n: make_environ("GET", f"/v1/projects/{render_global_id(2 + n * STEP % (count - 1))}")


def get_by_name(count: int) -> MakeRequest:
    return lambda n: make_environ("GET", f"/v1/projects/{name_of(2 + n * STEP % (count - 1))}")


def first_page(_: int) -> MakeRequest:
    return lambda _: make_environ("GET", "/v1/projects")


def deep_page(count: int) -> MakeRequest:
    def make(n: int) -> dict[str, Any]:
        start_id = count // 4 + n * STEP % (count // 2)
        return make_environ("GET", "/v1/projects", f"cursor={render_global_id(start_id)}")

    return make


def create(n: int) -> dict[str, Any]:
    body = {"name": name_of(n + 100_000_000), "description": "one among very many"}
    return make_environ("POST", "/v1/projects", body=body)


def search(text: str, query: str = "") -> MakeRequest:
    return lambda _: make_environ("GET", "/v1/projects", f"name_contains={text}{query}")


def measure(
    sizes: Sizes,
    limit: float,
    base: tuple[Path, MakeRequest],
    ours: tuple[Path, MakeRequest],
    count: int | None = None,
) -> Row:
    """Measure one request to one file beside another; see compare()."""
    callers = {
        name: Caller(make_forgetful_app(file), make_request)
        for name, (file, make_request) in {BASE: base, OURS: ours}.items()
    }
    figures = compare(sizes, callers, count=count, answers_agree=False)
    return Row(medians(figures, "{:,.1f}", 1e6), [Check("{} x", ratio(figures, OURS, BASE), limit)])


def measure_search(sizes: Sizes, files: Files) -> Row:
    file, make_request = files.filled(sizes.many, description_size=2_048), search("nowhere")
    callers = {
        BASE: Caller(floor.search(file), make_request),
        OURS: Caller(make_forgetful_app(file), make_request),
    }
    figures = compare(sizes, callers)
    return Row(medians(figures, "{:,.1f}", 1e6), [Check("{} x the scan", ratio(figures, OURS, BASE), 1.5)])


def measure_worst_search(sizes: Sizes, file: Path, make_request: MakeRequest) -> Row:
    caller = Caller(make_forgetful_app(file), make_request)
    figures = compare(sizes._replace(rounds=sizes.starts), {OURS: caller}, count=1)
    return Row(medians(figures, "{:,.1f}", 1e6))


def measure_listing(sizes: Sizes, files: Files) -> Row:
    with serving(processes.bundled, files.filled(sizes.most)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

        def list_page(cursor: str) -> tuple[int, str | None]:
            connection.request("GET", f"/v1/projects?limit={sizes.page}&cursor={cursor}")
            page = json.loads(connection.getresponse().read())
            return len(page["data"]), page["next_cursor"]

        count, cursor = list_page("")
        before = memory(server.pid)
        forget_peak(server.pid)
        while cursor:
            more, cursor = list_page(cursor)
            count += more
        assert count == sizes.most
        growth = memory(server.pid, "VmHWM") - before
        connection.close()
    return Row({BASE: f"{before:.1f} MiB"}, [Check("+ {} MiB", growth, 10)])


def table(sizes: Sizes, files: Files) -> Table:
    few, many, most = sizes.few, sizes.many, sizes.most
    rows: dict[str, Callable[[], Row]] = {}

    def grow(what: str, of: Callable[[int], MakeRequest]) -> None:
        rows[f"{what}, at {most:,} and at {few:,}"] = lambda: measure(
            sizes, 2, (files.filled(few), of(few)), (files.filled(most), of(most))
        )

    def crowd(what: str, of: Callable[[int], MakeRequest]) -> None:
        rows[f"{what} at {many:,}, 99 % experiment projects and none"] = lambda: measure(
            sizes, 1.5, (files.filled(many), of(many)), (files.filled(many, experiments=99), of(many))
        )

    def search_worst(what: str, make_request: MakeRequest) -> None:
        rows[f"name_contains without a match at {most:,}, {what}"] = lambda: measure_worst_search(
            sizes, files.filled(most), make_request
        )

    grow("get by id", get_by_id)
    grow("get by name", get_by_name)
    grow("first page", first_page)
    rows[f"deep page and first page, at {most:,}"] = lambda: measure(
        sizes, 3, (files.filled(most), first_page(most)), (files.filled(most), deep_page(most))
    )
    crowd("first page", first_page)
    crowd("deep page", deep_page)
    long = f"name_contains without a match at {many:,} with 2 KiB of description"
    rows[f"{long}, and a bare scan"] = lambda: measure_search(sizes, files)
    rows[f"{long}, every kind"] = lambda: measure_worst_search(
        sizes, files.filled(many, description_size=2_048), search("nowhere", EVERY_KIND)
    )
    search_worst("a short text", search("nowhere"))
    search_worst("a long text", search("nowhere" * 5))
    search_worst("every kind", search("nowhere", EVERY_KIND))
    search_worst("a long text, every kind", search("nowhere" * 5, EVERY_KIND))
    rows[f"create, durable, at {most:,} and at {few:,}"] = lambda: measure(
        sizes,
        1.2,
        (files.copy(files.filled(few)), create),
        (files.copy(files.filled(most)), create),
        count=WRITES,
    )
    rows[f"memory to list {most:,} in pages of {sizes.page:,}"] = lambda: measure_listing(sizes, files)
    return Table(
        "At scale",
        [BASE, OURS],
        rows,
        f"Microseconds per request in one process, medians of {sizes.rounds} rounds, taken in turn with what"
        " they are compared with; a ratio is the median of the rounds' ratios. No page is remembered."
        " The bare scan looks for the text in the same covering index, and the memory is the bundled"
        " server's, from its first page to its peak.",
    )
