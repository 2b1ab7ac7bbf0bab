"""A client's connection to the bundled server, and one request after the other that comes over it.

An answer is collected in memory before it is sent, so the answers of the application must fit there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import time
from typing import Any, Callable

from .access_log import AccessLog
from .hosts import host_name
from .http1 import Body, BodyError, find_head, parse_head, render_answer, request_line
from .wsgi import BROKEN_BODY, TEXT, USER, Environ, Headers, Response, WSGIApplication

logger = logging.getLogger("projects_wsgi.server")

LINGER_SECONDS = 2.0
PIECE_SIZE = 65_536  # bytes received at a time
_SENT_SIZE = 262_144  # bytes sent at a time to a client that reads slowly

# OPTIONS * asks the server itself (RFC 9110, 9.3.7); what a path allows, the application says.
_ALL_METHODS = Response(204, headers=[("Allow", "GET, HEAD, OPTIONS, POST, PUT, DELETE")])


class Service:
    """What all connections of a server share.

    headers_for, access_log, timeout: see Server. is_allowed_host: whether requests may be for a host; None:
    for any. environ: what that of every request holds. is_stopping: whether each answer is the last.
    """

    def __init__(
        self,
        application: WSGIApplication,
        headers_for: Callable[[Environ], Headers],
        is_allowed_host: Callable[[str], bool] | None,
        access_log: AccessLog | None,
        timeout: float,
        environ: Environ,
    ) -> None:
        self.application = application
        self.headers_for = headers_for
        self.is_allowed_host = is_allowed_host
        self.access_log = access_log
        self.timeout = timeout
        self.environ = environ
        self.is_stopping = False


class Connection:
    """A client's connection, and the request on it that is under way.

    unread: bytes that came and belong to no request yet. deadline: when it ends, by time.monotonic(), unless
    something comes. is_kept: whether it is not in the loop: it is new, or a thread keeps it that may wait.
    is_slow: whether its last answer took long. is_lingering: whether it only waits for the client to hang up.
    is_over: whether it must be closed.
    began: when the last of its head came. body: that of the request, unless it came whole with the head.
    unsent: what is left of its answer.
    """

    __slots__ = (
        *("_service", "socket", "address", "unread", "searched", "deadline"),
        *("is_kept", "is_slow", "is_lingering", "is_over"),
        *("head", "began", "environ", "body", "is_last", "status", "headers", "written", "unsent"),
    )

    def __init__(self, service: Service, client: socket.socket, address: str) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._service = service
        self.socket = client
        self.address = address
        self.deadline = time.monotonic() + service.timeout
        self.unread = self.unsent = b""
        self.environ: Environ = {}
        self.searched = 0  # bytes of unread, in which no head ends
        self.body: Body | None = None
        self.is_kept = True
        self.is_slow = self.is_lingering = self.is_over = False

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
        self.began = time.monotonic()
        end = find_head(self.unread, self.searched)
        self.searched = len(self.unread)
        if not end:
            return False
        self.head, came = self.unread[:end], self.unread[end:]
        self.environ, framing = parse_head(self.head, self._service.environ)
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
        try:
            if response is None:
                response = self._answer_itself()
            return self._render(self._service.application if response is None else self._respond(response))
        except BaseException as error:
            return self._render(self._respond(_excuse(error)))

    def refuse(self, response: Response) -> bytes:
        """Return the response to what may be no request, as the last over this connection."""
        self.head = self.unread
        self.is_last = True
        if not self.environ:  # no head has come that could be read
            method = request_line(self.head).partition(b" ")[0]
            self.environ = {"REQUEST_METHOD": method.decode("latin-1")}
        return self.answer(response)

    def _answer_itself(self) -> Response | None:
        """Return the answer to a request that the application must not get."""
        host = self.environ.get("HTTP_HOST", "")  # HTTP/1.0 may have none, but browsers always send it
        is_allowed = self._service.is_allowed_host
        if is_allowed is not None and not is_allowed(host):
            name = host_name(host)
            text = f"The host {name} is not allowed here. If it is yours, allow it: --allowed-hosts {name}"
            return Response(403, TEXT, text.encode())
        return _ALL_METHODS if self.environ["PATH_INFO"] == "*" else None

    def _respond(self, response: Response) -> WSGIApplication:
        return lambda environ, start_response: response.send(
            start_response, self._service.headers_for(environ), with_body=True
        )

    def _render(self, application: WSGIApplication) -> bytes:
        self.status = ""
        self.written: list[bytes] = []
        result = application(self.environ, self._start_response)
        try:
            body = b"".join(result)  # for which the application may call what _start_response has returned
        finally:
            if hasattr(result, "close"):
                result.close()
        if self._service.is_stopping or (self.body is not None and not self.body.can_be_skipped):
            self.is_last = True
        if self.written:
            body = b"".join(self.written) + body
        is_head = self.environ["REQUEST_METHOD"] == "HEAD"
        answer = render_answer(self.status, self.headers, body, is_head=is_head, is_last=self.is_last)
        log = self._service.access_log
        if log is not None:
            size = 0 if is_head else len(body)
            user, seconds = str(self.environ.get(USER, "")), time.monotonic() - self.began
            log.add(self.address, user, self.head, self.status, size, seconds)
        return answer

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
            while not self.is_last and body.read(PIECE_SIZE):
                pass
            self.unread = body.rest
        # An idle connection holds nothing of a request, nor of its answer.
        self.head, self.environ, self.headers, self.written = b"", {}, [], []
        self.searched = 0
        self.deadline = time.monotonic() + (LINGER_SECONDS if self.is_last else self._service.timeout)
        if self.is_last:
            # To close with something unread would reset the connection, and the answer could be lost.
            self.is_lingering = bool(self.unread) or body is not None
            self.is_over = not self.is_lingering
            self.unread = b""
            self.socket.shutdown(socket.SHUT_WR)

    def send_at_once(self, data: bytes) -> int:
        """Send what goes out without waiting; return how many bytes. The socket does not wait."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    # Only where this thread keeps it, because these wait

    def send_all(self) -> None:
        """Send what is left of the answer. A client that reads slowly has the timeout for each piece.

        Raises OSError.
        """
        self.socket.settimeout(self._service.timeout)
        for start in range(0, len(self.unsent), _SENT_SIZE):
            self.socket.sendall(memoryview(self.unsent)[start : start + _SENT_SIZE])
        self.unsent = b""

    def _receive(self) -> bytes:
        self._limit_waiting()
        return self.socket.recv(PIECE_SIZE)

    def _ask_for_body(self) -> None:
        self._limit_waiting()
        self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _limit_waiting(self) -> None:
        """Let what follows wait until the deadline. Raises OSError if that is over."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise socket.timeout("timed out")
        self.socket.settimeout(seconds)

    def hang_up(self) -> None:
        """End the connection, also for a thread that waits on it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


def _excuse(error: BaseException) -> Response:
    """Return what the client is told of an error that the application has let out, and log it."""
    if isinstance(error, BodyError):
        return Response(400, TEXT, BROKEN_BODY.encode())
    if isinstance(error, MemoryError):
        logger.error("the application is out of memory")
        return Response(503, TEXT, b"The server is out of memory; try again", [("Retry-After", "1")])
    logger.error("the application failed", exc_info=error)
    return Response(500, TEXT, b"Internal Server Error")
