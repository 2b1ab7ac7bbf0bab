"""What schemathesis has to know of the wire beyond the document."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData

from projects_wsgi import wire
from projects_wsgi.model import render_global_id

BOOLEAN = "0|1|f|t|n|y|no|yes|off|on|false|true"
PARAMETERS = {
    "limit": r"\s*\+?(?=[0_]*[1-9])[0-9]+(_[0-9]+)*(\.0+)?\s*",
    "include_experiment_projects": BOOLEAN,
    "include_dataset_evaluator_projects": BOOLEAN,
}


@schemathesis.deserializer("text/plain")
def read_text(context: Any, response: Any) -> str:
    """Let texts be held to their schemas as well; all are UTF-8."""
    return str(response.content, "utf-8")


@schemathesis.hook.apply_to(operation_id="getProjects")
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Drop one complaint: that a query was taken which the document lacks and the wire allows."""
    return not (
        isinstance(failure, AcceptedNegativeData) and is_allowed(urlsplit(response.request.url).query)
    )


@schemathesis.hook.apply_to(operation_id="getProjects")
def map_query(context: Any, query: Any) -> Any:
    """Put an id in place of a cursor that only looks like one, which no pattern for people can tell."""
    cursor = (query or {}).get("cursor")
    if isinstance(cursor, str) and re.fullmatch(wire.ID_PATTERN, cursor) and not is_cursor(cursor):
        query["cursor"] = render_global_id(1 + len(cursor) % 5)
    return query


def is_allowed(query: str) -> bool:
    """Tell whether the wire takes a query.

    Unknown parameters are ignored, of a repeated one the last counts. Integers may have blanks, a
    plus, underscores and a zero fraction, booleans are twelve words, a cursor may be of any type.
    """
    values = dict(parse_qsl(query, keep_blank_values=True))
    return is_cursor(values.get("cursor", "")) and all(
        re.fullmatch(form, values[name], re.IGNORECASE) for name, form in PARAMETERS.items() if name in values
    )


def is_cursor(text: str) -> bool:
    try:
        int(base64.b64decode(text).decode().partition(":")[2])
    except ValueError:
        return text == ""
    return True
