"""The command line; the only reader of the environment."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import io
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, NamedTuple, NoReturn

from . import __version__, make_app
from .auth import KeysError, Role
from .model import StoreError
from .options import BUSY_TIMEOUT
from .server import MAX_CONNECTIONS, RESERVED_DESCRIPTORS, Server
from .storage.sqlite import upkeep

Command = Callable[[argparse.Namespace], int]

PROGRAM = "projects-wsgi"
DEFAULT_KEYS = "projects.keys"
# Phoenix's own: an admin's key, which makes keys necessary.
ADMIN_SECRET_VARIABLE = "PHOENIX_ADMIN_SECRET"
_OPEN_TO_ALL = (
    "whoever reaches this address may {} all, since no keys are asked for;"
    " give --keys FILE, or listen at 127.0.0.1"
)
_POLL_SECONDS = 0.1  # how long a signal may go unnoticed


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() would also take what nobody means: blanks, underscores, other scripts' digits.
        is_number = text.isascii() and text.isdigit() and len(text) <= 18
        if not (is_number and minimum <= int(text) <= maximum):
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {minimum} to {maximum}")
        return int(text)

    return parse


def _seconds(maximum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= maximum:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number of seconds, above 0 and up to {maximum:g}"
            )
        return seconds

    return parse


def _flag(text: str) -> bool:
    word = text.lower()
    if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0")
    return word in ("1", "true", "yes", "on")


def _last_day(text: str) -> datetime.date:
    from .keys import parse_day, today  # here and below: the server starts sooner without

    try:
        if text.isascii() and re.fullmatch("[0-9]{1,5}d", text):
            day = today() + datetime.timedelta(days=int(text[:-1]))
        else:
            day = parse_day(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither days like 90d nor a day like 2026-12-31"
        ) from None
    if day < today():
        raise argparse.ArgumentTypeError(f"{text} is past")
    return day


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it must not be empty")
    return text


class Option(NamedTuple):
    """One option of the command line, which its environment variable stands in for.

    flag: with its dashes. parse: its text to its value; raises ArgumentTypeError. default: the
    value if neither is given, None for none. metavar: None for a flag without a value. help: one clause.
    """

    flag: str
    parse: Callable[[str], Any]
    default: Any
    metavar: str | None
    help: str

    @property
    def dest(self) -> str:
        return self.flag[2:].replace("-", "_")

    @property
    def variable(self) -> str:
        return f"PROJECTS_WSGI_{self.dest.upper()}"


DATABASE_OPTION = Option(
    "--db", _name, "projects.db", "FILE", "the SQLite file, made if missing; :memory: keeps nothing"
)
OPTIONS = (
    DATABASE_OPTION,
    Option("--host", _name, "127.0.0.1", "HOST", "the address to listen at, IPv4 or IPv6"),
    Option("--port", _integer(0, 65_535), 6006, "PORT", "the port to listen at; 0 takes a free one"),
    Option("--max-page-size", _integer(1, 2**31), 10_000, "N", "the longest page, in projects"),
    Option("--max-body-size", _integer(1, 2**31), 1_048_576, "N", "the largest body that is read, in bytes"),
    Option(
        "--max-database-size",
        _integer(65_536, 2**50),
        None,
        "N",
        "the largest database file, in bytes; what would make it larger is answered with 507",
    ),
    Option(
        "--busy-timeout",
        _seconds(25),
        BUSY_TIMEOUT.default,
        "SECONDS",
        "how long a request waits for others who write to the database; then it is answered with 503",
    ),
    Option(
        "--timeout",
        _seconds(86_400),
        30.0,
        "SECONDS",
        "how long a connection may be idle, or a request take to arrive",
    ),
    Option(
        "--keys", _name, None, "FILE", "the keys file, which says who may do what; without, everybody may all"
    ),
    Option("--read-only", _flag, False, None, "answer what would change something with 403"),
    Option("--quiet", _flag, False, None, "do not log requests"),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, made from OPTIONS."""
    epilog = "An option that is not given is read from the environment variable named beside it."
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve the projects API of Arize Phoenix from one SQLite file.",
        epilog=epilog,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add_command(name: str, run: Command, text: str, options: Iterable[Option]) -> argparse.ArgumentParser:
        help_ = text[0].lower() + text[1:].rstrip(".")
        command = commands.add_parser(name, help=help_, description=text, epilog=epilog)
        command.set_defaults(run=run)
        _add_options(command, options)
        return command

    add_command("serve", _serve, "Serve the projects; the command when none is given.", OPTIONS)
    add_command(
        "check",
        _check,
        "Check a database, which may be in use; exit with 1 if it is faulty.",
        [DATABASE_OPTION],
    )
    backup = add_command("backup", _back_up, "Copy a database, which may be in use.", [DATABASE_OPTION])
    backup.add_argument("destination", type=_name, metavar="DEST", help="the file to make")
    backup.add_argument("--force", action="store_true", help="overwrite DEST if it exists")
    _add_keys_commands(commands.add_parser("keys", help="add, list or revoke keys", epilog=epilog), epilog)
    parser.set_defaults(run=_serve)
    _add_options(parser, OPTIONS)
    return parser


