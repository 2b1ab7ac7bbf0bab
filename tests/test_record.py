"""`make record`, with a server of ours in Phoenix's place."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest

from projects_wsgi import make_app

from .phoenix import record
from .support.process import Process, running_server
from .support.replay import RECORDED, read_steps, send_to_app, sending_to_server


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_the_same_answers_leave_a_file_as_it_was(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / file.name
    shutil.copy(file, copy)
    record.write(copy, [step.answer for step in read_steps(file)])
    assert copy.read_bytes() == file.read_bytes()


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a recorded file, which main takes for the only one, and a server of ours for Phoenix."""
    copy = tmp_path / "fixed.jsonl"
    shutil.copy(RECORDED[0], copy)

    @contextlib.contextmanager
    def running_phoenix() -> Iterator[Process]:
        with running_server("--quiet", "--db", ":memory:", cwd=tmp_path) as process:
            yield process

    monkeypatch.setattr(record, "RECORDED", [copy])
    monkeypatch.setattr(record, "running_phoenix", running_phoenix)
    monkeypatch.setattr(record, "installed_version", lambda: "0.0")
    return copy


def test_what_differs_is_shown_and_then_written(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = recorded.read_text(encoding="utf-8").splitlines()
    assert record.main([]) == 1
    output = capsys.readouterr().out
    assert output.startswith("Phoenix 0.0 answers ")
    assert '500 text/plain "Internal Server Error"' in output
    assert '409 text/plain "Project with name alpha already exists"' in output
    assert recorded.read_text(encoding="utf-8").splitlines() == before

    assert record.main(["--all", "--write"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 ")]
    after = recorded.read_text(encoding="utf-8").splitlines()
    changed = [number for number, lines in enumerate(zip(before[1:], after[1:])) if len(set(lines)) == 2]
    assert [int(row.split("|")[2].split()[1]) for row in rows] == changed

    assert record.main([]) == 0
    assert capsys.readouterr().out == f"Phoenix 0.0 answers all {len(before) - 1} requests as recorded.\n"


def test_changes_that_are_alike_share_a_row(tmp_path: Path) -> None:
    default = {"data": {"name": "default", "id": "UHJvamVjdDox"}}
    not_found = {"status": 404, "type": "text/plain", "text": "a | é" + "x" * 100}
    steps = [
        ("GET", "/v1/projects/default", {"status": 200, "type": "application/json", "json": default}),
        ("GET", "/v1/projects/UHJvamVjdDox", {"status": 200, "type": "application/json", "json": default}),
        ("GET", "/nothing", not_found),
    ]
    records = [
        {"method": method, "path": path, "headers": {}, "body": None, "tag": "it", "answer": answer}
        for method, path, answer in steps
    ]
    file = tmp_path / "few.jsonl"
    file.write_text("\n".join(map(json.dumps, [{}, *records])), encoding="utf-8")
    app = make_app(":memory:")
    with closing(app.store):
        _, changes = record.play(file, send_to_app(webtest.TestApp(app)))
    heading, rule, *rows = record.render_table(changes).splitlines()
    assert {len(line) for line in (heading, rule, *rows)} == {len(heading)}
    assert [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in rows] == [
        [
            "2",
            "few 0",
            "it",
            "GET /v1/projects/default",
            "200 application/json data.description: absent",
            '200 application/json data.description: "Default project"',
        ],
        [
            "1",
            "few 2",
            "it",
            "GET /nothing",
            '404 text/plain "a \\| \\u00e9' + "x" * 31 + "...",
            '404 text/plain "Not Found"',
        ],
    ]


def test_a_phoenix_that_does_not_start_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    # It is not installed here.
    assert record.main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "Phoenix has not started"
    assert lines[2] == "Phoenix has ended with 1; the last lines of its log are:"
    assert "No module named 'phoenix'" in lines[-1]


def test_a_request_without_an_answer_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        sending_to_server("127.0.0.1", port) as send,
        pytest.raises(ConnectionError, match="step 0 of fixed"),
    ):
        record.play(RECORDED[0], send)


@pytest.mark.parametrize(
    ("recorded", "came", "difference"),
    [
        ("a", "b", ("", '"a"', '"b"')),
        ({"a": 1}, {"a": True}, ("a", "1", "true")),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, ("a[1].b", "2", "3")),
        ({"a": [1]}, {"a": [1, 2]}, ("a[1]", "absent", "2")),
        ({"a": [1, 2]}, {"a": [1]}, ("a[1]", "2", "absent")),
        ({"a": None}, {}, ("a", "null", "absent")),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}, ("a", "keys ['b', 'c']", "keys ['c', 'b']")),
        ({"a": []}, {"a": {}}, ("a", "[]", "{}")),
        ({"a": []}, "text", ("", '{"a": []}', '"text"')),
    ],
)
def test_the_first_difference_is_found(recorded: Any, came: Any, difference: tuple[str, str, str]) -> None:
    assert record.first_difference(recorded, came) == difference
