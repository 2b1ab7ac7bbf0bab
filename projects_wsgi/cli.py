"""The command line: parser, environment variables, exit status. No other module reads the environment."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Callable, NoReturn

from . import __version__, commands, signals
from .auth import KeysError, Role
from .commands import PROGRAM, CommandError, warn
from .locations import without_password
from .model import StoreError
from .options import API_KEY, DATABASE, KEYS, OPTIONS, PORT, SCHEMA, Option
from .serving import ADMIN_SECRET_VARIABLE, serve
from .storage import CONFLICT_RULES

_KEYS_FILE = KEYS._replace(default=commands.KEYS_FILE, help="the keys file")  # which keys commands need
_EXISTING = DATABASE._replace(help="the SQLite file")  # which these commands do not make
_WITH_PROJECTS = DATABASE._replace(help="the SQLite file, or a postgresql:// URL")


def main(arguments: list[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command line; the server until Ctrl-C or SIGTERM.

    arguments, environ: None: the process's. Returns the exit status: 2 after an error in one line, 130
    when a signal ended the command, but 0 when it ended the server.
    """
    signals.catch_signals()
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may not be in its encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments, os.environ if environ is None else environ)
    finally:
        _let_go_of_output()


def _run(arguments: list[str] | None, environ: Mapping[str, str]) -> int:
    try:
        settings = vars(parse_settings(arguments, environ))
    except BrokenPipeError:  # of a parser's help; whoever reads it has enough
        return _fail("")
    except OSError as error:
        return _fail(f"cannot write the output: {error.strerror}")
    command = settings.pop("run")
    try:
        signals.hold_signals(False)
        status = _run_command(command, settings)
        signals.hold_signals()
    except KeyboardInterrupt:
        status = 0 if command is serve else 130
    return status


