"""HTTP/1.1 (RFC 9112) without a socket: bytes become an environ and a body, an answer becomes bytes.

HTTP is read strictly: a request that two programs could read differently is refused. The status of an
error that the client made is always a 4xx.
"""

from __future__ import annotations

import functools
import io
import re
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple
from urllib.parse import unquote_to_bytes

from .wsgi import Environ, HTTPError

MAX_HEAD_SIZE = 65_536  # bytes of the request line, and again of all header lines
MAX_HEADERS = 100
# If the application leaves more of a body than this unread, the connection is closed: skipping costs more.
MAX_SKIPPED_SIZE = 65_536
_MAX_REMEMBERED_SIZE = 4_096  # bytes of header lines

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 9112, 3.2; of its four forms, an authority alone is for CONNECT, which only proxies know.
_REQUEST_LINE = re.compile(
    rf"(?:\r\n)?({_TOKEN}) (?:(?i:https?)://([^\x00- /?#]+)|(?=[/*]))"
    r"(/[!\"$->@-~\x80-\xff]*|\*(?= ))?(?:\?([!\"$-~\x80-\xff]*))? HTTP/1\.([0-9])\r\n".encode("latin-1")
)
_OTHER_END = re.compile(rb"\n\r?\n")  # of a head that will never end as it must
_HEADER_LINE = re.compile(rf"({_TOKEN}):([^\x00-\x08\x0a-\x1f\x7f]*)".encode("latin-1"))
_SINGLE_HEADERS = ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_TRANSFER_ENCODING")
# RFC 3986, 3.2.2, without names in brackets that no version of IP has yet.
_HOST = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>(?:[-.\w~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*))(?::[0-9]*)?",
    re.ASCII,
)
# RFC 9112, 7.1.1. Blanks may stand around ";" and "=", but not at the end.
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_CHUNK_LINE = re.compile(
    rf"([0-9A-Fa-f]{{1,15}})(?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*(?:{_TOKEN}|{_QUOTED}))?)*\r\n".encode(
        "latin-1"
    )
)
_HOP_BY_HOP = frozenset(  # RFC 9110, 7.6.1: they belong to the connection, which is the server's
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"]
)
_WITHOUT_BODY = ("204", "304")  # RFC 9110, 8.6 and 15.4.5: they have no length either
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


# Heads


class Framing(NamedTuple):
    """What the header lines of a request say.

    variables: of environ. length: bytes of the body. is_chunked: whether it comes in chunks instead.
    expects_continue: whether the client waits to be asked for it. is_last: whether the connection ends
    after this request.
    """

    variables: Environ
    length: int
    is_chunked: bool
    expects_continue: bool
    is_last: bool


def find_head(buffer: bytes, searched: int = 0) -> int:
    """Return where the head at the beginning of a buffer ends; 0 if more of it must come.

    searched: bytes that were searched before. Raises HTTPError (400, 414, 431) as soon as a whole line, or
    the size of what came, shows that the head must be refused.
    """
    end = buffer.find(b"\r\n\r\n", max(searched - 3, 0))
    if end >= 0:
        return end + 4
    begin = 2 if buffer.startswith(b"\r\n") else 0  # RFC 9112, 2.2: one empty line is ignored
    line_end = buffer.find(b"\n", begin) + 1
    if (line_end or len(buffer)) - begin > MAX_HEAD_SIZE:
        raise HTTPError(414, "A line of the request is too long")
    if line_end:
        if searched < line_end:  # else it was matched before
            _match_request_line(buffer)
        if len(buffer) - line_end > MAX_HEAD_SIZE + 1:
            raise HTTPError(431, "The headers are too large")
        if _OTHER_END.search(buffer, max(searched - 2, line_end - 1)):
            raise HTTPError(400, "A header line is malformed")
    return 0


