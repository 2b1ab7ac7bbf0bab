"""Opens connections to a PostgreSQL database, and says what their errors mean: the only user of psycopg."""

from __future__ import annotations

import functools
import math
import re
import selectors
import time
from collections.abc import Generator
from typing import Any

from ...locations import without_password
from ...model import ChangeForbidden, OutcomeUnknown, ProjectsError, StoreBusy, StoreFull, StoreUnavailable

MORE_SECONDS = 1.0  # for which the client waits longer than the server, which says why nothing came
_LOOK_SECONDS = 0.1  # how often a client that waits looks whether it has waited long enough
_CROWDED_SECONDS = 0.05  # between two tries of a server that takes no more connections
_LEAST_CONNECT_SECONDS = 2  # libpq waits no less

# What SQLSTATEs, or their first two characters, mean (postgresql.org/docs/current/errcodes-appendix.html);
# all others are StoreUnavailable.
MEANINGS: dict[str, type[ProjectsError]] = {
    **dict.fromkeys(("09", "22", "23", "27", "38", "39", "44", "45", "P0"), ChangeForbidden),
    **dict.fromkeys(("40001", "40P01", "55P03", "57014"), StoreBusy),
    "53100": StoreFull,
}
_CONFLICTS = ("40001", "40P01")  # of statements at the same time: the server has undone this one
_READ_ONLY = "25006"
_IDLE = ("25P03", "57P05")  # the server hung up because no statement had come for too long

# Of a connection that cannot be made, libpq tells no SQLSTATE.
_CROWDED = (
    *("too many clients", "too many connections", "no more connections", "connection slots"),
    "the database system is",  # starting up, shutting down, in recovery mode
)


class Database:
    """Makes connections to what a URL means; see PostgresStore for what it takes and raises.

    location: the URL with user, host, port and database, and nothing else.
    """

    is_lasting = False
    turn = 0.0  # who waits for a server does not keep the interpreter

    def __init__(self, url: str, busy_timeout: float) -> None:
        try:
            import psycopg
            from psycopg import RawCursor
        except ImportError as error:
            raise StoreUnavailable(
                f'PostgreSQL needs psycopg 3.2 or later: pip install "psycopg[binary]>=3.2" ({error})'
            ) from None
        self.error: type[Exception] = psycopg.Error
        given = _parse_url(url)
        defaults = {
            option.keyword.decode(): option.val.decode(errors="replace")
            for option in psycopg.pq.Conninfo.get_defaults()
            if option.val is not None
        }
        settings = {**defaults, **given}
        user, port = settings.get("user", ""), settings.get("port", "")
        host = str(settings.get("host") or settings.get("hostaddr") or "")
        service = f"?service={given['service']}" if "service" in given else ""
        self.location = f"postgresql://{user}@{host}:{port}/{settings.get('dbname', user)}{service}"
        # These are shown, the others in errors of libpq's.
        shown = [self.location, *(given[name] for name in given if not re.search("password|secret", name))]
        if any(without_password(text) != text for text in shown):
            raise _malformed(": a password stands where none belongs")
        self._host_count = host.count(",") + 1
        if self._host_count > 1 and settings["target_session_attrs"] == "any":
            given.setdefault("target_session_attrs", "primary")
        # Nothing but this, because behind a pooler others may get it too. In milliseconds.
        self._settings = f"SET statement_timeout = {max(1, int(1000 * busy_timeout))}"
        self._connect_seconds = _parse_seconds(settings.get("connect_timeout"))
        self._parameters = {
            "fallback_application_name": "projects_wsgi",
            **given,
            "client_encoding": "UTF8",
            "autocommit": True,
            "prepare_threshold": None,  # behind a pooler, another client's statement may have the same name
            "cursor_factory": RawCursor,
        }

    # What a pool asks of it

    def connect(self, deadline: float) -> Any:
        """Return a connection. Raises StoreBusy while the server takes no more, StoreUnavailable."""
        while True:
            try:
                return self._connect(deadline)
            except self.error as error:
                reason = _reason(error)
                if not any(words in reason for words in _CROWDED):
                    raise StoreUnavailable(f"cannot connect to {self.location}: {reason}") from error
                if time.monotonic() >= deadline:
                    raise StoreBusy(f"{self.location} takes no more connections: {reason}") from error
            time.sleep(_CROWDED_SECONDS)

    def _connect(self, deadline: float) -> Any:
        seconds = min(self._connect_seconds, (deadline - time.monotonic()) / self._host_count)
        parameters = {**self._parameters, "connect_timeout": max(_LEAST_CONNECT_SECONDS, int(seconds))}
        connection = _connection_class().connect(**parameters)
        try:
            connection.deadline = deadline + MORE_SECONDS
            connection.execute(self._settings)
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self, session: Any) -> None:
        """Renew a session that is closed, or whose server has said goodbye: that is all it says unasked."""
        # If it is closed, something else may have its descriptor now.
        if session.connection.closed or session.connection.selector.select(0):
            session.renew()
        session.connection.deadline = session.deadline + MORE_SECONDS

    def check_unchanged(self) -> None:
        """Return: whatever is read there is of one moment."""

    def may_retry(self, session: Any, sql: str, error: Any) -> bool:
        """Tell whether a statement has done nothing and may succeed now. Raises OutcomeUnknown."""
        if error.sqlstate in _CONFLICTS:
            return True
        if not sql.startswith("SELECT") and _is_unclear(session, error):
            raise self._unknown(error) from error
        # What is read-only now may have been the primary until now.
        is_worth_a_try = (_is_lost(session, error) or error.sqlstate == _READ_ONLY) and not session.is_renewed
        if is_worth_a_try and time.monotonic() < session.deadline:
            session.renew()
            self.check(session)
            return True
        return False

    def commit(self, session: Any) -> None:
        """End a transaction of several statements. Raises OutcomeUnknown if the answer is lost."""
        try:
            session.connection.execute("COMMIT")
        except self.error as error:
            if _is_unclear(session, error):
                raise self._unknown(error) from error
            raise

    def _unknown(self, error: Any) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"the connection to {self.location} was lost after a change was sent, which may or may not"
            f" have been made: look before you try again ({_reason(error)})"
        )

    def translated(self, error: Any) -> ProjectsError:
        """Return what an error of psycopg means."""
        state = error.sqlstate or ""
        meaning = MEANINGS.get(state) or MEANINGS.get(state[:2])
        reason = _reason(error)
        if meaning is ChangeForbidden:
            return ChangeForbidden(reason)
        if meaning is StoreBusy:
            return StoreBusy(f"{self.location} was busy for too long: {reason}; try again later")
        if meaning is StoreFull:
            return StoreFull(f"{self.location} is full: {reason}; make room on its disk")
        return StoreUnavailable(f"cannot use {self.location}: {reason}")

    def reset(self, connection: Any) -> None:
        """Raise where a statement or a transaction is under way, or the connection is lost."""
        if connection.info.transaction_status:
            raise self.error("this connection cannot be used again")

    def disconnect(self, connection: Any) -> None:
        connection.close()