def _add_keys_commands(parser: argparse.ArgumentParser, epilog: str) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = commands.add_parser("add", help="make a key and print it, once", epilog=epilog)
    add.add_argument("name", metavar="NAME", help="whose key it is; unique")
    add.add_argument("--role", choices=[role.value for role in Role], required=True, help="what it may do")
    add.add_argument("--expires", type=_last_day, metavar="90d|DATE", help="the last day of its life, in UTC")
    list_ = commands.add_parser("list", help="show name, role, made and expires of each key", epilog=epilog)
    revoke = commands.add_parser("revoke", help="take a key out of use", epilog=epilog)
    revoke.add_argument("name", metavar="NAME", help="whose key it is")
    for command, run in ((add, _add_key), (list_, _list_keys), (revoke, _revoke_key)):
        command.set_defaults(run=run)
        command.add_argument(
            "--keys",
            type=_name,
            metavar="FILE",
            default=argparse.SUPPRESS,
            help=f"the keys file (default: {DEFAULT_KEYS}; PROJECTS_WSGI_KEYS)",
        )


def _add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    for option in options:
        # No defaults here: a command's would hide what is given before its name.
        if option.metavar is None:
            text = f"{option.help} ({option.variable})"
            parser.add_argument(option.flag, action="store_true", default=argparse.SUPPRESS, help=text)
        else:
            default = "" if option.default is None else f"default: {option.default}; "
            text = f"{option.help} ({default}{option.variable})"
            parser.add_argument(
                option.flag, type=option.parse, metavar=option.metavar, default=argparse.SUPPRESS, help=text
            )


