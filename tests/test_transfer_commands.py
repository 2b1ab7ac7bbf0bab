"""The commands export and import, as processes."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import pty
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projects_wsgi import SQLiteStore, Store
from projects_wsgi.testing import live_server

from .support.databases import Database
from .support.process import environment, refusal, run
from .test_foreign import FIXTURE

KEY = "a-key-that-nobody-may-show-1234567"

LINES = (
    '{"id":"UHJvamVjdDox","name":"default","description":"ours"}\n'
    '{"id":"UHJvamVjdDo1","name":"a ü"}\n{"id":"UHJvamVjdDo3","name":"b","description":"of b"}\n'
)


def command(*arguments: str, cwd: Path, lines: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command with lines for its standard input."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "projects_wsgi", *arguments],
        cwd=cwd,
        env=environment(**environ),
        input=lines,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_one_command_moves_the_projects_of_a_phoenix(tmp_path: Path) -> None:
    (tmp_path / "phoenix.db").write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    result = run("import", "phoenix.db", cwd=tmp_path)
    assert result.returncode == 0
    assert re.fullmatch(r"2 projects made, 1 updated, 0 skipped \(in \d+\.\d s\)\n", result.stdout)
    assert result.stderr == ""
    exported = run("export", cwd=tmp_path)
    assert [json.loads(line)["name"] for line in exported.stdout.splitlines()] == [
        "default",
        "Experiment-119d8540f5b94535a729f22c",
        "mine",
    ]


def test_what_is_exported_is_what_is_imported_elsewhere(database: Database, tmp_path: Path) -> None:
    with closing(database.open_store()) as store:
        for number in range(1_500):
            store.create(f"ü {number}\0", "x" * (number % 50))
    exported = run("export", "all.jsonl", *database.arguments, cwd=tmp_path)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert re.fullmatch(r"1,501 projects of \S+ exported to all\.jsonl\n", exported.stdout)
    assert run("export", *database.arguments, cwd=tmp_path).stdout == (tmp_path / "all.jsonl").read_text(
        "utf-8"
    )
    for number, source in enumerate(["all.jsonl", database.name]):
        # A schema belongs to the target; that of the source is what its connection makes tables in.
        if database.options and source == database.name:
            continue
        assert run("import", source, "--db", f"{number}.db", cwd=tmp_path).returncode == 0
        assert run("export", "--db", f"{number}.db", cwd=tmp_path).stdout == exported_text(tmp_path)


def exported_text(folder: Path) -> str:
    return (folder / "all.jsonl").read_text("utf-8")


def test_lines_come_from_standard_input_and_from_pipes(tmp_path: Path) -> None:
    assert command("import", "-", cwd=tmp_path, lines=LINES).stdout.startswith("2 projects made, 1 updated")
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", "printf '%s' \"$LINES\" > pipe"], cwd=tmp_path, env={"LINES": LINES}):
        result = run("import", "pipe", "--db", "other.db", cwd=tmp_path)
    assert result.stdout.startswith("2 projects made, 1 updated")


def test_the_summary_tells_what_became_of_all(database: Database, tmp_path: Path) -> None:
    with closing(database.open_store()) as store:
        store.create("b", "mine")

    def said(*arguments: str, lines: str = LINES) -> tuple[str, str]:
        result = command("import", "-", *database.arguments, *arguments, cwd=tmp_path, lines=lines)
        assert result.returncode == 0, result.stderr
        return re.sub(r" \(in \d+\.\d s\)\n", "", result.stdout), result.stderr

    new_ids = "; they have new ids, because there were projects already"
    assert said("--on-conflict", "skip", "--dry-run") == (
        f"to be done, and not done: 1 project made, 0 updated, 2 skipped{new_ids}",
        "",
    )
    wrong = f'{LINES}\n{{"id":"7","name":"c"}}\n'
    assert said("--on-conflict", "update", "--skip-invalid", lines=wrong) == (
        f"1 project made, 2 updated, 0 skipped, 1 left out{new_ids}",
        "line 5: '7' is the id of no project\n",
    )
    assert said("--on-conflict", "skip") == ("0 projects made, 0 updated, 3 skipped", "")
    assert said("--new-ids", lines='{"id":"UHJvamVjdDo3","name":"d"}')[0] == (
        "1 project made, 0 updated, 0 skipped; they have new ids"
    )


def test_names_that_exist_are_told_in_one_line(database: Database, tmp_path: Path) -> None:
    with closing(database.open_store()) as store:
        for number in range(12):
            store.create(str(number))
    lines = "".join(f'{{"id":"UHJvamVjdDo1","name":"{number}"}}\n' for number in range(12))
    result = command("import", "-", "--new-ids", *database.arguments, cwd=tmp_path, lines=lines)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "projects-wsgi: there are projects of these names already: '0', '1', '2', '3', '4', '5', '6', '7',"
        " '8', '9'; nothing is imported: give --on-conflict skip or --on-conflict update\n"
    )


def test_lines_that_cannot_be_kept_are_listed_and_make_no_database(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(f"{LINES}nonsense\n" + '{"id":"UHJvamVjdDo3","name":""}\n' * 200)
    result = run("import", "lines", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    first, second, *_, more, last = result.stderr.splitlines()
    assert first == "line 4: it is no JSON"
    assert second == "line 5: a project's name must have at least one character"
    assert more == "and 101 more"
    assert last == (
        "projects-wsgi: 201 projects cannot be kept here; nothing is imported: --skip-invalid leaves them out"
    )
    assert [it.name for it in tmp_path.iterdir()] == ["lines"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("missing", "cannot read missing: No such file or directory"),
        (".", "cannot read .: Is a directory"),
        ("a\udcff", "No such file or directory"),
        ("http://127.0.0.1:1", "the server http://127.0.0.1:1 cannot be reached"),
        (f"http://me:{KEY}@localhost", "must hold no user or password"),
        (f"mysql://me:{KEY}@localhost/x", "must begin with postgresql:// or postgres://"),
        (f"postgresql://me:{KEY}@x@127.0.0.1:1/x", ""),
        (f"postgresql://me:{KEY}@127.0.0.1:1/x", ""),
    ],
)
def test_a_source_that_cannot_be_read_is_told_in_one_line_and_makes_no_database(
    tmp_path: Path, source: str, reason: str
) -> None:
    line = refusal("import", source, cwd=tmp_path, PHOENIX_API_KEY=KEY)
    assert reason in line
    assert KEY not in line
    assert list(tmp_path.iterdir()) == []


def test_the_key_comes_from_the_option_or_the_environment(tmp_path: Path) -> None:
    with live_server(projects=["a"], admin_secret=KEY) as url:
        assert "it wants a key" in refusal("import", url, cwd=tmp_path)
        assert "it does not accept the key" in refusal("import", url, cwd=tmp_path, PHOENIX_API_KEY=f"{KEY}8")
        result = run("import", url, "--dry-run", cwd=tmp_path, PHOENIX_API_KEY=KEY)
        assert result.stdout.startswith("to be done, and not done: 1 project made")
        result = run("import", url, "--api-key", KEY, cwd=tmp_path, PHOENIX_API_KEY="wrong")
        assert result.stdout.startswith("1 project made, 1 updated, 0 skipped")


def test_a_dry_run_makes_no_database(tmp_path: Path) -> None:
    result = command("import", "-", "--dry-run", cwd=tmp_path, lines=LINES)
    assert result.stdout.startswith("to be done, and not done: 2 projects made, 1 updated, 0 skipped")
    assert list(tmp_path.iterdir()) == []
    # An empty file is as good as none.
    (tmp_path / "projects.db").touch()
    again = command("import", "-", "--dry-run", cwd=tmp_path, lines=LINES)
    assert again.stdout.startswith("to be done, and not done: 2 projects made, 1 updated, 0 skipped")
    assert (tmp_path / "projects.db").stat().st_size == 0


@pytest.mark.parametrize("direction", ["import", "export"])
def test_memory_is_no_place_to_import_into_or_to_export(tmp_path: Path, direction: str) -> None:
    (tmp_path / "lines").write_text(LINES)
    line = refusal(direction, "lines" if direction == "import" else "out", "--db", ":memory:", cwd=tmp_path)
    assert "give --db" in line


def test_an_export_of_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    assert "there is no such file" in refusal("export", "all.jsonl", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_is_as_private_as_the_database(file_store: Store, file: Path) -> None:
    file.chmod(0o640)
    old = os.umask(0)
    try:
        assert run("export", "all.jsonl", cwd=file.parent).returncode == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE((file.parent / "all.jsonl").stat().st_mode) == 0o640


def test_an_export_to_a_hyphen_is_printed(file_store: Store, file: Path) -> None:
    result = run("export", "-", cwd=file.parent)
    assert json.loads(result.stdout)["name"] == "default"
    assert not (file.parent / "-").exists()


def test_an_export_overwrites_nothing_unless_it_is_told_to(file_store: Store, file: Path) -> None:
    other = file.parent / "all.jsonl"
    other.write_text("precious")
    line = refusal("export", "all.jsonl", cwd=file.parent)
    assert line.endswith("all.jsonl exists already; overwrite it with --force")
    assert other.read_text() == "precious"
    assert "that is the database itself" in refusal("export", "projects.db", "--force", cwd=file.parent)
    assert "there is no folder" in refusal("export", "no/all.jsonl", cwd=file.parent)
    assert run("export", "all.jsonl", "--force", cwd=file.parent).returncode == 0
    assert json.loads(other.read_text())["name"] == "default"


def test_an_exported_file_appears_when_it_is_complete(file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        for number in range(50):
            store.create(f"long {number}", "x" * 100_000)
    popen = subprocess.Popen(
        [sys.executable, "-m", "projects_wsgi", "export", "all.jsonl"], cwd=file.parent, env=environment()
    )
    seen = set()
    while popen.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen.add((file.parent / "all.jsonl").stat().st_size)
    assert popen.returncode == 0
    size = (file.parent / "all.jsonl").stat().st_size
    assert seen <= {size}
    assert size > 5_000_000


def test_whoever_reads_an_export_may_have_enough_of_it(file: Path) -> None:
    with closing(SQLiteStore(file)) as store:
        for number in range(20):
            store.create(f"long {number}", "x" * 100_000)
    line = f"{sys.executable} -W error -m projects_wsgi export | head -c 10; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=file.parent, env=environment(), capture_output=True, text=True, timeout=30
    )
    assert (result.returncode, result.stdout, result.stderr) == (2, '{"id":"UHJ', "")
    line = f"{sys.executable} -W error -m projects_wsgi export > /dev/full"
    result = subprocess.run(
        ["sh", "-c", line], cwd=file.parent, env=environment(), capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 2
    assert result.stderr == "projects-wsgi: cannot write the output: No space left on device\n"


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    lines = "".join(f'{{"id":"UHJvamVjdDo1","name":"{number}"}}\n' for number in range(2_500))
    (tmp_path / "lines").write_text(lines)
    main, terminal = pty.openpty()
    fcntl.fcntl(main, fcntl.F_SETFL, os.O_NONBLOCK)
    result = subprocess.run(
        [sys.executable, "-m", "projects_wsgi", "import", "lines", "--new-ids"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=terminal,
        timeout=30,
    )
    os.close(terminal)
    shown = os.read(main, 65_536).decode()
    os.close(main)
    assert result.returncode == 0
    assert "1,000 projects read" in shown
    assert shown.endswith(f"\r[{'#' * 40}] 100 %\r\n")


def test_a_signal_ends_an_import_that_waits(tmp_path: Path) -> None:
    popen = subprocess.Popen(
        [sys.executable, "-m", "projects_wsgi", "import", "-"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert popen.stdin is not None
    popen.stdin.write(LINES)
    popen.stdin.flush()
    while any(fcntl.ioctl(popen.stdin, termios.FIONREAD, bytes(4))):  # until it has read the lines
        time.sleep(0.01)
    popen.send_signal(signal.SIGINT)
    assert popen.wait(timeout=10) == 130
    assert popen.communicate()[1] == ""
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_source(tmp_path: Path) -> None:
    text: Any = run("import", "--help", cwd=tmp_path).stdout
    for word in ("phoenix.db", "https://", "postgresql://", "JSON lines", "--dry-run", "PHOENIX_API_KEY"):
        assert word in text


@pytest.mark.parametrize("rehearsal", [[], ["--dry-run"]])
def test_a_source_that_has_used_up_its_ids_comes_in_with_new_ones_alone(
    tmp_path: Path, rehearsal: list[str]
) -> None:
    with closing(SQLiteStore(tmp_path / "old.db")) as store:
        store.create("agent")
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 9223372036854775807")
    line = refusal("import", "old.db", *rehearsal, cwd=tmp_path)
    assert line.startswith("the source has given ids up to 9223372036854775807, which leaves too few")
    assert line.endswith("with --new-ids or new_ids; nothing is imported")
    assert run("import", "old.db", "--new-ids", cwd=tmp_path).returncode == 0
    with closing(SQLiteStore(tmp_path / "projects.db")) as store:
        assert [it.name for it in store.read_all()] == ["default", "agent"]
        assert store.create("later").id == 3


def test_a_standard_input_that_is_closed_is_no_empty_one(tmp_path: Path) -> None:
    line = refusal("import", "-", cwd=tmp_path, prefix=["sh", "-c", 'exec "$@" <&-', "sh"])
    assert line == "cannot read -: Bad file descriptor; nothing is imported"
    assert list(tmp_path.iterdir()) == []
