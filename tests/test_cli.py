"""The command line, as a process."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import Role, SQLiteStore, __version__
from projects_wsgi.keys import add_key, read_keys
from projects_wsgi.options import OPTIONS
from projects_wsgi.workers import CAN_SHARE_A_PORT

from .support.process import Process, environment, refusal, run, running_server


def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(host.strip("[]"), port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_the_server_prints_its_address_in_one_line_and_logs_one_line_per_request(tmp_path: Path) -> None:
    with running_server("serve", cwd=tmp_path, stop=signal.SIGINT) as process:
        assert get(process.host, process.port, "/v1/projects/default")[0] == 200
    file = re.escape(str(tmp_path / "projects.db"))
    address = r"http://127\.0\.0\.1:\d+"
    assert re.fullmatch(
        rf"Serving the projects in {file} at {address} \(the page and the API; Ctrl-C stops\)\n",
        process.output,
    )
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[.+\] "GET /v1/projects/default HTTP/1\.1" 200 \d+ \d+\.\d\d\n', process.log
    )


@pytest.mark.parametrize(
    ("arguments", "value", "lines"),
    [(["--quiet"], "", 0), ([], "1", 0), ([], "TRUE", 0), (["--quiet"], "0", 0), ([], "off", 1), ([], "", 1)],
)
def test_a_quiet_server_logs_no_requests(
    tmp_path: Path, arguments: list[str], value: str, lines: int
) -> None:
    with running_server(*arguments, cwd=tmp_path, environ={"PROJECTS_WSGI_QUIET": value}) as process:
        assert get(process.host, process.port, "/healthz")[0] == 200
    assert len(process.log.splitlines()) == lines


def test_the_answer_to_a_malformed_request_carries_the_version_as_well(tmp_path: Path) -> None:
    with (
        running_server(cwd=tmp_path) as process,
        socket.create_connection((process.host, process.port), timeout=10) as connection,
    ):
        connection.sendall(b"nonsense\r\n\r\n")
        with connection.makefile("rb") as file:
            answer = file.read()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nx-phoenix-server-version: 20.26.1\r\n" in answer


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_server_stops_at_once_even_with_idle_connections(tmp_path: Path, stop: signal.Signals) -> None:
    with contextlib.ExitStack() as stack:
        with running_server(cwd=tmp_path, stop=stop) as process:
            for data in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
                client = stack.enter_context(socket.create_connection((process.host, process.port)))
                client.sendall(data)
                assert client.recv(65_536) if data else True
            began = time.monotonic()
        assert time.monotonic() - began < 4  # the connections would be kept for 30 seconds
    assert "Traceback" not in process.log
    assert [path.name for path in tmp_path.iterdir()] == ["projects.db"]


def test_more_signals_than_one_change_nothing(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with running_server(cwd=tmp_path) as process:
            while process.popen.poll() is None:
                process.popen.send_signal(number)
                time.sleep(0.0005)
        assert process.log == ""


def statuses_of_signalled(*arguments: str, step: int, cwd: Path) -> list[int]:
    """Return the exit statuses of a command that gets signals, one run for each of many moments."""
    line = [sys.executable, "-m", "tests.support.moments", str(step), *arguments]
    result = subprocess.run(
        line,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert re.fullmatch(r"(-?\d+\n)+", result.stdout), result.stdout  # nothing was logged
    return [int(status) for status in result.stdout.split()]


def test_a_signal_at_any_moment_ends_the_server_with_0(tmp_path: Path) -> None:
    statuses = statuses_of_signalled("--quiet", "--port", "0", step=31, cwd=tmp_path)
    assert statuses == [0] * len(statuses)
    assert len(statuses) > 20


def test_a_signal_at_any_moment_ends_another_command_with_130(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "projects.db").close()
    statuses = statuses_of_signalled("check", step=31, cwd=tmp_path)
    count = statuses.count(130)
    assert count > 20
    # The last of the last lines are too late: all is done.
    assert statuses == [130] * count + [0] * (len(statuses) - count)


def test_a_signal_ends_a_server_that_waits_for_its_database(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "projects.db").close()
    program = """