def _parse_url(url: str) -> dict[str, Any]:
    """Return libpq's parameters. Raises ValueError, which shows nothing of a URL that may hold a password."""
    from psycopg import Error, conninfo

    complaint = ""
    try:
        given: dict[str, Any] = conninfo.conninfo_to_dict(url)
        # Where a character of the password was not escaped, libpq may take a part of it for one of these.
        hosts = f"{given.get('host', '')}{given.get('hostaddr', '')}"
        path = url.partition("://")[2].partition("?")[0].partition("/")[2]
        ports = str(given.get("port", ""))
        if not ("\0" in url or "@" in hosts + path or re.search("[^0-9,]", ports)):
            return given
    except Error as error:
        # What it quotes may be a part of the password.
        complaint = ": " + re.split(r"[^\w /%-]", str(error), maxsplit=1)[0].strip()
    except UnicodeError:
        pass
    raise _malformed(complaint)


def _malformed(complaint: str) -> ValueError:
    return ValueError(
        f"the database's URL is malformed{complaint}; check the names of its parameters, and in user and"
        " password write %40 for @, %2F for /, %3A for :, %3F for ?, %26 for & and %25 for %:"
        " postgresql://user:...@host:port/database?parameter=value"
    )


def _parse_seconds(text: str | None) -> float:
    """Return how long a connection may take to be made: 0 or less is for ever. Raises ValueError."""
    try:
        seconds = int(float(text or 0))
    except (ValueError, OverflowError):
        raise ValueError("the connect_timeout of the database's URL is no number of seconds") from None
    return seconds if seconds > 0 else math.inf


@functools.cache
def _connection_class() -> Any:
    import psycopg
    from psycopg import waiting

    class Connection(psycopg.Connection[Any]):
        """A connection that waits until its deadline, whatever the server and the network do."""

        deadline = math.inf  # by time.monotonic()

        @functools.cached_property
        def selector(self) -> selectors.BaseSelector:
            selector = getattr(
                selectors, "PollSelector", selectors.SelectSelector
            )()  # which hold no descriptor
            selector.register(self.pgconn.socket, selectors.EVENT_READ)
            return selector

        def wait(self, generator: Any, *_: Any, **__: Any) -> Any:
            limited = self._until_deadline(generator)
            return waiting.wait(limited, self.pgconn.socket, interval=_LOOK_SECONDS)

        def _until_deadline(self, generator: Any) -> Generator[Any, Any, Any]:
            try:
                state = next(generator)
                while True:
                    ready = yield state
                    if not ready and time.monotonic() >= self.deadline:
                        self.close()
                        raise psycopg.OperationalError("the server has not answered in time")
                    state = generator.send(ready)
            except StopIteration as end:
                return end.value

        def execute(self, query: Any, params: Any = (), **_: Any) -> Any:
            return self.cursor(binary=True).execute(query, params)

    return Connection


def _is_lost(session: Any, error: Any) -> bool:
    return session.connection.closed or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def _is_unclear(session: Any, error: Any) -> bool:
    """Tell whether a change may have been made in spite of an error."""
    return _is_lost(session, error) and error.sqlstate not in _IDLE


def _reason(error: Any) -> str:
    text = " ".join(str(error).split())
    # Of several hosts, psycopg says twice what was wrong with the last one.
    return error.diag.message_primary or text.partition("All failures were: ")[2] or text
