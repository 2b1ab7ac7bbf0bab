"""Plays the recorded requests against the real Phoenix, and shows what it answers differently.

`make record` runs it, with the Phoenix of any version.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..support.process import Server
from ..support.replay import RECORDED, Replay, Send, Step, read_steps, sending_to_server
from .server import PhoenixFailed, installed_version, running_phoenix

HEADINGS = ("answers", "step", "what it probes", "request", "recorded", "came")

# The longest text in a cell.
WIDTH = 60


class Change(NamedTuple):
    """An answer that is not the recorded one.

    came: the answer as it would be recorded.
    where: where the bodies begin to differ; was, is_: what stands there in each.
    """

    file: Path
    step: Step
    came: Mapping[str, Any]
    where: str
    was: str
    is_: str

    def kind(self) -> object:
        """Return what changes that are alike have in common."""
        recorded, came = self.step.answer, self.came
        # What a validation error says is one of a few texts; other values are mostly names.
        says = (self.was, self.is_) if "json" in recorded and recorded["status"] >= 400 else None
        return (
            self.step.method,
            self.step.path.startswith("/v1/projects/"),
            (recorded["status"], recorded["type"]),
            (came["status"], came["type"]),
            re.sub(r"\d+", "", self.where),
            (self.was == "absent", self.is_ == "absent", says),
        )


def play(file: Path, send: Send) -> tuple[list[Mapping[str, Any]], list[Change]]:
    """Play a file against a fresh server; return its answers as they are recorded, and the changed ones."""
    replay = Replay(send)
    answers: list[Mapping[str, Any]] = []
    changes = []
    try:
        for step, answer in replay.play(read_steps(file)):
            came = replay.record(answer)
            answers.append(came)
            # The order of keys counts.
            if json.dumps(came) != json.dumps(step.answer):
                changes.append(Change(file, step, came, *first_difference(_body(step.answer), _body(came))))
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"step {len(answers)} of {file.name} got no answer: {error}") from error
    return answers, changes


def play_against(server: Server, file: Path) -> tuple[list[Mapping[str, Any]], list[Change]]:
    # Phoenix closes a connection after a 500, without announcing it.
    with sending_to_server(server.host, server.port, is_kept_alive=False) as send:
        return play(file, send)


def write(file: Path, answers: Sequence[Mapping[str, Any]]) -> None:
    """Replace the answers in a file."""
    header, *lines = file.read_text(encoding="utf-8").splitlines()
    steps = [json.dumps({**json.loads(line), "answer": answer}) for line, answer in zip(lines, answers)]
    file.write_text("\n".join([header, *steps, ""]), encoding="utf-8")


def _body(answer: Mapping[str, Any]) -> Any:
    return answer["json"] if "json" in answer else answer["text"]


def first_difference(recorded: Any, came: Any, where: str = "") -> tuple[str, str, str]:
    """Return where two decoded bodies begin to differ, and what stands there in each."""
    if type(recorded) is type(came) and isinstance(recorded, (dict, list)):
        old, new = (dict(enumerate(it)) if isinstance(it, list) else it for it in (recorded, came))
        for key in {**old, **new}:
            was, is_ = (json.dumps(it[key]) if key in it else "absent" for it in (old, new))
            if was != is_:
                inner = f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}".lstrip(".")
                is_in_both = key in old and key in new
                return first_difference(old[key], new[key], inner) if is_in_both else (inner, was, is_)
        return where, f"keys {list(old)}", f"keys {list(new)}"
    return where, json.dumps(recorded), json.dumps(came)


def render_table(changes: Iterable[Change], *, is_grouped: bool = True) -> str:
    """Return a table, in Markdown: a row for each change, or for the first of those that are alike."""
    groups: dict[object, list[Change]] = {}
    for change in changes:
        kind = change.kind() if is_grouped else (change.file, change.step.number)
        groups.setdefault(kind, []).append(change)
    rows = [HEADINGS, *(_row(alike) for alike in groups.values())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(alike: Sequence[Change]) -> tuple[str, ...]:
    change = alike[0]
    step = change.step
    content = "" if step.body is None else " " + step.body.decode("latin-1")
    return (
        str(len(alike)),
        f"{change.file.stem} {step.number}",
        _cell(step.tag),
        _cell(f"{step.method} {step.path}{content}"),
        _cell(_summary(step.answer, change.where, change.was)),
        _cell(_summary(change.came, change.where, change.is_)),
    )


def _summary(answer: Mapping[str, Any], where: str, value: str) -> str:
    return f"{answer['status']} {answer['type']} " + (f"{where}: {value}" if where else value)


def _cell(text: str) -> str:
    """Return a text that can stand in a cell, on any terminal."""
    if len(text) > WIDTH:
        text = text[: WIDTH - 3] + "..."
    return re.sub(r"[^ -~]", lambda match: ascii(match[0])[1:-1], text).replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make record", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="show every answer that differs, also where many are alike"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the answers that came into the recorded files"
    )
    options = parser.parse_args(arguments)

    answers: dict[Path, list[Mapping[str, Any]]] = {}
    changes: list[Change] = []
    for file in RECORDED:
        print(f"Playing {file.name} ...", file=sys.stderr)
        try:
            with running_phoenix() as phoenix:
                answers[file], changed = play_against(phoenix, file)
        except PhoenixFailed as error:
            print(error, file=sys.stderr)
            return 2
        changes += changed
    total = sum(map(len, answers.values()))

    name = f"Phoenix {installed_version()}"
    if not changes:
        print(f"{name} answers all {total} requests as recorded.")
        return 0
    print(f"{name} answers {len(changes)} of {total} requests differently:\n")
    print(render_table(changes, is_grouped=not options.all))
    if options.write:
        for file in answers:
            write(file, answers[file])
        print("\nThe new answers are written. `make test` tells which of ours must follow.")
        return 0
    print("\nARGS=--all shows each of them, ARGS=--write records them.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
