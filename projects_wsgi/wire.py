"""The Phoenix wire: how cursors, parameters, bodies, answers and errors are spelled.

Where no source is named, a fact was read off a running Phoenix 20.26.1, whose answers are in
tests/recorded.
"""

from __future__ import annotations

import json
import math
import re
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring as _quoted
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl

from .model import (
    ChangeForbidden,
    DefaultProjectProtected,
    ProjectExists,
    ProjectKind,
    ProjectNotFound,
    ProjectRow,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    parse_global_id,
    parse_identifier,
    render_global_id,
)
from .wsgi import TEXT, Headers, HTTPError, Response

PHOENIX_VERSION = "20.26.1"
VERSION_HEADER = "x-phoenix-server-version"

JSON = "application/json"

DEFAULT_LIMIT = 100

# Phoenix decodes with Python's own recursion limit of 1,000, of which its frames take a few.
MAX_NESTING = 900


# Cursors

# What a project's id looks like; for people, and for the OpenAPI document.
ID_PATTERN = "^UHJvamVjdDo[0-9A-Za-z+/]+=*$"


def parse_cursor(cursor: str) -> int | None:
    """Return the first id that the page of a cursor may hold; None for the empty cursor.

    Raises HTTPError (422) for a text that is not a cursor.
    """
    if not cursor:
        return None
    try:
        return parse_global_id(cursor)[1]
    except ValueError:
        raise HTTPError(422, f"Invalid cursor format: {cursor}") from None


# Query parameters

# The parameters that list more kinds, in the order in which Phoenix declares them.
KIND_PARAMETERS = {
    "include_experiment_projects": ProjectKind.EXPERIMENT,
    "include_dataset_evaluator_projects": ProjectKind.DATASET_EVALUATOR,
}

# An integer as pydantic reads it. Blanks are \s without the four separators that only Python strips.
_INTEGER = re.compile(r"[^\S\x1c-\x1f]*([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?[^\S\x1c-\x1f]*")
_MORE_THAN_ANY_LIMIT = 2**63

_BOOLEANS = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}


class PageParameters(NamedTuple):
    """What a list request asks for.

    start_id: the first id that the page may hold; None: any. limit: rows, > 0.
    name_contains: "" is any. kinds: the kinds to list.
    """

    start_id: int | None
    limit: int
    name_contains: str
    kinds: frozenset[ProjectKind]


def parse_page_parameters(query: str, max_page_size: int) -> PageParameters:
    """Return the parameters of a list request.

    query: the query string. max_page_size: rows, > 0; a larger limit becomes this.
    Raises HTTPError (422).
    """
    values = dict(parse_qsl(query, keep_blank_values=True))
    errors: list[dict[str, Any]] = []
    limit = DEFAULT_LIMIT
    if "limit" in values:
        limit = _parse_limit(values["limit"], errors)
    kinds = frozenset([ProjectKind.STANDARD])
    for parameter, kind in KIND_PARAMETERS.items():
        if parameter in values and _parse_boolean(parameter, values[parameter], errors):
            kinds |= {kind}
    if errors:
        raise _validation_error(errors)
    start_id = parse_cursor(values.get("cursor", ""))
    return PageParameters(start_id, min(limit, max_page_size), values.get("name_contains", ""), kinds)


def _parse_limit(text: str, errors: list[dict[str, Any]]) -> int:
    match = _INTEGER.fullmatch(text)
    if match is None:
        errors.append(_error("int_parsing", ["query", "limit"], text))
        return 0
    digits = match[1].lstrip("+-").lstrip("0_")
    if not digits or match[1].startswith("-"):
        errors.append(_error("greater_than", ["query", "limit"], text, {"gt": 0}))
        return 0
    return int(digits) if len(digits) < 20 else _MORE_THAN_ANY_LIMIT


def _parse_boolean(parameter: str, text: str, errors: list[dict[str, Any]]) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        errors.append(_error("bool_parsing", ["query", parameter], text))
        return False
    return value


# Bodies

