"""The commands of the command line, but for the server. They print, and raise errors that say what to do."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import SQLiteStore, Store, signals
from . import keys as keyring
from .auth import Role
from .locations import is_url
from .model import ChangeForbidden, NamesExist, ProjectsInvalid, SourceUnavailable
from .storage import open_store, upkeep

if TYPE_CHECKING:
    from . import transfer

PROGRAM = "projects-wsgi"
MEMORY = ":memory:"  # as a database
STANDARD_OUTPUT = "-"  # as the file of an export
KEYS_FILE = "projects.keys"  # what the keys commands take by default


class CommandError(Exception):
    """A command cannot be run. The text is one line that tells the user why, or what to do."""


def check(database: str) -> int:
    """Print a database's faults; return 1 if there are any, else 0. Raises StoreError if unreadable."""
    _refuse_url(database, "a PostgreSQL server checks itself, and pg_amcheck its files")
    with upkeep.opened_as_it_is(database) as session:
        faults = upkeep.find_faults(session)
    _say("\n".join(faults) or f"{database}: ok")
    return 1 if faults else 0


def back_up(database: str, destination: str, force: bool) -> None:
    """Copy a database, which may be in use, to a file. Raises FileExistsError, StoreError."""
    _refuse_url(database, "pg_dump copies a PostgreSQL database")
    with upkeep.opened_as_it_is(database) as session:
        upkeep.copy(session, destination, _draw_progress, overwrite=force)
    _say(f"{database} is copied to {destination}", is_done=True)


def restore(database: str, backup: str) -> None:
    """Replace the contents of a database, which may be in use, by a backup. Raises as import_."""
    _refuse_url(database, "pg_restore restores a PostgreSQL database")
    _refuse_memory(database, "restored")
    # In this order: if the backup is not good, no database is made.
    with upkeep.copied(backup, database) as copy, contextlib.closing(SQLiteStore(database)) as store:
        store.restore_copy(copy, _draw_progress)
    _say(f"{database} holds what {backup} does", is_done=True)


