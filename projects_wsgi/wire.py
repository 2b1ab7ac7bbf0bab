"""The Phoenix wire: how cursors, parameters, bodies, answers and errors are spelled.

Where no source is named, a fact was read off a running Phoenix 20.26.1; see tests/recorded.
"""

from __future__ import annotations

import json
import math
import re
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from itertools import accumulate
from json.encoder import encode_basestring as _quoted
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from . import model
from .wsgi import TEXT, Headers, HTTPError, Response

PHOENIX_VERSION = "20.26.1"
VERSION_PATTERN = r"^[0-9]+\.[0-9]+\.[0-9]+$"
VERSION_HEADER = "x-phoenix-server-version"
NO_SNIFF = ("X-Content-Type-Options", "nosniff")  # browsers take the Content-Type at its word

JSON = "application/json"

DEFAULT_LIMIT = 100

# Phoenix decodes with Python's own recursion limit of 1,000, of which its frames take a few.
MAX_NESTING = 900


# Cursors

# What a project's id looks like; for people, and for the OpenAPI document.
ID_PATTERN = "^UHJvamVjdDo[0-9A-Za-z+/]+=*$"


def parse_cursor(cursor: str) -> int | None:
    """Return the first id that a cursor's page may hold; None for the empty one. Raises HTTPError (422)."""
    if not cursor:
        return None
    try:
        return model.parse_global_id(cursor)[1]
    except ValueError:
        raise HTTPError(422, f"Invalid cursor format: {cursor}") from None


# Query parameters

# The parameters that list more kinds, in the order in which Phoenix declares them.
KIND_PARAMETERS = {
    "include_experiment_projects": model.ProjectKind.EXPERIMENT,
    "include_dataset_evaluator_projects": model.ProjectKind.DATASET_EVALUATOR,
}

# An integer as pydantic reads it. Blanks are \s without the four separators that only Python strips.
_INTEGER = re.compile(r"[^\S\x1c-\x1f]*([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?[^\S\x1c-\x1f]*")

_BOOLEANS = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}


class PageParameters(NamedTuple):
    """What a list request asks for; see Store.list_rows."""

    start_id: int | None
    limit: int
    name_contains: str
    kinds: frozenset[model.ProjectKind]


def parse_page_parameters(query: str, max_page_size: int) -> PageParameters:
    """Return the parameters of a query string, no limit above max_page_size. Raises HTTPError (422)."""
    values = dict(parse_qsl(query, keep_blank_values=True))
    errors: list[ValidationError] = []
    limit_text = values.get("limit", str(DEFAULT_LIMIT))
    match = _INTEGER.fullmatch(limit_text)
    # int() refuses thousands of digits; the first 20 are more than any page.
    limit = int(match[1].replace("_", "").lstrip("+0")[:20] or "0") if match else 0
    if match is None:
        errors.append(_error("int_parsing", ["query", "limit"], limit_text))
    elif limit <= 0:
        errors.append(_error("greater_than", ["query", "limit"], limit_text, gt=0))
    kinds = {model.ProjectKind.STANDARD}
    for parameter, kind in KIND_PARAMETERS.items():
        is_wanted = _BOOLEANS.get(values.get(parameter, "false").lower())
        if is_wanted is None:
            errors.append(_error("bool_parsing", ["query", parameter], values[parameter]))
        if is_wanted:
            kinds.add(kind)
    if errors:
        raise _validation_error(errors)
    start_id = parse_cursor(values.get("cursor", ""))
    return PageParameters(
        start_id, min(limit, max_page_size), values.get("name_contains", ""), frozenset(kinds)
    )


# Bodies

_JSON_TYPE = re.compile(r"application/(?:[^/]*\+)?json", re.IGNORECASE)


def parse_create(body: bytes, content_type: str) -> tuple[str, str | None]:
    """Return the name and the description that a POST asks for. Raises HTTPError (400, 422).

    content_type: of the body; "" if none came.
    """
    document = _parse_object(body, content_type)
    name: Any = document.get("name")
    if "name" not in document:
        errors = [_error("missing", ["body", "name"], document)]
    elif name == "":
        errors = [_error("string_too_short", ["body", "name"], name, min_length=1)]
    elif isinstance(name, str) and isinstance(model.parse_identifier(name), int):
        errors = [_error("value_error", ["body", "name"], name)]
    else:
        errors = _check_text("name", name)
    return name, _parse_description(document, errors)