def parse_head(head: bytes, base: Environ) -> tuple[Environ, Framing]:
    """Return the environ of a request, without its body, and the framing.

    head: up to and with its empty line. base: what environ holds besides.
    Raises HTTPError (400, 414, 431) if the request must be refused.
    """
    match = _match_request_line(head)
    method, authority, path, query, minor = match.groups()
    lines = head[match.end() : -2]
    parse = _parse_headers if len(lines) <= _MAX_REMEMBERED_SIZE else _parse_headers.__wrapped__
    framing: Framing = parse(lines, minor != b"0")
    environ = {
        **base,
        **framing.variables,
        "REQUEST_METHOD": method.decode("latin-1"),
        "PATH_INFO": (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1") if path else "/",
        "QUERY_STRING": query.decode("latin-1") if query else "",
        "SERVER_PROTOCOL": f"HTTP/1.{minor.decode()}",
    }
    if authority is not None:  # RFC 9112, 3.2.2: it takes the place of what Host says
        environ["HTTP_HOST"] = authority.decode("latin-1")
        if not _is_host(environ["HTTP_HOST"]) or authority[:1] == b":":
            raise HTTPError(400, "The request's target has no valid host")
    if path == b"*" and method != b"OPTIONS":  # RFC 9112, 3.2.4
        raise HTTPError(400, "Only OPTIONS has the target *")
    return environ, framing


def request_line(head: bytes) -> bytes:
    """Return the first line of what may be no more than the beginning of a head."""
    return head.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r")


def _match_request_line(head: bytes) -> re.Match[bytes]:
    match = _REQUEST_LINE.match(head)
    size = match.end() - match.start(1) if match else len(request_line(head)) + 2
    if size > MAX_HEAD_SIZE:
        raise HTTPError(414, "A line of the request is too long")
    if match is None:
        line = request_line(head)
        if re.fullmatch(rb"[^ ]+ [^ ]+ HTTP/[02-9]\.[0-9]", line):
            raise HTTPError(400, "This server speaks HTTP/1.1")
        if re.fullmatch(rb"[^ ]+ [!-~\x80-\xff]+ HTTP/1\.[0-9]", line):
            raise HTTPError(400, "The request's target is neither a path nor an http URL")
        raise HTTPError(400, "This is not an HTTP request")
    return match


@functools.lru_cache(maxsize=64)
def _parse_headers(lines: bytes, is_modern: bool) -> Framing:
    """Read all header lines. Most clients send the same ones with each request, so they are remembered.

    is_modern: whether the client speaks HTTP/1.1. Raises HTTPError (400, 431).
    """
    variables = _read_headers(lines)
    host = variables.get("HTTP_HOST", None if is_modern else "")
    if host is None or not _is_host(host):
        raise HTTPError(400, "The Host header is missing or malformed")
    coding = variables.pop("HTTP_TRANSFER_ENCODING", None)
    length = variables.get("CONTENT_LENGTH")
    # RFC 9112, 6.1: with a length, it may be an attempt to smuggle; HTTP/1.0 has no chunks.
    if coding is not None and (length is not None or not is_modern):
        raise HTTPError(400, "Transfer-Encoding cannot be used here")
    if coding is not None and coding.lower() != "chunked":
        raise HTTPError(400, "The only transfer coding that this server knows is chunked")
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
        raise HTTPError(400, "Content-Length is not a number")
    wishes = re.split("[ \t,]+", variables.get("HTTP_CONNECTION", "").lower())
    return Framing(
        variables,
        int(length or 0),
        coding is not None,
        # RFC 9110, 10.1.1: in HTTP/1.0 it is ignored.
        is_modern and variables.get("HTTP_EXPECT", "").lower() == "100-continue",
        not is_modern or "close" in wishes,
    )


def _read_headers(lines: bytes) -> Environ:
    variables: Environ = {}
    size = 0
    for number, line in enumerate(lines.split(b"\r\n")[:-1]):
        size += len(line) + 2
        if number >= MAX_HEADERS or size > MAX_HEAD_SIZE:
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
        if key not in variables:
            variables[key] = value
        elif key in _SINGLE_HEADERS:
            raise HTTPError(400, f"The header {name} came twice")
        else:
            variables[key] += ", " + value
    return variables


def _is_host(text: str) -> bool:
    """Tell whether a text is a host with or without a port (RFC 9110, 7.2); it may be empty."""
    match = _HOST.fullmatch(text)
    if match is None or match["ipv6"] is None:
        return match is not None
    import ipaddress  # here, because it takes milliseconds, and few servers are addressed so

    try:
        return bool(ipaddress.IPv6Address(match["ipv6"]))
    except ValueError:
        return False


# Bodies


class BodyError(OSError):
    """The body is malformed, ends early or takes too long."""


class Body(io.RawIOBase):
    """The body of a request as a stream, with the chunks undone.

    framing: of the request. came: bytes that came with the head. receive: returns more, b"" at the end.
    ask: asks a client that waits for it to send the body. A read raises BodyError.
    """

    def __init__(
        self, framing: Framing, came: bytes, receive: Callable[[], bytes], ask: Callable[[], object]
    ) -> None:
        self._came = came
        self._position = 0
        self._receive = receive
        self._ask = ask
        self._must_ask = framing.expects_continue
        self._has_more_chunks = framing.is_chunked
        self._left = framing.length  # bytes of the body or of the current chunk
        self._has_failed = False

    @property
    def rest(self) -> bytes:
        """What has come and was not read."""
        return self._came[self._position :]

    @property
    def can_be_skipped(self) -> bool:
        """Whether to read what is left of it costs less than a new connection, and will come unasked."""
        is_framed = not (self._has_failed or self._has_more_chunks)
        return is_framed and not self._must_ask and self._left <= MAX_SKIPPED_SIZE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._has_failed:
            # What follows is not framed: to read on could find an end that other programs do not see.
            raise BodyError("the body has failed before")
        self._has_failed = True  # unless all of this goes well
        count = self._read_some(buffer)
        self._has_failed = False
        return count

    def _read_some(self, buffer: Any) -> int:
        if self._has_more_chunks and not self._left:
            self._start_chunk()
        if not self._left:
            return 0
        if self._position == len(self._came):
            self._receive_more()
        count = min(len(buffer), self._left, len(self._came) - self._position)
        buffer[:count] = self._came[self._position : self._position + count]
        self._position += count
        self._left -= count
        if self._has_more_chunks and not self._left and self._read_line() != b"\r\n":
            raise BodyError("a chunk is longer than it says")
        return count

    def _start_chunk(self) -> None:
        match = _CHUNK_LINE.fullmatch(self._read_line())
        if match is None:
            raise BodyError("the size of a chunk is malformed")
        self._left = int(match[1], 16)
        if not self._left:
            self._skip_trailers()
            self._has_more_chunks = False

    def _skip_trailers(self) -> None:
        lines = bytearray()
        while (line := self._read_line()) != b"\r\n" and len(lines) <= MAX_HEAD_SIZE:
            lines += line
        try:
            _read_headers(bytes(lines))
        except HTTPError as error:
            raise BodyError("a trailer is malformed") from error

    def _read_line(self) -> bytes:
        while not (end := self._came.find(b"\n", self._position) + 1):
            if len(self._came) - self._position >= MAX_HEAD_SIZE:
                break
            self._receive_more()
        line = self._came[self._position : end]
        if not line.endswith(b"\r\n") or len(line) > MAX_HEAD_SIZE:
            raise BodyError("a line is malformed or too long")
        self._position = end
        return line

    def _receive_more(self) -> None:
        try:
            if self._must_ask:
                self._ask()
            self._must_ask = False
            data = self._receive()
        except OSError as error:
            raise BodyError(f"the body could not be received: {error}") from error
        if not data:
            raise BodyError("the body ended early")
        self._came = self.rest + data
        self._position = 0


# Answers


def render_answer(
    status: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    is_head: bool = False,
    is_last: bool = False,
) -> bytes:
    """Return the bytes of an answer: status and headers as of start_response, and the body.

    is_head: whether it answers a HEAD, so that the body is left away. is_last: whether the connection ends
    after it. Raises ValueError, TypeError for what an application must not send.
    """
    head = _render_head(status, tuple(headers), len(body), is_head, is_last, int(time.time()))
    return head if is_head or status[:3] in _WITHOUT_BODY else head + body


@functools.lru_cache(maxsize=64)
def _render_head(
    status: str,
    headers: tuple[tuple[str, str], ...],
    size: int,
    is_head: bool,
    is_last: bool,
    second: int,
) -> bytes:
    """Return status line and headers for a body of that size. Within a second, many answers have the same."""
    if not re.fullmatch("[2-5][0-9]{2} .*", status):
        raise ValueError(f"{status!r} is not the status of an answer")
    names = [name.lower() for name, _ in headers]
    for name in names:
        if name in _HOP_BY_HOP or not re.fullmatch(_TOKEN, name):
            raise ValueError(f"an application cannot send the header {name!r}")
    lines = [f"HTTP/1.1 {status}", *[name + ": " + value for name, value in headers]]
    lengths = [value for name, (_, value) in zip(names, headers) if name == "content-length"]
    if status[:3] in _WITHOUT_BODY:
        lines = [line for line in lines if not line.lower().startswith("content-length:")]
    elif not lengths and (size or not is_head):  # RFC 9110, 8.6: nobody knows what a GET would have
        lines.append(f"Content-Length: {size}")
    elif len(lengths) > 1 or (lengths != [str(size)] and not is_head):
        raise ValueError(f"Content-Length is {', '.join(lengths)}, but the body has {size} bytes")
    if "date" not in names:
        lines.append(f"Date: {_render_date(second)}")
    if "server" not in names:
        lines.append("Server: projects_wsgi")
    if is_last:
        lines.append("Connection: close")
    head = "\r\n".join(lines)
    if head.count("\n") >= len(lines) or head.count("\r") >= len(lines) or "\0" in head:  # RFC 9110, 5.5
        raise ValueError("the status or a header has a line break or NUL in it")
    return (head + "\r\n\r\n").encode("latin-1")


def _render_date(second: int) -> str:
    """Return a second of time.time() as HTTP has it. strftime alone would speak the locale's language."""
    now = time.gmtime(second)
    day, month = _DAYS[now.tm_wday], MONTHS[now.tm_mon - 1]
    return f"{day}, {now.tm_mday:02} {month} {now.tm_year} {time.strftime('%H:%M:%S', now)} GMT"
