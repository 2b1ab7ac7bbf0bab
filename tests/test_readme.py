"""What the README shows is what happens."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import projects_wsgi
from projects_wsgi import SQLiteStore, http1, sockets
from projects_wsgi.options import OPTIONS

from .hosts import recipes
from .support.differences import DIFFERENCES, PROVEN_ELSEWHERE
from .support.options_table import render_table
from .support.process import environment, run, running_server
from .support.replay import RECORDED, read_steps
from .test_foreign import FIXTURE

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def rows(heading: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this heading, each as its cells."""
    _, found, rest = TEXT.partition(f"\n| {heading} |")
    assert found
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_the_first_screen_shows_two_commands_and_a_real_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = blocks("console")[0]
    assert TEXT.index(block) < TEXT.index("\n".join(TEXT.splitlines()[15:]))
    make_run, curl, answer, make_test = block.splitlines()
    assert make_run.startswith("$ make run ")
    assert make_test.startswith("$ make test ")
    # In a copy, so that the file lands there, and at a free port in place of the usual one.
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(Path(projects_wsgi.__file__).parent, tmp_path / "projects_wsgi")
    port = free_port()
    monkeypatch.setenv("PROJECTS_WSGI_PORT", str(port))
    for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # those of the make that runs this test
        monkeypatch.delenv(variable, raising=False)
    running = subprocess.Popen(
        ["make", "run", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    assert str(port) in running.stdout.readline()
    # What curl does, which not every machine has.
    program, url = curl[2:].replace("6006", str(port)).split()
    with urllib.request.urlopen(url, timeout=10) as response:
        body = response.read().decode()
    os.killpg(running.pid, signal.SIGTERM)
    running.communicate(timeout=10)
    assert (program, body) == ("curl", answer)
    assert (tmp_path / "projects.db").exists()


def test_the_commands_for_keys_do_what_it_says(tmp_path: Path) -> None:
    commands = [line[2:].split() for line in blocks("console")[3].splitlines()]
    assert [command[:3] for command in commands] == [["python", "-m", "projects_wsgi"]] * 4
    add, list_, revoke, serve = (command[3:] for command in commands)
    key = run(*add, cwd=tmp_path).stdout.strip()
    assert "ci" in run(*list_, cwd=tmp_path).stdout
    with running_server("--quiet", *serve, cwd=tmp_path) as process:
        assert process.ask("POST", "/v1/projects", {"name": "x"}, key=key)[0] == 200
        assert process.ask("GET", "/v1/projects")[0] == 401
        assert run(*revoke, cwd=tmp_path).returncode == 0


def test_the_recipes_for_hosts_and_proxies_are_those_that_are_proven_there() -> None:
    assert blocks("python")[1:5] == [recipes.FLASK, recipes.ANY_WSGI, recipes.CHERRYPY, recipes.ANY_ASGI]
    assert blocks("python")[6] == recipes.FLASK_VIEW
    assert blocks("nginx") == [recipes.NGINX_STRIPPING, recipes.NGINX_KEEPING]


def test_the_block_for_a_hosts_own_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(blocks("python")[5], namespace)
    store = namespace["application"].store
    assert capsys.readouterr().out == "created my agent\nupdated my agent\ncreated my run\n"
    assert store.list_rows() == [(2, "my agent", "second steps"), (1, "default", "Default project")]
    store.close()


def test_the_block_for_a_hosts_own_table_makes_one_whose_rows_go_with_their_project(
    file: Path, file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    project = file_store.create("agent")
    for _ in range(2):
        exec(blocks("python")[7], {})
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        plan = connection.execute("EXPLAIN QUERY PLAN SELECT * FROM traces WHERE project_id = 1").fetchall()
        assert "USING INDEX traces_project_id" in plan[0][3]
        connection.execute("INSERT INTO traces VALUES (?, 'x'), (1, 'y')", [project.id])
        connection.commit()
        file_store.delete("agent")
        assert connection.execute("SELECT * FROM traces").fetchall() == [(1, "y")]


def test_the_fixture_for_tests_works(tmp_path: Path) -> None:
    test = "def test_it(phoenix_url):\n    assert phoenix_url.startswith('http://127.0.0.1:')\n"
    test += (
        "    assert b'my agent' in urllib.request.urlopen(f'{phoenix_url}/v1/projects', timeout=10).read()\n"
    )
    (tmp_path / "test_it.py").write_text(f"import urllib.request\n{blocks('python')[8]}\n{test}")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert "1 passed" in result.stdout, result.stdout


def test_the_commands_to_move_from_a_phoenix_do_what_it_says(tmp_path: Path) -> None:
    block = next(block for block in blocks("console") if " import " in block)
    phoenix = tmp_path / ".phoenix" / "phoenix.db"
    phoenix.parent.mkdir()
    phoenix.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    lines = block.replace("$ python ", f"{sys.executable} ")
    result = subprocess.run(
        ["sh", "-ec", lines],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    one, two = ((run("export", "--db", name, cwd=tmp_path)).stdout for name in ("projects.db", "copy.db"))
    assert one == two == (tmp_path / "all.jsonl").read_text("utf-8")
    (line,) = blocks("json")
    assert re.sub(r"\d", "0", one.splitlines(keepends=True)[0]) == re.sub(r"\d", "0", line)


def test_there_are_no_blocks_that_nothing_runs() -> None:
    # The first of Python is run by the official client's tests, what is about PostgreSQL in tests/postgres.
    counts = {"python": 9, "console": 4, "json": 1, "nginx": 2, "sql": 2}
    assert {language: len(blocks(language)) for language in counts} == counts
    assert TEXT.count("```") == 2 * sum(counts.values())


def test_the_table_of_options_is_the_codes() -> None:
    # make options-table puts it there.
    assert render_table() in TEXT


def test_every_guarantee_has_a_test_and_every_file_of_faults_a_guarantee() -> None:
    named = [proof.strip("`") for _, proof in rows("promise")]
    for path in named:
        assert (ROOT / path).is_file(), path
    files = (ROOT / "tests" / "faults").glob("test_*.py")
    assert {f"tests/faults/{file.name}" for file in files} <= set(named)


def test_the_numbers_of_the_guarantees_are_those_of_their_tests() -> None:
    promises = {proof.strip("`"): promise for promise, proof in rows("promise")}
    for path, number in (
        ("tests/faults/test_kill.py", f"{2 * constant('faults/test_kill.py', 'ROUNDS')} kills"),
        (
            "tests/faults/test_concurrency.py",
            f"for {constant('faults/test_concurrency.py', 'SECONDS')} seconds",
        ),
        ("tests/faults/test_abuse.py", f"{constant('faults/test_abuse.py', 'STALLED')} stalled"),
        ("tests/faults/test_abuse.py", f"{constant('faults/test_abuse.py', 'STRINGS'):,} strings"),
    ):
        assert number in promises[path]


def constant(file: str, name: str) -> int:
    """Return a number that a test module defines; importing it could need more than is installed."""
    match = re.search(rf"^{name} = ([\d_]+)$", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def test_the_table_of_limits_is_the_servers() -> None:
    limits = {name: [value, beyond] for name, value, beyond in rows("limit")}
    connections, _ = limits["connections at a time, of which only slow requests take a thread"]
    assert connections.startswith(f"{sockets.MAX_CONNECTIONS:,},")
    assert limits["request line, in bytes"] == [f"{http1.MAX_HEAD_SIZE:,}", "414"]
    headers, status = limits["all header lines, in bytes; how many"]
    assert (headers, status) == (f"{http1.MAX_HEAD_SIZE:,}; {http1.MAX_HEADERS}", "431")
    flags = {option.flag for option in OPTIONS}
    assert {value.strip("`") for value, _ in limits.values() if value.startswith("`--")} <= flags


def test_the_table_of_endpoints_is_the_documents() -> None:
    from projects_wsgi import openapi, wire

    named = {
        cell.strip("`").replace("id or name", "project_identifier") for cell, _ in rows("method and path")
    }
    document = openapi.build_document(wire.PHOENIX_VERSION)
    assert named == {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if method not in ("parameters", "options")
    }


def test_the_number_of_recorded_requests_is_right() -> None:
    count = sum(len(read_steps(file)) for file in RECORDED)
    assert f"{count:,} recorded requests" in TEXT


def test_the_table_of_differences_is_the_one_that_the_tests_prove() -> None:
    proven = [*(difference.row for difference in DIFFERENCES), *PROVEN_ELSEWHERE]
    assert sorted(row[0] for row in rows("case")) == sorted(proven)
