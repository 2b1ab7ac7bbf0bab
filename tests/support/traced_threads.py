"""A plugin of coverage.py: measures threads that the module threading did not start, as the server's."""

from __future__ import annotations

import _thread
import sys
import threading
from typing import Any, Callable


def coverage_init(*_: object) -> None:
    """Have each thread begin with the function by which coverage.py traces; called in every process."""
    start = _thread.start_new_thread

    def start_traced(function: Callable[..., object], arguments: tuple[Any, ...] = (), *rest: Any) -> int:
        def run(*arguments: Any) -> None:
            sys.settrace(threading._trace_hook)  # type: ignore[attr-defined]  # gettrace() came with Python 3.10
            function(*arguments)

        return start(run, arguments, *rest)

    _thread.start_new_thread = start_traced
