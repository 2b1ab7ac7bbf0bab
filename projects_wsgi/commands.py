"""The commands of the command line. They print, and raise errors that tell the user what to do."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

from . import SQLiteStore, keys, make_app, signals
from .auth import Role
from .origins import ANY
from .server import Server
from .sockets import allow_many_connections, hold_port
from .storage import is_url, upkeep
from .workers import CAN_SHARE_A_PORT, Worker, start_workers

PROGRAM = "projects-wsgi"
KEYS_FILE = "projects.keys"  # what the keys commands take by default
ADMIN_SECRET_VARIABLE = "PHOENIX_ADMIN_SECRET"  # named as in Phoenix
_MOST_SECONDS_TO_STOP = 7


class CommandError(Exception):
    """A command cannot be run. The text is one line that tells the user why, or what to do."""


def serve(database: str, *, host: str, port: int, workers: int, quiet: bool, **options: Any) -> int:
    """Serve the projects over HTTP until a signal comes; see make_app and Server. Return the exit status.

    workers: how many processes do. quiet: whether requests are not logged.
    Raises CommandError, StoreError, KeysError.
    """
    allow_many_connections()
    logging.raiseExceptions = False  # a log that cannot be written is no reason to write more to it
    logging.basicConfig(format="%(asctime)s %(message)s", level="WARNING" if quiet else "INFO")
    if workers == 1:
        _serve_in_this_process(database, host, host, port, None, **options)
        return 0
    if not CAN_SHARE_A_PORT:
        raise CommandError(f"--workers {workers}: more than one is possible on Linux only")
    if database == ":memory:":
        raise CommandError(
            f"--workers {workers}: each would have projects of its own in :memory:; give a file"
        )
    signals.hold_signals()
    try:
        holder = hold_port(host, port)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from None
    with holder:
        worker = start_workers(workers)
        if isinstance(worker, int):
            return worker
        signals.hold_signals(False)
        address, port = holder.getsockname()[:2]
        _serve_in_this_process(database, host, address, port, worker, **options)
    return 0


def _serve_in_this_process(
    database: str,
    host: str,
    address: str,
    port: int,
    worker: Worker | None,
    *,
    timeout: float,
    allowed_hosts: Collection[str] | None,
    **options: Any,
) -> None:
    """Serve; address: that of the host, where all workers listen."""
    try:
        app = make_app(database, **options)
    except ValueError as error:  # of the admin secret, or of options that do not go together
        source = f"environment variable {ADMIN_SECRET_VARIABLE}: " if "secret" in str(error) else ""
        raise CommandError(f"{source}{error}") from None
    with contextlib.closing(app.store):
        # From here on, a signal only ends the sleep, so that shutdown() always follows the start.
        signals.catch_signals()
        try:
            server = Server(
                address,
                port,
                app,
                timeout=timeout,
                headers_for=app.headers_for,
                allowed_hosts=allowed_hosts,
                own_name=host,
                is_shared=worker is not None,
            )
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(host, port, error) from None
        with server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            if worker:
                worker.report()
            if worker is None or worker.is_last:
                _announce(server, database, app.store.location, options)
            with contextlib.suppress(KeyboardInterrupt, MemoryError):  # if a signal's handler finds none
                signals.hold_signals(False)
                while not (worker and worker.is_orphan()):
                    time.sleep(signals.POLL_SECONDS)
                signals.hold_signals()
            signals.end_within(_MOST_SECONDS_TO_STOP)
            server.shutdown()


def _cannot_listen(host: str, port: int, error: OSError | UnicodeError) -> CommandError:
    reason = getattr(error, "strerror", None) or error
    return CommandError(
        f"cannot listen on {host}, port {port}: {reason};"
        " choose another with --host or --port; --port 0 takes any free one"
    )


def _announce(server: Server, database: str, location: str, options: dict[str, Any]) -> None:
    if not (server.is_local or options["keys"] or options["admin_secret"]):
        warn(
            "everybody who can reach this address can"
            f" {'read' if options['read_only'] else 'change'} all projects;"
            " give --keys FILE, or listen on 127.0.0.1"
        )
    if ANY in (options["allowed_origins"] or ()):
        warn(
            "every web page that is open in a browser which can reach this address can"
            f" {'read' if options['read_only'] else 'change'} all projects; name the origins instead of *"
        )
    for path in [] if options["keys"] else _unused_keys(database):
        warn(f"the keys in {path} are not used; give --keys {path}")
    with contextlib.suppress(OSError):  # nobody can read it; the server serves all the same
        print(f"Serving the projects in {location} at {server.url} (Ctrl-C stops)", flush=True)


def say(text: str, *, is_done: bool = False) -> None:
    """Print what a command has to say. Raises CommandError if that cannot be; BrokenPipeError.

    is_done: whether the text tells of something that was done, which the error must tell then.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        done = f"{text}; but " if is_done else ""
        raise CommandError(f"{done}cannot write the output: {error.strerror}") from None