import os, signal, sys, threading
from projects_wsgi.cli import main

threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()
sys.exit(main(["--port", "0"]))
"""
    with closing(sqlite3.connect(tmp_path / "projects.db")) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        line = [sys.executable, "-W", "error", "-c", program]
        result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@pytest.mark.parametrize(("command", "status"), [("serve", 0), ("check", 130)])
def test_signals_change_nothing_until_the_process_has_ended(
    tmp_path: Path, command: str, status: int
) -> None:
    SQLiteStore(tmp_path / "projects.db").close()
    program = """
import os, signal, sys
from projects_wsgi.cli import main

class Last:
    def __del__(self, kill=os.kill, arguments=(os.getpid(), signal.SIGTERM)):
        kill(*arguments)

last = Last()  # deleted with the module, when Python has taken its handlers back
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the command takes it
os.kill(os.getpid(), signal.SIGINT)
os.environ["PROJECTS_WSGI_PORT"] = "0"
sys.exit(main(sys.argv[1:]))
"""
    line = [sys.executable, "-W", "error", "-c", program, command]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, timeout=30)
    assert (result.returncode, result.stderr) == (status, b"")


def test_a_project_is_still_there_after_a_restart(tmp_path: Path) -> None:
    for expected in (200, 409):
        with running_server("--db", "kept.db", cwd=tmp_path) as process:
            assert post(process, b'{"name":"kept"}') == expected


def post(process: Process, body: bytes) -> int:
    with closing(http.client.HTTPConnection(process.host, process.port, timeout=10)) as connection:
        connection.request("POST", "/v1/projects", body, {"Content-Type": "application/json"})
        return connection.getresponse().status


def test_a_database_in_memory_leaves_no_file(tmp_path: Path) -> None:
    with running_server("--db", ":memory:", cwd=tmp_path) as process:
        assert get(process.host, process.port, "/readyz") == (200, b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    with running_server("--db", "é 🚀.db", cwd=tmp_path, environ={"PYTHONIOENCODING": "ascii"}) as process:
        assert get(process.host, process.port, "/readyz")[0] == 200
    assert (tmp_path / "é 🚀.db").exists()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    ["localhost", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6"))],
)
def test_the_server_listens_on_names_and_on_ipv6_addresses(tmp_path: Path, host: str) -> None:
    with running_server("--host", host, cwd=tmp_path) as process:
        assert get(process.host, process.port, "/healthz") == (200, b"OK")
    if host == "::1":
        assert process.host == "[::1]"


@pytest.mark.parametrize("from_environment", [False, True])
def test_options_bound_pages_bodies_and_time(tmp_path: Path, from_environment: bool) -> None:
    options = {"--max-page-size": "1", "--max-body-size": "12", "--timeout": "1", "--host": "localhost"}
    arguments = [word for option in options.items() for word in option]
    environ = {"PROJECTS_WSGI" + name[1:].replace("-", "_").upper(): value for name, value in options.items()}
    with (
        running_server(cwd=tmp_path, environ=environ)
        if from_environment
        else running_server(*arguments, cwd=tmp_path) as process
    ):
        assert post(process, b'{"name":"x"}') == 200
        assert post(process, b'{"name":"xy"}') == 413
        page = json.loads(get(process.host, process.port, "/v1/projects")[1])
        assert (len(page["data"]), page["next_cursor"]) == (1, "UHJvamVjdDox")
        with socket.create_connection((process.host.strip("[]"), process.port), timeout=10) as idle:
            assert idle.recv(1) == b""


def test_options_win_over_environment_variables(tmp_path: Path) -> None:
    with running_server("--db", "option.db", cwd=tmp_path, environ={"PROJECTS_WSGI_DB": "variable.db"}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["option.db"]
    with running_server(cwd=tmp_path, environ={"PROJECTS_WSGI_DB": "variable.db"}):
        pass
    assert (tmp_path / "variable.db").exists()


def test_options_may_be_given_before_a_command_also_those_for_which_it_has_no_use(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "other.db").close()
    result = run("--db", "other.db", "--no-page", "--port", "7", "check", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "other.db: ok\n", "")


@pytest.mark.skipif(os.name != "posix", reason="this system has no such limit")
def test_idle_clients_cannot_use_up_the_file_descriptors_of_the_database(tmp_path: Path) -> None:
    program = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
runpy.run_module("projects_wsgi", run_name="__main__")
"""
    request = b"GET /v1/projects HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        running_server(cwd=tmp_path, command=["-c", program]) as process,
        contextlib.ExitStack() as stack,
    ):
        first, *idle, last = [
            stack.enter_context(socket.create_connection((process.host, process.port), timeout=10))
            for _ in range(70)
        ]
        last.sendall(request)
        time.sleep(0.2)  # enough to accept as many as the server can
        # Only now, the database opens its file.
        first.sendall(request)
        assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
        # The last one waits for its turn.
        assert select.select([last], [], [], 0)[0] == []
        for client in (first, *idle):
            client.close()
        assert last.recv(1000).startswith(b"HTTP/1.1 200 ")


