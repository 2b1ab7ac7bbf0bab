"""The command line, as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import SQLiteStore, cli

from .conftest import start_server, stop_server


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "projects_wsgi", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(root), **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def refusal(*arguments: str, cwd: Path, **environ: str) -> str:
    """Run a command that must fail; return the one line that it says."""
    result = run(*arguments, cwd=cwd, **environ)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(host.strip("[]"), port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def output_and_log(*arguments: str, cwd: Path, **environ: str) -> tuple[str, str]:
    """Serve one request, stop with Ctrl-C; return what came at standard output and error."""
    popen = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "projects_wsgi", "--port", "0", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert popen.stdout is not None
    line = popen.stdout.readline()
    port = int(re.findall(r":(\d+) ", line)[0])
    assert get("127.0.0.1", port, "/v1/projects/default")[0] == 200
    popen.send_signal(signal.SIGINT)
    rest, log = popen.communicate(timeout=10)
    assert popen.returncode == 0
    return line + rest, log


def test_it_says_in_one_line_where_it_serves_what_and_logs_a_line_per_request(tmp_path: Path) -> None:
    output, log = output_and_log("serve", cwd=tmp_path)
    match = re.fullmatch(
        r"Serving the projects in (.+) at http://127\.0\.0\.1:\d+ \(Ctrl-C stops\)\n", output
    )
    assert match is not None
    assert Path(match[1]) == tmp_path / "projects.db"
    assert re.fullmatch(r"\S+ \S+ 127\.0\.0\.1 'GET /v1/projects/default HTTP/1\.1' 200 \d+\n", log)


@pytest.mark.parametrize(
    ("arguments", "value"), [(["--quiet"], ""), ([], "1"), ([], "TRUE"), (["--quiet"], "0")]
)
def test_a_quiet_server_logs_no_requests(tmp_path: Path, arguments: list[str], value: str) -> None:
    output, log = output_and_log(*arguments, cwd=tmp_path, PROJECTS_WSGI_QUIET=value)
    assert "http://" in output
    assert log == ""


def test_even_the_answer_to_what_is_no_request_carries_the_version(tmp_path: Path) -> None:
    process = start_server(cwd=tmp_path)
    with socket.create_connection((process.host, process.port), timeout=10) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nx-phoenix-server-version: 20.26.1\r\n" in answer
    assert stop_server(process) == 0


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_at_once_even_with_connections_open(tmp_path: Path, signal_: signal.Signals) -> None:
    process = start_server(cwd=tmp_path)
    with socket.create_connection((process.host, process.port)) as idle:
        idle.sendall(b"GET /hea")
        began = time.monotonic()
        process.popen.send_signal(signal_)
        process.popen.communicate(timeout=10)
    assert process.popen.returncode == 0
    assert time.monotonic() - began < 2
    assert [path.name for path in tmp_path.iterdir()] == ["projects.db"]


def test_what_it_wrote_is_there_after_a_restart(tmp_path: Path) -> None:
    for attempt in range(2):
        process = start_server("--db", "kept.db", cwd=tmp_path)
        with closing(http.client.HTTPConnection(process.host, process.port)) as connection:
            connection.request(
                "POST", "/v1/projects", b'{"name":"kept"}', {"Content-Type": "application/json"}
            )
            assert connection.getresponse().status == (200, 409)[attempt]
        assert stop_server(process) == 0


def test_a_database_in_memory_leaves_no_file(tmp_path: Path) -> None:
    process = start_server("--db", ":memory:", cwd=tmp_path)
    assert get(process.host, process.port, "/readyz") == (200, b"{}")
    assert stop_server(process) == 0
    assert list(tmp_path.iterdir()) == []


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
def test_it_listens_at_names_and_at_ipv6(tmp_path: Path, host: str) -> None:
    process = start_server("--host", host, cwd=tmp_path)
    assert get(process.host, process.port, "/healthz") == (200, b"OK")
    if host == "::1":
        assert process.host == "[::1]"
    assert stop_server(process) == 0


def test_options_bound_pages_bodies_and_time(tmp_path: Path) -> None:
    options = ["--max-page-size", "1", "--max-body-size", "12", "--timeout", "0.3"]
    process = start_server(*options, cwd=tmp_path)
    with closing(http.client.HTTPConnection(process.host, process.port)) as connection:
        headers = {"Content-Type": "application/json"}
        for body, status in ((b'{"name":"x"}', 200), (b'{"name":"xy"}', 413)):
            connection.request("POST", "/v1/projects", body, headers)
            response = connection.getresponse()
            assert response.status == status
            response.read()
    page = json.loads(get(process.host, process.port, "/v1/projects")[1])
    assert (len(page["data"]), page["next_cursor"]) == (1, "UHJvamVjdDox")
    with socket.create_connection((process.host, process.port), timeout=10) as idle:
        assert idle.recv(1) == b""
    assert stop_server(process) == 0


def test_environment_variables_stand_in_for_options_and_options_win(tmp_path: Path) -> None:
    process = start_server(
        "--db", "option.db", cwd=tmp_path, PROJECTS_WSGI_DB="variable.db", PROJECTS_WSGI_MAX_PAGE_SIZE="1"
    )
    assert stop_server(process) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["option.db"]
    process = start_server(cwd=tmp_path, PROJECTS_WSGI_DB="variable.db")
    assert stop_server(process) == 0
    assert (tmp_path / "variable.db").exists()


# What the user can put right


def test_a_taken_port_is_named_with_a_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal("--port", port, cwd=tmp_path)
    advice = "choose another with --port, or 0 for any free one"
    assert line == f"projects-wsgi: port {port} at 127.0.0.1 is taken; {advice}"


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    line = refusal("--host", "192.0.2.1", "--port", "0", cwd=tmp_path)
    assert line.startswith("projects-wsgi: cannot listen at 192.0.2.1")
    assert "--host" in line


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    line = refusal("--db", "missing/projects.db", cwd=tmp_path)
    assert f"there is no folder {tmp_path / 'missing'}; make it first" in line


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "it is a folder; name a file" in refusal("--db", ".", cwd=tmp_path)


def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
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
def test_what_may_not_be_written_is_refused_untouched(
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
        (["--max-page-size", "0"], "'0' is not an integer from 1"),
        (["--max-body-size", "1_000"], "'1_000' is not an integer"),
        (["--timeout", "0"], "'0' is not a number of seconds"),
        (["--timeout", "nan"], "'nan' is not a number of seconds"),
        (["--db", ""], "database must be the path of a file"),
        (["dance"], "invalid choice: 'dance'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_bad_option_is_explained_in_one_line(tmp_path: Path, arguments: list[str], text: str) -> None:
    assert text in refusal(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PROJECTS_WSGI_PORT", "x"), ("PROJECTS_WSGI_TIMEOUT", "-1"), ("PROJECTS_WSGI_QUIET", "maybe")],
)
def test_a_bad_environment_variable_is_named(tmp_path: Path, variable: str, value: str) -> None:
    assert f"environment variable {variable}: {value!r}" in refusal(cwd=tmp_path, **{variable: value})


def test_the_version_is_told(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == "projects-wsgi 0.1.0\n"


def test_help_names_every_option_and_variable(tmp_path: Path) -> None:
    text = run("--help", cwd=tmp_path, COLUMNS="200").stdout
    for option in cli.OPTIONS:
        assert option.flag in text
        assert option.variable in text
