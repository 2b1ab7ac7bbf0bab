"""With --workers, several processes serve at one port, and their parent looks after them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest

from projects_wsgi import SQLiteStore, workers

from ..support.process import Process, environment, refusal, run, running_server

pytestmark = pytest.mark.skipif(not workers.CAN_SHARE_A_PORT, reason="this system does not spread clients")

TWO = ("--quiet", "--workers", "2")
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, as far as they have not ended."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split() if lives(int(child))]


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # which nobody has waited for, as in a container


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def server_of(client: socket.socket) -> int:
    """Return the process that has accepted a connection of this process."""
    address, port = client.getpeername(), client.getsockname()[1]
    ends = f":{address[1]:04X}", f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (fields[1][-5:], fields[2][-5:]) == ends:
            link = f"socket:[{fields[9]}]"
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    for file in (process / "fd").iterdir():
                        with contextlib.suppress(OSError):
                            if os.readlink(file) == link:
                                return int(process.name)
    raise AssertionError("nobody has accepted it")


@contextlib.contextmanager
def clients_of_each(process: Process, count: int = 2) -> Iterator[dict[int, socket.socket]]:
    """Connect until each of the workers has a client, which has got an answer; yield them by process."""
    with contextlib.ExitStack() as stack:
        clients: dict[int, socket.socket] = {}
        deadline = time.monotonic() + 10
        while len(clients) < count:
            assert time.monotonic() < deadline, f"only {list(clients)} serve"
            client = stack.enter_context(socket.create_connection((process.host, process.port), 10))
            client.sendall(GET)
            assert client.recv(1_000).startswith(b"HTTP/1.1 200 ")
            clients[server_of(client)] = client
        yield clients


def test_requests_are_spread_over_the_workers_and_the_address_is_said_once(tmp_path: Path) -> None:
    with running_server(*TWO, cwd=tmp_path) as process, clients_of_each(process) as clients:
        assert sorted(clients) == sorted(children(process.popen.pid))
        assert process.popen.pid not in clients
    assert re.fullmatch(
        r"Serving the projects in \S+ at http://127\.0\.0\.1:\d+ \(the page and the API; Ctrl-C stops\)\n",
        process.output,
    )
    assert process.log == ""
    assert not any(map(lives, clients))


def test_the_address_is_said_when_all_serve(tmp_path: Path) -> None:
    with running_server("--quiet", "--workers", "6", cwd=tmp_path) as process:
        listening = [
            line
            for line in Path("/proc/net/tcp").read_text().splitlines()
            if f":{process.port:04X} 00000000:0000 0A" in line
        ]
    assert len(listening) == 6


def test_a_client_that_tries_until_it_is_let_in_is_answered(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    answers: list[bytes] = []

    def try_again_and_again() -> None:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(address, 10) as client:
                client.sendall(GET)
                answers.append(client.recv(12))
                break

    clients = [threading.Thread(target=try_again_and_again) for _ in range(3)]
    for client in clients:
        client.start()
    with running_server(*TWO, "--port", str(address[1]), cwd=tmp_path):
        for client in clients:
            client.join(20)
    assert answers == [b"HTTP/1.1 200"] * 3


def test_one_worker_is_one_process(tmp_path: Path) -> None:
    with running_server("--workers", "1", cwd=tmp_path) as process:
        assert process.ask("GET", "/healthz")[0] == 200
        assert children(process.popen.pid) == []


def test_the_parent_opens_no_database_and_starts_no_thread(tmp_path: Path) -> None:
    with running_server(*TWO, cwd=tmp_path) as process:
        assert process.ask("GET", "/v1/projects")[0] == 200
        files = [os.readlink(file) for file in Path(f"/proc/{process.popen.pid}/fd").iterdir()]
        assert not any("projects.db" in file for file in files)
        assert len(list(Path(f"/proc/{process.popen.pid}/task").iterdir())) == 1


def test_an_application_is_told_of_the_other_processes(tmp_path: Path) -> None:
    program = """
import sys
from projects_wsgi import ProjectsApp, cli

def answer(self, environ, start_response):
    start_response("200 OK", [])
    return [str(environ["wsgi.multiprocess"]).encode()]

