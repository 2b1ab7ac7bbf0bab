"""Every recorded request is answered as Phoenix did, or as the table of differences says."""

from __future__ import annotations

from pathlib import Path

import pytest
import webtest

from .differences import DIFFERENCES, PROVEN_ELSEWHERE
from .process import Process
from .replay import RECORDED, Replay, Send, read_steps, send_to_app, sending_to_server

files = pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)

# webtest knows fewer methods than HTTP allows.
unknown_methods = pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")


def judge(send: Send, file: Path) -> set[str]:
    """Play a file; fail at the first answer that nothing explains. Return the rows that explained one."""
    replay = Replay(send)
    rows = set()
    for step, answer in replay.play(read_steps(file)):
        if replay.is_alike(step, answer):
            continue
        matching = [difference for difference in DIFFERENCES if difference.applies(step)]
        case = f"{file.name}, step {step.number} ({step.tag}): {step.method} {step.path}: {answer}"
        assert len(matching) == 1, f"{len(matching)} rows apply to {case}"
        assert matching[0].holds(step, answer, send), f"{matching[0].row!r} does not hold for {case}"
        rows.add(matching[0].row)
    return rows


@unknown_methods
@files
def test_within_the_process_every_answer_is_alike_or_a_listed_difference(
    file: Path, app: webtest.TestApp
) -> None:
    judge(send_to_app(app), file)


@files
def test_over_a_socket_every_answer_is_alike_or_a_listed_difference(file: Path, server: Process) -> None:
    with sending_to_server(server.host, server.port) as send:
        judge(send, file)


@unknown_methods
def test_every_row_of_the_table_is_needed(app: webtest.TestApp) -> None:
    rows = judge(send_to_app(app), RECORDED[0])
    assert rows == {difference.row for difference in DIFFERENCES}


def test_there_are_recordings() -> None:
    assert {file.stem: len(read_steps(file)) for file in RECORDED} == {
        "fixed": 296,
        "fuzz-1": 449,
        "fuzz-2": 442,
        "fuzz-3": 445,
    }


def test_every_row_that_recordings_cannot_show_has_its_test() -> None:
    sources = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    for test in PROVEN_ELSEWHERE.values():
        assert f"def {test}(" in sources
