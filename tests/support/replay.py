"""Plays recorded requests against an application and judges its answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional
from urllib.parse import quote

if TYPE_CHECKING:
    import webtest

RECORDED = sorted((Path(__file__).parents[1] / "recorded").glob("*.jsonl"))

# What {id:K} stands for when step K made nothing.
ABSENT_ID = "UHJvamVjdDo5OTk5OTk="


class Step(NamedTuple):
    """One recorded request and what Phoenix answered."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    tag: str
    answer: Mapping[str, Any]


class Answer(NamedTuple):
    """What came back; payload: the decoded JSON, or the text."""

    status: int
    type: str
    payload: Any
    headers: Mapping[str, str]


Send = Callable[[str, str, Mapping[str, str], Optional[bytes]], Answer]


def read_steps(file: Path) -> list[Step]:
    """Return the steps of a recorded file."""
    with file.open(encoding="utf-8") as lines:
        next(lines)  # the header
        records = [json.loads(line) for line in lines]
    return [
        Step(
            number,
            record["method"],
            record["path"],
            record["headers"],
            None if record["body"] is None else record["body"].encode("latin-1"),
            record["tag"],
            record["answer"],
        )
        for number, record in enumerate(records)
    ]


def send_to_app(app: webtest.TestApp) -> Send:
    """Return a way to send requests to an application within this process."""

    def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        # webtest would give every POST and PUT a form's Content-Type.
        environ = {"CONTENT_TYPE": headers.get("Content-Type", "")}
        response = app.request(
            path, method=method, headers=dict(headers), environ=environ, body=body or b"", expect_errors=True
        )
        return _answer(response.status_int, response.headers, response.body)

    return send


@contextlib.contextmanager
def sending_to_server(
    host: str, port: int, *, prefix: str = "", is_chunked: bool = False, is_kept_alive: bool = True
) -> Iterator[Send]:
    """Give a way to send requests.

    prefix: what every path begins with. is_chunked: whether bodies are sent in chunks.
    is_kept_alive: whether one connection serves them all, as long as the server keeps it.
    """
    connection = http.client.HTTPConnection(host, port, timeout=30)

    def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        # Of an iterator http.client knows no length: it frames each item as a chunk.
        content: Any = iter([body[:1], body[1:]]) if is_chunked and body else body
        # A server may answer and hang up before it has read the body.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, prefix + path, body=content, headers=dict(headers))
        response = connection.getresponse()
        # Their names may come in any case.
        received = {name.title(): value for name, value in response.headers.items()}
        answer = _answer(response.status, received, response.read())
        if not is_kept_alive:
            connection.close()
        return answer

    with contextlib.closing(connection):
        yield send


def _answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    content_type = (headers.get("Content-Type") or "").partition(";")[0]
    # Phoenix gives a 204 the type of JSON, and no body.
    payload = json.loads(body) if body and content_type == "application/json" else body.decode("utf-8")
    return Answer(status, content_type, payload, headers)


class Replay:
    """One file's requests, played in order; ids that they make are known by the step's number."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self._ids: dict[int, str] = {}

    def play(self, steps: Iterable[Step]) -> Iterator[tuple[Step, Answer]]:
        for step in steps:
            path = re.sub(r"\{id:(\d+)\}", lambda match: quote(self._id(match[1]), safe=""), step.path)
            answer = self.send(step.method, path, step.headers, step.body)
            if step.method == "POST" and answer.status == 200:
                self._ids[step.number] = answer.payload["data"]["id"]
            yield step, answer

    def is_alike(self, step: Step, answer: Answer) -> bool:
        """Tell whether an answer is Phoenix's: status, type, and body with its keys in order."""
        expected = step.answer
        if answer.status != expected["status"]:
            return False
        if answer.status not in (204, 405) and answer.type != expected["type"]:
            return False
        if "json" in expected:
            return json.dumps(answer.payload) == json.dumps(_translated(expected["json"], self._read_id))
        text = re.sub(r"\$(\d+)", lambda match: self._id(match[1]), expected["text"])
        return bool(answer.payload == text)

    def record(self, answer: Answer) -> dict[str, Any]:
        """Return an answer as it is recorded: for an id that a step made, that step's number."""
        numbers = {id_: f"${number}" for number, id_ in self._ids.items()}
        recorded = {"status": answer.status, "type": answer.type}
        if answer.type == "application/json" and answer.payload != "":
            return {**recorded, "json": _translated(answer.payload, lambda text: numbers.get(text, text))}
        text = re.sub(r"UHJvamVjdDo\w+=*", lambda match: numbers.get(match[0], match[0]), answer.payload)
        return {**recorded, "text": text}

    def _id(self, step_number: str) -> str:
        return self._ids.get(int(step_number), ABSENT_ID)

    def _read_id(self, text: str) -> str:
        return self._id(text[1:]) if text.startswith("$") else text


def _translated(value: Any, translate: Callable[[str], str]) -> Any:
    """Return a decoded body in which each id is translated."""
    if isinstance(value, dict):
        return {
            key: translate(item)
            if key in ("id", "next_cursor") and isinstance(item, str)
            else _translated(item, translate)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_translated(item, translate) for item in value]
    return value
