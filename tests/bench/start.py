"""How long the bundled server takes to start, and how much memory it holds."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import NamedTuple

from projects_wsgi.testing import live_server

from . import processes
from .files import Files
from .load import fetch
from .measure import OURS, Check, Row, Sizes, Table, interleave, medians, ratio
from .processes import PATH, Command, memory, serving

SERVERS = {"wsgiref + sqlite3": processes.barest, OURS: processes.bundled}


class Start(NamedTuple):
    """seconds: until the first answer. memory: MiB after it. later_memory: after many more."""

    seconds: float
    memory: float
    later_memory: float


def measure(sizes: Sizes, command: Command, file: Path) -> Start:
    with serving(command, file) as server:
        first = memory(server.pid)
        for _ in range(sizes.requests):
            assert json.loads(fetch(server.port, PATH)) == json.loads(server.answer)
        return Start(server.seconds, first, memory(server.pid))


def measure_live_server(sizes: Sizes) -> Row:
    """Measure what a test waits for that begins with a server of its own, until the first answer."""
    seconds = []
    for _ in range(sizes.starts):
        begin = time.perf_counter()
        with live_server(["agent"]) as url:
            fetch(int(url.rpartition(":")[2]), PATH)
            seconds.append(time.perf_counter() - begin)
    return Row(medians({OURS: seconds}, "{:.1f} ms", 1000))


def table(sizes: Sizes, files: Files) -> Table:
    @functools.cache
    def starts() -> dict[str, list[Start]]:
        file = files.filled(sizes.few)
        for command in SERVERS.values():
            measure(sizes, command, file)  # the first start may have to compile
        return interleave(
            sizes.starts,
            {
                name: lambda command=command: measure(sizes, command, file)
                for name, command in SERVERS.items()
            },
        )

    def row(field: str, form: str, scale: float, limit: float) -> Row:
        figures = {name: [getattr(start, field) for start in its] for name, its in starts().items()}
        check = Check("{} x wsgiref", ratio(figures, OURS, "wsgiref + sqlite3"), limit)
        return Row(medians(figures, form, scale), [check])

    return Table(
        "Start and memory",
        list(SERVERS),
        {
            "first answer after exec": lambda: row("seconds", "{:.0f} ms", 1000, 1.1),
            "memory after it": lambda: row("memory", "{:.1f} MiB", 1, 1.0),
            f"memory after {sizes.requests:,} more": lambda: row("later_memory", "{:.1f} MiB", 1, 1.2),
            "first answer of a live_server in a test": lambda: measure_live_server(sizes),
        },
        f"Medians of {sizes.starts} starts in turn with those of the barest script of wsgiref and sqlite3.",
    )
