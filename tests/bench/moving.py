"""Exports and imports, as commands."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from tests.support.cluster import running_cluster
from tests.support.process import measure

from .files import Files
from .measure import Check, Row, Sizes, Table
from .postgres import POSTGRES, SETTINGS, SQLITE


def measure_command(*arguments: str, folder: Path, count: int, limit: float, most_mib: float) -> Row:
    """Measure a command that moves so many projects. limit: thousands a second, at least."""
    seconds, mib = measure(*arguments, cwd=folder)
    column = POSTGRES if arguments[-1].startswith("postgresql:") else SQLITE
    checks = [
        Check("{} thousand a second", count / seconds / 1_000, limit, at_least=True),
        Check("{} MiB", mib, most_mib),
    ]
    return Row({column: f"{seconds:.1f} s"}, checks)


def measure_export(sizes: Sizes, files: Files) -> Row:
    return measure_command(
        *("export", lines(sizes), "--force", "--db", str(files.filled(sizes.most))),
        folder=files.folder,
        count=sizes.most,
        limit=50,
        most_mib=48,
    )


def measure_import(sizes: Sizes, files: Files, database: str, limit: float) -> Row:
    if not (files.folder / lines(sizes)).exists():
        measure_export(sizes, files)
    return measure_command(
        *("import", lines(sizes), "--db", database),
        folder=files.folder,
        count=sizes.most,
        limit=limit,
        most_mib=192,
    )


def measure_import_into_postgres(sizes: Sizes, files: Files) -> Row:
    with running_cluster(**SETTINGS) as cluster:
        return measure_import(sizes, files, cluster.url(), 20)


def lines(sizes: Sizes) -> str:
    """Return the name of the file that holds the most projects, as lines."""
    return f"{sizes.most}.jsonl"


def table(sizes: Sizes, files: Files) -> Table:
    rows: dict[str, Callable[[], Row]] = {
        f"export of {sizes.most:,} projects": lambda: measure_export(sizes, files),
        f"import of {sizes.most:,} lines": lambda: measure_import(sizes, files, "imported.db", 50),
        f"import of {sizes.most:,} lines into PostgreSQL": lambda: measure_import_into_postgres(sizes, files),
    }
    return Table(
        "Moving in and out",
        [SQLITE, POSTGRES],
        rows,
        "One run of the command, with its start and the sync at its end, and the most memory that it had.",
    )