def warn(text: str) -> None:
    """Print a warning; if that cannot be, go on."""
    with contextlib.suppress(OSError):
        print(f"{PROGRAM}: warning: {text}", file=sys.stderr)


def _unused_keys(database: str) -> list[str]:
    """Return the keys files that the keys commands make by default, in this folder or beside the database."""
    folder = "" if database == ":memory:" else os.path.dirname(database)
    paths = (KEYS_FILE, os.path.join(folder, KEYS_FILE))
    return sorted({os.path.abspath(path) for path in paths if os.path.exists(path)})


def check(database: str) -> int:
    """Print a database's faults; return 1 if there are any, else 0. Raises StoreError if unreadable."""
    _refuse_url(database, "a PostgreSQL server checks itself, and pg_amcheck its files")
    with upkeep.opened_as_it_is(database) as session:
        faults = upkeep.find_faults(session)
    say("\n".join(faults) or f"{database}: ok")
    return 1 if faults else 0


def back_up(database: str, destination: str, *, overwrite: bool) -> None:
    """Copy a database, which may be in use, to a file. Raises CommandError if the file exists; StoreError."""
    _refuse_url(database, "pg_dump copies a PostgreSQL database")
    progress = _draw_progress if sys.stderr.isatty() else None
    try:
        with upkeep.opened_as_it_is(database) as session:
            upkeep.copy(session, destination, progress, overwrite=overwrite)
    except FileExistsError as error:
        raise CommandError(f"{error}; overwrite it with --force") from None
    say(f"{database} is copied to {destination}", is_done=True)


def restore(database: str, backup: str) -> None:
    """Replace the contents of a database, which may be in use, by a backup. Raises StoreError."""
    _refuse_url(database, "pg_restore restores a PostgreSQL database")
    progress = _draw_progress if sys.stderr.isatty() else None
    with contextlib.closing(SQLiteStore(database)) as store:
        store.restore(backup, progress)
    say(f"{database} holds what {backup} does", is_done=True)


def _refuse_url(database: str, instead: str) -> None:
    if is_url(database):
        raise CommandError(f"this command is for SQLite files: {instead}")


def add_key(file: str, name: str, role: str, expires: str | None) -> None:
    """Add a key to a keys file and print the key. Raises CommandError for a bad date; KeysError.

    expires: its last day in UTC, as days from now ("90d") or as a date; None: it has none.
    """
    last_day = None if expires is None else _parse_last_day(expires)
    key = keys.add_key(file, name, Role(role), last_day)
    try:
        print(key, flush=True)
    except OSError as error:
        keys.revoke_key(file, name)
        raise CommandError(f"cannot print the key: {error.strerror}; {name} was not added") from None
    with contextlib.suppress(OSError):
        print(f"This key of {name} is shown only now; {file} holds only its SHA-256.", file=sys.stderr)


def list_keys(file: str) -> None:
    """Print name, role, day made and last day of each key in a file. Raises KeysError for a bad file."""
    lines = [f"{'NAME':<24} {'ROLE':<7} {'MADE':<11} EXPIRES"]
    for key in keys.read_keys(file):
        expires = f"{key.expires or 'never'}{' (past)' if key.is_expired() else ''}"
        lines.append(f"{key.name:<24} {key.role.value:<7} {key.made!s:<11} {expires}")
    say("\n".join(lines))


def revoke_key(file: str, name: str) -> None:
    """Remove a key from a keys file. Raises KeysError for a bad file or where there is no such key."""
    keys.revoke_key(file, name)
    say(f"{name} is revoked; servers that use {file} will know within two seconds", is_done=True)


def _parse_last_day(text: str) -> datetime.date:
    if re.fullmatch("[0-9]{1,5}d", text):
        return keys.today() + datetime.timedelta(days=int(text[:-1]))
    try:
        day = keys.parse_day(text)
    except ValueError:
        raise CommandError(f"--expires {text!r}: neither days like 90d nor a date like 2026-12-31") from None
    if day < keys.today():
        raise CommandError(f"--expires {text} is past")
    return day


def _draw_progress(done: int, total: int) -> None:
    bar = "#" * (40 * done // total)
    end = "" if done < total else "\n"
    print(f"\r[{bar:<40}] {100 * done // total:3d} %", end=end, file=sys.stderr, flush=True)
