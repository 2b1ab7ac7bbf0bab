"""SIGINT and SIGTERM: held, but where they may end what is done."""

from __future__ import annotations

import signal

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
POLL_SECONDS = 0.1  # how long a signal may go unnoticed: one that comes just before a sleep does not end it


def catch_signals() -> None:
    """Hold SIGINT and SIGTERM until they are released; then the first one raises KeyboardInterrupt."""
    hold_signals()
    for number in _NUMBERS:  # SIGINT as well: a shell starts background jobs with SIGINT ignored
        signal.signal(number, _interrupt)


def hold_signals(is_held: bool = True) -> None:
    """Hold signals, or release them. Those that are held when the process ends change nothing."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK if is_held else signal.SIG_UNBLOCK, _NUMBERS)


def end_within(seconds: int) -> None:
    """Have the system end the process then: a thread may hang, say in a log that is full."""
    if hasattr(signal, "alarm"):  # not on Windows
        # Whoever started the process may have had it ignored, or held, and so it is here.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        signal.alarm(seconds)


def _interrupt(*_: object) -> None:
    hold_signals()
    for number in _NUMBERS:  # the other one may have come as well, and must not raise a second error
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt
