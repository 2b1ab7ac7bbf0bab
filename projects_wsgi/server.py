"""The bundled HTTP/1.1 server: one thread leads, the others follow.

The leader waits for all connections at once, and answers by itself what is quick: a GET whose head has come.
It never waits for anything else. What may take its time (a change, a body that has yet to come, an answer
that a client does not read) it keeps for itself, after it has taken that connection out of the loop and left
the lead to a follower: a thread that waits for just that, started when there is none. When it is done, it
gives the connection back and follows. If an answer takes longer than expected, the watch, which is the thread
in serve_forever(), leaves the lead to a follower in the leader's name. So each slow request takes a thread,
a quick one or an idle connection none. One lock, _change, makes all of this one step: who leads, what call
is under way, how many follow. An answer is collected in memory before it is sent, so it must fit there.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import io
import logging
import os
import select
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Callable

from .http1 import Body, BodyError, find_head, parse_head, render_answer, request_line
from .options import TIMEOUT
from .wsgi import TEXT, Environ, HTTPError, Response, WSGIApplication

logger = logging.getLogger("projects_wsgi.server")

MAX_CONNECTIONS = 2_000
RESERVED_DESCRIPTORS = 100  # left to the application, whose database needs some
LINGER_SECONDS = 2.0
GRACE_SECONDS = 5.0
_PATIENCE_SECONDS = 0.005  # that a leader may take for an answer
_QUIET_LOOKS = 20  # after which the watch sleeps
_MAX_FOLLOWERS = 64
_FOLLOW_SECONDS = 2.0  # after which a follower that was not needed ends
_BIRTH_SECONDS = 1.0  # for which to wait for a new thread: without memory it may die before it begins
_BREATH_SECONDS = 0.02  # until the next try, if there was no memory
_LOOK_SECONDS = 0.005  # between two looks at whether something has ended
_PIECE_SIZE = 65_536  # received at a time
_SENT_SIZE = 262_144  # sent at a time to a client that reads slowly
_BACKLOG = 1_024
_ALL_METHODS = Response(204, headers=[("Allow", "GET, HEAD, OPTIONS, POST, PUT, DELETE")])
_NO_THREAD = HTTPError(503, "The server can start no thread for this; try again", [("Retry-After", "1")])

Job = Callable[[], object]


class Server:
    """Serves a WSGI application over HTTP/1.1.

    host: a name or address to listen at, IPv4 or IPv6. port: 0 takes a free one.
    timeout: seconds that a connection may be idle, and that one request may take to arrive.
    headers: sent with the answers to requests that are refused before they reach the application.
    is_shared: whether other processes listen at the same port.
    url: the address at which it listens. is_local: whether only this machine can reach it.
    Raises OSError if it cannot listen there.

    ``with Server(...) as server: server.serve_forever()``. Leaving the block closes idle connections at
    once. A request that has begun to arrive, or is being answered, has GRACE_SECONDS to get its answer;
    then its connection is closed without one.
    At most MAX_CONNECTIONS are served at a time, fewer if the process may open few files; other clients wait.
    A server stays with its process: a forked child closes the sockets that it inherits.
    """

    def __init__(
        self,
        host: str,
        port: int,
        application: WSGIApplication,
        *,
        timeout: float = TIMEOUT.default,
        headers: Iterable[tuple[str, str]] = (),
        is_shared: bool = False,
    ) -> None:
        self.application = application
        self.headers = list(headers)
        self.timeout = timeout
        self.socket = _listen(host, port, is_shared)
        self.host: str = str(self.socket.getsockname()[0])
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        self.is_local = self.host.startswith("127.") or self.host == "::1"
        self.base_environ: Environ = {
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
        self._max_connections = _most_connections()
        self._look_seconds = min(1.0, max(timeout / 4, _LOOK_SECONDS))  # between two looks at deadlines
        # The leader's alone
        self._selector: Any = select.epoll() if hasattr(select, "epoll") else _Selector()
        self._waker, self._sleeper = socket.socketpair()
        self._connections: dict[int, _Connection] = {}  # by the number of the descriptor
        self._ready: deque[_Connection] = deque()  # those with a request that came with an earlier one
        self._is_accepting = False
        self._next_look = 0.0
        # Everybody's
        self._returned: deque[_Connection] = deque()  # from those that kept them
        self._change = threading.Lock()
        self._lead = threading.Lock()  # the leader's, whoever releases it
        self._lead.acquire()
        self._leader = 0  # the thread that leads
        self._call: tuple[float, _Connection] | None = None  # when the leader called the application
        self._followers = 0
        self._threads = 0
        self._is_watching = True
        self._attention = threading.Event()
        self.is_stopping = False
        self._stops_at = 0.0
        self._is_serving = self._is_calm = self._is_over = False
        self._waker.setblocking(False)
        self._sleeper.setblocking(False)
        self._selector.register(self._sleeper.fileno(), 1)
        self._watch_listener()
        _open_servers().add(self)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.server_close()

    def serve_forever(self) -> None:
        """Serve until shutdown() is called from another thread, and what had begun then is over."""
        with self._change:
            if self.is_stopping:
                return
            self._is_serving = True
        try:
            self._start_follower()
            self._lead.release()
            self._watch()
        finally:
            self._is_serving = False

    def shutdown(self) -> None:
        """Accept no more clients, and close the idle connections; return when that is done."""
        with self._change:
            if not self.is_stopping:
                self._stops_at = time.monotonic() + GRACE_SECONDS
            self.is_stopping = True
        # On Linux, clients are refused even if another process has a copy of the socket. On other systems
        # it may be an error.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._wake()
        self._wait_while(lambda: self._is_serving and not self._is_calm)

    def server_close(self) -> None:
        """Stop, as the class says, and close all sockets."""
        self.shutdown()
        self._wait_while(lambda: self._is_serving or self._threads > 0)
        self._is_over = True
        for connection in list(self._connections.values()):
            connection.close()
        for each in (self.socket, self._selector, self._waker, self._sleeper):
            each.close()

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        while condition() and time.monotonic() < self._stops_at + _LOOK_SECONDS * 10:
            time.sleep(_LOOK_SECONDS)

    # Threads: the watch, the leader, those that follow

    def _watch(self) -> None:
        """Look after the leader until all is over; while nothing is called, sleep."""
        quiet_looks = 0
        while not self._is_over:
            time.sleep(_PATIENCE_SECONDS)
            call = self._call
            quiet_looks = 0 if call else quiet_looks + 1
            if call and time.monotonic() - call[0] >= _PATIENCE_SECONDS:
                call[1].is_slow = True
                with contextlib.suppress(RuntimeError, MemoryError):  # the leader will do without
                    self._leave_lead()
            elif quiet_looks > _QUIET_LOOKS:
                self._attention.clear()
                self._is_watching = False
                if not (self._call or self._is_over):
                    self._attention.wait()
                self._is_watching = True

    def _leave_lead(self) -> bool:
        """Leave the lead to a follower, and the connection that is called for to the leader, whoever that is.

        Tell whether that was done. Raises RuntimeError, MemoryError if there is no follower to be had.
        """
        self._start_follower()
        with self._change:
            if not (self._followers and self._call):  # the one has ended, or the other
                return False
            connection = self._call[1]
            self._selector.unregister(connection.number)
            connection.is_kept = True
            self._call = None
            self._leader = 0
            self._lead.release()
            return True

    def _start_follower(self) -> None:
        """Start a thread if none follows. Raises RuntimeError, MemoryError."""
        if self._followers:
            return
        # Thread.start() would wait for ever for a thread that finds no memory to begin with.
        _thread.start_new_thread(self._follow, ())
        deadline = time.monotonic() + _BIRTH_SECONDS
        while not self._followers:
            if time.monotonic() > deadline:
                raise RuntimeError("can't start new thread")
            time.sleep(0)

    def _follow(self) -> None:
        """Wait for the lead, serve, and do what this thread has kept, until there is no need for it."""
        with self._change:
            self._threads += 1
        while self._await_lead():
            job = self._serve_all()
            if job is None:
                self._lead.release()
                break
            job()
        with self._change:
            self._threads -= 1

    def _await_lead(self) -> bool:
        with self._change:
            if self._followers >= _MAX_FOLLOWERS:
                return False
            self._followers += 1
        leads = self._lead.acquire(timeout=_FOLLOW_SECONDS)
        with self._change:
            # Whoever has left the lead to this one in the meantime did so with this lock held.
            leads = leads or self._lead.acquire(blocking=False)
            self._followers -= 1
            if leads:
                self._leader = _thread.get_ident()
            return leads

    # What the leader does, and never waits

    def _serve_all(self) -> Job | None:
        """Serve all clients. Return what may take its time, when another thread leads; None: all is over."""
        while not self._is_over:
            connection = None
            try:
                for number, _ in self._selector.poll(self._most_seconds()):
                    connection = self._connections.get(number)
                    if connection is not None:
                        job = self._receive(connection)
                        if job is not None:
                            return job
                    elif number == self._sleeper.fileno():
                        self._take_back()
                    else:
                        self._accept_clients()
                for _ in range(len(self._ready)):
                    connection = self._ready.popleft()
                    job = self._serve(connection)
                    if job is not None:
                        return job
                connection = None
                if self.is_stopping or time.monotonic() >= self._next_look:
                    self._look()
            except Exception as error:
                if connection is None:
                    logger.error("the server has failed, and goes on", exc_info=error)
                    time.sleep(_BREATH_SECONDS)
                elif (job := self._drop(connection, error)) is not None:
                    return job
        return None

    def _most_seconds(self) -> float | None:
        """Return how long to wait for something to come. None: for ever."""
        if self._ready:
            return 0
        if self.is_stopping:
            return _LOOK_SECONDS
        return self._look_seconds if self._connections or not self._is_accepting else None

    def _accept_clients(self) -> None:
        """Accept those that wait. If there is no room, or no descriptor left, look again later."""
        try:
            while len(self._connections) < self._max_connections:
                client, address = self.socket.accept()
                connection = _Connection(client, address[0], time.monotonic() + self.timeout)
                self._selector.register(connection.number, 1)
                self._connections[connection.number] = connection
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            pass
        self._watch_listener(False)

    def _watch_listener(self, is_wanted: bool = True) -> None:
        is_wanted = is_wanted and not self.is_stopping
        if is_wanted and not self._is_accepting:
            self._selector.register(self.socket.fileno(), 1)
        elif self._is_accepting and not is_wanted:
            self._selector.unregister(self.socket.fileno())
        self._is_accepting = is_wanted

    def _receive(self, connection: _Connection) -> Job | None:
        """Receive what has come over a connection, and answer if that completes a request; or see _serve."""
        try:
            data = connection.socket.recv(_PIECE_SIZE)
        except BlockingIOError:
            return None
        if connection.is_lingering and data:
            return None
        if not data:
            if connection.unread:
                self._refuse(connection, HTTPError(400, "The request ended early"))
            else:
                self._close(connection)
            return None
        if not connection.unread:
            connection.deadline = time.monotonic() + self.timeout
        connection.unread += data
        return self._serve(connection)

    def _serve(self, connection: _Connection) -> Job | None:
        """Answer the next request of a connection, if it has come; or return how another thread will."""
        if connection.is_kept or connection.is_over:
            return None
        unread = connection.unread
        try:
            end = find_head(unread, connection.searched)
            connection.searched = len(unread)
            if not end:
                return None
            head, came = unread[:end], unread[end:]
            environ, framing = parse_head(head, self.base_environ)
        except HTTPError as error:
            self._refuse(connection, error)
            return None
        environ["REMOTE_ADDR"] = connection.address
        environ["wsgi.errors"] = sys.stderr
        exchange = _Exchange(self, connection, head, environ, framing.is_last)
        if framing.is_chunked or framing.length > len(came):
            exchange.body = Body(framing, came, connection.receive, connection.ask_for_body)
            environ["wsgi.input"] = io.BufferedReader(exchange.body)
        else:
            exchange.rest = came[framing.length :]
            environ["wsgi.input"] = io.BytesIO(came[: framing.length])
        return self._answer(connection, exchange)

    def _answer(self, connection: _Connection, exchange: _Exchange) -> Job | None:
        if exchange.is_slow or connection.is_slow:
            job = functools.partial(self._answer_slowly, connection, exchange)
            try:
                self._keep(connection)
                return job
            except (RuntimeError, MemoryError) as error:
                if exchange.body is not None:
                    _log_failure(error, connection)
                    self._refuse(connection, _NO_THREAD)
                    return None
        self._call = time.monotonic(), connection
        if not self._is_watching:
            self._attention.set()
        answer = exchange.answer()
        if not self._end_call():
            return functools.partial(self._answer_slowly, connection, exchange, answer)
        sent = connection.send_at_once(answer)
        if sent < len(answer):
            job = functools.partial(self._answer_slowly, connection, exchange, answer[sent:])
            self._keep(connection)
            return job
        exchange.end()
        if connection.is_over:
            self._close(connection)
        elif connection.unread:
            self._ready.append(connection)
        return None

    def _keep(self, connection: _Connection) -> None:
        """Leave the lead to another thread, and keep a connection. Raises RuntimeError, MemoryError."""
        self._call = time.monotonic(), connection
        while self._leader == _thread.get_ident():
            self._leave_lead()

    def _end_call(self) -> bool:
        """End the call of the application; tell whether this thread still leads."""
        with self._change:
            leads = self._leader == _thread.get_ident()
            if leads:
                self._call = None
            return leads

    def _refuse(self, connection: _Connection, error: HTTPError) -> None:
        """Answer with an error, and end the connection."""
        exchange = _Exchange(self, connection, connection.unread, {}, True)
        exchange.rest = connection.unread
        connection.send_at_once(exchange.answer(error.response))
        exchange.end()

    def _drop(self, connection: _Connection, error: Exception) -> Job | None:
        """End a connection that has failed."""
        _log_failure(error, connection)
        connection.is_over = True
        if not self._end_call():
            return functools.partial(self._give_back, connection)
        self._close(connection)
        return None

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.number]
        if not connection.is_kept:
            # To close is not enough where a forked child has a copy of the socket.
            self._selector.unregister(connection.number)
        connection.close()
        self._watch_listener()

    def _take_back(self) -> None:
        """Take the connections back that threads have kept."""
        with contextlib.suppress(BlockingIOError):
            self._sleeper.recv(_PIECE_SIZE)
        while self._returned:
            connection = self._returned.popleft()
            if connection.is_over:
                self._close(connection)
                continue
            connection.socket.setblocking(False)
            self._selector.register(connection.number, 1)
            connection.is_kept = False
            if connection.unread:
                self._ready.append(connection)

    def _look(self) -> None:
        """Close what has waited for too long, and at a stop what is idle."""
        now = time.monotonic()
        self._next_look = now + self._look_seconds
        for connection in [each for each in self._connections.values() if not each.is_kept]:
            is_idle = not (connection.unread or connection.is_lingering)
            if connection.unread and now >= connection.deadline:
                self._refuse(connection, HTTPError(408, "The request took too long to arrive"))
            elif now >= connection.deadline or (is_idle and self.is_stopping and not connection.has_more()):
                self._close(connection)
        self._watch_listener()
        if self.is_stopping:
            self._is_calm = True
            if not self._connections or now >= self._stops_at:
                self._is_over = True
                self._attention.set()

    # What other threads do

    def _answer_slowly(self, connection: _Connection, exchange: _Exchange, answer: bytes = b"") -> None:
        """Do what the leader must not wait for, then give the connection back. answer: what is left of it."""
        try:
            if not answer:
                began = time.monotonic()
                answer = exchange.answer()
                connection.is_slow = time.monotonic() - began >= _PATIENCE_SECONDS
            connection.send(answer, self.timeout)
            exchange.end()
        except Exception as error:
            _log_failure(error, connection)
            connection.is_over = True
        self._give_back(connection)

    def _give_back(self, connection: _Connection) -> None:
        self._returned.append(connection)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake, or all is over
            self._waker.send(b"x")

    def forget(self) -> None:
        """In a forked child: close the copies of all sockets, of which the parent's clients see nothing."""
        self._is_over = self.is_stopping = True
        self._threads = 0
        self._is_serving = False
        self._change, self._lead = threading.Lock(), threading.Lock()
        self._lead.acquire()
        for connection in self._connections.values():
            connection.socket.close()
        self._connections = {}
        for each in (self.socket, self._selector, self._waker, self._sleeper):
            each.close()