def export(database: str, schema: str | None, destination: str | None, force: bool) -> None:
    """Write all projects as lines of JSON, to a file or to standard output. Raises as back_up."""
    from . import transfer  # which would make the server start later

    if database == MEMORY:
        raise CommandError("there is nothing to export in :memory:; give --db")
    with contextlib.closing(_open(database, schema, read_only=True)) as store:
        if destination is None or destination == STANDARD_OUTPUT:
            with _writing_output():
                transfer.write_lines(store, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            return
        source = MEMORY if is_url(database) else store.location
        with upkeep.new_file(destination, source, overwrite=force) as path, open(path, "wb") as file:
            count = transfer.write_lines(store, file)
            file.flush()
            os.fsync(file.fileno())
    _say(f"{_many(count)} of {store.location} exported to {destination}", is_done=True)


def import_(
    database: str,
    schema: str | None,
    source: str,
    api_key: str | None,
    on_conflict: str,
    new_ids: bool,
    skip_invalid: bool,
    dry_run: bool,
) -> None:
    """Bring projects into a database and say what was done. Raises CommandError, StoreError."""
    from . import transfer

    began = time.monotonic()
    _refuse_memory(database, "imported")
    if dry_run and not is_url(database) and _is_new(database):
        database = MEMORY  # which holds what a new file would
    try:
        with (
            transfer.open_source(source, api_key) as opened,
            contextlib.closing(transfer.Stage(opened, new_ids=new_ids, progress=_draw_progress)) as stage,
        ):
            stage.fill(skip_invalid=skip_invalid)  # first: if it cannot be read, no database is made
            is_read_only = dry_run and database != MEMORY
            with contextlib.closing(_open(database, schema, read_only=is_read_only)) as store:
                report = stage.bring_into(store, on_conflict=on_conflict, dry_run=dry_run)
    except ProjectsInvalid as error:
        _list_invalid(error.reasons, error.count)
        raise CommandError(
            f"{_many(error.count)} cannot be kept here; nothing is imported: --skip-invalid leaves them out"
        ) from None
    except NamesExist as error:
        raise CommandError(
            f"{error}; nothing is imported: give --on-conflict skip or --on-conflict update"
        ) from None
    except (SourceUnavailable, ChangeForbidden) as error:
        raise CommandError(f"{error}; nothing is imported") from None
    _list_invalid(report.reasons, report.invalid)
    _say(_summarize(report, time.monotonic() - began, dry_run, new_ids), is_done=True)


def _list_invalid(reasons: list[str], count: int) -> None:
    more = count - len(reasons)
    with contextlib.suppress(OSError):
        for reason in [*reasons, *([f"and {more:,} more"] if more else [])]:
            print(reason, file=sys.stderr)


def _summarize(report: transfer.Report, seconds: float, dry_run: bool, new_ids: bool) -> str:
    invalid = f", {report.invalid:,} left out" if report.invalid else ""
    text = f"{_many(report.made)} made, {report.updated:,} updated, {report.skipped:,} skipped{invalid}"
    if dry_run:
        text = f"to be done, and not done: {text}"
    if report.made and not report.kept_ids:
        text += f"; they have new ids{'' if new_ids else ', because there were projects already'}"
    return f"{text} (in {seconds:.1f} s)"


def _many(count: int) -> str:
    return f"{count:,} project{'' if count == 1 else 's'}"


def add_key(keys: str, name: str, role: str, expires: str | None) -> None:
    """Add a key to a keys file and print the key. Raises CommandError for a bad date; KeysError.

    expires: its last day in UTC, as days from now ("90d") or as a date; None: it has none.
    """
    last_day = None if expires is None else _parse_last_day(expires)
    signals.hold_signals()  # until what is added would be removed again
    key = keyring.add_key(keys, name, Role(role), last_day)
    try:
        signals.hold_signals(False)
        print(key, flush=True)
    except BaseException as error:
        signals.hold_signals()
        keyring.revoke_key(keys, name)
        if isinstance(error, OSError):
            raise CommandError(f"cannot print the key: {error.strerror}; {name} was not added") from None
        raise
    with contextlib.suppress(OSError):
        print(f"This key of {name} is shown only now; {keys} holds only its SHA-256.", file=sys.stderr)


def list_keys(keys: str) -> None:
    """Print name, role, day made and last day of each key in a file. Raises KeysError for a bad file."""
    lines = [f"{'NAME':<24} {'ROLE':<7} {'MADE':<11} EXPIRES"]
    for key in keyring.read_keys(keys):
        expires = f"{key.expires or 'never'}{' (past)' if key.is_expired() else ''}"
        lines.append(f"{key.name:<24} {key.role.value:<7} {key.made!s:<11} {expires}")
    _say("\n".join(lines))


def revoke_key(keys: str, name: str) -> None:
    """Remove a key from a keys file. Raises KeysError for a bad file or where there is no such key."""
    keyring.revoke_key(keys, name)
    _say(f"{name} is revoked; servers that use {keys} will know within two seconds", is_done=True)


def _parse_last_day(text: str) -> datetime.date:
    if re.fullmatch("[0-9]{1,5}d", text):
        return keyring.today() + datetime.timedelta(days=int(text[:-1]))
    try:
        day = keyring.parse_day(text)
    except ValueError:
        raise CommandError(f"--expires {text!r}: neither days like 90d nor a date like 2026-12-31") from None
    if day < keyring.today():
        raise CommandError(f"--expires {text} is past")
    return day


# What the commands share


def _open(database: str, schema: str | None, *, read_only: bool) -> Store:
    try:
        return open_store(database, read_only=read_only, schema=schema)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _is_new(database: str) -> bool:
    return not os.path.exists(database) or (os.path.isfile(database) and os.path.getsize(database) == 0)


def _refuse_memory(database: str, done: str) -> None:
    if database == MEMORY:
        raise CommandError(f"what is {done} into :memory: would be gone at once; give --db")


def _refuse_url(database: str, instead: str) -> None:
    if is_url(database):
        raise CommandError(f"this command is for SQLite files: {instead}")


def warn(text: str) -> None:
    """Print a warning; if that cannot be, go on."""
    with contextlib.suppress(OSError):
        print(f"{PROGRAM}: warning: {text}", file=sys.stderr)


def _say(text: str, *, is_done: bool = False) -> None:
    """Print a text. is_done: whether it tells of something that was done: an error tells it, too."""
    with _writing_output(f"{text}; but " if is_done else ""):
        print(text, flush=True)


@contextlib.contextmanager
def _writing_output(beginning: str = "") -> Iterator[None]:
    """Raise CommandError for an output that cannot be written, and that with a beginning."""
    try:
        yield
    except BrokenPipeError:  # whoever read it has enough
        raise
    except OSError as error:
        raise CommandError(f"{beginning}cannot write the output: {error.strerror}") from None


def _draw_progress(done: int, total: int | None) -> None:
    """Show on a terminal how much is done. total: None: nobody knows yet, and it is projects."""
    if not sys.stderr.isatty():
        return
    if total is None:
        print(f"\r{done:,} projects read", end="", file=sys.stderr, flush=True)
        return
    bar = "#" * (40 * done // total)
    end = "" if done < total else "\n"
    print(f"\r[{bar:<40}] {100 * done // total:3d} %", end=end, file=sys.stderr, flush=True)