def parse_update(body: bytes, content_type: str) -> str | None:
    """Return the description that a PUT asks for, as parse_create does; None leaves it as it is."""
    return _parse_description(_parse_object(body, content_type), [])


def _parse_description(document: Mapping[str, Any], errors: list[ValidationError]) -> str | None:
    """Return the description; raise HTTPError if it, or what was checked before it, is not valid."""
    description: str | None = document.get("description")
    if description is not None:
        errors.extend(_check_text("description", description))
    if errors:
        raise _validation_error(errors)
    return description


def _check_text(field: str, value: object) -> list[ValidationError]:
    """Return the error of a field that does not hold a string which UTF-8 can spell."""
    if not isinstance(value, str):
        return [_error("string_type", ["body", field], value)]
    try:
        value.encode()
    except UnicodeEncodeError:
        return [_error("string_unicode", ["body", field], value)]
    return []


def _parse_object(body: bytes, content_type: str) -> dict[str, Any]:
    if not body:
        raise _validation_error([_error("missing", ["body"], None)])
    is_json = content_type == JSON or _JSON_TYPE.fullmatch(content_type.partition(";")[0].strip())
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _parsing_error() from None
    # A byte order mark is skipped.
    value = _parse_json(text.removeprefix("\ufeff")) if is_json else text
    if not isinstance(value, dict):
        raise _validation_error([_error("model_attributes_type", ["body"], value)])
    return value


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise OverflowError(text)
    return value