# What the user can put right


def test_a_taken_port_is_refused_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal("--port", port, cwd=tmp_path)
    advice = "choose another with --host or --port; --port 0 takes any free one"
    assert line == f"cannot listen on 127.0.0.1, port {port}: {os.strerror(errno.EADDRINUSE)}; {advice}"


def test_a_python_that_is_too_old_is_told_so() -> None:
    code = "import sys; sys.version_info = (3, 8, 18); import projects_wsgi"
    result = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert result.stderr.endswith("ImportError: projects_wsgi needs Python 3.9 or later\n")


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    line = refusal("--host", "192.0.2.1", "--port", "0", cwd=tmp_path)
    assert line.startswith("cannot listen on 192.0.2.1")
    assert "--host" in line


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "é" * 300])
def test_a_malformed_host_name_is_refused(tmp_path: Path, host: str) -> None:
    assert "--host" in refusal("--host", host, cwd=tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    line = refusal("--db", "missing/projects.db", cwd=tmp_path)
    assert f"there is no folder {tmp_path / 'missing'}; make it first" in line


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "it is a folder; name a file" in refusal("--db", ".", cwd=tmp_path)


def test_a_file_that_is_not_a_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "projects.db"
    file.write_text("not a database\n" * 100)
    assert "file is not a database" in refusal(cwd=tmp_path)
    assert file.read_text() == "not a database\n" * 100


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "projects.db").close()
    with closing(sqlite3.connect(tmp_path / "projects.db")) as connection:
        connection.execute("PRAGMA user_version = 7")
    assert "schema version 7" in refusal(cwd=tmp_path)


