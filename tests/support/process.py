"""Runs the server as a process of its own; needs nothing but the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from .cluster import PASSWORD


class Server:
    """A server that runs; host, port: where."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    def ask(self, method: str, path: str, document: Any = None, key: str = "") -> tuple[int, Any, str]:
        """Send a request over a connection of its own; return the answer's status, headers and text."""
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=30)) as connection:
            body = None if document is None else json.dumps(document)
            headers = {"Content-Type": "application/json"} if body else {}
            if key:
                headers["Authorization"] = f"Bearer {key}"
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()


class Process(Server):
    """A server of ours that runs as a process of its own.

    output, log: what it printed and logged, complete when it has ended.
    """

    def __init__(self, popen: subprocess.Popen[str], log: IO[str]) -> None:
        self.popen = popen
        assert popen.stdout is not None
        self.output = popen.stdout.readline()
        match = re.search(r"http://(\S+):(\d+)", self.output)
        assert match is not None, f"the server said {self.output!r}"
        super().__init__(match[1], int(match[2]))
        self._log = log
        self.log = ""

    def logged(self) -> str:
        """Return what it has logged so far."""
        return os.pread(self._log.fileno(), 1_000_000, 0).decode()

    def end(self) -> None:
        """Wait for the process; collect what it left."""
        self.output += self.popen.communicate(timeout=10)[0]
        self._log.seek(0)
        self.log = self._log.read()
        check_secret(self.output + self.log)


def check_secret(output: str) -> None:
    """Fail if what a process has written holds the password of a database."""
    assert PASSWORD not in output, f"the password of the database was shown: {output}"


@contextlib.contextmanager
def running(server: Any) -> Iterator[Any]:
    """Let a server within this process serve until the block ends."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()


def environment(**environ: str) -> dict[str, str]:
    """Return the environment of a process that can import the package from wherever it runs."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environ}


@contextlib.contextmanager
def running_server(
    *arguments: str,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    command: Sequence[str] = ("-m", "projects_wsgi"),
    stop: signal.Signals = signal.SIGTERM,
    must_obey: bool = True,
    prefix: Sequence[str] = (),
    python: str = sys.executable,
) -> Iterator[Process]:
    """Run `python -m projects_wsgi` on a free port; stop it with a signal, which it must obey with 0.

    must_obey: False for one that the test kills. prefix: a program that runs it, and its arguments.
    python: the interpreter.
    """
    line = [*prefix, python, "-W", "error", *command, "--port", "0", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        popen = subprocess.Popen(
            line,
            cwd=cwd,
            env=environment(**(environ or {})),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            process = Process(popen, log)
            yield process
            popen.send_signal(stop)
            process.end()
        finally:
            popen.kill()
            popen.communicate()
        assert popen.returncode == 0 or not must_obey, process.log


def run(
    *arguments: str, cwd: Path, prefix: Sequence[str] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself; prefix: a program that runs it, and its arguments."""
    result = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-m", "projects_wsgi", *arguments],
        cwd=cwd,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=30,
    )
    check_secret(result.stdout + result.stderr)
    return result


def measure(*arguments: str, cwd: Path) -> tuple[float, float]:
    """Run a command that must succeed; return how long it took, and the most MiB that it had."""
    most = 0
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "projects_wsgi", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
    ) as popen:
        while popen.poll() is None:
            status = Path(f"/proc/{popen.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", status)  # until it has ended
            most = int(found[1]) if found else most
            time.sleep(0.01)
    assert popen.returncode == 0
    return time.monotonic() - began, most / 1024


def refusal(*arguments: str, cwd: Path, prefix: Sequence[str] = (), **environ: str) -> str:
    """Run a command that must fail; return the one line that it says."""
    result = run(*arguments, cwd=cwd, prefix=prefix, **environ)
    assert (result.returncode, result.stdout) == (2, "")
    # Of a wrong option, argparse says how it is used as well.
    usage, _, error = result.stderr.rpartition("projects-wsgi: ")
    assert usage == "" or usage.startswith("usage: ")
    (line,) = error.splitlines()
    return line


def start_together(commands: Sequence[Sequence[str]], cwd: Path) -> list[subprocess.Popen[str]]:
    """Run the interpreter for each of these arguments; let all go on at the same moment.

    Each prints "ready" in a line of its own, and then reads one.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", *command],
            cwd=cwd,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return processes
