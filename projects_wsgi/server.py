"""The bundled HTTP/1.1 server, built on socketserver and wsgiref, with a thread per connection.

An answer is collected in memory before it is sent, so the answers of the application must fit there.
HTTP is read strictly (RFC 9112): a request that two programs could read differently is refused, and its
connection is closed. The status of an error that the client made is always a 4xx.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import io
import logging
import os
import re
import select
import selectors
import socket
import socketserver
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import SimpleHandler
from wsgiref.headers import Headers

from .options import TIMEOUT
from .wsgi import Environ, HTTPError, StartResponse, WSGIApplication

logger = logging.getLogger("projects_wsgi.server")

MAX_CONNECTIONS = 2_000
RESERVED_DESCRIPTORS = 100  # left to the application, whose database needs some
MAX_HEAD_SIZE = 65_536  # bytes of the request line, and again of all header lines
MAX_HEADERS = 100
# If the application ignores a body longer than this, the connection is closed: skipping costs more.
MAX_SKIPPED_SIZE = 65_536
LINGER_SECONDS = 2.0
GRACE_SECONDS = 5.0
_BREATH_SECONDS = 0.02  # between two tries at what there is no memory or file descriptor for
_LOOK_SECONDS = 0.005  # between two looks at whether all has ended
_PIECE_SIZE = 262_144

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%s) ([!\"$-~\x80-\xff]+) HTTP/([0-9])\.([0-9])\r\n" % _TOKEN)
_AUTHORITY = r"[-.\w~%!$&'()*+,;=:\[\]]+"
_TARGET = re.compile(rf"(?:https?://{_AUTHORITY}|(?=/))(/[^?]*)?(?:\?(.*))?", re.IGNORECASE | re.ASCII)
_HOST = re.compile(rf"(?:{_AUTHORITY})?", re.ASCII)
_HEADER_LINE = re.compile(rb"(%s):([^\x00-\x08\x0a-\x1f\x7f]*)\r\n" % _TOKEN)
_SINGLE_HEADERS = ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_TRANSFER_ENCODING")
_Selector: Any = getattr(selectors, "PollSelector", selectors.SelectSelector)  # they need no descriptor
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves a WSGI application over HTTP/1.1, one thread per connection.

    host: a name or address to listen at, IPv4 or IPv6. port: 0 takes a free one.
    timeout: seconds that a connection may be idle, and that one request may take to arrive.
    headers: sent with the answers to requests that are refused before they reach the application.
    url: the address at which it listens. is_local: whether only this machine can reach it.
    Raises OSError if it cannot listen there.

    ``with Server(...) as server: server.serve_forever()``. Leaving the block closes idle connections at
    once. A request that has begun to arrive, or is being answered, has GRACE_SECONDS to get its answer;
    then its connection is closed without one.
    At most MAX_CONNECTIONS are served at a time, fewer if the process may open few files; other clients wait.
    A server stays with its process: a forked child closes the sockets that it inherits.
    """

    allow_reuse_address = sys.platform != "win32"
    request_queue_size = 1024

    def __init__(
        self,
        host: str,
        port: int,
        application: WSGIApplication,
        *,
        timeout: float = TIMEOUT.default,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.application = application
        self.headers = headers
        self.connection_timeout = timeout
        self._max_connections = _most_connections()
        # A thread that finds no memory to begin with drops its connection, which then drops out of here.
        self._connections: weakref.WeakValueDictionary[int, socket.socket] = weakref.WeakValueDictionary()
        self.is_stopping = False
        self._is_serving = False
        self.address_family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # A byte in it, which nobody reads, tells all idle connections that the server stops.
        self.stop_reader, self._stop_writer = socket.socketpair()
        super().__init__(cast(tuple[str, int], address), _Connection)
        self.host: str = str(self.socket.getsockname()[0])
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        self.is_local = self.host.startswith("127.") or self.host == "::1"
        self.base_environ: Environ = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            "SERVER_NAME": self.host,
            "SERVER_PORT": str(self.port),
            "wsgi.input_terminated": True,
        }

    def server_bind(self) -> None:
        _open_servers().add(self)  # before it listens, because a fork may happen at any time
        super().server_bind()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until shutdown() is called from another thread; poll_interval: seconds between its looks."""
        self._is_serving = True
        try:
            with _Selector() as selector:
                selector.register(self.socket, selectors.EVENT_READ)
                while not self.is_stopping:
                    try:
                        if selector.select(poll_interval) and not self.is_stopping:
                            self._handle_request_noblock()  # type: ignore[attr-defined]
                    except MemoryError:
                        time.sleep(_BREATH_SECONDS)
        finally:
            self._is_serving = False

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections[id(request)] = request
        try:
            # Thread.start() would wait for ever for a thread that finds no memory to begin with.
            _thread.start_new_thread(self.process_request_thread, (request, client_address))
        except RuntimeError:
            time.sleep(_BREATH_SECONDS)  # so that others can end
            raise

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._connections.pop(id(request), None)

    def shutdown(self) -> None:
        if self.socket.fileno() >= 0:  # closed in a forked child, where nothing runs that could stop
            self._begin_to_stop()
            self._wait_while(lambda: self._is_serving, time.monotonic() + GRACE_SECONDS)

    def get_request(self) -> Any:
        try:
            if len(self._connections) >= self._max_connections <= len(self._living()):
                raise OSError("there are too many connections")
            return super().get_request()
        except OSError:  # there, usually no file descriptor is left
            time.sleep(_BREATH_SECONDS)  # trying again at once would keep a processor busy
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        # Without memory, the interpreter "can't start new thread", "can't allocate lock".
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't " in str(error)):
            with contextlib.suppress(MemoryError, RuntimeError):
                reason = str(error) or "out of memory"
                logger.error("the connection from %s is closed: %s", client_address[0], reason)
        elif not isinstance(error, OSError):  # which says that the client is gone
            logger.exception("the connection from %s failed", client_address[0])

    def server_close(self) -> None:
        self._begin_to_stop()
        super().server_close()
        self._wait_while(lambda: bool(self._living()), time.monotonic() + GRACE_SECONDS)
        for connection in self._living():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._stop_writer.close()
        self.stop_reader.close()

    def _begin_to_stop(self) -> None:
        self.is_stopping = True
        with contextlib.suppress(OSError):
            self._stop_writer.send(b"x")
        # On Linux, this wakes serve_forever(), and clients are refused even if another process has a copy of
        # the socket. On other systems it may be an error.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _wait_while(self, condition: Callable[[], bool], deadline: float) -> None:
        while condition() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def _living(self) -> list[socket.socket]:
        """Return the connections, in one step whatever other threads do."""
        return [copy for link in self._connections.valuerefs() if (copy := link()) is not None]


@functools.cache
def _open_servers() -> weakref.WeakSet[Server]:
    """Return the servers of this process, whose sockets a forked child closes: registered once, for good."""
    servers: weakref.WeakSet[Server] = weakref.WeakSet()

    def close_copies() -> None:
        for server in servers:
            for copy in (server.socket, server.stop_reader, server._stop_writer, *server._living()):
                copy.close()

    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=close_copies)
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


class _Connection(socketserver.BaseRequestHandler):
    """A client's connection: reads one request after the other, and answers each."""

    server: Server
    request: socket.socket

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.socket_reader = _SocketReader(self.request, self.server.stop_reader)
        self.reader = io.BufferedReader(self.socket_reader)

    def handle(self) -> None:
        timeout = self.server.connection_timeout
        is_last = False
        while not is_last:
            self.socket_reader.deadline = time.monotonic() + timeout
            self.socket_reader.is_idle = True
            if not self.reader.peek(1):
                return
            self.socket_reader.is_idle = False
            self.socket_reader.deadline = time.monotonic() + timeout
            request = _Request(self)
            self.answer(request)
            is_last = request.is_last

    def answer(self, request: _Request) -> None:
        application = self.server.application
        try:
            request.read_head()
        except HTTPError as error:
            response = error.response

            def application(_: Environ, start_response: StartResponse) -> list[bytes]:
                is_head = request.line.startswith(b"HEAD ")
                return response.send(start_response, self.server.headers, with_body=not is_head)

        output = io.BytesIO()
        gateway = _Gateway(request, output)
        gateway.run(application)
        self.send(output.getvalue())
        if not request.is_last:
            request.readall()  # what the application left of the body
        elif not request.is_at_end():
            self.linger()

    def send(self, data: bytes) -> None:
        # The timeout limits one sendall(), so a client that reads slowly has that long for each piece.
        self.request.settimeout(self.server.connection_timeout)
        for start in range(0, len(data), _PIECE_SIZE):
            self.request.sendall(memoryview(data)[start : start + _PIECE_SIZE])

    def linger(self) -> None:
        """Read on until the client closes: closing first would reset it, and it could lose the answer."""
        self.request.shutdown(socket.SHUT_WR)
        self.socket_reader.deadline = time.monotonic() + LINGER_SECONDS
        while self.reader.read1(_PIECE_SIZE):
            pass