AS_NOBODY = """
import os, sys
from projects_wsgi.cli import build_parser, main
build_parser().format_help()  # imports what nobody may be unable to read
if os.getuid() == 0:  # whom no permission stops
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("mode_of_folder", "mode_of_file", "text"),
    [
        (0o555, None, "is not writable; change its permissions or choose another file"),
        (
            0o755,
            0o444,
            "the file is not readable and writable; change its permissions or choose another file",
        ),
        (
            0o755,
            0o000,
            "the file is not readable and writable; change its permissions or choose another file",
        ),
    ],
)
def test_a_read_only_file_or_folder_is_refused_and_left_as_it_was(
    mode_of_folder: int, mode_of_file: int | None, text: str
) -> None:
    # Not below tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "projects.db")
        if mode_of_file is not None:
            SQLiteStore(file).close()
            file.chmod(mode_of_file)
        Path(name).chmod(mode_of_folder)
        result = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "--db", str(file), "--port", "0"],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (result.returncode, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert text in line
        assert sorted(path.name for path in Path(name).iterdir()) == (
            ["projects.db"] if mode_of_file is not None else []
        )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "x"], "argument --port: 'x' is not an integer from 0 to 65535"),
        (["--port", "65536"], "'65536' is not an integer from 0 to 65535"),
        (["--port", "-1"], "'-1' is not an integer"),
        (["--max-page-size", "0"], "'0' is not an integer of at least 1"),
        (["--max-body-size", "1_000"], "'1_000' is not an integer"),
        (["--max-connections", "1000000000"], "'1000000000' is not an integer from 1 to 10000"),
        (["--timeout", "0"], "'0' is not a number of seconds"),
        (["--timeout", "nan"], "'nan' is not a number of seconds"),
        (["--db", ""], "argument --db: '' is not a text of at least one character"),
        (["--host", ""], "argument --host: '' is not a text of at least one character"),
        (["--port", "9" * 5_000], "is not an integer from 0 to 65535"),
        (["dance"], "invalid choice: 'dance'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_bad_option_is_explained_in_one_line(tmp_path: Path, arguments: list[str], text: str) -> None:
    assert text in refusal(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["postgresql://h/x?password=0815", "host=h pass%77ord = '08 15'", "u:0815@h/x"]
)
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "URL"], "argument --port holds a password, as only the URL of a database may: "),
        (["backup", "URL"], "argument destination holds a password"),
        (["keys", "add", "URL", "--role", "admin"], "argument name holds a password"),
        (["URL"], "invalid choice: "),
        (["--databse", "URL"], "invalid choice: "),
        (["check", "URL"], "unrecognized arguments: "),
        (["check", "--db", "URL"], "this command is for SQLite files"),
        (["import", "http://h/URL"], "the URL of a server must hold no user or password"),
    ],
)
def test_a_password_in_the_wrong_place_is_refused_and_not_shown(
    tmp_path: Path, arguments: list[str], text: str, url: str
) -> None:
    line = refusal(*[argument.replace("URL", url) for argument in arguments], cwd=tmp_path)
    assert text in line
    assert "08" not in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PROJECTS_WSGI_PORT", "x"), ("PROJECTS_WSGI_TIMEOUT", "-1"), ("PROJECTS_WSGI_QUIET", "maybe")],
)
def test_a_bad_environment_variable_is_named(tmp_path: Path, variable: str, value: str) -> None:
    assert f"environment variable {variable}: {value!r}" in refusal(cwd=tmp_path, **{variable: value})


def test_the_version_can_be_printed(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"projects-wsgi {__version__}\n"


def test_help_names_every_option_and_variable(tmp_path: Path) -> None:
    text = run("--help", cwd=tmp_path, COLUMNS="200").stdout
    for option in OPTIONS:
        assert option.flag in text
        assert option.variable in text


# The environment that others make


@pytest.mark.parametrize("text", ["tcp://10.96.0.7:6006", "udp://[fd00::1]:6006"])
def test_a_port_variable_that_kubernetes_sets_is_named_and_not_used(text: str) -> None:
    program = """
