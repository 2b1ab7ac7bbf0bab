"""Runs the real Phoenix that is installed beside this interpreter."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ..support.process import Server

HOST = "127.0.0.1"

# The first start makes the tables, and compiles Python's files when Phoenix has just been installed.
PATIENCE = 180.0


class PhoenixFailed(Exception):
    """Phoenix does not start, or does not answer; with the last lines of its log."""


class Phoenix(Server):
    """A Phoenix that runs; file: its database."""

    def __init__(self, host: str, port: int, file: Path) -> None:
        super().__init__(host, port)
        self.file = file


def installed_version() -> str:
    return version("arize-phoenix")


@contextlib.contextmanager
def running_phoenix() -> Iterator[Phoenix]:
    """Run Phoenix on free ports and a fresh database, both its own; without telemetry."""
    with tempfile.TemporaryDirectory(prefix="phoenix-") as name:
        folder = Path(name)
        port, grpc_port = _free_ports()
        # What is set for another Phoenix, such as its database, is not for this one.
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PHOENIX_")}
        environ.update(
            HOME=name,
            PHOENIX_WORKING_DIR=name,
            PHOENIX_HOST=HOST,
            PHOENIX_PORT=str(port),
            PHOENIX_GRPC_PORT=str(grpc_port),
            PHOENIX_TELEMETRY_ENABLED="false",
            PHOENIX_ALLOW_EXTERNAL_RESOURCES="false",
            PHOENIX_AGENTS_DISABLE_WEB_ACCESS="true",
        )
        log = folder / "phoenix.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "phoenix.server.main", "serve"],
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_it_listens(popen, port)
            yield Phoenix(HOST, port, folder / "phoenix.db")
        except OSError as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(1)
            state = "still runs" if popen.returncode is None else f"has ended with {popen.returncode}"
            last_lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            message = f"{error}\nPhoenix {state}; the last lines of its log are:"
            raise PhoenixFailed("\n".join([message, *last_lines])) from error
        finally:
            popen.terminate()
            try:
                popen.wait(30)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


def _free_ports() -> tuple[int, int]:
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _wait_until_it_listens(popen: subprocess.Popen[bytes], port: int) -> None:
    """Return as soon as Phoenix accepts connections, which it does when it is ready to answer."""
    deadline = time.monotonic() + PATIENCE
    while popen.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return
        if time.monotonic() > deadline:
            raise TimeoutError("Phoenix has not started in time")
        time.sleep(0.1)
    raise ConnectionError("Phoenix has not started")
