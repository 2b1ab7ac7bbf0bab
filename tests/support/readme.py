"""The README, taken apart."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from .process import environment

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return its blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def block(language: str, holding: str) -> str:
    """Return its only block of a language that holds a text."""
    (found,) = (text for text in blocks(language) if holding in text)
    return found


def commands(text: str) -> dict[str, str]:
    """Return the commands of a console block, without comments; beside each, what it prints."""
    parts = re.findall(r"^\$ (.*?)(?: +# .*)?\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    return dict(parts)


def rows(heading: str) -> list[list[str]]:
    """Return the rows of all tables whose first column has this heading, each as its cells."""
    tables = re.findall(rf"^\| {re.escape(heading)} \|.*\n\|.*\n((?:\|.*\n)*)", TEXT, re.MULTILINE)
    assert tables
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def type_in(line: str, folder: Path, **environ: str) -> str:
    """Type a line, which must succeed, into a shell in a folder; return what it prints there."""
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    result = subprocess.run(
        ["sh", "-ec", line],
        cwd=folder,
        env=environment(PATH=path, **environ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, f"{line}: {result.stdout}{result.stderr}"
    return result.stdout