import sys
from projects_wsgi import cli
print(cli.parse_settings([], {"PROJECTS_WSGI_PORT": sys.argv[1]}).port)
"""
    line = [sys.executable, "-c", program, text]
    result = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert result.stdout == "6006\n"
    (warning,) = result.stderr.splitlines()
    assert f"environment variable PROJECTS_WSGI_PORT is {text!r}, as Kubernetes sets it" in warning
    assert warning.endswith("port 6006 is used")


@pytest.mark.parametrize("command", [["check"], ["backup", "DEST"]])
def test_the_help_of_a_command_that_makes_no_database_does_not_promise_one(
    tmp_path: Path, command: list[str]
) -> None:
    assert "created if missing" not in " ".join(run(*command, "--help", cwd=tmp_path).stdout.split())
    assert "created if missing" in " ".join(run("serve", "--help", cwd=tmp_path).stdout.split())


GONE = [
    [],
    ["check"],
    ["backup", "copy.db"],
    ["restore", "copy.db"],
    ["keys", "list"],
    ["keys", "add", "ci", "--role", "viewer"],
    ["keys", "revoke", "ci"],
    ["--db", ":memory:", "--keys", "projects.keys"],
]


@pytest.mark.parametrize("arguments", GONE)
def test_in_a_working_folder_that_was_removed_every_command_says_something_in_one_line(
    tmp_path: Path, arguments: list[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    remove = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh"]
    line = refusal(*arguments, cwd=folder, prefix=remove)
    assert "the working folder was removed; give an absolute path" in line or "there is no keys file" in line


def test_a_working_folder_that_was_removed_matters_to_no_absolute_path(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    remove = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh"]
    with running_server("--quiet", "--db", str(tmp_path / "p.db"), cwd=folder, prefix=remove) as process:
        assert process.ask("GET", "/v1/projects")[0] == 200
    assert process.log == ""


# Standard streams that cannot be used


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "redirection",
    [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1", "| true", "2>&1 | true"],
)
def test_a_server_whose_output_nobody_can_read_serves_and_keeps_its_database_whole(
    tmp_path: Path, redirection: str
) -> None:
    port = free_port()
    line = f'"{sys.executable}" -m projects_wsgi --port {port} {redirection}'
    shell = subprocess.Popen(
        ["bash", "-c", line],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    statuses: list[int] = []
    while len(statuses) < 5 and time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection,
        ):
            body = json.dumps({"name": f"agent {len(statuses)}"})
            connection.request("POST", "/v1/projects", body, {"Content-Type": "application/json"})
            statuses.append(connection.getresponse().status)
        time.sleep(0.02)
    os.killpg(shell.pid, signal.SIGTERM)
    shell.wait(10)
    assert statuses == [200] * 5
    assert run("check", cwd=tmp_path).stdout == "projects.db: ok\n"


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("workers", [1, 2] if CAN_SHARE_A_PORT else [1])
def test_a_server_that_cannot_say_where_it_serves_ends_with_0_and_without_a_complaint(
    tmp_path: Path, redirection: str, workers: int
) -> None:
    port = free_port()
    line = f'exec "{sys.executable}" -m projects_wsgi --quiet --port {port} --workers {workers} {redirection}'
    with subprocess.Popen(
        ["bash", "-c", line], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as popen:
        deadline = time.monotonic() + 10
        status = 0
        while status != 200 and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                status, _ = get("127.0.0.1", port, "/readyz")
            time.sleep(0.02)
        popen.send_signal(signal.SIGTERM)
        assert popen.communicate(timeout=10)[1] == ""
    assert (status, popen.returncode) == (200, 0)


STARTED_BY_A_PROCESS = {
    "that ignores it": "signal.signal(signal.SIGALRM, signal.SIG_IGN)",
    "that holds it": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])",
    "as others are": "",
}


@pytest.mark.parametrize("how", STARTED_BY_A_PROCESS)
def test_a_stop_ends_though_nobody_reads_the_log_and_whatever_the_alarm_was_before(
    tmp_path: Path, how: str
) -> None:
    program = f"""