ProjectsApp.__call__ = answer
sys.exit(cli.main())
"""
    for count, expected in (("1", "False"), ("2", "True")):
        with running_server("--workers", count, cwd=tmp_path, command=["-c", program]) as process:
            assert process.ask("GET", "/")[2] == expected


def test_what_one_worker_has_changed_the_other_shows_at_once(tmp_path: Path) -> None:
    head = b"POST /v1/projects HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with running_server(*TWO, cwd=tmp_path) as process, clients_of_each(process) as clients:
        one, other = clients.values()
        for client in (other, one):  # whose pages may be kept
            client.sendall(b"GET /v1/projects/agent HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1_000).startswith(b"HTTP/1.1 404 ")
        one.sendall(head + b'Content-Length: 16\r\n\r\n{"name":"agent"}')
        assert one.recv(1_000).startswith(b"HTTP/1.1 200 ")
        other.sendall(b"GET /v1/projects/agent HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.recv(1_000).startswith(b"HTTP/1.1 200 ")


def in_threads(actions: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_four_writers_lose_nothing(tmp_path: Path) -> None:
    made: list[str] = []
    failed: list[Any] = []

    def write(writer: int) -> None:
        for number in range(40):  # each over a connection of its own
            status, _, text = process.ask("POST", "/v1/projects", {"name": f"{writer}-{number}"})
            (made if status == 200 else failed).append(text)

    with running_server(*TWO, cwd=tmp_path) as process:
        in_threads([lambda writer=writer: write(writer) for writer in range(4)])  # type: ignore[misc]
    assert failed == []
    ids = {json.loads(text)["data"]["id"] for text in made}
    assert len(ids) == 160
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        assert len(store.list_rows(limit=1_000)) == 161


# Workers that end


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "by signal 9"), (signal.SIGTERM, "with status 0")]
)
def test_a_worker_that_ends_is_replaced_and_clients_go_on(
    tmp_path: Path, number: signal.Signals, how: str
) -> None:
    with running_server(*TWO, cwd=tmp_path) as process, clients_of_each(process) as clients:
        stays, gone = children(process.popen.pid)
        os.kill(gone, number)
        wait_until(lambda: len(set(children(process.popen.pid)) - {gone}) == 2)
        clients[stays].sendall(GET)
        assert clients[stays].recv(1_000).startswith(b"HTTP/1.1 200 ")
        with clients_of_each(process) as later:
            assert set(later) == set(children(process.popen.pid))
            assert gone not in later
    (line,) = process.log.splitlines()
    assert line.endswith(f" worker {gone} has ended {how}; another is started")
    assert process.output.count("Serving") == 1


def test_while_all_workers_are_gone_no_other_server_gets_the_port(tmp_path: Path) -> None:
    with running_server(*TWO, cwd=tmp_path) as process:
        before = children(process.popen.pid)
        process.popen.send_signal(signal.SIGSTOP)  # it starts no others for now
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not any(map(lives, before)))
        for arguments in ([], ["--workers", "2"]):
            line = refusal("--port", str(process.port), *arguments, cwd=tmp_path)
            assert line.startswith(
                f"cannot listen on 127.0.0.1, port {process.port}: Address already in use;"
            )
        process.popen.send_signal(signal.SIGCONT)
        wait_until(lambda: accepts(process))
        with clients_of_each(process) as clients:
            assert not set(clients) & set(before)


def test_a_worker_that_ends_again_and_again_is_started_less_and_less_often(tmp_path: Path) -> None:
    with running_server(*TWO, cwd=tmp_path) as process:
        stays, _ = children(process.popen.pid)
        times = []
        for _ in range(4):
            wait_until(lambda: len(children(process.popen.pid)) == 2)
            times.append(time.monotonic())
            (other,) = set(children(process.popen.pid)) - {stays}
            os.kill(other, signal.SIGKILL)
            wait_until(lambda: not lives(other))  # noqa: B023
        pauses = [later - earlier for earlier, later in zip(times, times[1:])]
    for pause, least in zip(pauses, (0.1, 0.2, 0.4)):
        assert pause >= least
    assert sum(pauses) < 5


def test_a_pause_grows_to_ten_seconds_and_ends_with_a_good_life(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    place = workers._Place()
    pauses = []
    for life in (*[1.0] * 9, 61.0, 1.0):
        place._began = clock - life
        place._rest()
        pauses.append(round(place._due - clock, 3))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 0, 0.1]


# The end


def test_a_worker_that_somebody_has_stopped_ends_with_the_others(tmp_path: Path) -> None:
    with running_server(*TWO, cwd=tmp_path) as process:
        pids = children(process.popen.pid)
        os.kill(pids[0], signal.SIGSTOP)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(10) == 0
        assert not any(map(lives, pids))
    assert process.log == ""


@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_has_each_worker_answer_what_has_begun(
    tmp_path: Path, number: signal.Signals, to_group: bool
) -> None:
    with (
        running_server(*TWO, cwd=tmp_path, prefix=["setsid"]) as process,
        clients_of_each(process) as clients,
    ):
        for client in clients.values():
            client.sendall(GET[:-4])
        time.sleep(0.05)
        if to_group:
            os.killpg(process.popen.pid, number)
        else:
            process.popen.send_signal(number)
        # When both refuse clients, both have stopped.
        wait_until(lambda: not accepts(process))
        process.popen.send_signal(number)  # changes nothing
        assert process.popen.poll() is None
        for client in clients.values():
            client.sendall(GET[-4:])
            assert client.recv(1_000).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        process.popen.wait(10)
        assert time.monotonic() - began < 3  # the grace period would be longer
        assert not any(map(lives, clients))
    assert process.log == ""


def accepts(process: Process) -> bool:
    with contextlib.suppress(ConnectionError), socket.create_connection((process.host, process.port), 10):
        return True
    return False


def test_more_signals_than_one_change_nothing(tmp_path: Path) -> None:
    with running_server(*TWO, cwd=tmp_path, prefix=["setsid"]) as process:
        while process.popen.poll() is None:
            os.killpg(process.popen.pid, signal.SIGINT)
            time.sleep(0.0005)
    assert process.log == ""


def test_when_the_parent_is_killed_the_workers_stop(tmp_path: Path) -> None:
    with (
        running_server(*TWO, cwd=tmp_path, must_obey=False) as process,
        clients_of_each(process) as clients,
    ):
        process.popen.kill()
        try:
            wait_until(lambda: not any(map(lives, clients)), 4)
        finally:
            for worker in filter(lives, clients):
                os.kill(worker, signal.SIGKILL)
    assert process.log == ""
    assert [path.name for path in tmp_path.iterdir()] == ["projects.db"]  # closed as it should be


def test_a_signal_at_any_moment_ends_all_with_0(tmp_path: Path) -> None:
    program = """