_JSON_TYPE = re.compile(r"application/(?:[^/]*\+)?json", re.IGNORECASE)


def parse_create(body: bytes, content_type: str) -> tuple[str, str | None]:
    """Return the name and the description that a POST asks for.

    body: the request's body. content_type: its Content-Type, "" if none came.
    Raises HTTPError (400, 422).
    """
    document = _parse_object(body, content_type)
    errors: list[dict[str, Any]] = []
    name: Any = document.get("name")
    if "name" not in document:
        errors.append(_error("missing", ["body", "name"], document))
    elif _is_text("name", name, errors):
        if not name:
            errors.append(_error("string_too_short", ["body", "name"], name, {"min_length": 1}))
        elif not isinstance(parse_identifier(name), str):
            errors.append(_error("value_error", ["body", "name"], name))
    description = _parse_description(document, errors)
    if errors:
        raise _validation_error(errors)
    return name, description


def parse_update(body: bytes, content_type: str) -> str | None:
    """Return the description that a PUT asks for; None leaves it as it is.

    body: the request's body. content_type: its Content-Type, "" if none came.
    Raises HTTPError (400, 422).
    """
    errors: list[dict[str, Any]] = []
    description = _parse_description(_parse_object(body, content_type), errors)
    if errors:
        raise _validation_error(errors)
    return description


def _parse_description(document: Mapping[str, Any], errors: list[dict[str, Any]]) -> str | None:
    description: str | None = document.get("description")
    if description is not None:
        _is_text("description", description, errors)
    return description


def _is_text(field: str, value: object, errors: list[dict[str, Any]]) -> bool:
    """Tell whether a field holds a string that UTF-8 can spell; if not, add the error."""
    if not isinstance(value, str):
        errors.append(_error("string_type", ["body", field], value))
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            errors.append(_error("string_unicode", ["body", field], value))
            return False
    return True


def _parse_object(body: bytes, content_type: str) -> dict[str, Any]:
    if not body:
        raise _validation_error([_error("missing", ["body"], None)])
    is_json = content_type == JSON or _JSON_TYPE.fullmatch(content_type.partition(";")[0].strip())
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _parsing_error() from None
    if is_json and text.startswith("\ufeff"):  # a byte order mark
        text = text[1:]
    value = _parse_json(text) if is_json else text
    if not isinstance(value, dict):
        raise _validation_error([_error("model_attributes_type", ["body"], value)])
    return value


class _NotFiniteError(ValueError):
    """A number that is infinite or NaN."""


def _refuse_constant(_: str) -> NoReturn:
    raise _NotFiniteError


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _NotFiniteError
    return value


_decode_json = json.JSONDecoder(parse_float=_parse_float, parse_constant=_refuse_constant).decode

# Each token is taken whole: to search again within a long one would take quadratic time.
_TOKENS = re.compile(
    r'"(?:[^"\\]+|\\.)*"?|(?P<open>[\[{])|(?P<close>[\]}])'
    r"|(?P<number>-?(?:NaN|Infinity|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?))",
    re.DOTALL,
)
_BLANKS = re.compile(r"[ \t\n\r]*")
_PROPERTY_NAME_EXPECTED = "Expecting property name enclosed in double quotes"


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
            end = _BLANKS.match(text, end + 1).end()  # type: ignore[union-attr]
            message = "Expecting value" if text[end] == "]" else _PROPERTY_NAME_EXPECTED
    except _NotFiniteError:
        message, end = "Expecting a finite number", _find_not_finite(text)
    except (RecursionError, ValueError):
        raise _parsing_error() from None
    # Python 3.12 and later decode deeper than others: what is too deep for one is too deep for all.
    if _is_too_deep(text, end):
        raise _parsing_error()
    if message:
        raise _validation_error([_error("json_invalid", ["body", end], {}, {"error": message})])
    return value


def _find_not_finite(text: str) -> int:
    for match in _TOKENS.finditer(text):
        number = match["number"]
        if number and not number.lstrip("-").isdigit() and not math.isfinite(float(number)):
            return match.start()
    raise AssertionError("the decoder found a number that is not finite")


