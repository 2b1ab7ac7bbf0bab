"""The bundled HTTP/1.1 server: a loop over all connections, which one thread leads; see leader.

The leader waits for all connections at once, and answers by itself what is quick: a GET that has come whole.
It waits for nothing else. What may take its time (a change, a body that has yet to come, an answer that a
client does not read) it keeps: it takes that connection out of the loop, leaves the lead to a follower, and
gives the connection back once it is done. So a slow request takes a thread of its own, and a quick one or an
idle connection none.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection
from typing import Callable, cast

from .access_log import AccessLog
from .connection import PIECE_SIZE, Connection, Service
from .hosts import make_host_check
from .leader import BREATH_SECONDS, PATIENCE_SECONDS, LeaderFollowers, insisting
from .options import ALLOWED_HOSTS, TIMEOUT
from .sockets import is_loopback, listen, most_connections
from .wsgi import Environ, Headers, HTTPError, WSGIApplication

logger = logging.getLogger("projects_wsgi.server")

GRACE_SECONDS = 5.0
_WARY_SECONDS = 1.0  # for which a new client is expected to ask for what takes long, after another did
_WRITE_SECONDS = 0.01  # between two writes to the log,
_MANY_LINES = 32  # unless so many wait
_LOOK_SECONDS = 0.005  # between two looks at whether something has ended

_NO_THREAD = HTTPError(503, "The server can start no thread for this; try again", [("Retry-After", "1")])


class Server(LeaderFollowers[Connection]):
    """Serves a WSGI application over HTTP/1.1.

    host: a name or address to listen at, IPv4 or IPv6. port: 0 takes a free one.
    timeout: seconds that a connection may be idle, and that one request may take to arrive.
    headers_for: returns those of an answer that the application does not give, by the request's environ,
        which holds its method alone if its head could not be read.
    access_log: for a line about each request; whoever has made it closes it. None: there is none.
    allowed_hosts: names by which clients may call the server, besides host, addresses, names without a dot,
        and those that end in .localhost or .internal. None: any, unless it listens at a loopback address.
    own_name: the name of host, if that is its address.
    is_shared: whether other processes listen at the same port.
    url: the address at which it listens. is_local: whether only this machine can reach it.
    Raises OSError if it cannot listen there, ValueError for a wrong argument.

    ``with Server(...) as server: server.serve_forever()``. Leaving the block closes idle connections at
    once. A request that has begun to arrive, or is being answered, has GRACE_SECONDS to get its answer;
    then its connection is closed without one. Of requests that were sent ahead, this holds for the first.
    At most sockets.MAX_CONNECTIONS are served at a time, fewer if the process may open few files.
    A server stays with its process: a forked child closes the sockets that it inherits.
    """

    def __init__(
        self,
        host: str,
        port: int,
        application: WSGIApplication,
        *,
        timeout: float = TIMEOUT.default,
        headers_for: Callable[[Environ], Headers] = lambda _: (),
        access_log: AccessLog | None = None,
        allowed_hosts: Collection[str] | None = ALLOWED_HOSTS.default,
        own_name: str = "",
        is_shared: bool = False,
    ) -> None:
        super().__init__()
        ALLOWED_HOSTS.check(allowed_hosts)
        with contextlib.ExitStack() as opened:  # if not all can be opened, what has been is closed
            self.socket = opened.enter_context(listen(host, port, is_shared))
            self._selector = opened.enter_context(selectors.DefaultSelector())
            self._waker, self._sleeper = map(opened.enter_context, socket.socketpair())
            for end in (self._waker, self._sleeper):
                end.setblocking(False)
            self._selector.register(self._sleeper, selectors.EVENT_READ)
            self._is_accepting = False
            self._accept(True)
            opened.pop_all()
        self.host: str = str(self.socket.getsockname()[0])
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        self.is_local = is_loopback(self.host)
        is_allowed_host = None
        if self.is_local or allowed_hosts is not None:
            is_allowed_host = make_host_check([host, own_name, *(allowed_hosts or ())])
        environ = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            "SERVER_NAME": self.host,
            "SERVER_PORT": str(self.port),
            "SERVER_SOFTWARE": "projects_wsgi",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": True,
            "wsgi.multiprocess": is_shared,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        self._service = Service(application, headers_for, is_allowed_host, access_log, timeout, environ)
        # The leader's, as the selector is
        self._connections: set[Connection] = set()
        self._max_connections = most_connections()
        self._look_seconds = min(1.0, max(timeout / 4, _LOOK_SECONDS))  # between two looks at deadlines
        self._next_look = self._next_write = 0.0
        self._wary_until = 0.0
        # Every thread's, as the waker is. Pending: those that a thread has kept, or whose next request has
        # come with the last.
        self._pending: deque[Connection] = deque()
        self._is_serving = self._is_calm = False
        self._stops_at = 0.0
        _open_servers().add(self)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.server_close()

    def start(self) -> threading.Thread:
        """Serve in another thread; return that once this is so. See serve_forever.

        Raises RuntimeError, MemoryError if no thread can be started.
        """
        self._start_follower()  # here, where the failure is seen
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        while not self._is_serving and thread.is_alive():
            time.sleep(0)
        return thread

    def serve_forever(self) -> None:
        """Serve until shutdown() is called from another thread, and what had begun by then is over.

        Raises RuntimeError, MemoryError if no thread can be started.
        """
        with self._change:
            self._is_serving = not self._service.is_stopping
        try:
            if self._is_serving:
                self._run()
        finally:
            self._is_serving = False

    def shutdown(self) -> None:
        """Refuse clients from now on, and close idle connections; return when that is done."""
        with self._change:
            if not self._service.is_stopping:
                self._stops_at = time.monotonic() + GRACE_SECONDS
            self._service.is_stopping = True
        # On Linux, this refuses clients even if another process has a copy of the socket. On other systems
        # it may be an error.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._wake()
        self._wait_while(lambda: self._is_serving and not self._is_calm)

    def server_close(self) -> None:
        """Stop, as the class says, and close all sockets."""
        try:
            self.shutdown()
            self._wait_while(lambda: self._is_serving or self._threads > 0)
        finally:  # also if Ctrl-C ends the wait
            self._is_over = True
            self._wake_watch()
            for connection in list(self._connections):
                connection.hang_up()
            self._close_sockets()

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        while condition() and time.monotonic() < self._stops_at + 2 * _LOOK_SECONDS:
            time.sleep(_LOOK_SECONDS)

    def _close_sockets(self) -> None:
        self.socket.close()  # first: whoever sees a connection end must find that nobody listens
        for connection in list(self._connections):
            connection.socket.close()
        self._connections.clear()
        for each in (self._selector, self._waker, self._sleeper):
            each.close()

    def forget(self) -> None:
        """In a forked child: close the copies of all sockets; the parent's clients notice nothing."""
        self._service.is_stopping = True
        self._is_serving = False
        self._forget_threads()
        self._close_sockets()

    # What the leader does, without waiting

    def _lead_on(self) -> Connection | None:
        """Serve all clients until all is over, or another thread leads; return what this one keeps then."""
        while not self._is_over:
            try:
                # First what would never have its turn if each time something that came made this return.
                if self._service.is_stopping or time.monotonic() >= self._next_look:
                    self._look()
                for _ in range(len(self._pending)):
                    connection = self._pending.popleft()
                    if self._attempt(self._go_on, connection):
                        return connection
                events = self._wait()
                if events is None:
                    return None
                for key, _ in events:
                    if key.data is None:
                        self._accept_clients()
                    elif self._attempt(self._receive, key.data):
                        return cast(Connection, key.data)
            except Exception as error:
                self._log_failure(error, None)
                time.sleep(BREATH_SECONDS)
        return None

    def _attempt(self, serve: Callable[[Connection], bool], connection: Connection) -> bool:
        """Serve a connection; end it if that fails. Tell whether this thread keeps it."""
        try:
            return serve(connection)
        except Exception as error:
            connection.is_over = True
            leads = self._end_call()
            self._log_failure(error, connection)
            if leads:
                self._close(connection)
            return not leads

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]] | None:
        """Write the log if it is due, and wait until something comes. None: another thread leads now."""
        log = self._service.access_log
        if log and (len(log) >= _MANY_LINES or time.monotonic() >= self._next_write):
            self._next_write = time.monotonic() + _WRITE_SECONDS
            self._begin_call(None)
            try:
                log.write()
            finally:
                leads = self._end_call()
            if not leads:
                return None
        return self._selector.select(self._most_seconds())

    def _most_seconds(self) -> float | None:
        """Return how long to wait until something comes; None: for ever."""
        if self._pending:
            return 0
        if self._service.is_stopping:
            return _LOOK_SECONDS
        if self._service.access_log:  # lines wait in it
            return _WRITE_SECONDS
        return self._look_seconds if self._connections or not self._is_accepting else None

    def _accept_clients(self) -> None:
        """Accept all who wait, if there is room for them, and descriptors. It may be called for nothing."""
        with contextlib.suppress(BlockingIOError):
            self._sleeper.recv(PIECE_SIZE)
        try:
            while self._is_accepting and len(self._connections) < self._max_connections:
                client, address = self.socket.accept()
                connection = Connection(self._service, client, address[0])
                connection.is_slow = time.monotonic() < self._wary_until
                self._connections.add(connection)
                self._attempt(self._go_on, connection)
        except (BlockingIOError, ConnectionError):  # no more of them, or one that has gone
            return
        except OSError:
            pass
        self._accept(False)  # until a connection is closed, or the next look

    def _accept(self, is_wanted: bool) -> None:
        """Look from now on for clients who wait to be accepted, or no longer."""
        if is_wanted and not self._is_accepting:
            self._selector.register(self.socket, selectors.EVENT_READ)
        elif self._is_accepting and not is_wanted:
            self._selector.unregister(self.socket)
        self._is_accepting = is_wanted

    def _go_on(self, connection: Connection) -> bool:
        """Take a connection into the loop, unless it is there, and serve what has come; see _serve."""
        if connection.is_over:
            self._close(connection)
            return False
        if connection.is_kept:
            connection.socket.setblocking(False)
            connection.is_kept = False  # first: what was registered halfway must be unregistered
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return self._serve(connection)

    def _receive(self, connection: Connection) -> bool:
        """Receive what has come, and serve; see _serve."""
        if connection.unread and not connection.searched:  # it is pending, and is answered before more comes
            return False
        try:
            data = connection.socket.recv(PIECE_SIZE)
        except BlockingIOError:
            return False
        if not data and connection.has_begun():
            self._refuse(connection, HTTPError(400, "The request ended early"))
        elif not data:
            self._close(connection)
        elif not connection.is_lingering:
            if not connection.unread:
                connection.deadline = time.monotonic() + self._service.timeout
            connection.unread += data
            return self._serve(connection)
        return False

    def _serve(self, connection: Connection) -> bool:
        """Answer the next request if it has come. Tell whether this thread keeps the connection instead."""
        try:
            if not connection.begin_request():
                return False
        except HTTPError as error:
            self._refuse(connection, error)
            return False
        if connection.may_wait():
            if self._keep(connection):
                return True
            if connection.body is not None:
                logger.error("a request from %s is refused: can't start new thread", connection.address)
                self._refuse(connection, _NO_THREAD)
                return False
        self._begin_call(connection)
        answer = connection.answer()
        if not self._end_call():
            connection.unsent = answer
            return True
        sent = connection.send_at_once(answer)
        if sent < len(answer):
            connection.unsent = answer[sent:]
            if not self._keep(connection):
                raise RuntimeError("can't start new thread")
            return True
        self._end_request(connection)
        return False

    def _refuse(self, connection: Connection, error: HTTPError) -> None:
        """Answer with an error, and read no more from a connection."""
        connection.send_at_once(connection.refuse(error.response))
        self._end_request(connection)

    def _end_request(self, connection: Connection) -> None:
        connection.end_request()
        if connection.is_over:
            self._close(connection)
        elif connection.unread:
            self._pending.append(connection)

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            if not connection.is_kept:
                # To close is not enough: a forked child may have a copy of the socket.
                with contextlib.suppress(KeyError):  # for whom memory ran out halfway before
                    self._selector.unregister(connection.socket)
                connection.is_kept = True
            connection.hang_up()
            connection.socket.close()
            self._connections.remove(connection)
            self._accept(not self._service.is_stopping)

    def _look(self) -> None:
        """End what has waited for too long, and at a stop what is idle."""
        is_stopping = self._service.is_stopping
        now = time.monotonic()
        self._next_look = now + self._look_seconds
        for connection in list(self._connections):
            if connection.is_kept:  # by a thread, and to look whether it is idle might wait with that
                continue
            if now >= connection.deadline or (is_stopping and connection.is_idle()):
                self._attempt(self._end_late, connection)
        self._accept(not is_stopping)
        if is_stopping:
            self._is_calm = True
            self._is_over = not self._connections or now >= self._stops_at
            if self._is_over:
                self._wake_watch()

    def _end_late(self, connection: Connection) -> bool:
        if connection.has_begun():
            self._refuse(connection, HTTPError(408, "The request took too long to arrive"))
        else:
            self._close(connection)
        return False

    # What becomes of what takes long

    def _note_slow(self, connection: Connection | None) -> None:
        """Expect that the next request of this client takes long too, and for a while those of new ones."""
        if connection is not None:
            connection.is_slow = True
        self._wary_until = time.monotonic() + _WARY_SECONDS

    def _take_out(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.is_kept = True

    def _finish(self, connection: Connection) -> None:
        """Do what the leader must not wait for, and give the connection back to the loop."""
        try:
            if not (connection.is_over or connection.unsent):
                began = time.monotonic()
                connection.unsent = connection.answer()
                connection.is_slow = False
                if time.monotonic() - began >= PATIENCE_SECONDS:
                    self._note_slow(connection)
            if not connection.is_over:
                connection.send_all()
                connection.end_request()
        except Exception as error:
            self._log_failure(error, connection)
            connection.is_over = True
        self._give_back(connection)
        self._wake()

    @insisting
    def _give_back(self, connection: Connection) -> None:
        self._pending.append(connection)

    def _log_failure(self, error: Exception, connection: Connection | None) -> None:
        if self._is_over or isinstance(error, OSError):  # all is closed, or the client is gone
            return
        try:
            what, outcome = "the server", "goes on"
            if connection is not None:
                what, outcome = f"the connection from {connection.address}", "is closed"
            # Without memory, the interpreter "can't start new thread", "can't allocate lock".
            is_scarcity = isinstance(error, RuntimeError) and "can't " in str(error)
            if is_scarcity or isinstance(error, MemoryError):
                logger.error("%s %s: %s", what, outcome, str(error) or "out of memory")
            else:
                logger.error("%s failed, and %s", what, outcome, exc_info=error)
        except (MemoryError, RuntimeError):
            return

    @insisting
    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake, or all is over
            self._waker.send(b"x")


@functools.cache
def _open_servers() -> weakref.WeakSet[Server]:
    """Return the servers of this process, whose sockets a forked child closes: registered once, for good."""
    servers: weakref.WeakSet[Server] = weakref.WeakSet()

    def forget() -> None:
        for server in servers:
            server.forget()

    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=forget)
    return servers
