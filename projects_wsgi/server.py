"""The bundled HTTP/1.1 server: one thread leads, the others follow.

The leader waits for all connections at once, and answers by itself what is quick: a GET that has come whole.
It waits for nothing else. What may take its time (a change, a body that has yet to come, an answer that a
client does not read) it keeps: it takes that connection out of the loop and leaves the lead to a follower, a
thread that waits for just that and is started when there is none. Once it is done, it gives the connection
back to the loop, and follows. Where an answer takes longer than expected, the watch, which is the thread in
serve_forever(), leaves the lead to a follower in the leader's name. So a slow request takes a thread of its
own, and a quick one or an idle connection none. The lock _change makes each of these one step: who leads,
which call of the application is under way, how many follow. An answer is collected in memory before it is
sent, so the answers of the application must fit there.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import io
import logging
import os
import selectors
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Callable, cast

from .http1 import Body, BodyError, find_head, parse_head, render_answer, request_line
from .options import TIMEOUT
from .sockets import listen, most_connections
from .wsgi import TEXT, Environ, HTTPError, Response, WSGIApplication

logger = logging.getLogger("projects_wsgi.server")

LINGER_SECONDS = 2.0
GRACE_SECONDS = 5.0
_PATIENCE_SECONDS = 0.005  # that the leader may take for an answer
_WARY_SECONDS = 1.0  # for which a new client is expected to ask for what takes long, after another did
_QUIET_LOOKS = 20  # without a call, after which the watch sleeps
_MAX_FOLLOWERS = 64
_FOLLOW_SECONDS = 2.0  # after which a follower that was not needed ends
_BIRTH_SECONDS = 1.0  # that a new thread may take to begin: without memory it may die before
_BREATH_SECONDS = 0.02  # until the next try, if there was no memory
_LOOK_SECONDS = 0.005  # between two looks at whether something has ended
_PIECE_SIZE = 65_536  # bytes received at a time
_SENT_SIZE = 262_144  # bytes sent at a time to a client that reads slowly


def _insisting(step: Callable[[Server], bool]) -> Callable[[Server], bool]:
    """Have a step, without which it would not be clear who leads, tried until there is memory for it."""

    def insist(server: Server) -> bool:
        while True:
            try:
                return step(server)
            except MemoryError:
                time.sleep(_BREATH_SECONDS)

    return insist


class Server:
    """Serves a WSGI application over HTTP/1.1.

    host: a name or address to listen at, IPv4 or IPv6. port: 0 takes a free one.
    timeout: seconds that a connection may be idle, and that one request may take to arrive.
    headers: sent with the answers that the application does not give.
    is_shared: whether other processes listen at the same port.
    url: the address at which it listens. is_local: whether only this machine can reach it.
    Raises OSError if it cannot listen there.

    ``with Server(...) as server: server.serve_forever()``. Leaving the block closes idle connections at
    once. A request that has begun to arrive, or is being answered, has GRACE_SECONDS to get its answer;
    then its connection is closed without one.
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
        headers: Iterable[tuple[str, str]] = (),
        is_shared: bool = False,
    ) -> None:
        self.application = application
        self.headers = list(headers)
        self.timeout = timeout
        self.socket = listen(host, port, is_shared)
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
        # The leader's
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._ready: deque[_Connection] = deque()  # those whose next request may have come with the last
        self._max_connections = most_connections()
        self._is_accepting = False
        self._look_seconds = min(1.0, max(timeout / 4, _LOOK_SECONDS))  # between two looks at deadlines
        self._next_look = 0.0
        # Every thread's
        self._change = threading.Lock()
        self._lead = threading.Lock()  # held by who leads; until serve_forever, nobody does
        self._lead.acquire()
        self._leader = 0  # the thread that leads
        # When the leader called the application, and for whom
        self._call: tuple[float, _Connection | None] | None = None
        self._wary_until = 0.0
        self._followers = self._threads = 0
        self._returned: deque[_Connection] = deque()  # from the threads that kept them
        self._waker, self._sleeper = socket.socketpair()
        self._sleep = threading.Lock()  # not an Event, which is broken for good if memory runs out within
        self._is_watching = True
        self.is_stopping = self._is_serving = self._is_calm = self._is_over = False
        self._stops_at = 0.0
        for end in (self._waker, self._sleeper):
            end.setblocking(False)
        self._selector.register(self._sleeper, selectors.EVENT_READ)
        self._listen_again()
        _open_servers().add(self)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.server_close()

    def serve_forever(self) -> None:
        """Serve until shutdown() is called from another thread, and what had begun by then is over."""
        with self._change:
            self._is_serving = not self.is_stopping
        try:
            if self._is_serving:
                self._leader = _thread.get_ident()
                if not self._keep(None):
                    raise RuntimeError("can't start new thread")
                self._watch()
        finally:
            self._is_serving = False

    def shutdown(self) -> None:
        """Refuse clients from now on, and close idle connections; return when that is done."""
        with self._change:
            if not self.is_stopping:
                self._stops_at = time.monotonic() + GRACE_SECONDS
            self.is_stopping = True
        # On Linux, this refuses clients even if another process has a copy of the socket. On other systems
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
        self._wake_watch()
        for connection in list(self._connections):
            connection.hang_up()
        self._close_sockets()

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        while condition() and time.monotonic() < self._stops_at + 2 * _LOOK_SECONDS:
            time.sleep(_LOOK_SECONDS)

    def _close_sockets(self) -> None:
        for connection in list(self._connections):
            connection.socket.close()
        self._connections.clear()
        for each in (self.socket, self._selector, self._waker, self._sleeper):
            each.close()

    def forget(self) -> None:
        """In a forked child: close the copies of all sockets; the parent's clients notice nothing."""
        self.is_stopping = self._is_over = True
        self._is_serving = False
        self._threads = 0
        self._change, self._lead = threading.Lock(), threading.Lock()  # another thread may have held them
        if self._leader == _thread.get_ident():
            self._lead.acquire()
        self._wake_watch()  # which a signal's handler that forks may have interrupted
        self._close_sockets()

    # Who leads

    def _watch(self) -> None:
        """Look after the leader until all is over. While nothing is called, sleep."""
        quiet_looks = 0
        while not self._is_over:
            time.sleep(_PATIENCE_SECONDS)
            call = self._call
            quiet_looks = 0 if call else quiet_looks + 1
            try:
                if call and time.monotonic() - call[0] >= _PATIENCE_SECONDS:
                    self.note_slow(call[1])
                    self._leave_lead()
                elif quiet_looks > _QUIET_LOOKS:
                    self._sleep.acquire(blocking=False)
                    self._is_watching = False
                    if not (self._call or self._is_over):
                        self._sleep.acquire()
                    self._is_watching = True
            except (RuntimeError, MemoryError):  # the leader will do without
                continue

    def _wake_watch(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake
            self._sleep.release()

    def note_slow(self, connection: _Connection | None) -> None:
        """Expect that the next request of this client takes long too, and for a while those of new ones."""
        if connection is not None:
            connection.is_slow = True
        self._wary_until = time.monotonic() + _WARY_SECONDS

    def _leave_lead(self) -> None:
        """Leave the lead to a follower, and the connection of the call to the thread that leads now.

        Raises RuntimeError, MemoryError if there is no follower to be had.
        """
        self._start_follower()
        with self._change:
            if self._followers and self._call:  # both may have ended in the meantime
                _, connection = self._call
                if connection is not None:
                    self._selector.unregister(connection.socket)
                    connection.is_kept = True
                self._call = None
                self._leader = 0
                self._lead.release()

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
        """Wait for the lead, lead, and do what this thread has kept, until it is not needed."""
        with self._change:
            self._threads += 1
        try:
            while self._await_lead():
                connection = self._serve_all()
                if connection is None:
                    self._lead.release()
                    break
                self._finish(connection)
        finally:
            self._end_thread()

    def _await_lead(self) -> bool:
        with self._change:
            if self._followers >= _MAX_FOLLOWERS:
                return False
            self._followers += 1
        leads = None
        while True:
            try:
                if leads is None:
                    leads = self._lead.acquire(timeout=_FOLLOW_SECONDS)
                with self._change:
                    # Whoever has left the lead to this thread since then did so with this lock held.
                    leads = leads or self._lead.acquire(blocking=False)
                    if leads:
                        self._leader = _thread.get_ident()
                    self._followers -= 1
                    return leads
            except MemoryError:  # if this thread went away, the lead could be left to nobody
                time.sleep(_BREATH_SECONDS)

    @_insisting
    def _end_thread(self) -> bool:
        with self._change:
            self._threads -= 1
        return True

    # What the leader does, without waiting

    def _serve_all(self) -> _Connection | None:
        """Serve all clients. Return a connection that this thread keeps: another leads. None: all is over."""
        while not self._is_over:
            try:
                # First what would never have its turn if each time something that came made this return.
                if self.is_stopping or time.monotonic() >= self._next_look:
                    self._look()
                for waiting, serve in ((self._returned, self._take_back), (self._ready, self._serve)):
                    for _ in range(len(waiting)):
                        connection = waiting.popleft()
                        if self._attempt(serve, connection):
                            return connection
                for key, _ in self._selector.select(self._most_seconds()):
                    if key.data is None:
                        self._accept_clients()
                    elif self._attempt(self._receive, key.data):
                        return cast(_Connection, key.data)
            except Exception as error:
                self._log_failure(error, None)
                time.sleep(_BREATH_SECONDS)
        return None

    def _attempt(self, serve: Callable[[_Connection], bool], connection: _Connection) -> bool:
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

    def _most_seconds(self) -> float | None:
        """Return how long to wait until something comes; None: for ever."""
        if self._ready or self._returned:
            return 0
        if self.is_stopping:
            return _LOOK_SECONDS
        return self._look_seconds if self._connections or not self._is_accepting else None

    def _accept_clients(self) -> None:
        """Accept all who wait, if there is room for them, and descriptors. It may be called for nothing."""
        with contextlib.suppress(BlockingIOError):
            self._sleeper.recv(_PIECE_SIZE)
        try:
            while self._is_accepting and len(self._connections) < self._max_connections:
                client, address = self.socket.accept()
                connection = _Connection(self, client, address[0])
                connection.is_slow = time.monotonic() < self._wary_until
                self._connections.add(connection)
                self._attempt(self._take_back, connection)
        except (BlockingIOError, ConnectionError):  # no more of them, or one that has gone
            return
        except OSError:
            pass
        self._listen_again(False)  # until a connection is closed, or the next look

    def _listen_again(self, is_wanted: bool = True) -> None:
        if is_wanted and not self._is_accepting:
            self._selector.register(self.socket, selectors.EVENT_READ)
        elif self._is_accepting and not is_wanted:
            self._selector.unregister(self.socket)
        self._is_accepting = is_wanted

    def _receive(self, connection: _Connection) -> bool:
        """Receive what has come, and serve; see _serve."""
        if connection.unread and not connection.searched:  # it is ready, and is answered before more comes
            return False
        try:
            data = connection.socket.recv(_PIECE_SIZE)
        except BlockingIOError:
            return False
        if not data and connection.has_begun():
            self._refuse(connection, HTTPError(400, "The request ended early"))
        elif not data:
            self._close(connection)
        elif not connection.is_lingering:
            if not connection.unread:
                connection.deadline = time.monotonic() + self.timeout
            connection.unread += data
            return self._serve(connection)
        return False

    def _serve(self, connection: _Connection) -> bool:
        """Answer the next request if it has come. Tell whether this thread keeps the connection instead."""
        if connection.is_kept or connection.is_over:
            return False
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
        self._call = time.monotonic(), connection
        if not self._is_watching:
            self._wake_watch()
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
        connection.end_request()
        return self._go_on(connection)

    def _keep(self, connection: _Connection | None) -> bool:
        """Leave the lead to another thread, and keep a connection. Tell whether a thread was to be had."""
        self._call = time.monotonic(), connection
        try:
            while self._leader == _thread.get_ident():
                self._leave_lead()
        except (RuntimeError, MemoryError):
            return not self._end_call()
        return True

    @_insisting
    def _end_call(self) -> bool:
        """Tell whether this thread still leads; if so, nothing is called any more."""
        with self._change:
            leads = self._leader == _thread.get_ident()
            if leads:
                self._call = None
            return leads

    def _refuse(self, connection: _Connection, error: HTTPError) -> None:
        """Answer with an error, and read no more from a connection."""
        connection.head, connection.is_last = connection.unread, True
        method = request_line(connection.head).partition(b" ")[0]
        connection.environ = {"REQUEST_METHOD": method.decode("latin-1")}
        connection.send_at_once(connection.answer(error.response))
        connection.end_request()
        self._go_on(connection)

    def _take_back(self, connection: _Connection) -> bool:
        """Take a connection into the loop: a new one, or one that another thread has kept."""
        if not connection.is_over:
            connection.socket.setblocking(False)
            connection.is_kept = False  # first: what was registered halfway must be unregistered
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return self._go_on(connection)

    def _go_on(self, connection: _Connection) -> bool:
        if connection.is_over:
            self._close(connection)
        elif connection.unread:
            self._ready.append(connection)
        return False

    def _close(self, connection: _Connection) -> None:
        if connection in self._connections:
            if not connection.is_kept:
                # To close is not enough: a forked child may have a copy of the socket.
                with contextlib.suppress(KeyError):  # for whom memory ran out halfway before
                    self._selector.unregister(connection.socket)
                connection.is_kept = True
            connection.hang_up()
            connection.socket.close()
            self._connections.remove(connection)
            self._listen_again(not self.is_stopping)

    def _look(self) -> None:
        """End what has waited for too long, and at a stop what is idle."""
        is_stopping = self.is_stopping
        now = time.monotonic()
        self._next_look = now + self._look_seconds
        for connection in list(self._connections):
            if connection.is_kept:  # by a thread, and to look whether it is idle might wait with that
                continue
            if now >= connection.deadline or (is_stopping and connection.is_idle()):
                self._attempt(self._end_late, connection)
        self._listen_again(not is_stopping)
        if is_stopping:
            self._is_calm = True
            self._is_over = not self._connections or now >= self._stops_at
            if self._is_over:
                self._wake_watch()

    def _end_late(self, connection: _Connection) -> bool:
        if connection.has_begun():
            self._refuse(connection, HTTPError(408, "The request took too long to arrive"))
        else:
            self._close(connection)
        return False

    # What other threads do

    def _finish(self, connection: _Connection) -> None:
        """Do what the leader must not wait for, and give the connection back to the loop."""
        try:
            if not connection.is_over:
                connection.answer_slowly()
        except Exception as error:
            self._log_failure(error, connection)
            connection.is_over = True
        while True:
            try:
                self._returned.append(connection)
                return self._wake()
            except MemoryError:  # if it is given back twice, it is closed
                time.sleep(_BREATH_SECONDS)

    def _log_failure(self, error: Exception, connection: _Connection | None) -> None:
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

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake, or all is over
            self._waker.send(b"x")


class _Connection:
    """A client's connection, and the request on it that is under way.

    unread: bytes that came and belong to no request yet. deadline: when it ends, by time.monotonic(), unless
    something comes. is_kept: whether a thread has taken it out of the loop, and may wait.
    is_slow: whether its last answer took long. is_lingering: whether it only waits for the client to hang up.
    is_over: whether it must be closed.
    body: that of the request, unless it came whole with the head. unsent: what is left of its answer.
    """

    __slots__ = (
        *("server", "socket", "address", "unread", "searched", "deadline"),
        *("is_kept", "is_slow", "is_lingering", "is_over"),
        *("head", "environ", "body", "is_last", "status", "headers", "written", "unsent"),
    )

    def __init__(self, server: Server, client: socket.socket, address: str) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.server = server
        self.socket = client
        self.address = address
        self.deadline = time.monotonic() + server.timeout
        self.unread = self.unsent = b""
        self.searched = 0  # bytes of unread, in which no head ends
        self.body: Body | None = None
        self.is_kept = self.is_slow = self.is_lingering = self.is_over = False

    def has_begun(self) -> bool:
        """Tell whether some of a request has come: an empty line, which may precede it, does not count."""
        return self.unread not in (b"", b"\r", b"\r\n")

    def is_idle(self) -> bool:
        """Tell whether nothing of a request has come, and no answer may be on its way."""
        if self.has_begun() or self.is_lingering:
            return False
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def begin_request(self) -> bool:
        """Take the next request from what has come; tell whether its head was there. Raises HTTPError."""
        end = find_head(self.unread, self.searched)
        self.searched = len(self.unread)
        if not end:
            return False
        self.head, came = self.unread[:end], self.unread[end:]
        self.environ, framing = parse_head(self.head, self.server.base_environ)
        self.is_last = framing.is_last
        if framing.is_chunked or framing.length > len(came):
            self.body = Body(framing, came, self._receive, self._ask_for_body)
            stream: io.BufferedIOBase = io.BufferedReader(self.body)
        else:
            stream = io.BytesIO(came[: framing.length])
            self.unread = came[framing.length :]
        self.environ["REMOTE_ADDR"] = self.address
        self.environ["wsgi.errors"] = sys.stderr
        self.environ["wsgi.input"] = stream
        return True

    def may_wait(self) -> bool:
        """Tell whether to answer may take long."""
        is_change = self.environ["REQUEST_METHOD"] not in ("GET", "HEAD")
        return is_change or self.is_slow or self.body is not None

    def answer(self, response: Response | None = None) -> bytes:
        """Return a response, or what the application answers; if that fails, an error."""
        if response is None and self.environ["PATH_INFO"] == "*":
            response = _ALL_METHODS
        try:
            return self._render(self.server.application if response is None else self._respond(response))
        except BaseException as error:
            return self._render(self._respond(_excuse(error)))

    def _respond(self, response: Response) -> WSGIApplication:
        return lambda _, start_response: response.send(start_response, self.server.headers, with_body=True)

    def _render(self, application: WSGIApplication) -> bytes:
        self.status = ""
        self.written: list[bytes] = []
        result = application(self.environ, self._start_response)
        try:
            body = b"".join(result)  # for which the application may call what _start_response has returned
        finally:
            if hasattr(result, "close"):
                result.close()
        if self.server.is_stopping or (self.body is not None and not self.body.can_be_skipped):
            self.is_last = True
        if self.written:
            body = b"".join(self.written) + body
        is_head = self.environ["REQUEST_METHOD"] == "HEAD"
        if logger.isEnabledFor(logging.INFO):
            line = request_line(self.head).decode("latin-1")
            size = 0 if is_head else len(body)
            logger.info("%s %.800a %.3s %d", self.address, line, self.status, size)
        return render_answer(self.status, self.headers, body, is_head=is_head, is_last=self.is_last)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self.status and not exc_info:
            raise AssertionError("start_response was called a second time")
        self.status = status
        self.headers = headers
        return self.written.append

    def end_request(self) -> None:
        """Make ready for what comes after the answer. Raises OSError."""
        body, self.body = self.body, None
        if body is not None:
            while not self.is_last and body.read(_PIECE_SIZE):
                pass
            self.unread = body.rest
        self.environ = {}  # an idle connection should hold nothing of a request
        self.searched = 0
        self.deadline = time.monotonic() + (LINGER_SECONDS if self.is_last else self.server.timeout)
        if self.is_last:
            # To close with something unread would reset the connection, and the answer could be lost.
            self.is_lingering = bool(self.unread) or body is not None
            self.is_over = not self.is_lingering
            self.unread = b""
            self.socket.shutdown(socket.SHUT_WR)

    # Only where this thread keeps it, because these wait

    def answer_slowly(self) -> None:
        """Answer, or send what is left of the answer. Raises OSError."""
        if not self.unsent:
            began = time.monotonic()
            self.unsent = self.answer()
            self.is_slow = False
            if time.monotonic() - began >= _PATIENCE_SECONDS:
                self.server.note_slow(self)
        self._send(self.unsent, self.server.timeout)
        self.unsent = b""
        self.end_request()

    def _receive(self) -> bytes:
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise socket.timeout("timed out")
        self.socket.settimeout(seconds)
        return self.socket.recv(_PIECE_SIZE)

    def _ask_for_body(self) -> None:
        self._send(b"HTTP/1.1 100 Continue\r\n\r\n", max(self.deadline - time.monotonic(), _LOOK_SECONDS))

    def _send(self, data: bytes, seconds: float) -> None:
        """Send all. A client that reads slowly has that many seconds for each piece."""
        self.socket.setblocking(False)
        sent = self.send_at_once(data)
        if sent < len(data):
            self.socket.settimeout(seconds)
            for start in range(sent, len(data), _SENT_SIZE):
                self.socket.sendall(memoryview(data)[start : start + _SENT_SIZE])

    def send_at_once(self, data: bytes) -> int:
        """Send what goes out without waiting; return how many bytes. The socket does not wait."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def hang_up(self) -> None:
        """End the connection, also for a thread that waits on it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


def _excuse(error: BaseException) -> Response:
    """Return what the client is told of an error that the application has let out, and log it."""
    if isinstance(error, BodyError):
        return Response(400, TEXT, b"The body could not be read to its end")
    if isinstance(error, MemoryError):
        logger.error("the application is out of memory")
        return Response(503, TEXT, b"The server is out of memory; try again", [("Retry-After", "1")])
    logger.error("the application failed", exc_info=error)
    return Response(500, TEXT, b"Internal Server Error")


# OPTIONS * asks the server itself (RFC 9110, 9.3.7); what a path allows, the application says.
_ALL_METHODS = Response(204, headers=[("Allow", "GET, HEAD, OPTIONS, POST, PUT, DELETE")])
_NO_THREAD = HTTPError(503, "The server can start no thread for this; try again", [("Retry-After", "1")])


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
