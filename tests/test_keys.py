"""The keys file, and the commands that change it."""

from __future__ import annotations

import datetime
import errno
import hashlib
import locale
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from projects_wsgi import KeysError, Role
from projects_wsgi.files import create_held
from projects_wsgi.keys import Key, add_key, read_keys, revoke_key, today

from .support.access_lists import DEFAULT_LIST, access_list, set_access_list
from .support.process import environment, refusal, run, running_server, start_together

DIGEST = "0123456789abcdef" * 4
OTHER = "f" * 64


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "projects.keys"


def test_a_file_holds_names_roles_digests_and_days_among_comments(keys_file: Path) -> None:
    boss = f"\tthe.boss@home-1  admin\t{OTHER} 2026-01-02 2026-12-31"
    keys_file.write_text(f"# a comment\n\n  \n\t# another\nci member {DIGEST} 2026-01-02\n{boss}\n")
    first, second = read_keys(keys_file)
    assert first == ("ci", Role.MEMBER, DIGEST, datetime.date(2026, 1, 2), None)
    assert (second.name, second.expires) == ("the.boss@home-1", datetime.date(2026, 12, 31))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ci", "a key is: name role sha256 made [expires]"),
        (f"ci member {DIGEST}", "a key is"),
        (f"ci member {DIGEST} 2026-01-02 2026-01-02 x", "a key is"),
        (f"-ci member {DIGEST} 2026-01-02", "a key is"),
        (f"{'x' * 101} member {DIGEST} 2026-01-02", "a key is"),
        (f"ci owner {DIGEST} 2026-01-02", "'owner' is not a valid Role"),
        (f"ci Member {DIGEST} 2026-01-02", "'Member' is not a valid Role"),
        (f"ci member {DIGEST.upper()} 2026-01-02", "a key is"),
        (f"ci member {DIGEST[:-1]} 2026-01-02", "a key is"),
        (f"ci member {DIGEST} 2026-02-30", "'2026-02-30' is not a date"),
        (f"ci member {DIGEST} 20260102", "'20260102' is not a date like 2026-12-31"),
        (f"ci member {DIGEST} 2026-01-02 never", "'never' is not a date"),
        (f"good member {OTHER} 2026-01-02", "an earlier line has the same name or key"),
        (f"ci member {'a' * 64} 2026-01-02", "an earlier line has the same name or key"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(keys_file: Path, line: str, reason: str) -> None:
    keys_file.write_text(f"# the first\ngood viewer {'a' * 64} 2026-01-02\n{line}\n")
    start = f"the keys file {keys_file} is malformed in line 3: {reason}"
    with pytest.raises(KeysError, match=f"^{re.escape(start)}"):
        read_keys(keys_file)


def test_a_file_that_the_system_does_not_open_is_refused_with_its_reason(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_file.symlink_to(keys_file)
    loop = os.strerror(errno.ELOOP)
    with pytest.raises(KeysError, match=f"^cannot read the keys file {re.escape(str(keys_file))}: {loop}$"):
        read_keys(keys_file)
    folder = keys_file.with_name("gone")
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    text = "cannot find the keys file x.keys: the working folder was removed; give an absolute path"
    with pytest.raises(KeysError, match=f"^{text}$"):
        add_key("x.keys", "ci", Role.VIEWER)


def test_what_is_no_text_is_refused(keys_file: Path) -> None:
    keys_file.write_bytes(b"\xff\xfe\x00")
    for act in (
        read_keys,
        lambda path: add_key(path, "ci", Role.VIEWER),
        lambda path: revoke_key(path, "ci"),
    ):
        with pytest.raises(KeysError, match="not text in UTF-8"):
            act(keys_file)
    assert keys_file.read_bytes() == b"\xff\xfe\x00"


def test_a_new_key_is_256_random_bits_of_which_the_file_holds_the_digest_alone(keys_file: Path) -> None:
    made = [add_key(keys_file, f"key{number}", Role.VIEWER) for number in range(20)]
    assert len(set(made)) == 20
    text = keys_file.read_text()
    for number, key in enumerate(made):
        assert re.fullmatch("[A-Za-z0-9_-]{43}", key)
        assert key not in text
        assert read_keys(keys_file)[number].digest == hashlib.sha256(key.encode()).hexdigest()
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o600


def test_a_line_ends_with_the_day_on_which_its_key_was_made_or_with_its_last_one(keys_file: Path) -> None:
    keys_file.touch()
    add_key(keys_file, "ever", Role.VIEWER)
    add_key(keys_file, "soon", Role.ADMIN, datetime.date(2999, 1, 1))
    ever, soon = read_keys(keys_file)
    assert keys_file.read_text() == (
        f"ever viewer {ever.digest} {ever.made}\nsoon admin {soon.digest} {soon.made} 2999-01-01\n"
    )


@pytest.mark.parametrize(("days", "is_expired"), [(-1, True), (0, False), (1, False)])
def test_a_key_is_valid_on_its_last_day(monkeypatch: pytest.MonkeyPatch, days: int, is_expired: bool) -> None:
    last_day = datetime.date(2026, 12, 31)
    monkeypatch.setattr("projects_wsgi.keys.today", lambda: last_day - datetime.timedelta(days=days))
    assert Key("ci", Role.VIEWER, DIGEST, last_day, last_day).is_expired() is is_expired


@pytest.mark.parametrize("zone", ["EAST-14", "WEST+12"])
def test_a_day_is_one_of_utc_wherever_the_server_is(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        before, day, after = time.gmtime(), today(), time.gmtime()
    time.tzset()
    assert before[:3] <= (day.year, day.month, day.day) <= after[:3]


def test_a_change_keeps_comments_the_other_keys_and_who_may_read_the_file(keys_file: Path) -> None:
    text = f"# the team\nci member {DIGEST} 2026-01-02\n\n# the boss\n"
    keys_file.write_text(text)
    keys_file.chmod(0o640)
    add_key(keys_file, "new", Role.ADMIN, datetime.date(2999, 1, 1))
    assert keys_file.read_text().startswith(text)
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o640
    revoke_key(keys_file, "new")
    assert keys_file.read_text() == text
    assert [path.name for path in keys_file.parent.iterdir()] == ["projects.keys"]


def test_a_file_that_an_editor_gave_a_mark_and_other_line_ends_is_read_and_stays_readable(
    keys_file: Path,
) -> None:
    text = f"# \u2028a \x0c comment\r\nci member {DIGEST} 2026-01-02\r\n"
    keys_file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [key.name for key in read_keys(keys_file)] == ["ci"]
    add_key(keys_file, "new", Role.ADMIN)
    assert [key.name for key in read_keys(keys_file)] == ["ci", "new"]
    revoke_key(keys_file, "ci")
    assert [key.name for key in read_keys(keys_file)] == ["new"]
    assert keys_file.read_bytes().startswith("# \u2028a \x0c comment\r\n".encode())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_the_file_to_its_owner_and_others_cannot_take_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        change_as_others(Path(folder) / "projects.keys")


REFUSAL_TO_OTHERS = "it belongs to another user or group (65534:65533); run this as that user or as root"


def change_as_others(keys_file: Path) -> None:
    key = add_key(keys_file, "old", Role.ADMIN)
    os.chown(keys_file, 65_534, 65_533)
    keys_file.chmod(0o640)
    add_key(keys_file, "new", Role.VIEWER)
    revoke_key(keys_file, "old")
    status = keys_file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65_534, 65_533, 0o640)
    before = keys_file.read_bytes()
    keys_file.chmod(0o644)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65_000)
        os.setuid(65_000)
        try:
            add_key(keys_file, "mine", Role.ADMIN)
        except KeysError as error:
            os._exit(str(error).endswith(REFUSAL_TO_OTHERS))
        os._exit(2)
    _, code = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(code) == 1
    assert keys_file.read_bytes() == before
    assert key not in keys_file.read_text()
    assert list(keys_file.parent.glob("*.unfinished")) == []


def test_what_is_reported_as_changed_is_on_the_disk_with_its_name(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The power cuts of tests/faults show what comes of it; this looks at the calls.
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        is_folder = os.path.samestat(os.fstat(descriptor), keys_file.parent.stat())
        synced.append((is_folder, keys_file.exists() and "ci" in keys_file.read_text()))

    monkeypatch.setattr(os, "fsync", note)
    add_key(keys_file, "ci", Role.VIEWER)
    assert synced == [(False, False), (True, True)]
    synced.clear()
    revoke_key(keys_file, "ci")
    assert synced == [(False, True), (True, False)]


def test_a_pipe_in_its_place_is_refused_at_once(keys_file: Path) -> None:
    os.mkfifo(keys_file)
    for use in (lambda: read_keys(keys_file), lambda: add_key(keys_file, "ci", Role.VIEWER)):
        with pytest.raises(KeysError, match="it is not a file"):
            use()
    assert refusal("--keys", str(keys_file), cwd=keys_file.parent).endswith("it is not a file")


def test_a_link_stays_a_link(keys_file: Path) -> None:
    link = keys_file.with_name("link.keys")
    link.symlink_to(keys_file)
    add_key(link, "ci", Role.VIEWER)
    assert link.is_symlink()
    assert [key.name for key in read_keys(keys_file)] == ["ci"]


def test_a_change_that_is_refused_leaves_the_file_as_it_was(keys_file: Path) -> None:
    text = f"ci member {DIGEST} 2026-01-02\n"
    keys_file.write_text(text)
    with pytest.raises(KeysError, match="there is already a key named ci"):
        add_key(keys_file, "ci", Role.VIEWER)
    with pytest.raises(KeysError, match="there is no key named nobody"):
        revoke_key(keys_file, "nobody")
    for name in ("", "a b", "#x", "x\n", "é", "-x"):
        with pytest.raises(KeysError, match="must be 1 to 100 letters"):
            add_key(keys_file, name, Role.VIEWER)
    assert keys_file.read_text() == text
    keys_file.write_text("nonsense\n")
    malformed = re.escape(f"the keys file {keys_file} is malformed in line 1")
    with pytest.raises(KeysError, match=malformed):
        add_key(keys_file, "new", Role.VIEWER)
    with pytest.raises(KeysError, match=malformed):
        revoke_key(keys_file, "new")
    assert keys_file.read_text() == "nonsense\n"
    assert [path.name for path in keys_file.parent.iterdir()] == ["projects.keys"]


def test_what_a_refused_change_removes_is_its_own(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = os.unlink
    removed = []

    def look(path: str) -> None:
        with pytest.raises(FileExistsError):  # no other process can have put its own there
            create_held(path)
        unlink(path)
        removed.append(path)

    monkeypatch.setattr(os, "unlink", look)
    with pytest.raises(KeysError, match="there is no key named nobody"):
        revoke_key(keys_file, "nobody")
    assert removed == [f"{keys_file}.unfinished"]


def test_a_change_is_refused_for_its_own_reason_even_if_what_it_made_is_gone(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_first(lines: object, path: str) -> list[Key]:
        os.unlink(f"{path}.unfinished")
        return []

    monkeypatch.setattr("projects_wsgi.keys._parse", remove_first)
    with pytest.raises(KeysError, match="there is no key named nobody"):
        revoke_key(keys_file, "nobody")


ADD = """
import sys
from projects_wsgi import Role
from projects_wsgi.keys import add_key
for number in range(10):
    add_key("projects.keys", f"{sys.argv[1]}-{number}", Role.VIEWER)
"""


def test_writers_at_the_same_time_lose_nothing(keys_file: Path) -> None:
    line = [sys.executable, "-W", "error", "-c", ADD]
    writers = [
        subprocess.Popen([*line, str(number)], cwd=keys_file.parent, env=environment()) for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert len(read_keys(keys_file)) == 40


HOLD = """
import sys, time
from projects_wsgi import keys
with keys._changed("projects.keys") as lines:
    print("ready", flush=True)
    time.sleep(60)
"""


def test_while_another_process_changes_the_file_nobody_else_does(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projects_wsgi.keys._LOCK_SECONDS", 0.1)
    (other,) = start_together([["-c", HOLD]], cwd=keys_file.parent)
    with other:
        with pytest.raises(KeysError, match="another process is changing the keys; try again"):
            add_key(keys_file, "ci", Role.VIEWER)
        other.kill()
        other.wait(10)
        # What it left is no obstacle.
        assert keys_file.with_name("projects.keys.unfinished").exists()
        add_key(keys_file, "ci", Role.VIEWER)
    assert [path.name for path in keys_file.parent.iterdir()] == ["projects.keys"]


def test_what_was_killed_with_the_mode_of_keys_that_nobody_may_write_is_no_obstacle(keys_file: Path) -> None:
    add_key(keys_file, "one", Role.ADMIN)
    keys_file.chmod(0o400)
    keys_file.with_name("projects.keys.unfinished").touch(0o400)
    prefix = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    result = run("keys", "add", "two", "--role", "viewer", cwd=keys_file.parent, prefix=prefix)
    assert result.returncode == 0, result.stderr
    assert [key.name for key in read_keys(keys_file)] == ["one", "two"]
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o400


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_on_a_file_system_without_locks_keys_are_changed_by_one_at_a_time(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    monkeypatch.setattr("projects_wsgi.keys._LOCK_SECONDS", 0.1)
    add_key(keys_file, "one", Role.ADMIN)
    keys_file.with_name("projects.keys.unfinished").touch()
    with pytest.raises(KeysError, match="try again, or remove it if none is"):
        add_key(keys_file, "two", Role.ADMIN)
    keys_file.with_name("projects.keys.unfinished").unlink()
    revoke_key(keys_file, "one")
    assert read_keys(keys_file) == []


def test_a_change_waits_for_another_until_that_ends(keys_file: Path) -> None:
    other = create_held(f"{keys_file}.unfinished")
    ended = []

    def end() -> None:
        ended.append(time.monotonic())
        os.unlink(f"{keys_file}.unfinished")
        os.close(other)

    timer = threading.Timer(0.2, end)
    timer.start()
    add_key(keys_file, "ci", Role.VIEWER)
    assert time.monotonic() - ended[0] < 2
    timer.join()
    assert [key.name for key in read_keys(keys_file)] == ["ci"]


def test_an_access_list_is_kept(keys_file: Path) -> None:
    add_key(keys_file, "one", Role.ADMIN)
    keys_file.chmod(0o640)
    wanted = set_access_list(keys_file)
    for change in (lambda: add_key(keys_file, "two", Role.VIEWER), lambda: revoke_key(keys_file, "one")):
        change()
        assert access_list(keys_file) == wanted


def test_a_file_without_an_access_list_gets_none_from_its_folder(keys_file: Path) -> None:
    add_key(keys_file, "one", Role.ADMIN)
    keys_file.chmod(0o640)
    set_access_list(keys_file.parent, DEFAULT_LIST)
    add_key(keys_file, "two", Role.VIEWER)
    assert access_list(keys_file) is None
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o640


def test_a_change_of_a_keys_file_whose_folder_cannot_be_synced_is_made_with_a_warning(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsync = os.fsync

    def fail_on_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    assert add_key(keys_file, "ci", Role.VIEWER)
    assert [key.name for key in read_keys(keys_file)] == ["ci"]
    revoke_key(keys_file, "ci")
    assert read_keys(keys_file) == []
    message = f"the keys file {keys_file} is changed, but a power cut may undo it: Input/output error"
    assert [record.getMessage() for record in caplog.records] == [message] * 2


# The commands


def test_a_newcomer_makes_lists_and_revokes_a_key(tmp_path: Path) -> None:
    made = run("keys", "add", "ci", "--role", "member", "--expires", "90d", cwd=tmp_path)
    assert made.returncode == 0
    assert re.fullmatch("[A-Za-z0-9_-]{43}\n", made.stdout)
    assert made.stderr == "This key of ci is shown only now; projects.keys holds only its SHA-256.\n"
    assert run("keys", "add", "boss", "--role", "admin", cwd=tmp_path).returncode == 0
    today = datetime.datetime.now(datetime.timezone.utc).date()
    listed = run("keys", "list", cwd=tmp_path)
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["NAME", "ROLE", "MADE", "EXPIRES"],
        ["ci", "member", str(today), str(today + datetime.timedelta(days=90))],
        ["boss", "admin", str(today), "never"],
    ]
    revoked = run("keys", "revoke", "ci", cwd=tmp_path)
    assert revoked.stdout == "ci is revoked; servers that use projects.keys will know within two seconds\n"
    assert "ci" not in run("keys", "list", cwd=tmp_path).stdout


def test_a_key_that_is_past_its_day_is_listed_so(tmp_path: Path) -> None:
    (tmp_path / "projects.keys").write_text(f"old viewer {DIGEST} 2020-01-01 2020-12-31\n")
    assert "2020-12-31 (past)" in run("keys", "list", cwd=tmp_path).stdout


def test_a_file_is_utf_8_whatever_the_locale_says(tmp_path: Path, keys_file: Path) -> None:
    comment = "# Schlüssel, 鍵\n"
    keys_file.write_text(comment, encoding="utf-8")
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        add_key(keys_file, "ci", Role.VIEWER)
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert keys_file.read_text(encoding="utf-8").startswith(comment)
    keys_file.write_text(comment, encoding="utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert run("keys", "add", "ci", "--role", "viewer", cwd=tmp_path, **ascii_alone).returncode == 0
    assert keys_file.read_text(encoding="utf-8").startswith(comment)


def test_the_file_is_named_by_an_option_or_in_the_environment(tmp_path: Path) -> None:
    run("keys", "add", "a", "--role", "viewer", "--keys", "first.keys", cwd=tmp_path)
    run("keys", "add", "b", "--role", "viewer", cwd=tmp_path, PROJECTS_WSGI_KEYS="second.keys")
    assert [key.name for key in read_keys(tmp_path / "first.keys")] == ["a"]
    assert [key.name for key in read_keys(tmp_path / "second.keys")] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["add", "ci"], "--role"),
        (["add", "ci", "--role", "owner"], "invalid choice: 'owner'"),
        (["add", "c i", "--role", "viewer"], "must be 1 to 100 letters, digits"),
        (["add", "ci", "--role", "viewer", "--expires", "2020-01-01"], "2020-01-01 is past"),
        (["add", "ci", "--role", "viewer", "--expires", "soon"], "neither days like 90d nor a date like"),
        (["add", "ci", "--role", "viewer", "--keys", "missing/x.keys"], "No such file or directory"),
        (["list"], "there is no keys file projects.keys; make one with: keys add NAME --role ROLE"),
        (["revoke", "ci"], "there is no key named ci in projects.keys"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line_and_makes_nothing(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    result = run("keys", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert reason in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


# The server


def test_the_server_lets_in_who_has_a_key_until_it_is_revoked(tmp_path: Path) -> None:
    key = run("keys", "add", "ci", "--role", "viewer", cwd=tmp_path).stdout.strip()
    with running_server("--quiet", "--keys", "projects.keys", cwd=tmp_path) as process:
        assert process.ask("GET", "/v1/projects")[::2] == (401, "Invalid token")
        assert process.ask("GET", "/v1/projects", key=key)[0] == 200
        assert process.ask("POST", "/v1/projects", {"name": "x"}, key=key)[0] == 403
        run("keys", "revoke", "ci", cwd=tmp_path)
        began = time.monotonic()
        while process.ask("GET", "/v1/projects", key=key)[0] != 401:
            assert time.monotonic() - began < 30
            time.sleep(0.05)
        assert time.monotonic() - began < 2


def test_the_servers_admin_secret_is_phoenixs(tmp_path: Path) -> None:
    secret = "phoenix1" * 4
    environ = {"PHOENIX_ADMIN_SECRET": secret}
    with running_server("--quiet", cwd=tmp_path, environ=environ) as process:
        assert process.ask("GET", "/v1/projects")[0] == 401
        assert process.ask("POST", "/v1/projects", {"name": "x"}, key=secret)[0] == 200
    line = refusal(cwd=tmp_path, PHOENIX_ADMIN_SECRET="weak")
    assert line == (
        "environment variable PHOENIX_ADMIN_SECRET: the admin secret must have at least 32 characters,"
        " all of them visible ASCII, with a digit and a lower-case letter among them"
    )


def test_a_missing_or_malformed_file_is_never_an_open_server(tmp_path: Path) -> None:
    assert "there is no keys file" in refusal("--keys", "missing.keys", cwd=tmp_path)
    (tmp_path / "bad.keys").write_text("bad\n")
    assert "malformed in line 1" in refusal("--keys", "bad.keys", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.keys"]


WARNING = (
    "projects-wsgi: warning: everybody who can reach this address can change all projects;"
    " give --keys FILE, or listen on 127.0.0.1\n"
)


def test_a_server_that_others_can_reach_without_keys_warns_in_one_line(tmp_path: Path) -> None:
    with running_server("--quiet", "--host", "0.0.0.0", cwd=tmp_path) as process:
        pass
    assert process.log == WARNING
    with running_server("--quiet", "--host", "0.0.0.0", "--read-only", cwd=tmp_path) as process:
        pass
    assert process.log == WARNING.replace("change all", "read all")
    add_key(tmp_path / "projects.keys", "ci", Role.VIEWER)
    with running_server("--quiet", "--keys", "projects.keys", "--host", "0.0.0.0", cwd=tmp_path) as process:
        pass
    assert process.log == ""
    (tmp_path / "projects.keys").unlink()
    with running_server("--quiet", "--host", "127.0.0.2", cwd=tmp_path) as process:
        pass
    assert process.log == ""


@pytest.mark.parametrize("database", ["data/projects.db", "projects.db", ":memory:"])
@pytest.mark.parametrize("folder", ["data", "."])
def test_a_server_that_does_not_use_the_keys_beside_it_warns_in_one_line(
    tmp_path: Path, database: str, folder: str
) -> None:
    (tmp_path / "data").mkdir()
    path = (tmp_path / folder / "projects.keys").resolve()
    add_key(path, "ci", Role.VIEWER)
    with running_server("--quiet", "--db", database, cwd=tmp_path) as process:
        pass
    is_near = folder == "." or database.startswith(folder)
    warning = f"projects-wsgi: warning: the keys in {path} are not used; give --keys {path}\n"
    assert process.log == (warning if is_near else "")
    with running_server("--quiet", "--db", database, "--keys", str(path), cwd=tmp_path) as process:
        pass
    assert process.log == ""


def test_keys_of_others_are_not_read(keys_file: Path) -> None:
    # A folder in its place is as unreadable to the superuser as to anybody.
    keys_file.mkdir()
    with pytest.raises(KeysError, match="cannot read the keys file"):
        read_keys(keys_file)
    with pytest.raises(KeysError, match="cannot"):
        add_key(keys_file, "ci", Role.VIEWER)
    assert os.listdir(keys_file.parent) == ["projects.keys"]


def test_a_change_of_a_file_with_several_names_says_that_the_others_keep_the_old_keys(
    keys_file: Path,
) -> None:
    folder = keys_file.parent
    assert run("keys", "add", "ci", "--role", "admin", "--keys", "a", cwd=folder).stderr.count("\n") == 1
    os.link(folder / "a", folder / "b")
    result = run("keys", "revoke", "ci", "--keys", "a", cwd=folder)
    (line,) = result.stderr.splitlines()
    assert f"the keys file {folder / 'a'} is changed under this name alone" in line
    assert result.stdout.startswith("ci is revoked")
    assert [key.name for key in read_keys(folder / "b")] == ["ci"]
    assert run("keys", "add", "ci", "--role", "admin", "--keys", "a", cwd=folder).stderr.count("\n") == 1
