"""What the README shows is what happens."""

from __future__ import annotations

import configparser
import datetime
import gzip
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

import projects_wsgi
from projects_wsgi import SQLiteStore, __version__, http1, sockets
from projects_wsgi.options import HOST, OPTIONS, PORT

from .hosts import recipes
from .support.differences import DIFFERENCES, PROVEN_ELSEWHERE
from .support.options_table import render_table
from .support.process import environment, run, running_server
from .support.readme import ROOT, TEXT, block, blocks, commands, rows, type_in
from .support.replay import RECORDED, read_steps
from .test_foreign import FIXTURE


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def copy_checkout(folder: Path) -> None:
    """Copy what the README's commands of make need."""
    for name in ("Makefile", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(Path(projects_wsgi.__file__).parent, folder / "projects_wsgi")


def test_what_is_not_folded_can_be_read_in_one_go() -> None:
    open_ = re.sub(r"^<details>.*?^</details>\n", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert "details>" not in open_
    assert len(open_.splitlines()) <= 150


def test_above_everything_that_is_folded_a_line_says_what_it_is() -> None:
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if "<details>" in line:
            assert re.fullmatch(r"<details><summary>.{20,}</summary>", line)
            # Between blank lines, what is inside is taken for Markdown.
            assert lines[number - 1] == lines[number + 1] == ""
            assert re.match(r"## \w+|[\w`].*:$", lines[number - 2]), lines[number - 2]
        if "</details>" in line:
            assert (lines[number - 1], line, lines[number + 1]) == ("", "</details>", "")


def test_links_within_it_lead_to_a_heading() -> None:
    # As GitHub names them.
    headings = re.findall(r"^#+ (.+)$", re.sub("```.*?```", "", TEXT, flags=re.DOTALL), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#(.+?)\)", TEXT))
    assert links
    assert links <= anchors


def test_the_first_screen_shows_two_commands_and_a_real_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert blocks("console")[0] in "\n".join(TEXT.splitlines()[:10])
    typed = commands(blocks("console")[0])
    make_run, curl, make_test = typed
    assert (make_run, make_test) == ("make run", "make test")
    # In a copy, so that the file lands there, and at a free port in place of the usual one.
    copy_checkout(tmp_path)
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
    program, url = curl.replace("6006", str(port)).split()
    with urllib.request.urlopen(url, timeout=10) as response:
        body = response.read().decode()
    os.killpg(running.pid, signal.SIGTERM)
    running.communicate(timeout=10)
    assert (program, f"{body}\n") == ("curl", typed[curl])
    assert (tmp_path / "projects.db").exists()


def test_the_commands_for_keys_do_what_it_says(tmp_path: Path) -> None:
    typed = [command.split() for command in commands(block("console", "keys add"))]
    assert [command[:3] for command in typed] == [["python", "-m", "projects_wsgi"]] * 4
    add, serve, list_, revoke = (command[3:] for command in typed)
    key = run(*add, cwd=tmp_path).stdout.strip()
    assert "ci" in run(*list_, cwd=tmp_path).stdout
    with running_server("--quiet", *serve, cwd=tmp_path) as process:
        assert process.ask("POST", "/v1/projects", {"name": "x"}, key=key)[0] == 200
        assert process.ask("GET", "/v1/projects")[0] == 401
        assert run(*revoke, cwd=tmp_path).returncode == 0


def test_the_block_for_keys_in_a_host_lets_nobody_in_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = run("keys", "add", "ci", "--role", "viewer", cwd=tmp_path).stdout.strip()
    application = execute(block("python", "keys="))["application"]
    with closing(application.store):
        client = TestApp(application)
        client.get("/v1/projects", status=401)
        client.get("/v1/projects", headers={"Authorization": f"Bearer {key}"}, status=200)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_for_the_api_print_what_it_says(tmp_path: Path) -> None:
    typed = commands(block("console", "curl -X DELETE"))
    assert len(typed) == 3
    with running_server("--quiet", cwd=tmp_path) as process:
        for command, output in typed.items():
            printed = type_in(command.replace(":6006/", f":{process.port}/"), tmp_path)
            assert printed.rstrip("\n") == output.rstrip("\n")
        assert process.ask("POST", "/v1/projects", {"name": "x"})[0] == 200
        without_type = next(iter(typed)).replace("-H 'Content-Type: application/json'", "-w '%{http_code}'")
        assert type_in(without_type.replace(":6006/", f":{process.port}/"), tmp_path).endswith("}422")


def test_the_commands_for_backups_do_what_it_says(tmp_path: Path) -> None:
    back_up, restore = commands(block("console", " backup "))
    (check,) = re.findall("`(python .+? check)`", TEXT)
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        store.create("agent")
        type_in(back_up, tmp_path)
        store.delete("agent")
        type_in(restore, tmp_path)
        assert store.get("agent").id == 2
        assert "ok" in type_in(check, tmp_path)


def test_the_recipes_for_hosts_and_proxies_are_those_that_are_proven_there() -> None:
    shown = {*blocks("python"), *blocks("nginx"), *blocks("console")}
    proven = {
        *(recipes.FLASK, recipes.FLASK_VIEW, recipes.ANY_WSGI, recipes.CHERRYPY, recipes.ANY_ASGI),
        *(
            recipes.NGINX_STRIPPING,
            recipes.NGINX_KEEPING,
            recipes.NGINX_AT_SOCKET,
            recipes.GUNICORN_AT_SOCKET,
        ),
    }
    assert proven <= shown


def execute(text: str) -> dict[str, Any]:
    """Run a block of Python in this process; return what it has named."""
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    return namespace


def test_the_block_for_a_hosts_own_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = execute(block("python", "on_change="))["projects"].store
    assert capsys.readouterr().out == "created my agent\nupdated my agent\ncreated my run\n"
    assert store.list_rows() == [(2, "my agent", "second steps"), (1, "default", "Default project")]
    store.close()


def test_the_block_for_a_hosts_own_table_makes_one_whose_rows_go_with_their_project(
    file: Path, file_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    project = file_store.create("agent")
    for _ in range(2):
        execute(block("python", "CREATE TABLE"))
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
    (tmp_path / "test_it.py").write_text(f"import urllib.request\n{block('python', 'live_server')}\n{test}")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    result = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert "1 passed" in result.stdout, result.stdout


def test_the_commands_to_move_from_a_phoenix_do_what_it_says(tmp_path: Path) -> None:
    (from_phoenix,) = commands(block("console", ".phoenix/"))
    phoenix = tmp_path / ".phoenix" / "phoenix.db"
    phoenix.parent.mkdir()
    phoenix.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    for command in (from_phoenix, *commands(block("console", " export "))):
        type_in(command, tmp_path, HOME=str(tmp_path))
    one, two = ((run("export", "--db", name, cwd=tmp_path)).stdout for name in ("projects.db", "copy.db"))
    assert one == two == (tmp_path / "all.jsonl").read_text("utf-8")
    (line,) = blocks("json")
    assert re.sub(r"\d", "0", one.splitlines(keepends=True)[0]) == re.sub(r"\d", "0", line)


def test_the_block_that_moves_projects_in_python_runs(
    file_store: SQLiteStore, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(file.parent)
    file_store.create("agent")
    namespace = execute(block("python", "import_projects"))
    assert capsys.readouterr().out == "1 made, 1 updated, 0 skipped\n"
    assert namespace["new"].list_rows() == file_store.list_rows()
    for store in (namespace["old"], namespace["new"]):
        store.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which the zipapp has been made, as it says."""
    folder = tmp_path_factory.mktemp("built")
    copy_checkout(folder)
    make, version = commands(block("console", "make zipapp"))
    # Without the flags of the make that may run this test.
    type_in(f"{make} PYTHON={sys.executable}", folder, MAKEFLAGS="", MFLAGS="")
    assert __version__ in type_in(version, folder, **ALONE)
    return folder


# Without the checkout's package, which stands in for an installed one elsewhere.
ALONE = {"PYTHONPATH": ""}


def test_the_unit_for_systemd_runs_the_zipapp(built: Path, tmp_path: Path) -> None:
    text = block("ini", "ExecStart")
    (built / "projects.service").write_text(text)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    service = unit["Service"]
    # The system's folders lie below the test's.
    for path in ("usr/local/lib", "etc/systemd/system", f"var/lib/{service['StateDirectory']}"):
        (tmp_path / path).mkdir(parents=True)
    for command in commands(block("console", "systemctl")):
        line = re.sub(r" (/(?:usr|etc)/)", rf" {tmp_path}\1", command.removeprefix("sudo "))
        if line.startswith("systemctl enable --now "):
            if shutil.which("systemctl") is None:
                continue
            line = line.replace("enable --now", f"--root={tmp_path} enable")
        type_in(f"umask 077 && {line}", built)
    # The service runs as a user of its own.
    assert (tmp_path / "usr/local/lib/projects-wsgi.pyz").stat().st_mode & stat.S_IROTH
    python, *arguments = re.sub(r"(?<= )/", f"{tmp_path}/", service["ExecStart"]).split()
    assert python == "/usr/bin/python3"
    with running_server(cwd=tmp_path, environ=ALONE, command=arguments) as process:
        assert process.ask("GET", "/readyz")[0] == 200
    assert (tmp_path / "var/lib/projects/projects.db").exists()
    if shutil.which("systemctl") is not None:
        wanted = tmp_path / "etc/systemd/system/multi-user.target.wants/projects.service"
        assert wanted.is_symlink()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    (tmp_path / "projects.service").write_text(block("ini", "ExecStart"))
    line = ["systemd-analyze", "verify", "./projects.service"]
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    # What it thinks of other units of this machine is their own.
    assert [fault for fault in result.stderr.splitlines() if "projects" in fault] == []


def test_the_container_is_the_zipapp_and_keeps_its_projects_in_the_volume(
    built: Path, tmp_path: Path
) -> None:
    (dockerfile,) = blocks("dockerfile")
    image, copy, start = dockerfile.splitlines()
    assert image == "FROM python:3-slim"
    instruction, source, destination = copy.split()
    assert (instruction, destination) == ("COPY", "/")
    build, run_ = (command.split() for command in commands(block("console", "docker")))
    assert build == ["docker", "build", "--tag", run_[-1], "dist"]
    # The image's root is a folder of the test's.
    shutil.copy(built / build[-1] / source, tmp_path)
    python, *arguments = (
        f"{tmp_path}{word}" if word.startswith("/") else word
        for word in json.loads(start.removeprefix("CMD "))
    )
    assert python == "python"
    line = [sys.executable, *arguments, "--port", "0"]
    without = subprocess.run(line, env=environment(**ALONE), capture_output=True, text=True, timeout=30)
    assert (without.returncode, without.stdout) == (2, "")
    _, volume = run_[run_.index("--volume") + 1].split(":")
    (tmp_path / volume.lstrip("/")).mkdir()
    with running_server(cwd=tmp_path, environ=ALONE, command=arguments) as process:
        assert process.host == "0.0.0.0"
        assert process.ask("GET", "/readyz")[0] == 200
    assert (tmp_path / volume.lstrip("/") / "projects.db").exists()
    host, _, inner = run_[run_.index("--publish") + 1].rpartition(":")
    assert (host, int(inner)) == (f"{HOST.default}:{PORT.default}", PORT.default)


def test_the_line_of_the_log_is_one_that_the_server_writes(tmp_path: Path) -> None:
    key = run("keys", "add", "ci", "--role", "member", cwd=tmp_path).stdout.strip()
    with running_server("--keys", "projects.keys", cwd=tmp_path) as process:
        process.ask("POST", "/v1/projects", {"name": "my agent"}, key=key)
        process.ask("GET", "/v1/projects/my%20agent", key=key)
    (shown,) = blocks("text")
    written = process.log.splitlines(keepends=True)[-1]
    # All but the time, and how long it took.
    without_times = [re.sub(r"\[.+?\]|[0-9]+\.[0-9]{2}$", "", line) for line in (shown, written)]
    assert without_times[0] == without_times[1]
    when = re.findall(r"\[.+?\]", shown)[0]
    assert datetime.datetime.strptime(when, "[%d/%b/%Y:%H:%M:%S %z]")


def test_there_are_no_blocks_that_nothing_runs() -> None:
    # What is about clients, hosts, nginx, gunicorn and PostgreSQL is run by the tests about these.
    counts = {
        "python": 11,
        "console": 12,
        "json": 1,
        "nginx": 3,
        "sql": 2,
        "ini": 1,
        "dockerfile": 1,
        "text": 1,
    }
    assert {language: len(blocks(language)) for language in counts} == counts
    assert TEXT.count("```") == 2 * sum(counts.values())


def test_what_it_installs_is_what_the_tests_need_too() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    needed = {
        re.split("[>[]", requirement)[0]
        for extra in setup["options.extras_require"].values()
        for requirement in extra.split()
    }
    installed = {
        re.split("[>[]", word.strip('"'))[0]
        for words in re.findall(r"pip install ([^`\n]+)", TEXT)
        for word in words.split()
        if word != "."
    }
    assert installed <= needed
    # What a block imports, somebody has to install.
    brings = {"flask": {"flask", "werkzeug"}, "arize-phoenix-client": {"phoenix"}}
    modules = set().union(*(brings.get(name, {name}) for name in installed))
    imported = re.findall(r"^(?:from|import) (\w+)", "\n".join(blocks("python")), re.MULTILINE)
    assert set(imported) - {"contextlib", "sqlite3", "projects_wsgi"} <= modules


def test_the_table_of_options_is_the_codes() -> None:
    # make options-table puts it there.
    assert render_table() in TEXT


def test_every_guarantee_has_a_test_of_its_own_and_every_file_of_faults_a_guarantee() -> None:
    named = [proof.strip("`") for _, proof in rows("promise")]
    assert len(set(named)) == len(named)
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
    connections, _ = limits["connections at a time, in each worker"]
    assert connections == f"{sockets.MAX_CONNECTIONS:,}"
    assert limits["request line, in bytes"] == [f"{http1.MAX_HEAD_SIZE:,}", "414"]
    assert limits["all header lines, in bytes"] == [f"{http1.MAX_HEAD_SIZE:,}", "431"]
    assert limits["how many header lines"] == [str(http1.MAX_HEADERS), "431"]
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
