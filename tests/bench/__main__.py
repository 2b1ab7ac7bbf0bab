"""Measures the package beside its peers and prints Markdown; see `make bench`.

It runs on Linux, whose /proc and /dev/shm it needs. Files are made where TMPDIR says: what is durable
there is as fast as that disk syncs.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import projects_wsgi
from tests.support.cluster import find_programs

from . import in_process, moving, postgres, scale, served, start
from .files import Files, time_syncs
from .measure import FULL, SMOKE, print_table

PEERS = ("falcon", "bottle", "flask", "waitress", "gunicorn", "granian", "psycopg")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition(";")[0])
    parser.add_argument("--rows", default="", help="a regular expression that finds the rows to measure")
    parser.add_argument("--smoke", action="store_true", help="tiny counts, whose figures say nothing")
    arguments = parser.parse_args()
    assert Path(projects_wsgi.__file__).parents[1] == Path(__file__).parents[2], "another copy is installed"
    sizes = SMOKE if arguments.smoke else FULL
    wanted = re.compile(arguments.rows).search
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        describe_machine(folder)
        files = Files(folder)
        tables = [
            module.table(sizes, files) for module in (in_process, served, start, scale, moving, postgres)
        ]
        count = sum(print_table(table, wanted, judges=not arguments.smoke) for table in tables)
    if not count:
        parser.error(f"no row is called {arguments.rows!r}")
    print(f"\n{count} rows were measured, and every contender answered as it must.")


def describe_machine(folder: Path) -> None:
    peers = ", ".join(f"{peer} {version(peer)}" for peer in PEERS)
    server = subprocess.run([find_programs() / "postgres", "--version"], capture_output=True, text=True)
    sync = statistics.median(time_syncs(folder, 0.05)) * 1e6
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version},"
        f" {server.stdout.strip()}, {peers}; appending 4 KiB to a file and syncing it takes {sync:.0f} µs."
    )


if __name__ == "__main__":
    main()
