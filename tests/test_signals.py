"""SIGINT and SIGTERM, in the process that gets them; test_cli.py sends them to real commands."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from projects_wsgi.signals import Signals

from .support.process import environment

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def restored_handlers() -> Iterator[None]:
    handlers = [signal.getsignal(number) for number in NUMBERS]
    yield
    for number, handler in zip(NUMBERS, handlers):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_raises_and_the_next_ones_do_not(number: signal.Signals) -> None:
    caught = Signals()
    caught.start_raising()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    for next_number in NUMBERS:
        signal.raise_signal(next_number)


@pytest.mark.parametrize("has_raised_before", [False, True])
def test_a_signal_that_may_not_raise_is_remembered(has_raised_before: bool) -> None:
    caught = Signals()
    if has_raised_before:
        caught.start_raising()
        caught.stop_raising()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        caught.start_raising()
    caught.wait()  # returns at once


def test_waiting_ends_even_where_python_drops_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = []

    def sleep(seconds: float) -> None:
        # As a finalizer would that runs just now: Python drops whatever is raised in it.
        sleeps.append(seconds)
        assert len(sleeps) == 1
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("time.sleep", sleep)
    Signals().wait()
    assert len(sleeps) == 1


def test_signals_are_ignored_until_the_process_has_ended(tmp_path: Path) -> None:
    program = """
import os, signal, threading, time
from projects_wsgi.signals import Signals

class Last:
    def __del__(self, kill=os.kill, arguments=(os.getpid(), signal.SIGTERM)):
        kill(*arguments)

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
caught = Signals()
last = Last()  # deleted with the module, when Python has taken its handlers back
caught.ignore()
"""
    line = [sys.executable, "-c", program]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, timeout=30)
    assert (result.returncode, result.stderr) == (0, b"")