def _is_too_deep(text: str, end: int) -> bool:
    if text.count("[", 0, end) + text.count("{", 0, end) <= MAX_NESTING:
        return False
    depth = 0
    for match in _TOKENS.finditer(text, 0, end):
        if match["open"]:
            depth += 1
            if depth > MAX_NESTING:
                return True
        elif match["close"]:
            depth -= 1
    return False


# Answers

# The templates give what json.dumps would, at two thirds of its cost. Python compiles a template only
# where it is filled in, so it is no constant; and a call for each row would slow down a page.


def render_project(row: ProjectRow) -> bytes:
    """Return the JSON of one project."""
    project_id, name, description = row
    text = '{"data":{"name":%s,"description":%s,"id":"%s"}}' % (
        _quoted(name),
        "null" if description is None else _quoted(description),
        b2a_base64(b"Project:%d" % project_id, newline=False).decode(),
    )
    return text.encode()


def render_page(rows: Sequence[ProjectRow], limit: int) -> bytes:
    """Return the JSON of a page.

    rows: those of the page, and one more if there is a next page. limit: rows, > 0.
    """
    next_cursor = "null"
    if len(rows) > limit:
        next_cursor = f'"{render_global_id(rows[limit][0])}"'
        rows = rows[:limit]
    projects = [
        '{"name":%s,"description":%s,"id":"%s"}'
        % (
            _quoted(name),
            "null" if description is None else _quoted(description),
            b2a_base64(b"Project:%d" % project_id, newline=False).decode(),
        )
        for project_id, name, description in rows
    ]
    return ('{"data":[%s],"next_cursor":%s}' % (",".join(projects), next_cursor)).encode()


def render_json(value: object) -> bytes:
    """Return a value as compact JSON in UTF-8; lone surrogates, which UTF-8 lacks, stay escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


# Errors

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


def _error(type_: str, loc: list[Any], input_: object, ctx: dict[str, Any] | None = None) -> dict[str, Any]:
    error = {"type": type_, "loc": loc, "msg": VALIDATION_MESSAGES[type_], "input": input_}
    if ctx is not None:
        error["ctx"] = ctx
    return error


def _validation_error(errors: list[dict[str, Any]]) -> HTTPError:
    try:
        return HTTPError(422, render_json({"detail": errors}), content_type=JSON)
    except RecursionError:
        # The input was decoded just below the recursion limit and is encoded just above it.
        return _parsing_error()


def _parsing_error() -> HTTPError:
    return HTTPError(400, "There was an error parsing the body")


# The answer to each error, and to those that derive from it: status, text, headers.
_ANSWERS: dict[type[BaseException], tuple[int, str, Headers]] = {
    ProjectNotFound: (404, "Project with {error.addressed_by} {error.key} not found", ()),
    ProjectExists: (409, "Project with name {error.name} already exists", ()),
    ChangeForbidden: (409, "Other data in the database forbid this change", ()),
    DefaultProjectProtected: (403, "The default project cannot be deleted", ()),
    StoreReadOnly: (403, "This server is read-only: projects cannot be created, changed or deleted here", ()),
    StoreBusy: (
        503,
        "The database is busy: others are writing to it. Nothing was changed; try again",
        [("Retry-After", "1")],
    ),
    StoreFull: (
        507,
        "The database is full. Nothing was changed; delete projects or make room for it, then try again",
        (),
    ),
    StoreError: (503, "The database does not answer. Nothing was changed; see the server's log", ()),
    Exception: (500, "Internal Server Error", ()),  # a ProjectsError of no other kind, or a bug
}


def render_error(error: Exception) -> Response:
    """Return the answer to an error of the model; to any other error, a bare 500."""
    answers = (_ANSWERS[class_] for class_ in type(error).__mro__ if class_ in _ANSWERS)
    status, text, headers = next(answers)
    # A store of the host's own may raise errors whose names hold lone surrogates.
    return Response(status, TEXT, text.format(error=error).encode("utf-8", "replace"), headers)
