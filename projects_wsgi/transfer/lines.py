"""JSON lines: one project a line."""

from __future__ import annotations

import codecs
import contextlib
import datetime
import functools
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..model import Project, ProjectKind, parse_identifier

MAX_LINE = 67_108_864  # bytes

# A project on its way in: (id, name, description, kind, created_at, updated_at), as its source has them.
Incoming = tuple[Any, Any, Any, Any, Any, Any]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_is_rendered = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z").fullmatch
_decode = json.JSONDecoder().raw_decode  # sooner than decode


def render_line(project: Project) -> bytes:
    """Return a project as a line."""
    document = {
        "id": project.global_id,
        "name": project.name,
        "description": project.description,
        "kind": project.kind.value,
        "created_at": _render_time(project.created_at),
        "updated_at": _render_time(project.updated_at),
    }
    return f"{_encode(document)}\n".encode()


def read_lines(file: BinaryIO) -> Iterator[tuple[int, Incoming | str]]:
    """Give the projects of lines with the numbers of these; in the place of one that is none, say why."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE:
            yield number, f"it is longer than {MAX_LINE:,} bytes"
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
        elif not line.isspace():
            yield number, _parse_line(line)


def _parse_line(line: bytes) -> Incoming | str:
    try:
        text = line.strip().decode()
        document, end = _decode(text)
        if end < len(text):
            raise ValueError
    except (ValueError, RecursionError):
        return "it is no JSON"
    return parse_document(document) if isinstance(document, dict) else "it is no JSON object"


def parse_document(document: dict[str, Any]) -> Incoming | str:
    """Return the project of an object; if its id can be none, say so. All but id and name may be missing."""
    project_id = document.get("id")
    number = parse_identifier(project_id) if isinstance(project_id, str) else None
    if not isinstance(number, int):
        return f"{project_id!r} is the id of no project"
    kind = document.get("kind", ProjectKind.STANDARD.value)
    times = document.get("created_at"), document.get("updated_at")
    return number, document.get("name"), document.get("description"), kind, *times


def parse_time(time: object) -> str:
    """Return a time as lines and stores have it: of a datetime, or of ISO 8601; None is now.

    It is in UTC if it names no zone. Raises ValueError.
    """
    if time is None:
        time = datetime.datetime.now(datetime.timezone.utc)
    if isinstance(time, datetime.datetime):
        return _render_time(time)
    if isinstance(time, str):
        with contextlib.suppress(ValueError):
            return _normalize(time)
    raise ValueError(f"{time!r} is no time such as 2026-01-31T23:59:59.999Z")


@functools.lru_cache(maxsize=64)  # most projects were changed when they were made, and never since
def _normalize(text: str) -> str:
    # Python 3.10 and earlier know no Z.
    time = datetime.datetime.fromisoformat(text[:-1] if text.endswith("Z") else text)
    return text if _is_rendered(text) else _render_time(time)


def _render_time(time: datetime.datetime) -> str:
    if time.tzinfo not in (None, datetime.timezone.utc):
        with contextlib.suppress(OverflowError):  # in the first year or the last: as it is
            time = time.astimezone(datetime.timezone.utc)
    return f"{time.isoformat(timespec='milliseconds')[:23]}Z"