class _SocketReader(io.RawIOBase):
    """Reads from a socket until a deadline, even if a byte comes now and then."""

    def __init__(self, connection: socket.socket, stop_reader: socket.socket) -> None:
        self._connection = connection
        self._stop_reader = stop_reader
        self.deadline = 0.0  # as time.monotonic() counts
        self.is_idle = False  # whether it ends when the server stops
        self.is_lost = False  # whether the client has broken it off

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise socket.timeout("timed out")
        if self.is_idle and not self._comes_within(seconds):
            return 0
        self._connection.settimeout(seconds)
        try:
            return self._connection.recv_into(buffer)
        except ConnectionError:
            self.is_lost = True
            raise

    def _comes_within(self, seconds: float) -> bool:
        """Wait until bytes come or the server stops; tell whether bytes came."""
        # A selector would be a cycle, and keep open the connection of a thread that memory fails.
        if not hasattr(select, "poll"):  # Windows
            return (
                self._connection in select.select([self._connection, self._stop_reader], [], [], seconds)[0]
            )
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._stop_reader, select.POLLIN)
        return any(number == self._connection.fileno() for number, _ in poll.poll(seconds * 1_000))


class _Request(io.RawIOBase):
    """A request: its head as environ, and its body as a stream, with the chunks decoded.

    The first read sends 100 Continue to a client that waits for it. A read raises OSError if the body is
    malformed, ends early or takes too long.
    """

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        self.line = b""
        self.environ: Environ = {**connection.server.base_environ, "SERVER_PROTOCOL": "HTTP/1.1"}
        self.is_last = False  # whether the connection ends after this request
        self._has_more_chunks = True  # until the head is read, because the end of the body is unknown
        self._left = 0  # bytes of the body or of the current chunk
        self._expects_continue = False
        self.can_be_ignored = False  # whether skipping the body costs less than a new connection

    def read_head(self) -> None:
        """Read the request line and the headers. Raises HTTPError if the request must be refused."""
        line = self._read_line(414)
        if line == b"\r\n":  # RFC 9112, 2.2: an empty line before the first is ignored
            line = self._read_line(414)
        self.line = line.rstrip(b"\r\n")
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise HTTPError(400, "This is not an HTTP request")
        method, target, major, minor = (group.decode("latin-1") for group in match.groups())
        if major != "1":
            raise HTTPError(400, "This server speaks HTTP/1.1")
        parts = _TARGET.fullmatch(target)
        if parts is None:
            raise HTTPError(400, "The request's target is neither a path nor an http URL")
        environ = self.environ
        environ["REQUEST_METHOD"] = method
        environ["PATH_INFO"] = unquote_to_bytes((parts[1] or "/").encode("latin-1")).decode("latin-1")
        environ["QUERY_STRING"] = parts[2] or ""
        environ["SERVER_PROTOCOL"] = f"HTTP/1.{minor}"
        environ["REMOTE_ADDR"] = self.connection.client_address[0]
        self._read_headers(environ)
        is_modern = minor != "0"
        if _HOST.fullmatch(environ.get("HTTP_HOST", " " if is_modern else "")) is None:
            raise HTTPError(400, "The Host header is missing or malformed")
        self._find_body(is_modern)
        wishes = environ.get("HTTP_CONNECTION", "").lower().replace(" ", "").split(",")
        self.is_last = not is_modern or "close" in wishes

    def _find_body(self, is_modern: bool) -> None:
        coding = self.environ.pop("HTTP_TRANSFER_ENCODING", None)
        length = self.environ.get("CONTENT_LENGTH")
        # RFC 9112, 6.1: with a length, it may be an attempt to smuggle; HTTP/1.0 has no chunks.
        if coding is not None and (length is not None or not is_modern):
            raise HTTPError(400, "Transfer-Encoding cannot be used here")
        if coding is not None and coding.lower() != "chunked":
            raise HTTPError(400, "The only transfer coding that this server knows is chunked")
        if length is not None and not re.fullmatch("[0-9]{1,18}", length):
            raise HTTPError(400, "Content-Length is not a number")
        self._left = int(length or 0)
        self._has_more_chunks = coding is not None
        # RFC 9110, 10.1.1: in HTTP/1.0 it is ignored.
        self._expects_continue = is_modern and self.environ.get("HTTP_EXPECT", "").lower() == "100-continue"
        is_short = self._left <= MAX_SKIPPED_SIZE and not self._has_more_chunks
        self.can_be_ignored = is_short and not self._expects_continue

    def _read_headers(self, environ: Environ) -> None:
        size = 0
        for _ in range(MAX_HEADERS + 1):
            line = self._read_line(431)
            if line == b"\r\n":
                return
            size += len(line)
            if size > MAX_HEAD_SIZE:
                break
            match = _HEADER_LINE.fullmatch(line)
            if match is None:
                raise HTTPError(400, "A header line is malformed")
            name, value = match[1].decode("ascii"), match[2].strip(b" \t").decode("latin-1")
            if "_" in name:  # in environ, "A_B" could not be told from "A-B"
                continue
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = "HTTP_" + key
            if key not in environ:
                environ[key] = value
            elif key in _SINGLE_HEADERS:
                raise HTTPError(400, f"The header {name} came twice")
            else:
                environ[key] += ", " + value
        raise HTTPError(431, "The headers are too large")

    def _read_line(self, status_if_too_long: int) -> bytes:
        try:
            line = self.connection.reader.readline(MAX_HEAD_SIZE + 1)
        except socket.timeout:
            raise HTTPError(408, "The request took too long to arrive") from None
        if len(line) > MAX_HEAD_SIZE:
            raise HTTPError(status_if_too_long, "A line of the request is too long")
        if not line.endswith(b"\n"):
            raise HTTPError(400, "The request ended early")
        return line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.can_be_ignored = False
        if self._expects_continue:
            self._expects_continue = False
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if self._has_more_chunks and not self._left:
                self._start_chunk()
            if not self._left:
                return 0
            count = self.connection.reader.readinto1(memoryview(buffer)[: self._left])
            self._left -= count
            if self._has_more_chunks and not self._left and self._read_line(400) != b"\r\n":
                raise OSError("a chunk is longer than it says")
        except HTTPError as error:
            raise OSError("a chunk is malformed") from error
        if not count:
            raise OSError("the body ended early")
        return count

    def _start_chunk(self) -> None:
        match = _CHUNK_LINE.fullmatch(self._read_line(400))
        if match is None:
            raise OSError("a chunk's size is malformed")
        self._left = int(match[1], 16)
        if not self._left:
            self._read_headers({})  # trailers, which are discarded
            self._has_more_chunks = False

    def is_at_end(self) -> bool:
        return not (self._left or self._has_more_chunks)


