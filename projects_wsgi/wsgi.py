"""The edge to the server (PEP 3333): an environ becomes a Request, a Response becomes the answer."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Callable, NamedTuple

Environ = dict[str, Any]
Headers = Iterable[tuple[str, str]]
StartResponse = Callable[..., Any]
WSGIApplication = Callable[[Environ, StartResponse], Iterable[bytes]]

TEXT = "text/plain; charset=utf-8"
BROKEN_BODY = "The body could not be read to its end"
# In environ: the name of who sent the request, for access logs. Not REMOTE_USER, which may be a host's user.
USER = "projects_wsgi.user"

# RFC 9110's reason phrases; http.HTTPStatus had others for three statuses before Python 3.13.
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_STATUS_LINES |= {413: "413 Content Too Large", 414: "414 URI Too Long", 422: "422 Unprocessable Content"}


class Response(NamedTuple):
    """One answer. content_type: None without a body. headers: without Content-Type and Content-Length."""

    status: int
    content_type: str | None = None
    body: bytes = b""
    headers: Headers = ()

    def send(self, start_response: StartResponse, common_headers: Headers, with_body: bool) -> list[bytes]:
        """Start the response and return what the server has to send.

        common_headers: those of every answer. with_body: False for the answer to a HEAD.
        """
        status, content_type, body, headers = self
        sent_headers = [*common_headers, *headers]
        if content_type is not None:
            sent_headers.append(("Content-Type", content_type))
            sent_headers.append(("Content-Length", str(len(body))))
        start_response(_STATUS_LINES[status], sent_headers)
        return [body] if with_body and body else []


class HTTPError(Exception):
    """A request that cannot be answered as asked; ``response``, made of the parameters, says so."""

    def __init__(self, status: int, text: str, headers: Headers = (), content_type: str = TEXT) -> None:
        self.response = Response(status, content_type, text.encode(), headers)


class Request:
    """One request, read from its environ.

    path: below the application's prefix; bytes that are not UTF-8 are U+FFFD, slashes at its start one.
    Raises HTTPError (400) for a path that is not as PEP 3333 has it.
    """

    __slots__ = ("environ", "method", "path")

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        path: str = environ.get("PATH_INFO", "")
        if not path.isascii():
            path = _decode("PATH_INFO", path)
        self.path = "/" + path.lstrip("/") if path.startswith("//") else path

    @property
    def query(self) -> str:
        """The query string, percent-encoded. Raises HTTPError (400), as for a path."""
        return _decode("QUERY_STRING", self.environ.get("QUERY_STRING", ""))

    @property
    def content_type(self) -> str:
        """The Content-Type as it came; "" if none did."""
        return str(self.environ.get("CONTENT_TYPE", ""))

    def read_body(self, max_size: int) -> bytes:
        """Return the body. max_size: bytes; a longer one is not read.

        Raises HTTPError: 400 if it ends early or its length is not a number, 411 if its length is
        unknown, 413 if it is too long.
        """
        environ = self.environ
        content_length = environ.get("CONTENT_LENGTH")
        if content_length:
            if not (content_length.isascii() and content_length.isdigit()):
                raise HTTPError(400, "Content-Length is not a number")
            # int() refuses thousands of digits; the first 18 are more than any size that is allowed.
            size = int(content_length.lstrip("0")[:18] or "0")
            if size > max_size:
                raise _too_large(max_size)
            body = _read(environ["wsgi.input"], size)
            if len(body) < size:
                raise HTTPError(400, f"The body ended after {len(body)} of {size} bytes")
            return body
        if environ.get("wsgi.input_terminated"):  # the server has undone the chunks
            body = _read(environ["wsgi.input"], max_size + 1)
            if len(body) > max_size:
                raise _too_large(max_size)
            return body
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise HTTPError(411, "This server does not undo chunked bodies; send a Content-Length")
        return b""


def request_line(environ: Environ) -> str:
    """Return the first line of a request, as far as environ tells; it may hold any character."""
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
    return f"{environ.get('REQUEST_METHOD')} {path}{query} {environ.get('SERVER_PROTOCOL', '')}".rstrip()


def _decode(name: str, value: str) -> str:
    """Return a variable of environ, each of whose characters stands for a byte (PEP 3333), as text."""
    try:
        return value.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        raise HTTPError(
            400, f"The server breaks PEP 3333: {name} holds characters above U+00FF, which are not bytes"
        ) from None


def _read(stream: Any, size: int) -> bytes:
    """Read size bytes, or all there are; a stream may return fewer at a time than it is asked for."""
    chunks: list[bytes] = []
    try:
        while size > 0 and (chunk := stream.read(size)):
            chunks.append(chunk)
            size -= len(chunk)
    except MemoryError:
        raise
    except Exception as error:  # each server has its own for a client that breaks off
        raise HTTPError(400, BROKEN_BODY) from error
    return b"".join(chunks)


def _too_large(max_size: int) -> HTTPError:
    return HTTPError(413, f"The body is larger than {max_size} bytes")