def _open_standard_streams() -> None:
    """Open what was closed: the next file that is opened would be a standard stream, and be written to."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Nothing must seem to be read, or what is printed to be: standard input and output fail.
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_WRONLY)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _run_command(command: Callable[..., int | None], settings: dict[str, Any]) -> int:
    try:
        return command(**settings) or 0
    except (CommandError, KeysError, StoreError) as error:
        return _fail(str(error))
    except FileExistsError as error:
        return _fail(f"{error}; overwrite it with --force")
    except BrokenPipeError:  # whoever reads it has enough
        return _fail("")


def _fail(text: str) -> int:
    """Print an error, if there is a text; return the exit status."""
    with contextlib.suppress(OSError):
        if text:
            print(f"{PROGRAM}: {text}", file=sys.stderr)
    return 2


def _let_go_of_output() -> None:
    """Drop what cannot be written: at its exit, Python would try again, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_settings(arguments: list[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    """Return the function to run and its arguments: from the command line, the environment, or the default.

    Exits with 2 after printing what is wrong with an argument or a variable.
    """
    parser = build_parser()
    settings = parser.parse_args(arguments)
    options = vars(settings).pop("options")
    for name in {option.name for option in OPTIONS}.difference(option.name for option in options):
        vars(settings).pop(name, None)  # which may be given before a command that has no use for it
    for name in vars(settings).keys() - {option.name for option in options}:
        _refuse_password(parser, name, getattr(settings, name), f"argument {name}")
    for option in options:
        text, source = getattr(settings, option.name, None), f"argument {option.flag}"
        if text is None:
            text, source = environ.get(option.variable) or None, f"environment variable {option.variable}"
            if option is PORT and text is not None and "://" in text:
                shown = without_password(text)
                warn(
                    f"{source} is {shown!r}, as Kubernetes sets it for a service of that name; port"
                    f" {option.default} is used"
                )
                text = None
        _refuse_password(parser, option.name, text, source)
        try:
            value = option.default if text is None else option.parse(text)
        except ValueError as error:
            parser.error(f"{source}: {error}")
        setattr(settings, option.name, value)
    if settings.run is serve:
        settings.admin_secret = environ.get(ADMIN_SECRET_VARIABLE) or None
    return settings


def _refuse_password(parser: argparse.ArgumentParser, name: str, given: object, source: str) -> None:
    """Exit if a value holds a password: in the wrong place, many a message would show it."""
    if name in (DATABASE.name, API_KEY.name, "source") or not isinstance(given, str):
        return
    if without_password(given) != given:
        parser.error(f"{source} holds a password, as only the URL of a database may: {given!r}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which leaves the values of options as text."""
    parser = _Parser(
        prog=PROGRAM, description="Serve the projects API of Arize Phoenix from an SQLite file or PostgreSQL."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_options(parser, serve, OPTIONS)
    add = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Command).add_parser
    build_serve = functools.partial(_add_options, run=serve, options=OPTIONS)
    add("serve", help="serve the projects; the command when none is given", build=build_serve)
    check = functools.partial(_add_options, run=commands.check, options=[_EXISTING])
    add("check", help="look for faults in a database; exit with 1 if it has any", build=check)
    add("backup", help="copy a database, also one in use", build=_build_backup)
    add("restore", help="replace what a database holds, also one in use, by a backup", build=_build_restore)
    add("export", help="write all projects as lines of JSON", build=_build_export)
    add("import", help="bring in the projects of a Phoenix, a database or a file", build=_build_import)
    add("keys", help="add, list or revoke keys", build=_build_keys)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors quote what was given, up to where a password may begin."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:  # argparse would not tell that it cannot be written
            print(message, end="", flush=True)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        super().error(without_password(message))


class _Command(_Parser):
    """The parser of a command, made when that is given: to make all takes a tenth of a start.

    build: adds what it needs. settings: those of an ArgumentParser.
    """

    def __init__(self, *, build: Callable[[argparse.ArgumentParser], object], **settings: Any) -> None:
        self._build = build
        self._settings = settings

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        super().__init__(**self._settings)
        self._build(self)
        return super().parse_known_args(args, namespace)


def _build_backup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", metavar="DEST", help="the file to create")
    parser.add_argument("--force", action="store_true", help="overwrite DEST if it exists")
    _add_options(parser, commands.back_up, [_EXISTING])


def _build_restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", metavar="BACKUP", help="the file that backup made")
    _add_options(parser, commands.restore, [DATABASE])


def _build_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "destination", metavar="DEST", nargs="?", help="the file to create; else, or with -, they are printed"
    )
    parser.add_argument("--force", action="store_true", help="overwrite DEST if it exists")
    _add_options(parser, commands.export, [_WITH_PROJECTS, SCHEMA])


def _build_import(parser: argparse.ArgumentParser) -> None:
    parser.description = "Bring projects into a database: all of them, or none and an error."
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a Phoenix's phoenix.db, also in use; the http:// or https:// URL of a Phoenix; a database of"
        " ours, file or postgresql:// URL; a file of JSON lines, or - for those of standard input",
    )
    parser.add_argument(
        "--on-conflict",
        choices=CONFLICT_RULES,
        default=CONFLICT_RULES[0],
        help="for a name that exists: import nothing (the default), leave it, or set its description",
    )
    parser.add_argument(
        "--new-ids", action="store_true", help="give new ids, as is done if the database holds projects"
    )
    parser.add_argument("--skip-invalid", action="store_true", help="leave out what cannot be kept here")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, but say what would be done")
    _add_options(parser, commands.import_, [DATABASE, SCHEMA, API_KEY])


def _build_keys(parser: argparse.ArgumentParser) -> None:
    add = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    ).add_parser

    adder = add("add", help="create a key and print it, once")
    adder.add_argument("name", metavar="NAME", help="a unique name for it")
    adder.add_argument("--role", choices=[role.value for role in Role], required=True, help="what it allows")
    adder.add_argument("--expires", metavar="90d|DATE", help="its last day, in UTC")
    _add_options(adder, commands.add_key, [_KEYS_FILE])

    lister = add("list", help="show name, role, day made and last day")
    _add_options(lister, commands.list_keys, [_KEYS_FILE])

    revoker = add("revoke", help="make a key invalid")
    revoker.add_argument("name", metavar="NAME", help="its name")
    _add_options(revoker, commands.revoke_key, [_KEYS_FILE])


def _add_options(parser: argparse.ArgumentParser, run: Callable[..., Any], options: Iterable[Option]) -> None:
    """Give a command its options and the function that runs it, which takes each value by its name."""
    parser.set_defaults(run=run, options=options)
    parser.epilog = "If an option is not given, the environment variable beside it is used."
    for option in options:
        default = "" if option.default is None or option.kind is bool else f"default: {option.default}; "
        text = f"{option.help} ({default}{option.variable})"
        value: dict[str, Any] = {"metavar": option.metavar}
        if option.kind is bool:
            value = {"action": "store_const", "const": "true"}
        # No default here: a subcommand's default would overwrite what is given before its name.
        parser.add_argument(option.flag, dest=option.name, help=text, default=argparse.SUPPRESS, **value)
