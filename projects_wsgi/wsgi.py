"""The edge to the server: PEP 3333's environ becomes a Request, a Response becomes its answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable, NamedTuple

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
WSGIApplication = Callable[[Environ, StartResponse], Iterable[bytes]]

# Reason phrases of RFC 9110, 6585 and 4918, the same on every Python (http.HTTPStatus changes some).
_STATUS_LINES = {
    200: "200 OK",
    204: "204 No Content",
    400: "400 Bad Request",
    401: "401 Unauthorized",
    403: "403 Forbidden",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
    408: "408 Request Timeout",
    409: "409 Conflict",
    411: "411 Length Required",
    413: "413 Content Too Large",
    414: "414 URI Too Long",
    422: "422 Unprocessable Content",
    431: "431 Request Header Fields Too Large",
    500: "500 Internal Server Error",
    503: "503 Service Unavailable",
    507: "507 Insufficient Storage",
}


class HTTPError(Exception):
    """A request that breaks a rule of HTTP, or asks for what is not here.

    status: the HTTP status. text: the answer's body. headers: those that the status demands.
    """

    def __init__(self, status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.headers = headers


class Request:
    """One request, read from its environ.

    method: upper case as it came. path: without the prefix at which the application is mounted,
    as text; bytes that are not UTF-8 are U+FFFD, slashes at its start are one.
    query: the query string, percent-encoded.
    """

    __slots__ = ("environ", "method", "path")

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        path = _text(environ.get("PATH_INFO", ""))
        self.path = "/" + path.lstrip("/") if path.startswith("//") else path

    @property
    def query(self) -> str:
        return _text(self.environ.get("QUERY_STRING", ""))

    @property
    def content_type(self) -> str:
        """The Content-Type as it came; "" if none did."""
        content_type: str = self.environ.get("CONTENT_TYPE", "")
        return content_type

    def read_body(self, max_size: int) -> bytes:
        """Return the body.

        max_size: bytes; a longer body is not read.
        Raises HTTPError: 400 where the body ends early or its length is no number, 411 where no
        length is known, 413 where it is too long.
        """
        environ = self.environ
        content_length = environ.get("CONTENT_LENGTH", "")
        if content_length:
            if not (content_length.isascii() and content_length.isdigit()):
                raise HTTPError(400, "Content-Length is not a number")
            # Nothing that anybody would allow has 18 digits, and int() limits how many it takes.
            digits = content_length.lstrip("0")
            size = int(digits or 0) if len(digits) < 18 else max_size + 1
            if size > max_size:
                raise _too_large(max_size)
            body = _read(environ["wsgi.input"], size)
            if len(body) < size:
                raise HTTPError(400, f"The body ended after {len(body)} of {size} bytes")
            return body
        if environ.get("wsgi.input_terminated"):
            body = _read(environ["wsgi.input"], max_size + 1)
            if len(body) > max_size:
                raise _too_large(max_size)
            return body
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise HTTPError(411, "This server does not undo chunked bodies; send a Content-Length")
        return b""


class Response(NamedTuple):
    """One answer: status; content_type, None if there is no body; body; further headers."""

    status: int
    content_type: str | None = None
    body: bytes = b""
    headers: Iterable[tuple[str, str]] = ()

    def send(
        self,
        start_response: StartResponse,
        common_headers: Iterable[tuple[str, str]] = (),
        with_body: bool = True,
    ) -> list[bytes]:
        """Start the response and return what the server has to send.

        common_headers: those that all answers carry.
        with_body: False answers a HEAD: the headers are the same, the body stays away.
        """
        headers = [*common_headers, *self.headers]
        if self.content_type is not None:
            headers.append(("Content-Type", self.content_type))
            headers.append(("Content-Length", str(len(self.body))))
        start_response(_STATUS_LINES[self.status], headers)
        return [self.body] if with_body and self.body else []


def request_line(environ: Environ) -> str:
    """Return the first line of a request, as far as environ tells; it may hold any character."""
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
    return f"{environ.get('REQUEST_METHOD')} {path}{query} {environ.get('SERVER_PROTOCOL', '')}".rstrip()


def _text(native: str) -> str:
    """Decode a string of environ, whose characters stand for bytes (PEP 3333), as UTF-8."""
    if native.isascii():
        return native
    try:
        raw = native.encode("latin-1")
    except UnicodeEncodeError:
        # The host has decoded it already. A 0xFF, which UTF-8 never holds, passes for no other character.
        raw = bytes(min(ord(char), 0xFF) for char in native)
    return raw.decode("utf-8", "replace")


def _read(stream: Any, size: int) -> bytes:
    """Read size bytes, or all that there are: a stream may hand them out in pieces."""
    try:
        body: bytes = stream.read(size)
        if len(body) == size or not body:
            return body
        chunks = [body]
        size -= len(body)
        while size > 0 and (chunk := stream.read(size)):
            chunks.append(chunk)
            size -= len(chunk)
    except Exception as error:  # each server has its own for a client that breaks off
        raise HTTPError(400, "The body could not be read to its end") from error
    return b"".join(chunks)


def _too_large(max_size: int) -> HTTPError:
    return HTTPError(413, f"The body is larger than {max_size} bytes")
