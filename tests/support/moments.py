"""Runs a command line again and again, and sends it signals, each time at a later moment.

A moment is a line of the package that the main thread runs: every so many lines, as the first argument
says, and each of the last ones. The other arguments are the command line. Prints the exit status of
each run in a line of its own, and whatever went wrong.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from projects_wsgi import cli, signals

PACKAGE = os.path.dirname(cli.__file__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST_LINES = 15


def main() -> None:
    step, arguments = int(sys.argv[1]), sys.argv[2:]
    signals.POLL_SECONDS = 0.005  # so that the server stops sooner
    _, count = run(arguments, moment=0)
    for moment in (*range(step, count - LAST_LINES, step), *range(count - LAST_LINES, count)):
        status, _ = run(arguments, moment)
        print(status, flush=True)


def run(arguments: list[str], moment: int) -> tuple[int, int]:
    """Run a command line, with signals at a moment; return its exit status and how many lines it ran.

    moment: 0: no signals, but for a server that waits for them.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        tracer = Tracer(moment, writer)
        sys.settrace(tracer.trace)
        status = cli.main(arguments, {})
        sys.settrace(None)
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(1)
                assert not thread.is_alive(), thread
        os.write(writer, b"%d" % tracer.count)
        sys.exit(status)
    os.close(writer)
    deadline = time.monotonic() + 10
    is_signalled = moment and os.read(reader, 1)  # nothing if it failed before
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if is_signalled:  # further signals must change nothing
            os.kill(process, SIGNALS[0])
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.001)
    count = int(os.read(reader, 20) or 0)
    os.close(reader)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), count


class Tracer:
    """Counts the lines of the package. Sends this process both signals at a moment, and tells a pipe."""

    def __init__(self, moment: int, pipe: int) -> None:
        self.count = 0
        self.has_sent = False
        self.moment = moment
        self.pipe = pipe

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and signal.getsignal(SIGNALS[-1]) != signal.SIG_DFL:
            self.count += 1
            if self.count == self.moment:
                os.write(self.pipe, b".")
                self.send()
            elif not self.has_sent and is_server_waiting():
                self.send()
        return self.trace

    def send(self) -> None:
        self.has_sent = True
        for number in SIGNALS:
            os.kill(os.getpid(), number)


def is_server_waiting() -> bool:
    """Tell whether the server runs, and lets signals come."""
    return threading.active_count() > 1 and not signal.pthread_sigmask(signal.SIG_BLOCK, ())


if __name__ == "__main__":
    main()
