"""What projects are imported from: JSON lines, a database, a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Callable, NamedTuple

from ..locations import is_url
from ..model import SourceUnavailable
from ..storage import open_store
from ..storage.sqlite import foreign
from . import remote
from .lines import Incoming, read_lines

STANDARD_INPUT = "-"

# A project and its number, or in its place why it cannot be one.
Numbered = Iterable["tuple[int, Incoming | str]"]


class Source(NamedTuple):
    """Where projects come from. noun: what their numbers count. last_id: returns the largest id it ever gave.

    Where that is not known, the largest of those that come will do.
    """

    noun: str
    numbered: Numbered
    last_id: Callable[[], int] = lambda: 0


@contextlib.contextmanager
def open_source(name: str, key: str | None = None) -> Iterator[Source]:
    """Open what a name means: an http(s):// or postgresql:// URL, a file of SQLite's or of lines, or "-".

    key: for a server. Raises SourceUnavailable or StoreError, as does reading it.
    """
    if name.startswith(("http://", "https://")):
        yield Source("project", remote.read_server(name, key))
    elif is_url(name):
        try:
            store = open_store(name, read_only=True)
        except ValueError as error:
            raise SourceUnavailable(f"{error}") from None
        with contextlib.closing(store):
            yield Source("project", ((it.id, it) for it in store.read_all()), store.last_id)
    elif foreign.is_database(name):
        with foreign.read_file(name) as (last_id, rows):
            yield Source("project", ((row[0], row) for row in rows), lambda: last_id)
    else:
        is_input = name == STANDARD_INPUT
        try:
            file = open(0 if is_input else name, "rb", closefd=not is_input)  # noqa: SIM115
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise SourceUnavailable(f"cannot read {name}: {getattr(error, 'strerror', error)}") from None
        with file:
            yield Source("line", _read(file, name))


def _read(file: BinaryIO, name: str) -> Iterator[tuple[int, Incoming | str]]:
    try:
        yield from read_lines(file)
    except OSError as error:
        raise SourceUnavailable(f"cannot read {name}: {error.strerror}") from None