_NUMBER = re.compile(r"-?(?:Infinity|NaN|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
_decode_json = json.JSONDecoder(parse_float=_parse_float, parse_constant=_parse_float).decode


def _parse_json(text: str) -> Any:
    """Decode JSON as every supported Python would, with the messages of Python 3.9 to 3.12.

    Raises HTTPError: 422 if the text is not JSON, 400 if it nests too deep or holds too long a number.
    """
    value = None
    message = ""
    end = len(text)
    try:
        value = _decode_json(text)
    except json.JSONDecodeError as error:
        message, end = error.msg, error.pos
        if message.startswith("Illegal trailing comma"):
            # Python 3.13 points at the comma; those before, at what follows it.
            end = len(text) - len(text[end + 1 :].lstrip(" \t\n\r"))
            is_array = text[end] == "]"
            message = "Expecting value" if is_array else "Expecting property name enclosed in double quotes"
    except OverflowError as error:
        numbers = _NUMBER.finditer(_blank_strings(text))
        message, end = "Expecting a finite number", next(it.start() for it in numbers if it[0] == str(error))
    except (RecursionError, ValueError):
        raise _parsing_error() from None
    # Python 3.12 and later decode deeper than others: what is too deep for one is too deep for all.
    if _is_too_deep(text[:end]):
        raise _parsing_error()
    if message:
        raise _validation_error([_error("json_invalid", ["body", end], {}, error=message)])
    return value


def _is_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return False
    brackets = re.findall(r"[][{}]", _blank_strings(text))
    depths = accumulate(1 if bracket in "[{" else -1 for bracket in brackets)
    return max(depths, default=0) > MAX_NESTING


def _blank_strings(text: str) -> str:
    """Return JSON with blanks in place of its strings, the last of which may have no end."""
    # Each is taken whole: to search again within a long one would take quadratic time.
    return re.sub(r'"(?:[^"\\]+|\\.)*"?', lambda match: " " * len(match[0]), text)


# Answers

# The templates give what json.dumps would, at two thirds of its cost. Python compiles a template only
# where it is filled in, so it is no constant; and a call for each row would slow down a page.


def render_project(row: model.ProjectRow) -> bytes:
    """Return the JSON of one project."""
    project_id, name, description = row
    text = '{"data":{"name":%s,"description":%s,"id":"%s"}}' % (
        _quoted(name),
        "null" if description is None else _quoted(description),
        b2a_base64(b"Project:%d" % project_id, newline=False).decode(),
    )
    return text.encode()


def render_changed(row: model.ProjectRow) -> bytes:
    """Return the JSON of a project that was changed; raise HTTPError (503) if there is no memory for it."""
    try:
        return render_project(row)
    except MemoryError:
        raise HTTPError(503, "The change was made, but the server has no memory to show it") from None


def render_page(rows: Sequence[model.ProjectRow], limit: int, max_size: int) -> bytes:
    """Return the JSON of a page of at most limit rows; the row after them is the first of the next page.

    max_size: bytes; the page ends early with the row that makes it longer.
    """
    projects = [
        '{"name":%s,"description":%s,"id":"%s"}'
        % (
            _quoted(name),
            "null" if description is None else _quoted(description),
            b2a_base64(b"Project:%d" % project_id, newline=False).decode(),
        )
        for project_id, name, description in rows[:limit]
    ]
    data = ",".join(projects).encode()
    if len(data) > max_size:
        sizes = accumulate(len(project.encode()) + 1 for project in projects)
        limit = 1 + sum(size <= max_size for size in sizes)
        data = ",".join(projects[:limit]).encode()
    next_cursor = f'"{model.render_global_id(rows[limit][0])}"' if len(rows) > limit else "null"
    return b'{"data":[%s],"next_cursor":%s}' % (data, next_cursor.encode())


def render_json(value: object) -> bytes:
    """Return a value as compact JSON in UTF-8; lone surrogates, which UTF-8 lacks, stay escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


# Errors

ValidationError = dict[str, Any]

# Type and message of each validation error, in pydantic's words.
VALIDATION_MESSAGES = {
    "missing": "Field required",
    "json_invalid": "JSON decode error",
    "model_attributes_type": "Input should be a valid dictionary or object to extract fields from",
    "string_type": "Input should be a valid string",
    "string_unicode": "Input should be a valid string, unable to parse raw data as a unicode string",
    "string_too_short": "String should have at least 1 character",
    "value_error": "Value error, the name reads as a project ID and could never be addressed",
    "int_parsing": "Input should be a valid integer, unable to parse string as an integer",
    "greater_than": "Input should be greater than 0",
    "bool_parsing": "Input should be a valid boolean, unable to interpret input",
}


def _error(type_: str, loc: list[Any], input_: object, **ctx: Any) -> ValidationError:
    error = {"type": type_, "loc": loc, "msg": VALIDATION_MESSAGES[type_], "input": input_}
    return {**error, "ctx": ctx} if ctx else error


def _validation_error(errors: list[ValidationError]) -> HTTPError:
    try:
        return HTTPError(422, render_json({"detail": errors}).decode(), content_type=JSON)
    except RecursionError:
        # The input was decoded just below the recursion limit and is encoded just above it.
        return _parsing_error()


def _parsing_error() -> HTTPError:
    return HTTPError(400, "There was an error parsing the body")


# The answer to each error, and to those that derive from it: status, text, headers.
_ANSWERS: dict[type[BaseException], tuple[int, str, Headers]] = {
    model.ProjectNotFound: (404, "Project with {error.addressed_by} {error.key} not found", ()),
    model.ProjectExists: (409, "Project with name {error.name} already exists", ()),
    model.ChangeForbidden: (409, "Other data in the database forbid this change", ()),
    model.DefaultProjectProtected: (403, "The default project cannot be deleted", ()),
    model.StoreReadOnly: (403, "This server is read-only: nothing can be created, changed or deleted", ()),
    model.StoreBusy: (503, "The database is busy. Nothing was changed; try again", [("Retry-After", "1")]),
    model.StoreFull: (507, "The database is full. Nothing was changed; make room, then try again", ()),
    model.OutcomeUnknown: (503, "The change may or may not have been made; look before you try again", ()),
    model.StoreError: (503, "The database does not answer. Nothing was changed; see the server's log", ()),
    Exception: (500, "Internal Server Error", ()),  # a ProjectsError of no other kind, or a bug
}

# Made before it is needed: then there may be no memory for it.
OUT_OF_MEMORY = Response(
    503, TEXT, b"The server is out of memory. Nothing was changed; try again", [("Retry-After", "1")]
)


def render_error(error: Exception) -> Response:
    """Return the answer to an error of the model; to any other error, a bare 500."""
    status, text, headers = next(_ANSWERS[class_] for class_ in type(error).__mro__ if class_ in _ANSWERS)
    # A store of the host's own may raise errors whose names hold lone surrogates.
    return Response(status, TEXT, text.format(error=error).encode("utf-8", "replace"), headers)
