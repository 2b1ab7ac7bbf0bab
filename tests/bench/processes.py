"""Servers as processes of their own, and what they take of the machine."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

from projects_wsgi.model import render_global_id
from tests.support.process import environment

from .load import fetch

# A project that every file holds.
PATH = f"/v1/projects/{render_global_id(2)}"

Command = Callable[[Path, int], Sequence[str]]


def bundled(file: Path, port: int) -> list[str]:
    return ["-m", "projects_wsgi", "--db", str(file), "--port", str(port), "--quiet"]


def bundled_with_log(file: Path, port: int) -> list[str]:
    return bundled(file, port)[:-1]


def bundled_with_workers(file: Path, port: int) -> list[str]:
    return [*bundled(file, port), "--workers", "2"]


def waitress(file: Path, port: int) -> list[str]:
    program = (
        "import sys, waitress; from tests.bench.contenders.falcon_app import make_app;"
        " waitress.serve(make_app(sys.argv[1]), listen=sys.argv[2], threads=4,"
        " connection_limit=1000)"  # of 100 by default, the others would wait
    )
    return ["-c", program, str(file), f"127.0.0.1:{port}"]


def gunicorn(file: Path, port: int) -> list[str]:
    return run_gunicorn(f"tests.bench.contenders.falcon_app:make_app({str(file)!r})", 1, port)


def gunicorn_with_ours(database: str) -> Command:
    """Return the command for two workers; database: what make_app takes."""
    return lambda _, port: run_gunicorn(f"projects_wsgi:make_app({database!r})", 2, port)


def run_gunicorn(app: str, workers: int, port: int) -> list[str]:
    counts = ["--workers", str(workers), "--threads", "4"]
    return ["-m", "gunicorn", *counts, "--bind", f"127.0.0.1:{port}", app]


def granian(file: Path, port: int, package: str = "tests.bench.contenders.falcon_app") -> list[str]:
    """package: whose make_app makes the application."""
    program = (
        f"import sys; from granian import Granian; from {package} import make_app;"
        " Granian(sys.argv[1], port=int(sys.argv[2]), interface='wsgi', blocking_threads=4,"
        " log_enabled=False).serve(target_loader=make_app)"  # which is called with the first argument
    )
    return ["-c", program, str(file), str(port)]


def granian_with_ours(file: Path, port: int) -> list[str]:
    return granian(file, port, "projects_wsgi")


def barest(file: Path, port: int) -> list[str]:
    return [str(Path(__file__).parent / "contenders" / "barest.py"), str(file), str(port)]


class Server(NamedTuple):
    """A server that runs: its port; its process's id; its first answer; the seconds until that came."""

    port: int
    pid: int
    answer: bytes
    seconds: float


@contextlib.contextmanager
def serving(command: Command, file: Path, log: int = subprocess.DEVNULL) -> Iterator[Server]:
    """Run a server over a file, until PATH is answered and longer. log: the descriptor that it logs to."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environ = environment(HOME=str(file.parent))  # where gunicorn makes a socket
    # Where bytecode may not be kept, a start would be measured that compiles the package anew.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command(file, port)],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                answer = fetch(port, PATH)
                break
            assert process.poll() is None, f"{process.args} ended with {process.returncode}"
            time.sleep(0.0005)
        yield Server(port, process.pid, answer, time.perf_counter() - begin)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


def memory(pid: int, field: str = "VmRSS") -> float:
    """Return what a process holds in memory, in MiB; VmHWM: the most since forget_peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
