"""The README's table of options, made from the code; run as a program, this puts it there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from projects_wsgi import SQLiteStore, make_app
from projects_wsgi.keys import KeyRing
from projects_wsgi.options import OPTIONS, Option
from projects_wsgi.serving import ADMIN_SECRET_VARIABLE

README = Path(__file__).parent.parent.parent / "README.md"

HEADING = ["option", "variable", "`make_app`", "default", "bounds", "meaning"]

# Arguments that are no options of the command line, and whose docstring tells of them.
DESCRIBED_BY: dict[str, object] = {
    "on_change": SQLiteStore,
    "admin_secret": KeyRing,
    "authenticate": make_app,
    "phoenix_version": make_app,
}


def render_table() -> str:
    """Return the table: the options in their order, then the other arguments of make_app in theirs."""
    rows = [HEADING, ["---"] * len(HEADING), *render_rows()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def render_rows() -> Iterator[list[str]]:
    arguments = dict(inspect.signature(make_app).parameters)
    for option in OPTIONS:
        is_argument = arguments.pop(option.name, None) is not None
        yield [
            f"`{option.flag}`" if option.kind is bool else f"`{option.flag} {option.metavar}`",
            f"`{option.variable}`",
            render_keyword(option) if is_argument else "-",
            render_default(option.default),
            render_bounds(option),
            option.help,
        ]
    for name, argument in arguments.items():
        variable = f"`{ADMIN_SECRET_VARIABLE}`" if name == "admin_secret" else "-"
        description = find_description(DESCRIBED_BY[name], name)
        yield ["-", variable, f"`{name}`", render_default(argument.default), "", description]
    synchronous = inspect.signature(SQLiteStore).parameters["synchronous"]
    cells = ["`synchronous` of `SQLiteStore`", render_default(synchronous.default), ""]
    yield ["-", "-", *cells, find_description(SQLiteStore, "synchronous")]


def render_keyword(option: Option) -> str:
    return f"`{option.name}={not option.default}`" if option.kind is bool else f"`{option.name}`"


def render_default(value: Any) -> str:
    return "" if value is None or isinstance(value, bool) else f"`{value}`"


def render_bounds(option: Option) -> str:
    if option.kind is float:
        return f"above 0, to {option.maximum}"
    if option.kind is int:
        return (
            f"{option.minimum} or more" if option.maximum is None else f"{option.minimum} to {option.maximum}"
        )
    return ""


def find_description(described: object, name: str) -> str:
    """Return what a docstring says of a parameter, on one line."""
    match = re.search(rf"^{name}: (.*\n(?:    .*\n)*)", inspect.getdoc(described) or "", re.MULTILINE)
    assert match is not None, name
    return " ".join(match[1].split()).rstrip(".")


if __name__ == "__main__":
    before, heading, after = README.read_text(encoding="utf-8").partition("| option |")
    rest = after.partition("\n\n")[2]
    README.write_text(f"{before}{render_table()}\n{rest}", encoding="utf-8")