import os, signal, sys, time
from projects_wsgi import cli

signals = [signal.SIGINT, signal.SIGTERM]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until the command takes them
for moment in range(40):
    process = os.fork()
    if not process:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(cli.main(["--quiet", "--port", "0", "--workers", "3"], {}))
    time.sleep(moment / 500)
    os.kill(process, signals[moment % 2])
    print(os.waitpid(process, 0)[1])
    try:
        os.killpg(process, 0)
    except ProcessLookupError:
        continue
    print("some are left")
"""
    # Python warns of a connection that a signal drops between the line that makes it and the next.
    line = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", program]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("0\n" * 40, "")


def test_a_signal_ends_workers_that_wait_for_their_database(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "projects.db").close()
    program = """
import os, sys
from projects_wsgi import cli
print(flush=True)
sys.exit(cli.main(["--port", "0", "--busy-timeout", "25", "--workers", "2"]))
"""
    with closing(sqlite3.connect(tmp_path / "projects.db")) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: children(popen.pid))
            time.sleep(0.2)
            (worker,) = children(popen.pid)  # the other one waits for it
            popen.terminate()
            assert popen.communicate(timeout=10) == ("\n", "")
        finally:
            popen.kill()
    assert popen.returncode == 0
    assert not lives(worker)


# What the user can put right


@pytest.mark.parametrize(
    ("file", "arguments", "environ", "text"),
    [
        ("projects.db", [], {}, "file is not a database"),
        ("k", ["--keys", "k"], {}, "the keys file"),
        ("x", [], {"PHOENIX_ADMIN_SECRET": "weak"}, "environment variable PHOENIX_ADMIN_SECRET: "),
        ("x", ["--host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1, port 0: "),
        ("x", ["--host", "a..b"], {}, "cannot listen on a..b, port 0: "),
        ("x", ["--db", ":memory:"], {}, "each would have projects of its own in :memory:; give a file"),
    ],
)
def test_what_is_wrong_at_the_start_is_said_once(
    tmp_path: Path, file: str, arguments: list[str], environ: dict[str, str], text: str
) -> None:
    (tmp_path / file).write_text("nonsense\n" * 1_000)
    assert text in refusal("--workers", "4", "--port", "0", *arguments, cwd=tmp_path, **environ)


@pytest.mark.parametrize("limit", [5, 6])
def test_too_few_descriptors_are_said_to_be_so(tmp_path: Path, limit: int) -> None:
    prefix = ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "bash"]
    line = refusal("--workers", "2", "--port", "0", cwd=tmp_path, prefix=prefix)
    assert "Too many open files; " in line
    assert "let the process open more" in line


@pytest.mark.parametrize("value", ["0", "-1", "65", "x"])
def test_the_number_of_workers_is_bounded(tmp_path: Path, value: str) -> None:
    text = f"argument --workers: '{value}' is not an integer from 1 to 64"
    assert text in refusal(f"--workers={value}", cwd=tmp_path)


def test_the_variable_is_read_and_other_commands_have_no_workers(tmp_path: Path) -> None:
    with running_server("--quiet", cwd=tmp_path, environ={"PROJECTS_WSGI_WORKERS": "3"}) as process:
        assert len(children(process.popen.pid)) == 3
    assert run("check", cwd=tmp_path, PROJECTS_WSGI_WORKERS="x").returncode == 0
    assert "unrecognized arguments: --workers" in refusal("check", "--workers", "2", cwd=tmp_path)


@pytest.mark.parametrize("first", ["1", "2"])
@pytest.mark.parametrize("second", ["1", "2"])
def test_a_second_server_at_the_same_port_is_refused(tmp_path: Path, first: str, second: str) -> None:
    with running_server("--quiet", "--workers", first, cwd=tmp_path) as process:
        line = refusal("--workers", second, "--port", str(process.port), cwd=tmp_path)
    advice = "choose another with --host or --port; --port 0 takes any free one"
    assert line == f"cannot listen on 127.0.0.1, port {process.port}: Address already in use; {advice}"


@pytest.mark.parametrize("first", ["1", "2"])
def test_a_port_whose_earlier_connections_linger_is_free(tmp_path: Path, first: str) -> None:
    with (
        running_server("--workers", first, cwd=tmp_path) as process,
        closing(http.client.HTTPConnection(process.host, process.port)) as connection,
    ):
        connection.request("GET", "/healthz", headers={"Connection": "close"})  # the server closes first
        connection.getresponse().read()
    with running_server(*TWO, "--port", str(process.port), cwd=tmp_path) as again:
        assert again.port == process.port


def test_a_worker_that_is_killed_before_it_serves_ends_all_with_one_line(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from projects_wsgi import cli, serving
serving.make_app = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(cli.main())
"""
    line = [sys.executable, "-W", "error", "-c", program, "--port", "0", "--workers", "2"]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"\S+ \S+ worker \d+ has ended by signal 9 before it served\n", result.stderr)


def test_processes_that_cannot_be_started_end_all_with_one_line(tmp_path: Path) -> None:
    program = """
import errno, os, sys
from projects_wsgi import cli
fork, forks = os.fork, []
def fail():
    if forks:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    forks.append(1)
    return fork()
os.fork = fail
sys.exit(cli.main())
"""
    line = [sys.executable, "-W", "error", "-c", program, "--quiet", "--port", "0", "--workers", "2"]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"\S+ \S+ no worker can be started: Resource .*\n", result.stderr)


def test_elsewhere_than_on_linux_more_than_one_is_refused(tmp_path: Path) -> None:
    program = """
import sys
sys.platform = "darwin"
from projects_wsgi import cli
sys.exit(cli.main())
"""
    line = [sys.executable, "-W", "error", "-c", program, "--port", "0", "--workers", "2"]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "projects-wsgi: --workers 2: more than one is possible on Linux only\n"