def main(arguments: list[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command line; the server until Ctrl-C or SIGTERM.

    arguments: those after the program's name; None: the process's. environ: None: the process's.
    Returns the exit status; exits with 2 and one clear line for whatever the user can put right.
    """
    run: Command = _serve
    try:
        _handle_signals(_interrupt)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # the name of a file may not be in its encoding
                stream.reconfigure(errors="backslashreplace")
        parser = build_parser()
        settings = parser.parse_args(arguments)
        _complete(settings, parser, os.environ if environ is None else environ)
        run = settings.run
        return run(settings)
    except KeyboardInterrupt:
        # The way to stop a server; whatever else was interrupted is not done.
        return 0 if run is _serve else 130


def _handle_signals(handler: Callable[..., None] | signal.Handlers) -> None:
    # SIGINT as well: a shell starts its background jobs with it ignored.
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_, handler)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _complete(
    settings: argparse.Namespace, parser: argparse.ArgumentParser, environ: Mapping[str, str]
) -> None:
    """Take what the command line did not say from the environment, else from the defaults."""
    settings.admin_secret = environ.get(ADMIN_SECRET_VARIABLE) or None
    for option in OPTIONS:
        if hasattr(settings, option.dest):
            continue
        value = option.default
        if environ.get(option.variable):
            try:
                value = option.parse(environ[option.variable])
            except argparse.ArgumentTypeError as error:
                parser.error(f"environment variable {option.variable}: {error}")
        setattr(settings, option.dest, value)


def _serve(settings: argparse.Namespace) -> int:
    _allow_many_connections()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    if settings.quiet:
        logging.getLogger("projects_wsgi.server").setLevel(logging.WARNING)
    try:
        app = make_app(
            settings.db,
            max_page_size=settings.max_page_size,
            max_body_size=settings.max_body_size,
            max_database_size=settings.max_database_size,
            busy_timeout=settings.busy_timeout,
            read_only=settings.read_only,
            keys=settings.keys,
            admin_secret=settings.admin_secret,
        )
    except (StoreError, KeysError, ValueError) as error:
        _fail(str(error))
    try:
        server = Server(
            settings.host, settings.port, app, timeout=settings.timeout, headers=app.common_headers
        )
    except (OSError, UnicodeError) as error:
        app.store.close()
        _fail(_explain(error, settings.host, settings.port))
    database = settings.db if settings.db == ":memory:" else os.path.abspath(settings.db)
    try:
        with _caught_signals() as signals, server:
            threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True).start()
            if not (server.is_local or settings.keys or settings.admin_secret):
                warning = _OPEN_TO_ALL.format("read" if settings.read_only else "do")
                print(f"{PROGRAM}: {warning}", file=sys.stderr)
            print(f"Serving the projects in {database} at {server.url} (Ctrl-C stops)", flush=True)
            signals.recv(1)
            _handle_signals(signal.SIG_IGN)  # it is stopping already
            server.shutdown()
    finally:
        app.store.close()
    return 0


def _check(settings: argparse.Namespace) -> int:
    try:
        with upkeep.opened_as_it_is(settings.db) as connection:
            faults = upkeep.find_faults(connection)
    except (FileNotFoundError, StoreError) as error:
        _fail(str(error))
    print("\n".join(faults) or f"{settings.db}: ok")
    return 1 if faults else 0


def _back_up(settings: argparse.Namespace) -> int:
    progress = _draw_progress if sys.stderr.isatty() else None
    try:
        with upkeep.opened_as_it_is(settings.db) as connection:
            upkeep.copy(connection, settings.destination, progress, overwrite=settings.force)
    except FileExistsError as error:
        _fail(f"{error}; overwrite it with --force")
    except (FileNotFoundError, StoreError) as error:
        _fail(str(error))
    print(f"{settings.db} is copied to {settings.destination}")
    return 0


def _add_key(settings: argparse.Namespace) -> int:
    from .keys import add_key

    file = settings.keys or DEFAULT_KEYS
    with _keys_errors():
        key = add_key(file, settings.name, Role(settings.role), settings.expires)
    print(key)
    note = f"This key of {settings.name} is shown only now; {file} holds no more than its SHA-256."
    print(note, file=sys.stderr)
    return 0


def _list_keys(settings: argparse.Namespace) -> int:
    from .keys import read_keys

    with _keys_errors():
        found = read_keys(settings.keys or DEFAULT_KEYS)
    print(f"{'NAME':<24} {'ROLE':<7} {'MADE':<11} EXPIRES")
    for key in found:
        expires = f"{key.expires or 'never'}{' (past)' if key.is_expired() else ''}"
        print(f"{key.name:<24} {key.role.value:<7} {key.made!s:<11} {expires}")
    return 0


def _revoke_key(settings: argparse.Namespace) -> int:
    from .keys import revoke_key

    file = settings.keys or DEFAULT_KEYS
    with _keys_errors():
        revoke_key(file, settings.name)
    print(f"{settings.name} is revoked; servers that use {file} know within two seconds")
    return 0


@contextlib.contextmanager
def _keys_errors() -> Iterator[None]:
    try:
        yield
    except KeysError as error:
        _fail(str(error))


def _draw_progress(done: int, total: int) -> None:
    bar = "#" * (40 * done // total)
    print(
        f"\r[{bar:<40}] {100 * done // total:3d} %",
        end="" if done < total else "\n",
        file=sys.stderr,
        flush=True,
    )


def _allow_many_connections() -> None:
    """Raise this process's limit of file descriptors, which is often low for historical reasons."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MAX_CONNECTIONS + RESERVED_DESCRIPTORS
        if 0 <= soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))


@contextlib.contextmanager
def _caught_signals() -> Iterator[socket.socket]:
    """Give a socket from which a byte can be read for each signal that comes.

    Python runs a signal's handler between any two steps of the main thread: raising there may
    leave things half done, and a sleep that is just about to begin would not notice it.
    """
    receiver, waker = socket.socketpair()
    with receiver, waker:
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        _handle_signals(lambda *_: None)
        try:
            yield receiver
        finally:
            signal.set_wakeup_fd(-1)


def _explain(error: OSError | UnicodeError, host: str, port: int) -> str:
    if isinstance(error, UnicodeError):
        return f"{host} is no host name; choose another with --host"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} at {host} is taken; choose another with --port, or 0 for any free one"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used by this user; choose one above 1023 with --port"
    return f"cannot listen at {host}: {error.strerror}; choose an address of this machine with --host"


def _fail(message: str) -> NoReturn:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    raise SystemExit(2)
