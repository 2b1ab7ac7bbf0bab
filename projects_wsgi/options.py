"""The table of options, for make_app, the store, the command line, the environment and the README."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from typing import Any, NamedTuple

_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class Option(NamedTuple):
    """One option. It can check numbers and texts given in Python, and parse a value given as text.

    name: as in Python; max_page_size is --max-page-size on the command line and
        PROJECTS_WSGI_MAX_PAGE_SIZE in the environment, unless there is a spelling or an own_variable.
    kind: the type of its value: str, int, float (seconds, always above 0), tuple (of texts), or bool:
        what is True by default is made False on the command line.
    default: if it is None, None is allowed as a value. metavar: the name of its value in --help.
    minimum, maximum: the bounds of a number, inclusive. maximum None: no bound.
    engine: "SQLite" or "PostgreSQL" if only stores of that kind have it.
    pattern, meaning: a regular expression that each text of a tuple matches, and what they are.
    """

    name: str
    kind: type
    default: Any
    help: str
    metavar: str = "N"
    minimum: int = 1
    maximum: int | None = None
    engine: str = ""
    pattern: str = ""
    meaning: str = ""
    spelling: str = ""
    own_variable: str = ""

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--" + (self.spelling or self.name.replace("_", "-"))

    @property
    def variable(self) -> str:
        """The environment variable that is used if the option is not on the command line."""
        return self.own_variable or "PROJECTS_WSGI_" + self.flag[2:].replace("-", "_").upper()

    def check(self, value: object) -> None:
        """Raise ValueError, which says what the option must be, unless a number or texts are allowed."""
        if not (self._accepts(value) or (value is None and self.default is None)):
            raise ValueError(f"{self.name} must be {self._expected()}, not {value!r}")

    def parse(self, text: str) -> Any:
        """Return the value of a text. Raises ValueError, which says what the text must be."""
        value: Any = text
        if self.kind is bool and text.lower() in _BOOLEANS:
            value = _BOOLEANS[text.lower()] != self.default
        elif self.kind is tuple:
            value = tuple(map(str.strip, text.split(",")))
        # int() alone would accept blanks, underscores and the digits of other scripts.
        elif self.kind is float or (self.kind is int and text.isascii() and text.isdigit()):
            with contextlib.suppress(ValueError):
                value = self.kind(text)
        if not self._accepts(value):
            raise ValueError(f"{text!r} is not {self._expected()}")
        return value

    def _accepts(self, value: Any) -> bool:
        if self.kind is tuple:
            if isinstance(value, str) or not isinstance(value, Collection):
                return False
            return all(isinstance(text, str) and re.fullmatch(self.pattern, text) for text in value)
        if self.kind in (str, bool):
            return isinstance(value, self.kind) and value != ""
        # A bool is an int in Python. NaN fails every comparison.
        if isinstance(value, bool) or not isinstance(value, (int, float if self.kind is float else int)):
            return False
        is_large_enough = value > 0 if self.kind is float else value >= self.minimum
        return is_large_enough and (self.maximum is None or value <= self.maximum)

    def _expected(self) -> str:
        if self.kind is bool:
            return "true or false"
        if self.kind is tuple:
            return self.meaning
        if self.kind is str:
            return "a text of at least one character"
        if self.kind is float:
            return f"a number of seconds above 0 and at most {self.maximum}"
        if self.maximum is None:
            return f"an integer of at least {self.minimum}"
        return f"an integer from {self.minimum} to {self.maximum}"


DATABASE = Option(
    "database",
    str,
    "projects.db",
    "the SQLite file, created if missing, or a postgresql:// URL; :memory: keeps nothing",
    "FILE",
    spelling="db",
)
HOST = Option("host", str, "127.0.0.1", "the name or address to listen on, IPv4 or IPv6", "HOST")
PORT = Option("port", int, 6006, "the port to listen on; 0 picks a free one", "PORT", 0, 65_535)
MAX_PAGE_SIZE = Option("max_page_size", int, 10_000, "the most projects on one page")
MAX_PAGE_BYTES = Option(
    "max_page_bytes", int, 8_388_608, "the bytes of projects after which a page ends early"
)
MAX_BODY_SIZE = Option(
    "max_body_size", int, 1_048_576, "the largest request body, in bytes; a larger one gets 413"
)
MAX_DATABASE_SIZE = Option(
    "max_database_size",
    int,
    None,
    "the largest database file, in bytes; a change that needs a larger one gets 507",
    minimum=65_536,  # a new file takes half of this
    engine="SQLite",
)
SCHEMA = Option(
    "schema",
    str,
    None,
    "the PostgreSQL schema, made if missing; without one, the connection's",
    "NAME",
    engine="PostgreSQL",
)
MAX_CONNECTIONS = Option(
    "max_connections",
    int,
    10,
    "the most connections to PostgreSQL, of each process",
    maximum=10_000,
    engine="PostgreSQL",
)
# The official clients give up after 30 seconds.
BUSY_TIMEOUT = Option(
    "busy_timeout", float, 5, "how long a request waits for writers; then it gets 503", "SECONDS", maximum=25
)
TIMEOUT = Option(
    "timeout", float, 30, "how long a client may be idle or take to send a request", "SECONDS", maximum=86_400
)
WORKERS = Option("workers", int, 1, "the processes that serve; more than one on Linux only", maximum=64)
KEYS = Option("keys", str, None, "the keys file; without one, everybody may do everything", "FILE")
ALLOWED_ORIGINS = Option(
    "allowed_origins",
    tuple,
    None,
    "the origins whose web pages may use the API; without keys also *, which is all",
    "ORIGIN,...",
    # As browsers send it: in lower case, no path, no port that the scheme implies.
    pattern=r"\*|(?!http:.*:80\Z|https:.*:443\Z)[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?",
    meaning="origins as browsers send them, like https://app.example or http://localhost:3000",
)
ALLOWED_HOSTS = Option(
    "allowed_hosts",
    tuple,
    None,
    "host names to be served under, besides addresses, localhost and names without a dot",
    "NAME,...",
    pattern=r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?",
    meaning="the names of hosts, like phoenix.example",
)
READ_ONLY = Option("read_only", bool, False, "answer every change with 403")
PAGE = Option("page", bool, True, "serve no page for people, only the API", spelling="no-page")
OPEN = Option("open", bool, False, "open the page in a browser")
QUIET = Option("quiet", bool, False, "do not log requests")
API_KEY = Option("api_key", str, None, "for a server", "KEY", own_variable="PHOENIX_API_KEY")

# Those of a server, in the order of --help and of the README.
OPTIONS = (
    *(DATABASE, HOST, PORT, MAX_PAGE_SIZE, MAX_PAGE_BYTES, MAX_BODY_SIZE),
    *(MAX_DATABASE_SIZE, SCHEMA, MAX_CONNECTIONS, BUSY_TIMEOUT, TIMEOUT, WORKERS),
    *(KEYS, ALLOWED_ORIGINS, ALLOWED_HOSTS, READ_ONLY, PAGE, OPEN, QUIET),
)

# Those of a store. It has them from where it is made.
STORE_OPTIONS = (BUSY_TIMEOUT, MAX_DATABASE_SIZE, SCHEMA, MAX_CONNECTIONS)
