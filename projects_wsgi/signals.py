"""SIGINT and SIGTERM: the first one stops the process in an orderly way, later ones change nothing."""

from __future__ import annotations

import signal
import time

_POLL_SECONDS = 0.1
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Catches SIGINT and SIGTERM from now on, in the main thread.

    The first signal raises KeyboardInterrupt if it comes between start_raising() and stop_raising().
    Otherwise it is only remembered, and the next start_raising() raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._has_come = False
        self._may_raise = False
        # SIGINT as well: a shell starts background jobs with SIGINT ignored.
        for number in _STOPPING:
            signal.signal(number, self._handle)

    def _handle(self, *_: object) -> None:
        is_first = not self._has_come
        self._has_come = True
        if is_first and self._may_raise:
            raise KeyboardInterrupt

    def start_raising(self) -> None:
        """Let the first signal raise KeyboardInterrupt; raise it at once if one has come."""
        self._may_raise = True
        if self._has_come:
            raise KeyboardInterrupt

    def stop_raising(self) -> None:
        """Let no signal raise anything."""
        self._may_raise = False

    def wait(self) -> None:
        """Return when a signal comes, or at once if one has come."""
        try:
            self.start_raising()
            # Python drops an exception that is raised in a finalizer, so the exception is not enough.
            while not self._has_come:
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            pass

    def ignore(self) -> None:
        """Ignore all signals from now on, until the process has ended.

        Python removes its own handlers shortly before that: a signal would then kill the process.
        """
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            # Python prints a warning when a signal comes just while its handler is changed.
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)
