"""Every recorded request is answered as Phoenix did, or as the table of differences says."""

from __future__ import annotations

from pathlib import Path

import pytest
import webtest

from .support.differences import DIFFERENCES, PROVEN_ELSEWHERE, judge
from .support.process import Process
from .support.replay import RECORDED, read_steps, send_to_app, sending_to_server

files = pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)

# webtest knows fewer methods than HTTP allows.
unknown_methods = pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")


@unknown_methods
@files
def test_within_the_process_every_answer_is_alike_or_a_listed_difference(
    file: Path, app: webtest.TestApp
) -> None:
    judge(send_to_app(app), read_steps(file))


@files
def test_over_a_socket_every_answer_is_alike_or_a_listed_difference(file: Path, server: Process) -> None:
    with sending_to_server(server.host, server.port) as send:
        judge(send, read_steps(file))


@unknown_methods
def test_every_row_of_the_table_is_needed(app: webtest.TestApp) -> None:
    rows = judge(send_to_app(app), read_steps(RECORDED[0]))
    assert rows == {difference.row for difference in DIFFERENCES}


def test_there_are_recordings() -> None:
    assert {file.stem: len(read_steps(file)) for file in RECORDED} == {
        "fixed": 296,
        "fuzz-1": 449,
        "fuzz-2": 442,
        "fuzz-3": 445,
    }


def test_every_row_that_recordings_cannot_show_has_its_test() -> None:
    sources = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.rglob("test_*.py"))
    for test in PROVEN_ELSEWHERE.values():
        assert f"def {test}(" in sources