class _Gateway(SimpleHandler):
    """wsgiref's handler of one request: logs it, and marks the last answer of a connection."""

    http_version = "1.1"
    server_software = "projects_wsgi"
    # attributes of wsgiref's, set from start_response() to close()
    status: str | None
    headers: Headers
    bytes_sent: int
    environ: Environ

    def __init__(self, request: _Request, output: io.BytesIO) -> None:
        stdin = io.BufferedReader(request)
        super().__init__(stdin, output, sys.stderr, request.environ)
        self.os_environ = {}  # keeps the environment of the process out of environ
        self._request = request

    def cleanup_headers(self) -> None:
        super().cleanup_headers()
        # RFC 9110, 8.6: wsgiref's length of 0 would be wrong.
        if self.status and self.status[:3] in ("204", "304"):
            del self.headers["Content-Length"]
        request = self._request
        if not (request.is_at_end() or request.can_be_ignored):
            request.is_last = True
        if self._request.connection.server.is_stopping:
            request.is_last = True
        if request.is_last:
            self.headers["Connection"] = "close"

    def run(self, application: Any) -> None:
        """Run an application. wsgiref's own takes any ConnectionError for the client's, and is silent."""
        try:
            self.setup_environ()
            self.result = application(self.environ, self.start_response)
            self.finish_response()
        except BaseException:
            if not self._request.connection.socket_reader.is_lost:
                self.handle_error()

    def handle_error(self) -> None:
        """Answer with an error, in place of what the application has answered so far: none of it is sent."""
        self.stdout.seek(0)
        self.stdout.truncate()
        self.headers_sent = False
        super().handle_error()

    def log_exception(self, exc_info: Any) -> None:
        if isinstance(exc_info[1], MemoryError):
            self.error_status = "503 Service Unavailable"
            logger.error("the application is out of memory")
        else:
            logger.error("the application failed", exc_info=exc_info)

    def close(self) -> None:
        client = self._request.connection.client_address[0]
        line = self._request.line.decode("latin-1")
        logger.info("%s %.800a %s %d", client, line, (self.status or "")[:3], self.bytes_sent)
        super().close()
