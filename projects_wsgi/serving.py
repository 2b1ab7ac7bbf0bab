"""The command that serves: from the options to a server that runs, in this process or in workers."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

from . import make_app, signals
from .access_log import AccessLog, Output
from .commands import KEYS_FILE, MEMORY, CommandError, warn
from .files import remedy
from .locations import is_url
from .origins import ANY
from .server import Server
from .sockets import allow_many_connections, hold_port
from .workers import CAN_SHARE_A_PORT, Worker, start_workers

ADMIN_SECRET_VARIABLE = "PHOENIX_ADMIN_SECRET"  # named as in Phoenix
_MOST_SECONDS_TO_STOP = 7
_SWITCH_SECONDS = 0.001  # that a thread which computes keeps a quick request waiting, a few times each


def serve(database: str, *, host: str, port: int, workers: int, quiet: bool, **options: Any) -> int:
    """Serve the projects over HTTP until a signal comes; see make_app and Server. Return the exit status.

    workers: how many processes do. quiet: whether requests are not logged.
    Raises CommandError, StoreError, KeysError.
    """
    if options["open"] and not options["page"]:
        raise CommandError("--open: with --no-page there is nothing to open")
    allow_many_connections()
    logging.raiseExceptions = False  # a log that cannot be written is no reason to write more to it
    output = Output(sys.stderr)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=output)
    options["access_log"] = None if quiet else output
    if workers == 1:
        _serve_in_this_process(database, host, host, port, None, **options)
        return 0
    if not CAN_SHARE_A_PORT:
        raise CommandError(f"--workers {workers}: more than one is possible on Linux only")
    if database == MEMORY:
        raise CommandError(
            f"--workers {workers}: each would have projects of its own in :memory:; give a file"
        )
    signals.hold_signals()
    try:
        holder = hold_port(host, port)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from None
    with holder:
        try:
            worker = start_workers(workers)
        except OSError as error:
            raise CommandError(f"cannot start workers: {error.strerror}; {remedy(error)}") from None
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
    access_log: Output | None,
    timeout: float,
    allowed_hosts: Collection[str] | None,
    **options: Any,
) -> None:
    """Serve. address: the host's, where all workers listen. access_log: None: requests are not logged."""
    is_to_open = options.pop("open")
    try:
        app = make_app(database, **options)
    except ValueError as error:  # of the admin secret, or of options that do not go together
        source = f"environment variable {ADMIN_SECRET_VARIABLE}: " if "secret" in str(error) else ""
        raise CommandError(f"{source}{error}") from None
    with contextlib.ExitStack() as stack:
        stack.callback(app.store.close)
        # From here on, a signal only ends the sleep, so that shutdown() always follows the start.
        signals.catch_signals()
        sys.setswitchinterval(_SWITCH_SECONDS)
        log = None if access_log is None else stack.enter_context(contextlib.closing(AccessLog(access_log)))
        try:
            server = Server(
                address,
                port,
                app,
                timeout=timeout,
                headers_for=app.headers_for,
                access_log=log,
                allowed_hosts=allowed_hosts,
                own_name=host,
                is_shared=worker is not None,
            )
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(host, port, error) from None
        stack.enter_context(server)
        try:
            server.start()
        except (RuntimeError, MemoryError) as error:
            reason = error if str(error) else "out of memory"
            raise CommandError(f"cannot serve: {reason}; allow this user more processes and memory") from None
        if worker:
            worker.report()
        announces = worker is None or worker.is_last
        if announces:
            _announce(server, database, app.store.location, options)
        with contextlib.suppress(KeyboardInterrupt, MemoryError):  # if a signal's handler finds none
            signals.hold_signals(False)
            if announces and is_to_open:
                # A browser in the terminal keeps who opens it waiting until it ends.
                threading.Thread(target=_open_page, args=[server], daemon=True).start()
            while not (worker and worker.is_orphan()):
                time.sleep(signals.POLL_SECONDS)
            signals.hold_signals()
        signals.end_within(_MOST_SECONDS_TO_STOP)
        server.shutdown()


def _cannot_listen(host: str, port: int, error: OSError | UnicodeError) -> CommandError:
    reason = getattr(error, "strerror", None) or error
    advice = remedy(error) if isinstance(error, OSError) else ""
    advice = advice or "choose another with --host or --port; --port 0 takes any free one"
    return CommandError(f"cannot listen on {host}, port {port}: {reason}; {advice}")


def _announce(server: Server, database: str, location: str, options: dict[str, Any]) -> None:
    may = f"can {'read' if options['read_only'] else 'change'} all projects"
    if not (server.is_local or options["keys"] or options["admin_secret"]):
        warn(f"everybody who can reach this address {may}; give --keys FILE, or listen on 127.0.0.1")
    if ANY in (options["allowed_origins"] or ()):
        warn(
            f"every web page that is open in a browser which can reach this address {may};"
            " name the origins instead of *"
        )
    if not options["keys"]:
        # Those that the keys commands make by default, in this folder or beside the database.
        is_file = database != MEMORY and not is_url(database)
        beside = os.path.join(os.path.dirname(database) if is_file else "", KEYS_FILE)
        for path in sorted({os.path.abspath(it) for it in (KEYS_FILE, beside) if os.path.exists(it)}):
            warn(f"the keys in {path} are not used; give --keys {path}")
    what = "the page and the API" if options["page"] else "the API"
    with contextlib.suppress(OSError):  # nobody can read it; the server serves all the same
        print(f"Serving the projects in {location} at {server.url} ({what}; Ctrl-C stops)", flush=True)


def _open_page(server: Server) -> None:
    import webbrowser

    # A server that listens at every address has none that every browser takes.
    every = {"0.0.0.0": "http://127.0.0.1", "::": "http://[::1]"}
    url = f"{every[server.host]}:{server.port}" if server.host in every else server.url
    if not webbrowser.open(url):
        warn(f"no browser was found; open {url}")
