"""The deliberate differences from Phoenix 20.26.1, one entry per row.

A recorded answer that is not ours must be explained by the entry for its request, and by nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from .replay import Answer, Replay, Send, Step


class Difference(NamedTuple):
    """One row of the table.

    row: its first cell in the README. applies: whether a request, with Phoenix's answer, is such a case.
    holds: whether our answer is the one that the row promises.
    """

    row: str
    applies: Callable[[Step], bool]
    holds: Callable[[Step, Answer, Send], bool]


def _decoded(step: Step) -> Any:
    try:
        return json.loads(step.body or b"")
    except (RecursionError, ValueError):
        return None


def _query(step: Step, parameter: str) -> str:
    return parse_qs(urlsplit(step.path).query, keep_blank_values=True).get(parameter, [""])[-1]


def _crashed(step: Step) -> bool:
    return bool(step.answer["status"] == 500)


def _global_id_number(text: str) -> int:
    try:
        return int(base64.b64decode(text).decode().partition(":")[2])
    except ValueError:
        return 0


# A name that exists


def _is_creation(step: Step) -> bool:
    document = _decoded(step)
    return (
        _crashed(step)
        and step.method == "POST"
        and isinstance(document, dict)
        and isinstance(document.get("name"), str)
    )


def _name_exists(step: Step) -> bool:
    return _is_creation(step) and not (_holds_surrogate(step) or _holds_infinite(step))


def _is_conflict(step: Step, answer: Answer, send: Send) -> bool:
    name = _decoded(step)["name"]
    return answer[:3] == (409, "text/plain", f"Project with name {name} already exists")


# Lone surrogates


def _holds_surrogate(step: Step) -> bool:
    return _crashed(step) and b"\\ud" in (step.body or b"")


def _is_string_unicode(step: Step, answer: Answer, send: Send) -> bool:
    (error,) = answer.payload["detail"]
    field = error["loc"][1]
    return answer.status == 422 and error == {
        "type": "string_unicode",
        "loc": ["body", field],
        "msg": "Input should be a valid string, unable to parse raw data as a unicode string",
        "input": _decoded(step)[field],
    }


# NaN, Infinity


def _holds_infinite(step: Step) -> bool:
    return _crashed(step) and any(word in (step.body or b"") for word in (b"NaN", b"Infinity", b"1e999"))


def _is_json_invalid(step: Step, answer: Answer, send: Send) -> bool:
    position = (step.body or b"").rindex(b" ") + 1
    return answer.status == 422 and answer.payload["detail"] == [
        {
            "type": "json_invalid",
            "loc": ["body", position],
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": "Expecting a finite number"},
        }
    ]


# Past 64 bits


def _is_past_64_bits(step: Step) -> bool:
    texts = (_query(step, "cursor"), unquote(step.path.rpartition("/")[2]))
    return _crashed(step) and any(_global_id_number(text) >= 2**63 for text in texts)


def _is_page_or_not_found(step: Step, answer: Answer, send: Send) -> bool:
    if "cursor=" in step.path:
        return answer[:3] == send("GET", "/v1/projects", {}, None)[:3]
    identifier = unquote(step.path.rpartition("/")[2])
    return answer[:3] == (404, "text/plain", f"Project with ID {identifier} not found")


# Limits


def _has_huge_limit(step: Step) -> bool:
    return _crashed(step) and len(_query(step, "limit")) >= 19


def _is_largest_page(step: Step, answer: Answer, send: Send) -> bool:
    return answer[:3] == send("GET", "/v1/projects?limit=10000", {}, None)[:3]


# OPTIONS


def _is_options(step: Step) -> bool:
    return step.method == "OPTIONS"


def _is_allow(step: Step, answer: Answer, send: Send) -> bool:
    allow = answer.headers["Allow"].split(", ")
    return answer.status == 204 and set(allow) == {"GET", "HEAD", "POST", "OPTIONS"}


# Case folding


def _is_search(step: Step) -> bool:
    return "name_contains=" in step.path and bool(step.answer["status"] == 200)


def _simply_folded(text: str) -> str:
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


def _finds_more_by_full_folding(step: Step, answer: Answer, send: Send) -> bool:
    text = _query(step, "name_contains")
    everything = send("GET", "/v1/projects?limit=10000", {}, None).payload["data"]
    found = [project for project in everything if text.casefold() in project["name"].casefold()]
    theirs = {project["name"] for project in step.answer["json"]["data"]}
    more = [project["name"] for project in found if project["name"] not in theirs]
    return (
        answer.payload == {"data": found, "next_cursor": None}
        and bool(more)
        and all(_simply_folded(text) not in _simply_folded(name) for name in more)
    )


DIFFERENCES = (
    Difference("a name that exists", _name_exists, _is_conflict),
    Difference(
        'lone surrogates (`"\\ud800"`) in a name or description', _holds_surrogate, _is_string_unicode
    ),
    Difference("`NaN`, `Infinity`, `1e999` in JSON", _holds_infinite, _is_json_invalid),
    Difference("a cursor or id past 64 bits", _is_past_64_bits, _is_page_or_not_found),
    Difference("`limit` beyond the largest page", _has_huge_limit, _is_largest_page),
    Difference("OPTIONS", _is_options, _is_allow),
    Difference("`name_contains`", _is_search, _finds_more_by_full_folding),
)

# The rows that recordings cannot show, each with the test that proves it.
PROVEN_ELSEWHERE = {
    "a name that reads as a project id": "test_a_name_that_reads_as_a_project_id_is_refused",
    "an id whose project is gone": "test_ids_are_never_used_twice",
    "a name with `/` in it": "test_every_name_is_reachable",
    "unknown path; HEAD; trailing slash": "test_a_trailing_slash_is_the_collection",
    "a page of more than 8 MiB": "test_a_page_of_large_projects_ends_early_and_loses_none",
    "a body of more than 1 MiB, or of unknown length": "test_a_body_that_is_too_large_is_not_read",
    "a body in UTF-16 or UTF-32, or nested more than 900 deep": "test_what_cannot_be_decoded_is_400",
    "`/`": "test_the_page_is_at_the_root_and_at_the_bare_mount_point",
    "database busy; full; out of reach": (
        "test_a_store_that_fails_is_told_to_the_client_and_explained_to_the_log"
    ),
    "the connection to a database server was lost after a change was sent to it": (
        "test_a_store_that_fails_is_told_to_the_client_and_explained_to_the_log"
    ),
}


def judge(send: Send, steps: Sequence[Step], own: Sequence[Difference] = ()) -> set[str]:
    """Play requests; fail at the first answer that nothing explains. Return the rows that explained one.

    own: the differences of what stands between us and the application; they go before the table's.
    """
    replay = Replay(send)
    rows = set()
    for step, answer in replay.play(steps):
        if replay.is_alike(step, answer):
            continue
        matching = [difference for difference in own if difference.applies(step)] or [
            difference for difference in DIFFERENCES if difference.applies(step)
        ]
        case = f"step {step.number} ({step.tag}): {step.method} {step.path}: {answer}"
        assert len(matching) == 1, f"{len(matching)} rows apply to {case}"
        assert matching[0].holds(step, answer, send), f"{matching[0].row!r} does not hold for {case}"
        rows.add(matching[0].row)
    return rows
