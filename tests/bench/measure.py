"""How things are measured beside each other, and how a table shows them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, TypeVar

Result = TypeVar("Result")

OURS = "projects_wsgi"  # the contender that is measured, as the tables name it


class Sizes(NamedTuple):
    """How much is measured.

    rounds, seconds: rounds of each row, and what one takes. load_rounds, load_seconds: those of servers.
    starts: of each server. requests: after each start. few, many, most: projects in files.
    page: projects on each page of a long listing. idle: connections.
    """

    rounds: int
    seconds: float
    load_rounds: int
    load_seconds: float
    starts: int
    few: int
    many: int
    most: int
    page: int
    requests: int
    idle: int


FULL = Sizes(
    rounds=200,
    seconds=0.004,
    load_rounds=20,
    load_seconds=0.25,
    starts=15,
    few=1_000,
    many=100_000,
    most=1_000_000,
    page=1_000,
    requests=1_000,
    idle=1_000,
)
SMOKE = Sizes(
    rounds=2,
    seconds=0.0001,
    load_rounds=2,
    load_seconds=0.02,
    starts=2,
    few=300,
    many=1_000,
    most=3_000,
    page=1_000,
    requests=10,
    idle=20,
)


class Check(NamedTuple):
    """A measured value, in words with {} in its place, and the limit that it must keep; None: any is good.

    at_least: whether the limit is the least value, and not the largest.
    """

    words: str
    value: float
    limit: float | None
    at_least: bool = False

    @property
    def limit_text(self) -> str:
        return "-" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:g}"

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return "-"
        is_kept = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "yes" if is_kept else "**no**"


class Row(NamedTuple):
    """One row of a table: its figures by column, and what they are held against."""

    figures: Mapping[str, str]
    checks: Sequence[Check] = ()


class Table(NamedTuple):
    """title. columns: of the figures. rows: what each measures, and how. note: how to read it."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Callable[[], Row]]
    note: str


def interleave(rounds: int, contenders: Mapping[str, Callable[[], Result]]) -> dict[str, list[Result]]:
    """Run one round of each contender in turn, many times; return each one's results in order."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        # Another one begins each time, lest one always run after the same other.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(contenders[name]())
    return results


def ratio(figures: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Return the median of the rounds' ratios: what slows the machine for a while slows both."""
    return statistics.median(a / b for a, b in zip(figures[name], figures[base]))


def medians(figures: Mapping[str, Sequence[float]], form: str, scale: float = 1) -> dict[str, str]:
    """Return each contender's median, as text."""
    return {name: form.format(statistics.median(values) * scale) for name, values in figures.items()}


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def print_table(table: Table, wanted: Callable[[str], object], *, judges: bool) -> int:
    """Measure and print the wanted rows, each as it is done; return how many were printed.

    judges: whether to tell what limits are kept.
    """
    rows = {what: measure for what, measure in table.rows.items() if wanted(f"{table.title}: {what}")}
    if not rows:
        return 0
    print(f"\n## {table.title}\n\n{table.note}\n")
    headings = ["", *table.columns, "measured", "must reach", "reached"]
    print_row(headings)
    print_row(["---"] * len(headings))
    for what, measure in rows.items():
        row = measure()
        assert row.figures, what
        assert set(row.figures) <= set(table.columns), what
        cells = [row.figures.get(column, "") for column in table.columns]
        measured = [check.words.format(f"{check.value:.2f}") for check in row.checks]
        limits = [check.limit_text for check in row.checks]
        reached = [check.verdict for check in row.checks if judges]
        print_row([what, *cells, ", ".join(measured), ", ".join(limits), ", ".join(reached)])
    return len(rows)


def print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