class _Connection:
    """A client's connection.

    unread: bytes that came and were not read; searched: how many of them hold no end of a head.
    deadline: when it must end, by time.monotonic(), unless something comes. is_kept: whether a thread has
    it, which then may wait. is_slow: whether its last answer took long. is_lingering: whether it
    only waits for the client to hang up. is_over: whether it is to be closed. is_lost: by the client.
    """

    __slots__ = (
        *("socket", "number", "address", "unread", "searched", "deadline"),
        *("is_kept", "is_slow", "is_lingering", "is_over", "is_lost"),
    )

    def __init__(self, client: socket.socket, address: str, deadline: float) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.socket = client
        self.number = client.fileno()
        self.address = address
        self.unread = b""
        self.searched = 0
        self.deadline = deadline
        self.is_kept = self.is_slow = self.is_lingering = self.is_over = self.is_lost = False

    def has_more(self) -> bool:
        """Tell whether something has come that was not received."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def receive(self) -> bytes:
        """Wait for more until the deadline; return it. Raises OSError."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise socket.timeout("timed out")
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(_PIECE_SIZE)
        except ConnectionError:
            self.is_lost = True
            raise

    def ask_for_body(self) -> None:
        self.send(b"HTTP/1.1 100 Continue\r\n\r\n", max(self.deadline - time.monotonic(), 0.001))

    def send_at_once(self, data: bytes) -> int:
        """Send what goes out without waiting; return how many bytes."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def send(self, data: bytes, seconds: float) -> None:
        """Send all; a client that reads slowly has that many seconds for each piece. Raises OSError."""
        if self.socket.gettimeout():
            self.socket.setblocking(False)
        sent = self.send_at_once(data)
        if sent < len(data):
            self.socket.settimeout(seconds)
            for start in range(sent, len(data), _SENT_SIZE):
                self.socket.sendall(memoryview(data)[start : start + _SENT_SIZE])

    def close(self) -> None:
        self.is_over = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class _Exchange:
    """A request and its answer.

    body: that of the request, unless it came whole with the head. rest: what came after it then.
    is_last: whether the connection ends with it.
    """

    __slots__ = (
        *("body", "rest", "is_last"),
        *("_server", "_connection", "_head", "_environ", "_status", "_headers", "_written"),
    )

    def __init__(
        self, server: Server, connection: _Connection, head: bytes, environ: Environ, is_last: bool
    ) -> None:
        self._server = server
        self._connection = connection
        self._head = head
        self._environ = environ
        self.body: Body | None = None
        self.rest = b""
        self.is_last = is_last

    @property
    def is_slow(self) -> bool:
        """Whether it may take its time."""
        return self.body is not None or self._environ["REQUEST_METHOD"] not in ("GET", "HEAD")

    def answer(self, response: Response | None = None) -> bytes:
        """Return the application's answer, an error if that fails; or that response."""
        try:
            return self._run(self._server.application if response is None else _send(response, self._server))
        except BaseException as error:
            if self._connection.is_lost:
                raise ConnectionError from error
            return self._run(_send(_excuse(error), self._server))

    def _run(self, application: WSGIApplication) -> bytes:
        self._status = ""
        self._written: list[bytes] = []
        if self._environ.get("PATH_INFO") == "*":
            application = _send(_ALL_METHODS, self._server)
        result = application(self._environ, self._start_response)
        try:
            body = b"".join([*self._written, *result])
        finally:
            if hasattr(result, "close"):
                result.close()
        if self._server.is_stopping or (self.body is not None and not self.body.can_be_skipped):
            self.is_last = True
        is_head = self._head.startswith(b"HEAD ")
        if logger.isEnabledFor(logging.INFO):
            size = 0 if is_head else len(body)
            line = request_line(self._head).decode("latin-1")
            logger.info("%s %.800a %.3s %d", self._connection.address, line, self._status, size)
        return render_answer(self._status, self._headers, body, is_head=is_head, is_last=self.is_last)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self._status and not exc_info:
            raise AssertionError("start_response was called a second time")
        self._status = status
        self._headers = headers
        return self._written.append

    def end(self) -> None:
        """Make the connection ready for what comes after the answer. Raises OSError."""
        connection = self._connection
        if self.body is not None:
            while not self.is_last and self.body.read(_PIECE_SIZE):
                pass
            self.rest = self.body.rest
        connection.searched = 0
        connection.unread = b"" if self.is_last else self.rest
        connection.deadline = time.monotonic() + (LINGER_SECONDS if self.is_last else self._server.timeout)
        if self.is_last:
            # To close with something unread would reset the connection: the answer could be lost.
            connection.is_lingering = bool(self.rest) or (self.body is not None and not self.body.is_at_end)
            connection.is_over = not connection.is_lingering
            connection.socket.shutdown(socket.SHUT_WR)


