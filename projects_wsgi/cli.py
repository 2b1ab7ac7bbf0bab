"""The command line: parser, environment variables, exit status. No other module reads the environment."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from . import __version__, commands
from .auth import KeysError, Role
from .commands import PROGRAM
from .model import StoreError
from .options import DATABASE, KEYS, OPTIONS, Option

DEFAULT_KEYS = "projects.keys"
# Named as in Phoenix. Its value is the key of an admin; when it is set, every request needs a key.
ADMIN_SECRET_VARIABLE = "PHOENIX_ADMIN_SECRET"

_EPILOG = "If an option is not given, the environment variable beside it is used."

# Runs a command; returns its exit status, None for 0.
Run = Callable[[argparse.Namespace], "int | None"]


def main(arguments: list[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command line; the server until Ctrl-C or SIGTERM.

    arguments: those after the program's name; None: the process's. environ: None: the process's.
    Returns the exit status: 2 after an error that the user can correct, which is printed in one line;
    130 when a signal ended the command, but 0 when it ended the server.
    """
    commands.catch_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may not be in its encoding
            stream.reconfigure(errors="backslashreplace")
    settings = parse_settings(arguments, os.environ if environ is None else environ)
    try:
        if settings.run is not _serve:  # which releases them when it is ready to stop
            commands.hold_signals(False)
        status = _run(settings)
        commands.hold_signals()
    except KeyboardInterrupt:
        status = 130
    return status


def _run(settings: argparse.Namespace) -> int:
    try:
        return settings.run(settings) or 0
    except (commands.CommandError, KeysError, StoreError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2


def _serve(settings: argparse.Namespace) -> None:
    values = {option.name: getattr(settings, option.name) for option in OPTIONS}
    database = values.pop(DATABASE.name)
    commands.serve(database, admin_secret=settings.admin_secret, **values)


def parse_settings(arguments: list[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    """Return a value for each option, and the function to run as ``run``.

    The value comes from the command line, else from the environment, else it is the default.
    Exits with 2 after printing what is wrong with an argument or a variable.
    """
    parser = build_parser()
    settings = parser.parse_args(arguments)
    settings.admin_secret = environ.get(ADMIN_SECRET_VARIABLE) or None
    for option in OPTIONS:
        if hasattr(settings, option.name):
            continue
        value = option.default
        if environ.get(option.variable):
            try:
                value = option.parse(environ[option.variable])
            except ValueError as error:
                parser.error(f"environment variable {option.variable}: {error}")
        setattr(settings, option.name, value)
    return settings


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, whose options come from OPTIONS."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve the projects API of Arize Phoenix from one SQLite file.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.set_defaults(run=_serve)
    _add_options(parser, OPTIONS)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add_command(name: str, run: Run, text: str, options: Iterable[Option]) -> argparse.ArgumentParser:
        help_ = text[0].lower() + text[1:].rstrip(".")
        command = subparsers.add_parser(name, help=help_, description=text, epilog=_EPILOG)
        command.set_defaults(run=run)
        _add_options(command, options)
        return command

    add_command("serve", _serve, "Serve the projects; the command when none is given.", OPTIONS)
    add_command(
        "check",
        lambda settings: commands.check(settings.db),
        "Check a database, which may be in use; exit with 1 if it has faults.",
        [DATABASE],
    )
    backup = add_command(
        "backup",
        lambda settings: commands.back_up(settings.db, settings.destination, overwrite=settings.force),
        "Copy a database, which may be in use.",
        [DATABASE],
    )
    backup.add_argument(
        "destination", type=_argument_type(DATABASE), metavar="DEST", help="the file to create"
    )
    backup.add_argument("--force", action="store_true", help="overwrite DEST if it exists")
    _add_key_commands(subparsers.add_parser("keys", help="add, list or revoke keys"))
    return parser


def _add_key_commands(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = subparsers.add_parser("add", help="create a key and print it, once", epilog=_EPILOG)
    add.add_argument("name", metavar="NAME", help="a unique name for it")
    add.add_argument("--role", choices=[role.value for role in Role], required=True, help="what it allows")
    add.add_argument("--expires", metavar="90d|DATE", help="its last day, in UTC")
    list_ = subparsers.add_parser("list", help="show name, role, day made and last day", epilog=_EPILOG)
    revoke = subparsers.add_parser("revoke", help="make a key invalid", epilog=_EPILOG)
    revoke.add_argument("name", metavar="NAME", help="its name")
    add.set_defaults(run=lambda it: commands.add_key(it.keys or DEFAULT_KEYS, it.name, it.role, it.expires))
    list_.set_defaults(run=lambda it: commands.list_keys(it.keys or DEFAULT_KEYS))
    revoke.set_defaults(run=lambda it: commands.revoke_key(it.keys or DEFAULT_KEYS, it.name))
    for command in (add, list_, revoke):
        _add_options(command, [KEYS._replace(default=DEFAULT_KEYS, help="the keys file")])


def _add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    for option in options:
        default = "" if option.default in (None, False) else f"default: {option.default}; "
        arguments: dict[str, Any] = {
            # No defaults here: a subcommand's default would overwrite what is given before its name.
            "default": argparse.SUPPRESS,
            "help": f"{option.help} ({default}{option.variable})",
        }
        if option.kind is bool:
            parser.add_argument(option.flag, action="store_true", **arguments)
        else:
            type_ = _argument_type(option)
            parser.add_argument(option.flag, type=type_, metavar=option.metavar, **arguments)


def _argument_type(option: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except ValueError as error:  # argparse would not show its text
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
