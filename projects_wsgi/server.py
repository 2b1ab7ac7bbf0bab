"""The bundled HTTP/1.1 server, built on socketserver and wsgiref, with a thread per connection.

An answer is collected in memory before it is sent, so the answers of the application must fit there.
HTTP is read strictly (RFC 9112): a request that two programs could read differently is refused, and its
connection is closed. The status of an error that the client made is always a 4xx.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import socket
import socketserver
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import SimpleHandler
from wsgiref.headers import Headers

from .wsgi import Environ, HTTPError, StartResponse, WSGIApplication

logger = logging.getLogger("projects_wsgi.server")

MAX_CONNECTIONS = 2_000
RESERVED_DESCRIPTORS = 100  # left to the application, whose database needs some
MAX_LINE_SIZE = 65_536  # bytes of the request line or of one header line
MAX_HEADER_SIZE = 65_536  # bytes of all header lines
MAX_HEADERS = 100
# If the application leaves more than this of a body unread, the connection is closed: skipping costs more.
MAX_SKIPPED_SIZE = 65_536
LINGER_SECONDS = 2.0
GRACE_SECONDS = 5.0

_PIECE_SIZE = 262_144

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%s) ([!\"$-~\x80-\xff]+) HTTP/([0-9])\.([0-9])\r\n" % _TOKEN)
_AUTHORITY = r"[-.\w~%!$&'()*+,;=:\[\]]+"
_TARGET = re.compile(rf"(?:https?://{_AUTHORITY}|(?=/))(/[^?]*)?(?:\?(.*))?", re.IGNORECASE | re.ASCII)
_HOST = re.compile(rf"(?:{_AUTHORITY})?", re.ASCII)
_HEADER_LINE = re.compile(rb"(%s):([^\x00-\x08\x0a-\x1f\x7f]*)\r\n" % _TOKEN)
_SINGLE_HEADERS = ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_TRANSFER_ENCODING")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")


class Server(socketserver.TCPServer):
    """Serves a WSGI application over HTTP/1.1, one thread per connection.

    host: a name or address to listen at, IPv4 or IPv6. port: 0 takes a free one.
    application: the WSGI callable.
    timeout: seconds that a connection may be idle, and that one request may take to arrive.
    max_connections: connections served at a time; fewer if the process may not open that many files.
        Further clients wait.
    headers: sent with the answers to requests that are refused before they reach the application.
    Raises OSError if it cannot listen there.

    ``with Server(...) as server: server.serve_forever()``. Leaving the block closes idle connections at
    once, and gives the requests under way GRACE_SECONDS to finish.

    A server stays with the process that made it. A forked child closes the sockets that it inherits, and
    may make servers of its own.
    """

    allow_reuse_address = sys.platform != "win32"
    request_queue_size = 1024

    def __init__(
        self,
        host: str,
        port: int,
        application: WSGIApplication,
        *,
        timeout: float = 30.0,
        max_connections: int = MAX_CONNECTIONS,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.application = application
        self.headers = headers
        self.connection_timeout = timeout
        self._pid = os.getpid()
        self._is_stopping = False
        self._slots = threading.BoundedSemaphore(min(max_connections, _most_connections()))
        self._threads: dict[socket.socket, threading.Thread] = {}
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(cast(tuple[str, int], address), _Connection)
        self.host: str = str(self.socket.getsockname()[0])
        self.port: int = self.socket.getsockname()[1]
        self.base_environ: Environ = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            "SERVER_NAME": self.host,
            "SERVER_PORT": str(self.port),
        }

    @property
    def url(self) -> str:
        """The address at which the server listens, as a URL."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Tell whether only this machine can reach the server."""
        return self.host.startswith("127.") or self.host == "::1"

    def server_bind(self) -> None:
        _open_servers().add(self)  # before it listens, because a fork may happen at any time
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        while not self._slots.acquire(timeout=0.1):
            if self._is_stopping:
                self.shutdown_request(request)
                return
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        self._threads[request] = thread
        try:
            thread.start()
        except BaseException:  # the system has no thread left
            del self._threads[request]
            self._slots.release()
            raise

    def _serve(self, connection: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(connection, client_address)
        except OSError:
            pass  # the client is gone
        except Exception:
            self.handle_error(connection, client_address)
        finally:
            self.shutdown_request(connection)
            del self._threads[connection]
            self._slots.release()

    def shutdown(self) -> None:
        self._is_stopping = True
        if self._pid == os.getpid():  # in a forked child, nothing runs that could stop
            self._stop_listening()
            super().shutdown()

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            # Usually no file descriptor is left. Trying again at once would keep a processor busy.
            time.sleep(0.05)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.exception("the connection from %s failed", client_address[0])

    def server_close(self) -> None:
        self._stop_listening()
        super().server_close()
        threads = dict(self._threads)
        for connection in threads:
            # A thread that waits for a request reads the end; one that answers can still send.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + GRACE_SECONDS
        for thread in threads.values():
            thread.join(deadline - time.monotonic())

    def _stop_listening(self) -> None:
        # On Linux, this wakes serve_forever(), and clients are refused even if another process has a copy of
        # the socket. On other systems it may be an error.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _close_copies(self) -> None:
        """Close the sockets that a forked child inherited. The clients of the parent do not notice."""
        for copy in (self.socket, *self._threads):
            copy.close()


@functools.cache
def _open_servers() -> weakref.WeakSet[Server]:
    """Return the servers of this process. After a fork, the child closes its copies of their sockets.

    Cached, so that this is registered once for all servers: Python cannot take it back.
    """
    servers: weakref.WeakSet[Server] = weakref.WeakSet()

    def close_copies() -> None:
        for server in servers:
            server._close_copies()

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
    return MAX_CONNECTIONS if limit < 0 else max(limit - RESERVED_DESCRIPTORS, limit // 4, 1)


class _Connection(socketserver.BaseRequestHandler):
    """A client's connection: reads one request after the other, and answers each."""

    server: Server
    request: socket.socket

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.socket_reader = _SocketReader(self.request)
        self.reader = io.BufferedReader(self.socket_reader)
        self.is_last = False  # whether the connection ends after this request

    def handle(self) -> None:
        while not self.is_last:
            self.socket_reader.wait_at_most(self.server.connection_timeout)
            if not self.reader.peek(1):
                return
            self.socket_reader.wait_at_most(self.server.connection_timeout)
            self.handle_request()

    def handle_request(self) -> None:
        self.request_line = b""
        application = self.server.application
        try:
            environ, body = self.read_head()
        except HTTPError as error:
            # An answer like any other, but what follows it cannot be understood.
            environ, body = {**self.server.base_environ, "SERVER_PROTOCOL": "HTTP/1.1"}, _Body(self)
            body.is_broken = True
            is_head = self.request_line.startswith(b"HEAD ")
            response = error.response

            def application(_: Environ, start_response: StartResponse) -> list[bytes]:
                return response.send(start_response, self.server.headers, with_body=not is_head)

        gateway = _Gateway(self, environ, body)
        gateway.run(application)
        logger.info("%s %a %s", self.client_address[0], self.request_line.decode("latin-1"), gateway.outcome)
        self.send(b"".join(gateway.output))
        if self.is_last and not body.is_at_end():
            self.linger()
        elif not self.is_last:
            body.skip_rest()

    def read_head(self) -> tuple[Environ, _Body]:
        """Read the request line and the headers; return the environ, and the body, which is not read yet."""
        line = self.read_line(414)
        if line == b"\r\n":  # RFC 9112, 2.2: an empty line before the first is ignored
            line = self.read_line(414)
        self.request_line = line.rstrip(b"\r\n")
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise HTTPError(400, "This is not an HTTP request")
        method, target, major, minor = (group.decode("latin-1") for group in match.groups())
        if major != "1":
            raise HTTPError(400, "This server speaks HTTP/1.1")
        parts = _TARGET.fullmatch(target)
        if parts is None:
            raise HTTPError(400, "The request's target is neither a path nor an http URL")
        path = unquote_to_bytes((parts[1] or "/").encode("latin-1")).decode("latin-1")
        environ = {
            **self.server.base_environ,
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": parts[2] or "",
            "SERVER_PROTOCOL": f"HTTP/1.{minor}",
            "REMOTE_ADDR": self.client_address[0],
        }
        self.read_headers(environ)
        is_modern = minor != "0"
        if _HOST.fullmatch(environ.get("HTTP_HOST", " " if is_modern else "")) is None:
            raise HTTPError(400, "The Host header is missing or malformed")
        wishes = environ.get("HTTP_CONNECTION", "").lower().replace(" ", "").split(",")
        self.is_last = not is_modern or "close" in wishes
        return environ, self.open_body(environ, is_modern)

    def read_headers(self, environ: Environ) -> None:
        size = count = 0
        while True:
            line = self.read_line(431)
            if line == b"\r\n":
                return
            size += len(line)
            count += 1
            if size > MAX_HEADER_SIZE or count > MAX_HEADERS:
                raise HTTPError(431, "The headers are too large")
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

    def read_line(self, status_if_too_long: int) -> bytes:
        try:
            line = self.reader.readline(MAX_LINE_SIZE + 1)
        except socket.timeout:
            raise HTTPError(408, "The request took too long to arrive") from None
        if len(line) > MAX_LINE_SIZE:
            raise HTTPError(status_if_too_long, "A line of the request is too long")
        if not line.endswith(b"\n"):
            raise HTTPError(400, "The request ended early")
        return line

    def open_body(self, environ: Environ, is_modern: bool) -> _Body:
        coding = environ.pop("HTTP_TRANSFER_ENCODING", None)
        length = environ.get("CONTENT_LENGTH")
        if coding is not None:
            # RFC 9112, 6.1: with a length, it may be an attempt to smuggle; HTTP/1.0 has no chunks.
            if length is not None or not is_modern:
                raise HTTPError(400, "Transfer-Encoding cannot be used here")
            if coding.lower() != "chunked":
                raise HTTPError(400, "The only transfer coding that this server knows is chunked")
            environ["wsgi.input_terminated"] = True
        elif length is not None and not re.fullmatch("[0-9]{1,18}", length):
            raise HTTPError(400, "Content-Length is not a number")
        return _Body(
            self,
            size=int(length or 0),
            is_chunked=coding is not None,
            # RFC 9110, 10.1.1: in HTTP/1.0 it is ignored.
            expects_continue=is_modern and environ.get("HTTP_EXPECT", "").lower() == "100-continue",
        )

    def send(self, data: bytes) -> None:
        # The timeout limits one sendall(), so a client that reads slowly has that long for each piece.
        self.request.settimeout(self.server.connection_timeout)
        for start in range(0, len(data), _PIECE_SIZE):
            self.request.sendall(memoryview(data)[start : start + _PIECE_SIZE])

    def linger(self) -> None:
        """Read on until the client closes: closing first would reset it, and it could lose the answer."""
        self.request.shutdown(socket.SHUT_WR)
        self.socket_reader.wait_at_most(LINGER_SECONDS)
        while self.reader.read1(_PIECE_SIZE):
            pass


class _SocketReader(io.RawIOBase):
    """Reads from a socket until a deadline, even if a byte comes now and then."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = 0.0

    def wait_at_most(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise socket.timeout("timed out")
        self._connection.settimeout(seconds)
        return self._connection.recv_into(buffer)


class _Body(io.RawIOBase):
    """A request's body, with its chunks decoded. The first read sends 100 Continue to a client that waits."""

    def __init__(
        self,
        connection: _Connection,
        *,
        size: int = 0,
        is_chunked: bool = False,
        expects_continue: bool = False,
    ) -> None:
        self._connection = connection
        self._left = size  # bytes of the body or of the current chunk
        self._has_more_chunks = is_chunked
        self._expects_continue = expects_continue
        self.is_broken = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there; raise OSError if the body is malformed, ends early or takes too long."""
        try:
            return self._read_into(buffer)
        except OSError:
            self.is_broken = True
            raise

    def _read_into(self, buffer: Any) -> int:
        if self._expects_continue:
            self._expects_continue = False
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._has_more_chunks and not self._left:
            self._start_chunk()
        if not self._left:
            return 0
        count = self._connection.reader.readinto1(memoryview(buffer)[: self._left])
        if not count:
            raise OSError("the body ended early")
        self._left -= count
        if self._has_more_chunks and not self._left and self._read_line() != b"\r\n":
            raise OSError("a chunk is longer than it says")
        return count

    def is_at_end(self) -> bool:
        return not (self._left or self._has_more_chunks or self.is_broken)

    def can_be_skipped(self) -> bool:
        """Tell whether reading the rest costs less than a new connection."""
        if self._has_more_chunks or self.is_broken or self._left > MAX_SKIPPED_SIZE:
            return False
        return not (self._left and self._expects_continue)

    def skip_rest(self) -> None:
        while self._left:
            self.read(self._left)

    def _start_chunk(self) -> None:
        match = _CHUNK_LINE.fullmatch(self._read_line())
        if match is None:
            raise OSError("a chunk's size is malformed")
        self._left = int(match[1], 16)
        if self._left:
            return
        for _ in range(MAX_HEADERS):
            line = self._read_line()
            if line == b"\r\n":
                self._has_more_chunks = False
                return
            if _HEADER_LINE.fullmatch(line) is None:  # trailers are discarded
                raise OSError("a trailer is malformed")
        raise OSError("there are too many trailers")

    def _read_line(self) -> bytes:
        return self._connection.reader.readline(MAX_LINE_SIZE)


class _Gateway(SimpleHandler):
    """wsgiref's handler of one request: collects the answer, and marks the last one of a connection."""

    http_version = "1.1"
    server_software = "projects_wsgi"
    # attributes of wsgiref's, set from start_response() to close()
    status: str | None
    headers: Headers
    bytes_sent: int

    def __init__(self, connection: _Connection, environ: Environ, body: _Body) -> None:
        stdin = io.BufferedReader(body)
        super().__init__(stdin, None, sys.stderr, environ)  # type: ignore[arg-type]
        self.os_environ = {}  # keeps the environment of the process out of environ
        self._connection = connection
        self._body = body
        self.output: list[bytes] = []
        self.outcome = ""

    def _write(self, data: bytes) -> None:
        self.output.append(data)

    def _flush(self) -> None:
        pass

    def cleanup_headers(self) -> None:
        super().cleanup_headers()
        # RFC 9110, 8.6: wsgiref's length of 0 would be wrong.
        if self.status and self.status[:3] in ("204", "304"):
            del self.headers["Content-Length"]
        if not self._body.can_be_skipped():
            self._connection.is_last = True
        if self._connection.is_last:
            self.headers["Connection"] = "close"

    def log_exception(self, exc_info: Any) -> None:
        logger.error("the application failed", exc_info=exc_info)

    def close(self) -> None:
        if self.status:
            self.outcome = f"{self.status[:3]} {self.bytes_sent}"
        super().close()