def _send(response: Response, server: Server) -> WSGIApplication:
    """Return an application that sends a response."""
    return lambda _, start_response: response.send(start_response, server.headers, with_body=True)


def _excuse(error: BaseException) -> Response:
    """Return what the client is told of an error that the application has let out, and log it."""
    if isinstance(error, BodyError):
        return Response(400, TEXT, b"The body could not be read to its end")
    if isinstance(error, MemoryError):
        logger.error("the application is out of memory")
        return Response(503, TEXT, b"The server is out of memory; try again", [("Retry-After", "1")])
    logger.error("the application failed", exc_info=error)
    return Response(500, TEXT, b"Internal Server Error")


def _log_failure(error: Exception, connection: _Connection) -> None:
    # Without memory, the interpreter "can't start new thread", "can't allocate lock".
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't " in str(error)):
        with contextlib.suppress(MemoryError, RuntimeError):
            logger.error("the connection from %s is closed: %s", connection.address, error or "out of memory")
    elif not isinstance(error, OSError):  # which says that the client is gone
        logger.error("the connection from %s failed", connection.address, exc_info=error)


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


def _most_connections() -> int:
    """Return how many connections leave enough file descriptors to the application."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MAX_CONNECTIONS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < 0:  # infinity
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(limit - RESERVED_DESCRIPTORS, limit // 4))


def _listen(host: str, port: int, is_shared: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class _Selector:
    """What other systems have, used like Linux's select.epoll."""

    def __init__(self) -> None:
        import selectors

        self._selector = selectors.DefaultSelector()
        self.unregister = self._selector.unregister
        self.close = self._selector.close

    def register(self, number: int, events: int) -> None:
        self._selector.register(number, events)

    def poll(self, seconds: float | None) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self._selector.select(seconds)]
