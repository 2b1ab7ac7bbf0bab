"""Runs make in the repository, or in a copy of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(
    *arguments: str, cwd: Path = ROOT, prefix: Sequence[str] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run make; prefix: a program that runs it, and its arguments."""
    # Without the variables of the make that may run this test.
    inherited = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    return subprocess.run(
        [*prefix, "make", *arguments],
        cwd=cwd,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def pythons() -> list[str]:
    """Return the interpreters that the machine has, one of each version; this one if there is no other."""
    return [sys.executable, *make("--silent", "pythons").stdout.split()]
