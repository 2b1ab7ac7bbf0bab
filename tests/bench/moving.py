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


def export(sizes: Sizes, files: Files) -> tuple[str, Row]:
    """Export a file of the most projects, if that is not done yet; return the name of the lines."""
    name = f"{sizes.most}.jsonl"
    database = str(files.filled(sizes.most))
    row = measure_command(
        *("export", name, "--force", "--db", database),
        folder=files.folder,
        count=sizes.most,
        limit=50,
        most_mib=48,
    )
    return name, row


def measure_import(sizes: Sizes, files: Files) -> Row:
    name, _ = export(sizes, files)
    return measure_command(
        *("import", name, "--db", f"imported-{name}.db"),
        folder=files.folder,
        count=sizes.most,
        limit=50,
        most_mib=192,
    )


def measure_import_into_postgres(sizes: Sizes, files: Files) -> Row:
    name, _ = export(sizes, files)
    with running_cluster(**SETTINGS) as cluster:
        return measure_command(
            *("import", name, "--db", cluster.url()),
            folder=files.folder,
            count=sizes.most,
            limit=20,
            most_mib=192,
        )


def table(sizes: Sizes, files: Files) -> Table:
    rows: dict[str, Callable[[], Row]] = {
        f"export of {sizes.most:,} projects": lambda: export(sizes, files)[1],
        f"import of {sizes.most:,} lines": lambda: measure_import(sizes, files),
        f"import of {sizes.most:,} lines into PostgreSQL": lambda: measure_import_into_postgres(sizes, files),
    }
    return Table(
        "Moving in and out",
        [SQLITE, POSTGRES],
        rows,
        "One run of the command, with its start and the sync at its end, and the most memory that it had.",
    )