import os, runpy, signal, sys
from projects_wsgi import serving
serving._MOST_SECONDS_TO_STOP = 1
{STARTED_BY_A_PROCESS[how]}
runpy.run_module("projects_wsgi", run_name="__main__")
"""
    with full_pipe() as (_, writer):
        line = [sys.executable, "-c", program, "--port", "0"]
        with subprocess.Popen(
            line, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=writer, text=True
        ) as popen:
            assert popen.stdout is not None
            address = re.search(r"http://(\S+):(\d+)", popen.stdout.readline())
            assert address is not None
            assert get(address[1], int(address[2]), "/healthz")[0] == 200  # which is to be logged
            popen.terminate()
            assert popen.wait(30) == -signal.SIGALRM


def run_in_shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = f'set -o pipefail; "{sys.executable}" -W error -m projects_wsgi {command}'
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=environment(), capture_output=True, text=True)


DONE = {
    "backup copy.db": "projects.db is copied to copy.db; but ",
    "restore backup.db": "projects.db holds what backup.db does; but ",
    "keys revoke ci": "ci is revoked; servers that use projects.keys will know within two seconds; but ",
}


@pytest.mark.parametrize("command", ["check", "keys list", *DONE])
@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">/dev/full", "projects-wsgi: {done}cannot write the output: No space left on device\n"),
        (">&-", "projects-wsgi: {done}cannot write the output: Bad file descriptor\n"),
        ("| true", ""),
        (">/dev/full 2>/dev/full", ""),
    ],
)
def test_a_command_whose_output_cannot_be_written_says_so_in_one_line(
    tmp_path: Path, command: str, redirection: str, message: str
) -> None:
    with contextlib.closing(SQLiteStore(tmp_path / "projects.db")) as store:
        store.backup(tmp_path / "backup.db")
    add_key(tmp_path / "projects.keys", "ci", Role.VIEWER)
    if "true" in redirection:
        redirection = "| sleep 0"
    result = run_in_shell(f"{command} {redirection}", tmp_path)
    assert result.stderr == message.format(done=DONE.get(command, ""))
    assert result.returncode == 2 or "sleep" in redirection
    assert (tmp_path / "1").exists() is False


@pytest.mark.parametrize("arguments", ["--help", "--version", "import --help", "keys add --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_cannot_be_written_is_an_error_in_one_line(
    tmp_path: Path, arguments: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    for redirection, reason in ((">/dev/full", errno.ENOSPC), (">&-", errno.EBADF)):
        result = run_in_shell(f"{arguments} {redirection}", tmp_path)
        assert result.stderr == f"projects-wsgi: cannot write the output: {os.strerror(reason)}\n"
        assert result.returncode == 2
    assert run_in_shell(f"{arguments} | sleep 0", tmp_path).stderr == ""
    assert run_in_shell(f"{arguments} 2>&-", tmp_path).returncode == 0


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">&- 2>&-"])
def test_a_key_that_cannot_be_printed_is_not_added(tmp_path: Path, redirection: str) -> None:
    result = run_in_shell(f"keys add ci --role admin {redirection}", tmp_path)
    assert result.returncode == 2
    if "2>" not in redirection:
        (line,) = result.stderr.splitlines()
        assert line.startswith("projects-wsgi: cannot print the key: ")
        assert line.endswith("; ci was not added")
    assert read_keys(tmp_path / "projects.keys") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_key_whose_printing_is_broken_off_is_not_added(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "projects.keys"
    add_key(file, "other", Role.VIEWER)
    with full_pipe() as (reader, writer):
        line = [sys.executable, "-m", "projects_wsgi", "keys", "add", "ci", "--role", "admin"]
        with subprocess.Popen(
            line, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE
        ) as popen:
            while len(read_keys(file)) < 2:
                time.sleep(0.01)
            popen.send_signal(number)
            assert popen.communicate(timeout=30)[1] == b""
        assert popen.returncode == 130
        assert set(os.read(reader, 1_000_000)) == {0}
    assert [key.name for key in read_keys(file)] == ["other"]


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Give both ends of a pipe that takes nothing more."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(1))
        os.set_blocking(writer, True)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def test_the_note_on_a_new_key_never_gets_into_what_is_read_as_the_key(tmp_path: Path) -> None:
    for number, redirection in enumerate(("2>&-", "2>/dev/full", "2>/dev/null")):
        result = run_in_shell(f"keys add ci{number} --role admin {redirection}", tmp_path)
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", result.stdout), result.stdout
