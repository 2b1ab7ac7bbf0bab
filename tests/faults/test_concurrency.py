"""Many threads of many processes work on one file, and nobody notices."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projects_wsgi import SQLiteStore, Store
from projects_wsgi.model import render_global_id

from ..promises.test_rollback_journal import journal_mode, refuse_wal
from ..support.databases import connect
from ..support.process import environment, start_together
from .worker import CONTESTED, SHARED

SECONDS = 10
LONGEST_WRITE = 2.0  # seconds


def work(
    target: str, processes: int, threads: int, cwd: Path, seconds: float = SECONDS
) -> list[dict[str, Any]]:
    """Have processes of that many threads work on a target; return what each thread did and saw."""
    options = [str(threads), str(seconds), target]
    commands = [["-m", "tests.faults.worker", str(number), *options] for number in range(processes)]
    workers = start_together(commands, cwd)
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * processes
    return [result for output in outputs for result in json.loads(output)]


def verify_file(file: Path, results: list[dict[str, Any]], threads: int) -> None:
    with closing(SQLiteStore(file)) as store:
        verify(store, results, threads)
    with connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def verify(store: Store, results: list[dict[str, Any]], threads: int) -> None:
    """Check that all that was acknowledged is there, and nothing else."""
    assert len(results) == threads
    assert [wrong for result in results for wrong in result["wrong"]] == []
    statuses: dict[str, int] = {}
    for result in results:
        for key, count in result["statuses"].items():
            statuses[key] = statuses.get(key, 0) + count
    longest = max(result["longest_write"] for result in results)
    print(f"{threads} threads: {dict(sorted(statuses.items()))}, the longest write {longest:.2f} s")
    assert set(statuses) <= {"GET 200", "POST 200", "POST 409", "PUT 200", "DELETE 204"}
    assert min(statuses.values()) >= threads
    assert longest < LONGEST_WRITE
    made = [id_ for result in results for id_ in result["made"]]
    assert len(made) == len(set(made))
    won = [name for result in results for name in result["won"]]
    assert len(won) == len(set(won))
    assert set(won) <= set(CONTESTED)
    rows = {name: [render_global_id(id_), text] for id_, name, text in store.list_rows(limit=10**6)}
    assert rows.pop(SHARED)[1] in [result["shared"] for result in results]
    for name in won:
        assert rows.pop(name)[1] is None
    for result in results:
        for name, state in result["own"].items():
            assert rows.pop(name) == state
    assert rows == {}


@pytest.mark.latency
def test_four_processes_of_eight_threads_work_on_one_file(file: Path) -> None:
    SQLiteStore(file).close()
    verify_file(file, work(str(file), 4, 8, file.parent), 32)


@pytest.mark.latency
def test_they_do_without_the_write_ahead_log_too(file: Path) -> None:
    refuse_wal(file)
    SQLiteStore(file).close()
    verify_file(file, work(str(file), 4, 8, file.parent), 32)
    assert journal_mode(file) == "delete"


@contextlib.contextmanager
def gunicorn(cwd: Path, database: str, *options: str) -> Iterator[str]:
    """Run gunicorn over an application that was used before it forks; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (cwd / "host.py").write_text(
        "from projects_wsgi import make_app\n"
        f"application = make_app({database!r})\n"
        "application.store.get_or_create('before the fork')\n"
        "application.store.delete('before the fork')\n"
    )
    line = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--log-level", "warning"]
    with subprocess.Popen([*line, *options, "host:application"], cwd=cwd, env=environment()) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "gunicorn does not answer"
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.latency
def test_gunicorns_preloaded_workers_share_one_file(file: Path) -> None:
    with gunicorn(file.parent, file.name, "--preload", "--workers", "2", "--threads", "4") as url:
        results = work(url, 1, 8, file.parent)
    verify_file(file, results, 8)
