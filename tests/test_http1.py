"""HTTP without a socket: what is read of bytes, however they come, and the bytes of an answer."""

from __future__ import annotations

import email.utils
import http.client
import io
import locale
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects_wsgi import http1
from projects_wsgi.http1 import (
    MAX_HEAD_SIZE,
    MAX_HEADERS,
    Body,
    BodyError,
    Framing,
    find_head,
    parse_head,
    render_answer,
)
from projects_wsgi.wsgi import Environ, HTTPError

TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"
TARGET_BYTES = bytes(byte for byte in range(0x21, 0x100) if byte not in b"#?%\x7f")
VALUE_BYTES = bytes(byte for byte in range(0x20, 0x100) if byte != 0x7F) + b"\t"
MORE = 100  # the verdict on a head of which more must come
GOOD = 200


def verdict(data: bytes) -> int:
    """Return the status with which data are refused as a head; MORE or GOOD if they are not."""
    try:
        end = find_head(data)
        if not end:
            return MORE
        parse_head(data[:end], {})
    except HTTPError as error:
        return error.response.status
    return GOOD


def parse(data: bytes) -> Environ:
    """Return the environ of a head, which must be all of the data."""
    assert find_head(data) == len(data)
    return parse_head(data, {})[0]


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", *lines, b"", b""])


class Read(NamedTuple):
    """A request as it was read. body: None if it could not be."""

    environ: Environ
    body: bytes | None
    expects_continue: bool
    is_last: bool


def read_all(pieces: Iterable[bytes]) -> list[Read | int | bytes]:
    """Read what comes over a connection in pieces, as the server does.

    Return the requests; then the status of a refusal, if there is one, else what is left over.
    """
    source = iter(pieces)
    found: list[Read | int | bytes] = []
    unread = b""
    searched = 0
    while True:
        try:
            end = find_head(unread, searched)
            searched = len(unread)
            if not end:
                piece = next(source, b"")
                if not piece:
                    return [*found, unread]
                unread += piece
                continue
            environ, framing = parse_head(unread[:end], {"BASE": "x"})
        except HTTPError as error:
            return [*found, error.response.status]
        came = unread[end:]
        content: bytes | None
        if framing.is_chunked or framing.length > len(came):
            body = Body(framing, came, lambda: next(source, b""), lambda: None)
            try:
                content = io.BufferedReader(body).read()
            except BodyError:
                content = None
            unread = body.rest
        else:
            content, unread = came[: framing.length], came[framing.length :]
        searched = 0
        found.append(Read(environ, content, framing.expects_continue, framing.is_last))
        if content is None:
            return found
        if framing.is_last:
            return [*found, b"".join([unread, *source])]


# Streams of requests


class Sent(NamedTuple):
    """A request as it is sent, and as it must be read."""

    data: bytes
    read: Read


def strings(alphabet: bytes, **sizes: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(alphabet), **cast(Any, {"max_size": 8, **sizes})).map(bytes)


SPECIAL_NAMES = ("host", "content-type", "content-length", "transfer-encoding", "expect", "connection")
names = strings(TOKEN_BYTES, min_size=1).filter(lambda name: name.decode().lower() not in SPECIAL_NAMES)
header_values = strings(VALUE_BYTES).map(lambda value: value.strip(b" \t"))
blanks = strings(b" \t", max_size=3)
headers = st.lists(
    st.tuples(names | st.sampled_from([b"Cookie", b"cOOKIE", b"X-A"]), header_values), max_size=6
)
hosts = st.sampled_from(
    [b"", b"a", b"a.example:80", b"127.0.0.1:", b"[::1]", b"[2001:db8::1]:6006", b"a_b%41"]
)
extensions = st.sampled_from(
    [b"", b";a", b"\t; a = b", b';a="x;y"', b';a="\\""', b";a=\"\xff\";b;c='d'", b" ;~=!"]
)


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """Requests that are valid by construction."""
    minor = draw(st.sampled_from("1111029"))
    method = draw(st.sampled_from([b"GET", b"POST", b"DELETE"]) | strings(TOKEN_BYTES, min_size=1))
    host = draw(hosts)
    target, path = b"", b""
    for byte in draw(st.lists(st.sampled_from(TARGET_BYTES) | st.integers(0, 255), max_size=8)):
        is_escaped = byte not in TARGET_BYTES or draw(st.booleans())
        escape = draw(st.sampled_from([b"%%%02x", b"%%%02X"]))
        target += escape % byte if is_escaped else bytes([byte])
        path += bytes([byte])
    target, path = b"/" + target, b"/" + path
    authority = draw(st.none() | hosts.filter(bool))
    if authority is not None:
        if draw(st.booleans()):
            target, path = b"", b"/"
        target = draw(st.sampled_from([b"http://", b"HTTPS://"])) + authority + target
    query = draw(st.none() | strings(TARGET_BYTES + b"?%"))
    if query is not None:
        target += b"?" + query

    sent = [(b"Host", host), *draw(headers)]
    if draw(st.booleans()):
        sent.append((b"content-TYPE", draw(header_values)))
    expects_continue = draw(st.booleans())
    if expects_continue:
        sent.append((b"Expect", draw(st.sampled_from([b"100-continue", b"100-Continue"]))))
    connection = draw(st.sampled_from([b"", b"keep-alive", b"close", b"TE , Close"]))
    if connection:
        sent.append((b"Connection", connection))
    kind = draw(st.sampled_from(["none", "length"] if minor == "0" else ["none", "length", "chunks"]))
    pieces = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)) if kind != "none" else []
    body = data = b"".join(pieces)
    if kind == "length":
        sent.append((b"Content-Length", draw(st.sampled_from([b"%d", b"%018d"])) % len(body)))
    if kind == "chunks":
        size = draw(st.sampled_from([b"%x", b"%X", b"%015x"]))
        data = b"".join(size % len(piece) + draw(extensions) + b"\r\n" + piece + b"\r\n" for piece in pieces)
        data += draw(st.sampled_from([b"0", b"000"])) + draw(extensions) + b"\r\n"
        data += b"".join(name + b":" + value + b"\r\n" for name, value in draw(headers)) + b"\r\n"
    sent = draw(st.permutations(sent))
    lines = [name + b":" + draw(blanks) + value + draw(blanks) for name, value in sent]
    if kind == "chunks":
        lines.append(b"Transfer-Encoding: " + draw(st.sampled_from([b"chunked", b"CHUNKED"])))
    data = b"\r\n".join([method + b" " + target + b" HTTP/1." + minor.encode(), *lines, b"", data])
    data = draw(st.sampled_from([b"", b"\r\n"])) + data

    environ = {
        "BASE": "x",
        "REQUEST_METHOD": method.decode(),
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": (query or b"").decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/1.{minor}",
    }
    for name, value in sent:
        key = name.decode().upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key
        if b"_" not in name:
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]}, {text}" if key in environ else text
    if authority is not None:
        environ["HTTP_HOST"] = authority.decode()
    is_last = minor == "0" or connection.lower().endswith(b"close")
    return Sent(data, Read(environ, body, expects_continue and minor != "0", is_last))


RUBBISH = [
    b"",
    b" ",
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\xff",
    b":",
    b"%",
    b"/",
    b"\t",
    b"0",
    b"#",
    b";",
    b'"',
]


@st.composite
def damaged_streams(draw: st.DrawFn) -> bytes:
    """Requests one after the other, some of them malformed, and the last one perhaps cut off."""
    data = b"".join(sent.data for sent in draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        position = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 3))
        rubbish = draw(st.sampled_from(RUBBISH) | st.binary(max_size=3))
        data = data[:position] + rubbish + data[position + length :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    borders = sorted({0, *places, len(data)})
    return [data[start:end] for start, end in zip(borders, borders[1:])]


@given(damaged_streams(), st.data())
def test_what_is_read_is_the_same_however_it_comes_in_pieces(data: bytes, more: st.DataObject) -> None:
    whole = read_all(cut(data, []))
    assert read_all(cut(data, range(len(data)))) == whole
    places = more.draw(st.lists(st.integers(0, len(data)), max_size=5))
    assert read_all(cut(data, places)) == whole


@given(st.lists(requests(), min_size=1, max_size=3))
def test_valid_requests_are_read_as_they_were_meant(stream: list[Sent]) -> None:
    expected: list[Read | int | bytes] = []
    rest = b"".join(sent.data for sent in stream)
    for sent in stream:
        expected.append(sent.read)
        rest = rest[len(sent.data) :]
        if sent.read.is_last:
            break
    assert read_all([b"".join(sent.data for sent in stream)]) == [*expected, rest]


@given(requests(), st.data())
def test_a_request_that_is_cut_off_is_never_taken_for_a_whole_one(sent: Sent, more: st.DataObject) -> None:
    length = more.draw(st.integers(0, len(sent.data) - 1))
    found = read_all([sent.data[:length]] if length else [])
    assert len(found) == 1
    if isinstance(found[0], Read):
        assert found[0].body is None
        assert found[0].environ == sent.read.environ
    else:
        assert found == [sent.data[:length]]


# Request lines (RFC 9112, 3)


@pytest.mark.parametrize("method", [b"get", b"M-SEARCH", b"!#$%&'*+-.^_`|~19azAZ"])
def test_a_method_is_any_token(method: bytes) -> None:
    assert parse(head(b"Host: x").replace(b"GET", method))["REQUEST_METHOD"] == method.decode()


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"GET", b"GET /", b"GET / ", b"/ HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 "),
        *(
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b"GET\x0b/ HTTP/1.1",
        ),
        *(
            b"G@T / HTTP/1.1",
            b"G\xc9T / HTTP/1.1",
            b"G\x00T / HTTP/1.1",
            b'"GET" / HTTP/1.1',
            b"GET: / HTTP/1.1",
        ),
        *(b"GET / http/1.1", b"GET / HTTP/1", b"GET / HTTP/1.", b"GET / HTTP/1.10", b"GET / HTTP/11"),
        *(b"GET / HTTP/0.9", b"GET / HTTP/2.0", b"GET / HTTP/3.1", b"GET / HTTP/01.1", b"GET / HTTP/1.\xb2"),
        *(b"GET / HTTP/1,1", b"GET / HTTPS/1.1", b"GET / HTTP 1.1", b"GET / HTTP/1.1\r", b"\rGET / HTTP/1.1"),
        *(b"\nGET / HTTP/1.1", b"\r\n\r\nGET / HTTP/1.1", b"\r\n\nGET / HTTP/1.1", b"GET / HTTP/1.1\n"),
    ],
)
def test_a_malformed_request_line_is_400_as_soon_as_it_has_come(line: bytes) -> None:
    assert verdict(line + b"\r\n") == (400 if line else MORE)
    assert verdict(line + b"\r\nHost: x\r\n") == 400
    assert verdict(line + b"\r\nHost: x\r\n\r\n") == 400


# Targets (RFC 9112, 3.2; RFC 3986, 3)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # origin-form
        (b"/", ("host", "/", "")),
        (b"//", ("host", "//", "")),
        (b"/a/../%2e%2F", ("host", "/a/.././", "")),
        (b"/%41%00%ff%25", ("host", "/A\x00\xff%", "")),
        (b"/%zz%4%", ("host", "/%zz%4%", "")),
        (b"/\xc3\xa9?\xc3\xa9", ("host", "/\xc3\xa9", "\xc3\xa9")),
        (b"/*", ("host", "/*", "")),
        (b"/a?", ("host", "/a", "")),
        (b"/a?b=%41?/c", ("host", "/a", "b=%41?/c")),
        (b"/http://a/", ("host", "/http://a/", "")),
        # absolute-form: what it says of the host counts (3.2.2)
        (b"http://a", ("a", "/", "")),
        (b"http://a/", ("a", "/", "")),
        (b"HTTP://A:80/b", ("A:80", "/b", "")),
        (b"https://[::1]:8?c", ("[::1]:8", "/", "c")),
        (b"http://a//b?http://c", ("a", "//b", "http://c")),
        (b"http://a*/*", ("a*", "/*", "")),
        (b"http://a*", ("a*", "/", "")),
    ],
)
def test_a_target_says_host_path_and_query(target: bytes, expected: tuple[str, str, str]) -> None:
    environ = parse(b"GET " + target + b" HTTP/1.1\r\nHost: host\r\n\r\n")
    assert (environ["HTTP_HOST"], environ["PATH_INFO"], environ["QUERY_STRING"]) == expected


@pytest.mark.parametrize(
    "target",
    [
        *(b"a", b"a/b", b"?a", b"%2F", b"\\", b"\xc3\xa9"),
        *(b"a:80", b"[::1]:80", b"u@a:80"),  # authority-form, which is for CONNECT
        *(b"/#", b"/a#b", b"/?#", b"/?a#b", b"http://a#b", b"http://a/#", b"*#"),  # fragments
        *(b"*", b"*?a", b"*a", b"**", b"/a *"),
        *(b"http:", b"http:/", b"http:a", b"http:/a", b"ftp://a/", b"http//a", b"httpx://a/"),
        *(b"http://", b"http:///", b"http:///a", b"http://?a", b"http://:80", b"http://:80/", b"http://:/"),
        *(b"http://u@a/", b"http://u:p@a/", b"http://a:x/", b"http://a:1:2/", b"http://[::1/", b"http://a]/"),
        *(
            b"http://a%zz/",
            b"http://a\\b/",
            b"http://\xc3\xa9/",
            b"http://a\x7f/",
            b"http://[]/",
            b"http://a|/",
        ),
        *(b"/\x00", b"/\x1f", b"/\x7f", b"/a\tb", b"/a b", b"/?a b", b"/?\x00", b"/?\x7f"),
    ],
)
def test_any_other_target_is_400(target: bytes) -> None:
    for method in (b"GET", b"CONNECT"):
        assert verdict(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 400
    if target != b"*":
        assert verdict(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 400


def test_the_target_asterisk_is_for_options() -> None:  # RFC 9112, 3.2.4
    environ = parse(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("*", "")
    assert verdict(b"options * HTTP/1.1\r\nHost: a\r\n\r\n") == 400


# Hosts (RFC 9110, 7.2; RFC 3986, 3.2.2 and 3.2.3)

GOOD_HOSTS = [
    *(b"", b"a", b"a.", b"A-b.example", b"a_b", b"~", b"1", b"127.0.0.1", b"999.999", b"%41", b"a%ffb"),
    *(b":", b":80", b"a:", b"a:80", b"a:0080", b"a:99999"),
    *(b"a,b", b"!$&'()*+,;="),  # sub-delims, which a reg-name may have
    *(b"[::1]", b"[::1]:", b"[::1]:80", b"[::]", b"[::FFFF:1.2.3.4]", b"[1:2:3:4:5:6:7:8]"),
]
BAD_HOSTS = [
    *(b"a b", b"a\tb", b"a/b", b"a?b", b"a#b", b"u@a", b"@", b"a\\b", b'"a"', b"<a>", b"a|b", b"a^b", b"{a}"),
    *(b"a%", b"a%4", b"a%zz", b"%%41", b"a\xe9", b"a\xb2", b"a\xa0"),
    *(
        b"a:b",
        b"a:x",
        b"a:b:c",
        b"a:1:2",
        b"a:-1",
        b"a:+1",
        b"a:1 ,b",
        b"a:%31",
        b"a:\xb2",
        b"::1",
        b"::",
        b"http://a",
    ),
    *(
        b"[",
        b"]",
        b"[]",
        b"[]:80",
        b"[::1",
        b"::1]",
        b"[::1]x",
        b"x[::1]",
        b"[::1]80",
        b"[::1]:x",
        b"[[::1]]",
    ),
    *(
        b"[1]",
        b"[a]",
        b"[1.2.3.4]",
        b"[g::1]",
        b"[1:2:3:4:5:6:7:8:9]",
        b"[1:2:3:4:5:6:7]",
        b"[1::2::3]",
        b"[12345::]",
    ),
    *(b"[:::]", b"[::1.2.3.256]", b"[::1%25eth0]", b"[::1%eth0]", b"[v1.x]", b"[ ::1]", b"[::1/64]"),
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_host_is_a_name_or_an_address_perhaps_with_a_port(host: bytes) -> None:
    assert parse(head(b"Host:" + host))["HTTP_HOST"] == host.decode()
    if host and not host.startswith(b":"):
        data = b"GET http://" + host + b"/ HTTP/1.1\r\nHost: x\r\n\r\n"
        assert parse(data)["HTTP_HOST"] == host.decode()


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_any_other_host_is_400(host: bytes, version: bytes) -> None:
    data = head(b"Host: " + host).replace(b"1.1", version, 1)
    assert verdict(data) == 400
    assert verdict(data.replace(b"GET /", b"GET http://a/", 1)) == 400


def test_a_host_may_be_missing_in_http_1_0_only() -> None:  # RFC 9112, 3.2
    assert "HTTP_HOST" not in parse(b"GET / HTTP/1.0\r\n\r\n")
    for minor in (b"1", b"2", b"9"):
        assert verdict(b"GET / HTTP/1." + minor + b"\r\n\r\n") == 400
        assert verdict(b"GET http://a/ HTTP/1." + minor + b"\r\n\r\n") == 400


# Header lines (RFC 9112, 5; RFC 9110, 5.5)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"A:", ""),
        (b"A: \t ", ""),
        (b"A:b", "b"),
        (b"A: \t b \t c \t ", "b \t c"),
        (b"A::b:", ":b:"),
        (b'A: "b", (c) \\', '"b", (c) \\'),
        (b"A: \x80\xa0\xff", "\x80\xa0\xff"),  # obs-text
        (b"A: \xc2\x85", "\xc2\x85"),
        (b"A: X \tX", "X \tX"),
    ],
)
def test_the_value_of_a_header_is_what_stands_between_the_blanks(line: bytes, value: str) -> None:
    assert parse(head(b"Host: x", line))["HTTP_A"] == value


def test_the_name_of_a_header_is_any_token() -> None:
    name = b"!#$%&'*+-.^`|~19azAZ"
    assert parse(head(b"Host: x", name + b": y"))["HTTP_!#$%&'*+_.^`|~19AZAZ"] == "y"


@pytest.mark.parametrize(
    "line",
    [
        *(b"A", b":", b": b", b"A b", b"A b: c", b"A : b", b"A\t: b", b" A: b", b"\tA: b", b" ", b"\t"),
        *(b"A(: b", b"A@: b", b'"A": b', b"A/: b", b"\xc3\xa9: b", b"A\x00: b", b"A\x7f: b", b"A\xa0: b"),
        *(
            b"A: \x00",
            b"A: b\x01c",
            b"A: b\x0bc",
            b"A: b\x0c",
            b"A: b\x1f",
            b"A: \x7f",
            b"A: b\rc",
            b"A: b\nc",
        ),
        *(b"A: b\r", b"A: b\n", b"A: b\r\n c", b"A: b\r\n\tc", b"A:\r\n b", b"\rA: b", b"\nA: b"),
    ],
)
def test_a_malformed_header_line_is_400(line: bytes) -> None:
    assert verdict(head(b"Host: x", line)) == 400
    assert verdict(head(line, b"Host: x")) == 400


@pytest.mark.parametrize("other", [b"\r", b"\n"])
def test_no_lone_line_break_is_read_anywhere(other: bytes) -> None:  # RFC 9112, 2.2
    data = b"GET http://a/b?c HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n"
    assert verdict(data) == GOOD
    for place in range(len(data) - 1):
        assert verdict(data[:place] + other + data[place:] + b"\r\n\r\n") == 400
        if data[place : place + 1] == other:
            assert verdict(data[:place] + data[place + 1 :] + b"\r\n\r\n") == 400


@pytest.mark.parametrize("end", [b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_a_head_that_ends_otherwise_is_refused_at_once(end: bytes) -> None:
    for lines in (b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost: x", b"\r\nGET / HTTP/1.1\r\nHost: x\r\nA: b"):
        data = lines + end
        assert verdict(data) == 400
        assert read_all(cut(data, range(len(data)))) == [400]


# Framing (RFC 9112, 6)


@pytest.mark.parametrize("number", ["0", "00", "5", "9" * 18, "0" * 18])
def test_a_length_is_digits(number: str) -> None:
    framing = parse_head(head(b"Host: x", b"Content-Length: " + number.encode()), {})[1]
    assert (framing.length, framing.is_chunked) == (int(number), False)


@pytest.mark.parametrize(
    "value",
    [b"", b"+5", b"-5", b"5.0", b"5,5", b"5, 5", b"5 5", b"0x5", b"5e1", b"1_0", b"\xb2", b"five", b"0" * 19],
)
def test_any_other_length_is_400(value: bytes) -> None:
    assert verdict(head(b"Host: x", b"Content-Length: " + value)) == 400


@pytest.mark.parametrize(
    ("value", "is_last"),
    [
        *(
            (b"close", True),
            (b"CLOSE", True),
            (b"a,close", True),
            (b"close , a", True),
            (b"a,\tclose\t,b", True),
        ),
        *(
            (b"", False),
            (b"keep-alive", False),
            (b"closed", False),
            (b"not-close", False),
            (b"a;close", False),
        ),
    ],
)
def test_the_connection_ends_if_it_is_said_so(value: bytes, is_last: bool) -> None:  # RFC 9112, 9.6
    for lines in ([b"Connection: " + value], [b"Connection: b", b"Connection: " + value]):
        assert parse_head(head(b"Host: x", *lines), {})[1].is_last is is_last


@pytest.mark.parametrize(
    ("lines", "can_be_skipped"),
    [
        ([], True),
        ([b"Content-Length: 65536"], True),
        ([b"Content-Length: 65537"], False),
        ([b"Transfer-Encoding: chunked"], False),
        ([b"Content-Length: 1", b"Expect: 100-continue"], False),
    ],
)
def test_only_a_short_body_that_comes_for_sure_can_be_skipped(
    lines: list[bytes], can_be_skipped: bool
) -> None:
    framing = parse_head(head(b"Host: x", *lines), {})[1]
    assert Body(framing, b"", lambda: b"", lambda: None).can_be_skipped is can_be_skipped


def test_what_is_remembered_of_one_request_is_not_changed_by_another() -> None:
    data = head(b"Host: x", b"A: b")
    expected = parse(data)
    changed = parse(data)
    changed["HTTP_HOST"] = changed["HTTP_C"] = "y"
    assert parse(b"GET http://z/ HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n")["HTTP_HOST"] == "z"
    assert parse(data) == expected
    base = {"BASE": "x"}
    assert parse_head(data, base)[0] == {**expected, **base}
    assert base == {"BASE": "x"}


def test_long_headers_are_not_remembered_for_they_would_fill_memory() -> None:
    http1._parse_headers.cache_clear()
    for size in (4_096, 4_097, 60_000):
        start = b"Host: x\r\nA: "
        parse(head(start + b"b" * (size - len(start) - 2)))
        assert http1._parse_headers.cache_info().currsize == 1


@pytest.mark.parametrize(
    ("begin", "line"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1"),
        (b"\r\nXGET / HTTP/1.X\r\n", b"XGET / HTTP/1.X"),
        (b"GET / HT", b"GET / HT"),
        (b"\r\n", b""),
    ],
)
def test_the_request_line_is_known_as_far_as_it_has_come(begin: bytes, line: bytes) -> None:
    assert http1.request_line(begin) == line


# Limits


def line_of(size: int) -> bytes:
    """Return a request line of that many bytes, with its end."""
    return b"GET /%b HTTP/1.1\r\n" % (b"x" * (size - 16))


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_the_longest_request_line_is_read_and_a_longer_one_is_414(before: bytes) -> None:
    for excess in (0, 1, 2, 3, 4, MAX_HEAD_SIZE):
        data = before + line_of(MAX_HEAD_SIZE + excess)
        assert len(data) == len(before) + MAX_HEAD_SIZE + excess
        assert verdict(data + b"Host: x\r\n\r\n") == (414 if excess else GOOD)
        assert verdict(data + b"Host: x\r\n") == (414 if excess else MORE)
        assert verdict(data) == (414 if excess else MORE)
        rubbish = before + b"x" * (MAX_HEAD_SIZE + excess - 2) + b"\r\n"
        assert verdict(rubbish + b"Host: x\r\n\r\n") == verdict(rubbish) == (414 if excess else 400)
    assert verdict(before + b"x" * MAX_HEAD_SIZE) == MORE
    assert verdict(before + b"x" * (MAX_HEAD_SIZE + 1)) == 414


@pytest.mark.parametrize("count", [1, 7])
def test_the_most_bytes_of_headers_are_read_and_more_are_431(count: int) -> None:
    for excess in (0, 1, 2, 3, MAX_HEAD_SIZE):
        lines = b"Host: x\r\n" + b"A: b\r\n" * (count - 1)
        lines += b"C: %b\r\n" % (b"d" * (MAX_HEAD_SIZE + excess - len(lines) - 5))
        assert len(lines) == MAX_HEAD_SIZE + excess
        for line in (line_of(20), b"\r\n" + line_of(MAX_HEAD_SIZE)):
            assert verdict(line + lines + b"\r\n") == (431 if excess else GOOD)
            assert verdict(line + lines + b"\r") == (431 if excess else MORE)


def test_the_most_headers_are_read_and_one_more_is_431() -> None:
    lines = [b"Host: x", *[b"A%d: b" % number for number in range(MAX_HEADERS - 1)]]
    assert len(parse(head(*lines))) == MAX_HEADERS + 4
    assert verdict(head(*lines, b"C: d")) == 431
    assert verdict(head(*lines, b"C_D: ignored")) == 431


@given(requests(), st.integers(1, 300))
def test_the_limits_are_the_same_however_the_bytes_come(sent: Sent, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "MAX_HEAD_SIZE", limit)
        patch.setattr(http1, "_MAX_REMEMBERED_SIZE", -1)  # what is remembered was read with other limits
        whole = read_all([sent.data])
        assert read_all(cut(sent.data, range(len(sent.data)))) == whole
        if isinstance(whole[0], int):
            assert whole[0] in (414, 431)


TOO_LONG = (414, "A line of the request is too long")
TOO_LARGE = (431, "The headers are too large")
MALFORMED = (400, "A header line is malformed")
NO_REQUEST = (400, "This is not an HTTP request")
NO_TARGET = (400, "The request's target is neither a path nor an http URL")
NO_HOST = (400, "The Host header is missing or malformed")
NO_CODING_HERE = (400, "Transfer-Encoding cannot be used here")
LONG = b"x" * MAX_HEAD_SIZE


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (LONG + b"x", TOO_LONG),
        (b"GET /" + LONG + b" HTTP/1.1\r\n\r\n", TOO_LONG),
        (b"GET / HTTP/1.1\r\nA: " + LONG, TOO_LARGE),
        (head(b"A: " + LONG), TOO_LARGE),
        (b"GET / HTTP/1.1\r\n\n", MALFORMED),
        (head(b"A"), MALFORMED),
        (b"x\r\n", NO_REQUEST),
        (b" GET / HTTP/1.1\r\n", NO_REQUEST),
        (b"GET / HTTP/1.1 \r\n", NO_REQUEST),
        (b"GET / HTTP/2.0\r\n", (400, "This server speaks HTTP/1.1")),
        (b"GET a HTTP/1.1\r\n", NO_TARGET),
        (b"GET ftp://a/ HTTP/1.9\r\n", NO_TARGET),
        (b"GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n", (400, "The request's target has no valid host")),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", (400, "Only OPTIONS has the target *")),
        (head(), NO_HOST),
        (head(b"Host: a b"), NO_HOST),
        (head(b"Host: a", b"Host: a"), (400, "The header Host came twice")),
        (head(b"Host: a", b"Content-Length: x"), (400, "Content-Length is not a number")),
        (head(b"Host: a", b"Content-Length: 0", b"Transfer-Encoding: chunked"), NO_CODING_HERE),
        (head(b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0"), NO_CODING_HERE),
        (
            head(b"Host: a", b"Transfer-Encoding: gzip"),
            (400, "The only transfer coding that this server knows is chunked"),
        ),
    ],
)
def test_a_refusal_says_why(data: bytes, refusal: tuple[int, str]) -> None:
    with pytest.raises(HTTPError) as caught:
        parse_head(data[: find_head(data)], {})
    response = caught.value.response
    assert (response.status, response.body.decode()) == refusal


# Chunks (RFC 9112, 7.1)


def unchunk(data: bytes) -> bytes | None:
    """Return what is in chunks, which must be all of the data; None if they are malformed."""
    found = read_all([head(b"Host: x", b"Transfer-Encoding: chunked") + data])
    assert isinstance(found[0], Read)
    if found[0].body is not None:
        assert found[1:] == [b""]
    return found[0].body


@pytest.mark.parametrize(
    "line",
    [
        *(b"5", b"05", b"000000000000005"),
        *(b"5;a", b"5;a;a;b", b"5 ;a", b"5;\ta", b"5 \t ; \t a", b"5;a ;b", b"5;!#$%&'*+-.^_`|~19azAZ"),
        *(b"5;a=b", b"5;a =b", b"5;a= b", b"5 ; a\t=\tb ; c", b"5;a='b'", b"5;5=5"),
        *(b'5;a=""', b'5;a="x"', b'5; a = "x;y"', b'5;a="x=y, \t(z)"', b'5;a="x";b="y"', b'5;a="[]!#~"'),
        *(b'5;a="\\""', b'5;a="\\\\"', b'5;a="\\x\\ \\\t"', b'5;a="\\;\\""'),  # quoted-pair
        *(b'5;a="\x80\xff"', b'5;a="\\\x80\\\xff"'),  # obs-text
    ],
)
def test_a_chunk_has_a_size_and_perhaps_extensions(line: bytes) -> None:
    assert unchunk(line + b"\r\nabcde\r\n" + line.replace(b"5", b"0", 1) + b"\r\n\r\n") == b"abcde"


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"",
            b"x",
            b"+5",
            b"-5",
            b"0x5",
            b"5h",
            b"5.",
            b"5_",
            b"5,",
            b"\xb2",
            b"5\x00",
            b"0000000000000005",
        ),
        *(b" 5", b"5 ", b"5\t", b"5 5", b"5\x0b", b"5\r", b"5\n", b"5\xa0", b'5"', b"5=a", b"5a=b"),
        *(
            b"5;",
            b"5 ;",
            b"5; ",
            b"5;;",
            b"5;;a",
            b"5;a;",
            b"5;a; ",
            b"5;a ",
            b"5;a b",
            b"5;a=b ",
            b'5;a="b" ',
        ),
        *(
            b"5;a=",
            b"5;a =",
            b"5;a= ",
            b"5;a=;b",
            b"5;=",
            b"5;=b",
            b"5;a==b",
            b"5;a=b=c",
            b"5;a=b c",
            b"5;a,b",
        ),
        *(
            b"5;bad[=x",
            b"5;a=[",
            b"5;a(",
            b"5;a@b",
            b"5;a:b",
            b"5;a/b",
            b"5;\x00",
            b"5;a\x7f",
            b"5;\xff",
            b"5;a=\xff",
        ),
        *(
            b'5;"a"',
            b'5;"a"=b',
            b'5;a="',
            b'5;a="x',
            b'5;a=x"',
            b'5;a="x"y',
            b'5;a=x"y"',
            b'5;a="x""y"',
            b'5;a="x"="y"',
        ),
        *(b'5;a="\\"', b'5;a="x\\', b'5;a="\\\\""', b'5;a="x;b', b"5;a='x y'"),
        *(
            b'5;a="\x00"',
            b'5;a="\x1f"',
            b'5;a="\x7f"',
            b'5;a="\\\x00"',
            b'5;a="\\\x7f"',
            b'5;a="\\\r"',
            b'5;a="\r"',
        ),
        *(b'5;a="\n"', b'5;a="\\\n"', b"5;a\n", b"5;a\r", b"5\n;a", b"5;a\r;b", b'5;a="\r\n"'),
    ],
)
def test_the_line_of_a_chunk_is_read_strictly(line: bytes) -> None:
    assert unchunk(line + b"\r\nabcde\r\n0\r\n\r\n") is None
    assert unchunk(b"1\r\nx\r\n" + line.replace(b"5", b"0", 1) + b"\r\n\r\n") is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"0A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", b"abcdefghijklmnopqrstuvwxyz"),
        (b"2\r\n\r\n\r\n2\r\n0\r\r\n0\r\n\r\n", b"\r\n0\r"),
        (b"0\r\n\r\n", b""),
        (b"0\r\nA: b\r\nA:\r\n_: c\r\n\r\n", b""),
        *(
            (data, None)
            for data in (b"1\r\nx0\r\n\r\n", b"1\r\nx\n0\r\n\r\n", b"1\r\nx\r0\r\n\r\n", b"1\nx\r\n0\r\n\r\n")
        ),
        *((data, None) for data in (b"1\r\n\r\n0\r\n\r\n", b"1\r\nxy\r\n0\r\n\r\n", b"2\r\nx\r\n0\r\n\r\n")),
        *(
            (data, None)
            for data in (
                b"0\n\r\n",
                b"0\r\n\n",
                b"0\r\nA\r\n\r\n",
                b"0\r\n A: b\r\n\r\n",
                b"0\r\nA : b\r\n\r\n",
            )
        ),
        *(
            (data, None)
            for data in (
                b"0\r\nA: b\n\r\n",
                b"0\r\nA: \x00\r\n\r\n",
                b"0\r\nA: b\r\n c\r\n\r\n",
                b"",
                b"0\r\n",
            )
        ),
    ],
)
def test_chunks_and_trailers_are_undone_strictly(data: bytes, expected: bytes | None) -> None:
    assert unchunk(data) == expected


def test_the_longest_lines_within_a_body_are_read_and_longer_ones_are_not() -> None:
    for excess in (0, 1):
        line = b"1;%b\r\n" % (b"a" * (MAX_HEAD_SIZE + excess - 4))
        trailer = b"A:%b\r\n" % (b"b" * (MAX_HEAD_SIZE + excess - 4))
        for data in (line + b"x\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\n" + trailer + b"\r\n"):
            assert unchunk(data) == (None if excess else b"x")
        assert unchunk(b"0\r\n" + trailer + b"A: b\r\n\r\n") is None
    for count in (MAX_HEADERS, MAX_HEADERS + 1):
        assert unchunk(b"0\r\n" + b"A: b\r\n" * count + b"\r\n") == (b"" if count == MAX_HEADERS else None)


@pytest.mark.parametrize("begin", [b"", b"5\r\nabcde", b"0\r\n", b"0\r\nA: "])
def test_a_line_within_a_body_that_never_ends_is_not_received_without_end(begin: bytes) -> None:
    body, events = body_of([b"Transfer-Encoding: chunked"], begin, *[b"0" * 1_000] * 1_000)
    with pytest.raises(BodyError, match="^a line is malformed or too long$"):
        body.readall()
    assert len(events) <= 66


def test_a_line_may_come_in_pieces_after_much_of_the_body() -> None:
    chunk = b"ea60\r\n" + b"x" * 60_000
    body, _ = body_of([b"Transfer-Encoding: chunked"], chunk + b"\r\n" + b"0", b"\r", b"\n\r\n")
    assert body.readall() == b"x" * 60_000


# Bodies


def body_of(lines: list[bytes], came: bytes, *pieces: bytes) -> tuple[Body, list[str]]:
    """Return a body, and a list that tells what it does while it is read: asks, receives."""
    events: list[str] = []
    source = iter(pieces)

    def receive() -> bytes:
        events.append("receives")
        return next(source, b"")

    framing = parse_head(head(b"Host: x", *lines), {})[1]
    return Body(framing, came, receive, lambda: events.append("asks")), events


@pytest.mark.parametrize(
    ("came", "pieces", "expected"),
    [
        (b"", [b"ab", b"cde"], ["asks", "receives", "receives"]),
        (b"ab", [b"cde"], ["asks", "receives"]),
        (b"abcde", [], []),
    ],
)
def test_a_client_that_waits_is_asked_once_and_only_for_what_has_not_come(
    came: bytes, pieces: list[bytes], expected: list[str]
) -> None:
    body, events = body_of([b"Expect: 100-continue", b"Content-Length: 5"], came, *pieces)
    assert events == []
    assert body.read() == b"abcde"
    assert events == expected
    chunks = b"5\r\nabcde\r\n0\r\n\r\n"
    body, events = body_of([b"Expect: 100-continue", b"Transfer-Encoding: chunked"], chunks[:4], chunks[4:])
    assert body.read() == b"abcde"
    assert events == ["asks", "receives"]


def test_a_body_knows_its_end_and_what_came_after_it() -> None:
    for lines, data, can_be_skipped in (
        ([b"Content-Length: 5"], b"abcde", True),
        ([b"Transfer-Encoding: chunked"], b"2\r\nab\r\n3\r\ncde\r\n0\r\nA: b\r\n\r\n", False),
    ):
        body, _ = body_of(lines, data[:1], data[1:] + b"GET")
        assert body.readable()
        assert (body.read(1), body.can_be_skipped) == (b"a", can_be_skipped)
        assert (body.readall(), body.can_be_skipped) == (b"bcde", True)
        assert (body.read(1), body.rest) == (b"", b"GET")


def test_a_body_that_cannot_be_received_is_an_error_that_names_the_cause() -> None:
    def fail() -> bytes:
        raise ConnectionResetError("gone")

    for body in (
        Body(Framing({}, 5, False, False, False), b"abc", fail, lambda: None),
        Body(Framing({}, 5, False, True, False), b"abc", lambda: b"de", fail),  # it cannot be asked for
    ):
        assert body.read(5) == b"abc"
        with pytest.raises(BodyError, match="^the body could not be received: gone$"):
            body.read(5)
    body = Body(Framing({}, 5, False, False, False), b"abc", lambda: b"", lambda: None)
    with pytest.raises(BodyError, match="^the body ended early$"):
        body.readall()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x\r\n", "the size of a chunk is malformed"),
        (b"1\r\nxy\r\n", "a chunk is longer than it says"),
        (b"1\r\nx\n\r\n", "a line is malformed or too long"),
        (b"0\r\nbad\r\n\r\n", "a trailer is malformed"),
        (b"1;%b\r\n" % LONG, "a line is malformed or too long"),
    ],
    ids=["size", "excess", "line break", "trailer", "long"],
)
def test_a_body_that_has_failed_fails_for_good(data: bytes, message: str) -> None:
    body, _ = body_of([b"Transfer-Encoding: chunked"], data + b"0\r\n\r\n" * 3)
    for expected in (message, "the body has failed before", "the body has failed before"):
        with pytest.raises(BodyError, match=f"^{expected}$"):
            body.read(10)
        assert not body.can_be_skipped


# Time

SIZE = MAX_HEAD_SIZE - 1_000
HOSTILE_LINES = {
    "blanks": b" " * SIZE,
    "blanks within": b"GET " + b" " * SIZE + b"/",
    "words": b"a " * (SIZE // 2),
    "a method": b"a" * SIZE,
    "a host": b"GET http://" + b"a" * SIZE + b"[ HTTP/1.1",
    "asterisks": b"GET http://" + b"*" * SIZE + b" ",
    "question marks": b"GET /" + b"?" * SIZE + b"#",
    "versions": b"GET /" + b" HTTP/1.1" * (SIZE // 9),
    "line breaks": b"\r" * SIZE,
}
HOSTILE_HEADERS = {
    "blanks": b"A:" + b" " * SIZE + b"\x00",
    "a name": b"a" * SIZE,
    "a host": b"Host: " + b"a" * SIZE + b"/",
    "percents": b"Host: " + b"%41" * (SIZE // 3) + b"%",
    "colons": b"Host: [" + b":" * SIZE + b"]",
    "digits": b"Host: [" + b"1" * SIZE + b"]",
    "commas": b"Host: [\r\nConnection: " + b"," * SIZE,
    "a length": b"Host: x\r\nContent-Length: " + b"1" * SIZE,
}
HOSTILE_EXTENSIONS = {
    "blanks": b" " * SIZE,
    "semicolons": b";" * SIZE,
    "blanks after a name": b";a" + b" " * SIZE,
    "blanks after an equals sign": b";a=" + b" " * SIZE,
    "a name": b";" + b"a" * SIZE + b"(",
    "names": b";a" * (SIZE // 2) + b"(",
    "names with values": b";a=a" * (SIZE // 4) + b"(",
    "names among blanks": b" ; a = a" * (SIZE // 8) + b" ",
    "an open quotation": b';a="' + b"x" * SIZE,
    "open quotations": b';a=";"' * (SIZE // 6) + b"(",
    "quoted pairs": b';a="' + b"\\x" * (SIZE // 2) + b"\x00",
}


@pytest.mark.parametrize("line", HOSTILE_LINES.values(), ids=HOSTILE_LINES.keys())
def test_no_request_line_takes_long_to_refuse(line: bytes) -> None:
    began = time.process_time()
    assert verdict(line + b"\r\n") in (400, MORE)
    assert verdict(line + b"\r\nHost: x\r\n\r\n") == 400
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("line", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS.keys())
def test_no_header_takes_long_to_refuse(line: bytes) -> None:
    began = time.process_time()
    assert verdict(head(line)) == 400
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("extension", HOSTILE_EXTENSIONS.values(), ids=HOSTILE_EXTENSIONS.keys())
def test_no_extension_of_a_chunk_takes_long_to_refuse(extension: bytes) -> None:
    began = time.process_time()
    assert unchunk(b"1" + extension + b"\r\nx\r\n0\r\n\r\n") is None
    assert time.process_time() - began < 0.5


def test_a_long_request_line_is_not_read_again_with_each_byte_that_follows() -> None:
    def seconds(data: bytes) -> float:
        """Return how long the last 2,000 bytes take, one by one."""
        began = time.process_time()
        for end in range(len(data) - 2_000, len(data)):
            assert find_head(data[:end], end - 1) == 0
        return time.process_time() - began

    long_line = line_of(MAX_HEAD_SIZE) + b"A: " + b"b" * 3_000
    long_header = line_of(20) + b"A: " + b"b" * (MAX_HEAD_SIZE - 3)
    assert min(seconds(long_line) for _ in range(3)) < 4 * min(seconds(long_header) for _ in range(3))


def test_tiny_chunks_take_a_time_that_grows_with_their_number_only() -> None:
    def seconds(count: int) -> float:
        data = b"1\r\nx\r\n" * count + b"0\r\n\r\n"
        body, _ = body_of([b"Transfer-Encoding: chunked"], b"", *cut(data, range(0, len(data), 65_536)))
        began = time.process_time()
        assert io.BufferedReader(body).read(count + 1) == b"x" * count
        return time.process_time() - began

    short = min(seconds(10_000) for _ in range(3))
    assert min(seconds(80_000) for _ in range(3)) < 8 * 3 * short


# Answers


class Received(NamedTuple):
    """An answer as Python's client reads it."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    will_close: bool


class OneAnswer:
    """As much of a socket as http.client needs to read an answer."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def makefile(self, _: str) -> io.BytesIO:
        return self.file


def receive(data: bytes, *, is_head: bool = False) -> Received:
    """Read an answer, which must be all of the data."""
    connection = OneAnswer(data)
    response = http.client.HTTPResponse(cast(socket.socket, connection), method="HEAD" if is_head else "GET")
    response.begin()
    assert response.version == 11
    length = data.index(b"\r\n\r\n") + 4
    body = response.read()
    assert len(data) == length + len(body)
    return Received(response.status, response.reason, response.getheaders(), body, response.will_close)


OWN_NAMES = ("content-length", "date", "server")
# http.client takes more characters for line breaks than HTTP does.
text_characters = [chr(code) for code in range(0x20, 0x100) if code not in (0x7F, 0x85)]
texts = st.lists(st.sampled_from(text_characters), max_size=10).map(lambda text: "".join(text).strip())
answer_names = (
    strings(TOKEN_BYTES, min_size=1)
    .map(bytes.decode)
    .filter(lambda name: name.lower() not in (*OWN_NAMES, *http1._HOP_BY_HOP))
)


@given(
    code=st.integers(200, 599) | st.sampled_from([204, 304]),
    reason=texts,
    sent_headers=st.lists(st.tuples(answer_names, texts), max_size=6),
    own_headers=st.lists(st.sampled_from(["Date", "dAtE", "Server", "Content-Length"]), unique_by=str.lower),
    body=st.binary(max_size=50),
    is_head=st.booleans(),
    is_last=st.booleans(),
    more=st.data(),
)
def test_an_answer_is_read_by_a_client_as_it_was_given(
    code: int,
    reason: str,
    sent_headers: list[tuple[str, str]],
    own_headers: list[str],
    body: bytes,
    is_head: bool,
    is_last: bool,
    more: st.DataObject,
) -> None:
    own = [(name, str(len(body)) if name == "Content-Length" else "mine") for name in own_headers]
    given_headers = more.draw(st.permutations(sent_headers + own))
    data = render_answer(f"{code} {reason}", given_headers, body, is_head=is_head, is_last=is_last)
    received = receive(data, is_head=is_head)
    is_empty = code in (204, 304)
    assert (received.status, received.reason) == (code, reason)
    assert received.body == (b"" if is_empty or is_head else body)
    assert received.will_close is is_last
    kept = [header for header in given_headers if not (is_empty and header[0] == "Content-Length")]
    assert received.headers[: len(kept)] == kept
    given_names = [name.lower() for name, _ in given_headers]
    has_length = "content-length" not in given_names and not is_empty and (body != b"" or not is_head)
    added = [name for name, _ in received.headers[len(kept) :]]
    assert added == [
        *(["Content-Length"] if has_length else []),
        *(["Date"] if "date" not in given_names else []),
        *(["Server"] if "server" not in given_names else []),
        *(["Connection"] if is_last else []),
    ]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("name", ["Content-Length", "content-LENGTH"])
def test_a_204_and_a_304_lose_length_and_body(status: str, name: str) -> None:  # RFC 9110, 8.6 and 15.4.5
    data = render_answer(status, [("A", "b"), (name, "99"), ("C", "d")], b"body")
    assert data.startswith(f"HTTP/1.1 {status}\r\nA: b\r\nC: d\r\n".encode())
    assert b"length" not in data.lower()
    assert data.endswith(b"\r\n\r\n")


def test_the_answer_to_a_head_has_the_length_that_a_get_would_have() -> None:  # RFC 9110, 9.3.2
    for headers_, body in (
        ([("Content-Length", "5")], b""),
        ([], b"abcde"),
        ([("Content-Length", "5")], b"abcde"),
    ):
        received = receive(render_answer("200 OK", headers_, body, is_head=True), is_head=True)
        assert dict(received.headers)["Content-Length"] == "5"
        assert received.body == b""


def test_a_length_that_nobody_knows_is_not_made_up() -> None:  # RFC 9110, 8.6
    data = render_answer("200 OK", [], b"", is_head=True)
    assert b"length" not in data.lower()
    assert dict(receive(render_answer("200 OK", [], b"")).headers)["Content-Length"] == "0"


@pytest.mark.parametrize("value", ["4", "6", "05", "+5", "-5", " 5", "5 ", "", "five", "5, 5", "0x5"])
def test_a_wrong_length_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="but the body has 5 bytes"):
        render_answer("200 OK", [("Content-Length", value)], b"abcde")


@pytest.mark.parametrize(
    "headers_",
    [
        *(
            [(name, "x")]
            for name in ("Connection", "KEEP-ALIVE", "proxy-connection", "Te", "Trailer", "Upgrade")
        ),
        [("Transfer-Encoding", "chunked")],
        [("Content-Length", "5"), ("content-length", "5")],
        *([(name, "x")] for name in ("", "A B", "A:", "A\t", "A\r\nB", "A\n", "A\x00", "é", "A\x85", "(A)")),
        *(
            [("A", value)]
            for value in (
                "b\r\nC: d",
                "b\nC: d",
                "b\rC: d",
                "\r\n",
                "\n",
                "\r",
                "b\r\n c",
                "b\r\n\r\nd",
                "b\0c",
            )
        ),
        [("A", "b\r"), ("\nC", "d")],
        *([("A", value)] for value in (b"b", 1, None, 1.5, ["b"])),
        [(b"A", "b")],
        [("A", "\u0100")],
        [("A", "\ud800")],
        [("A",)],
        [("A", "b", "c")],
        [None],
    ],
)
@pytest.mark.parametrize("is_head", [False, True])
def test_what_is_no_header_is_refused(headers_: Any, is_head: bool) -> None:
    with pytest.raises((ValueError, TypeError)):  # a UnicodeEncodeError is a ValueError
        render_answer("200 OK", [("X", "y"), *headers_], b"abcde", is_head=is_head)


@pytest.mark.parametrize(
    "status",
    [
        *("", "200", "200OK", "20 OK", "2000 OK", " 200 OK", "OK", "²00 OK", "+20 OK", "200\tOK", "2٠٠ OK"),
        *("100 Continue", "101 Switching Protocols", "199 x", "600 x", "099 x", "000 x"),
        *("200 OK\r\nA: b", "200 OK\nA: b", "200 OK\r", "200 OK\n", "200 \r\n\r\n<html>", "200 \u0100"),
        *(b"200 OK", 200, None),
    ],
)
def test_what_is_no_status_of_an_answer_is_refused(status: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        render_answer(status, [], b"")


@pytest.mark.parametrize(
    ("status", "headers_", "message"),
    [
        ("OK", [], "'OK' is not the status of an answer"),
        ("200 OK", [("Upgrade", "x")], "an application cannot send the header 'upgrade'"),
        ("200 OK", [("A B", "x")], "an application cannot send the header 'a b'"),
        ("200 OK", [("Content-Length", "4")], "Content-Length is 4, but the body has 5 bytes"),
        ("200 OK", [("Content-Length", "5")] * 2, "Content-Length is 5, 5, but the body has 5 bytes"),
        ("200 OK", [("A", "b\nC: d")], "the status or a header has a line break or NUL in it"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_reason(
    status: str, headers_: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        render_answer(status, headers_, b"abcde")


def test_an_answer_has_its_length_its_date_its_server_and_leaves_the_connection_open() -> None:
    names = dict(receive(render_answer("200 OK", [], b"abcde")).headers)
    assert list(names) == ["Content-Length", "Date", "Server"]


def test_the_date_of_an_answer_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = []
    for second in (0, 1_760_000_000):
        monkeypatch.setattr(time, "time", lambda now=second: now + 0.9)
        dates.append(dict(receive(render_answer("200 OK", [], b"")).headers)["Date"])
    assert dates == ["Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 09 Oct 2025 08:53:20 GMT"]


def test_the_date_is_now() -> None:
    before = int(time.time())
    value = dict(receive(render_answer("200 OK", [], b"")).headers)["Date"]
    date = email.utils.parsedate_to_datetime(value).timestamp()
    assert before <= date <= time.time()


@given(st.integers(0, 2**34))
def test_a_date_is_an_imf_fixdate(second: int) -> None:  # RFC 9110, 5.6.7
    assert http1._render_date(second) == email.utils.formatdate(second, usegmt=True)


@pytest.fixture
def german(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The German locale, made for the test where the system has none."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    except locale.Error:
        command = [
            shutil.which("localedef") or "",
            "-i",
            "de_DE",
            "-f",
            "UTF-8",
            str(tmp_path / "de_DE.UTF-8"),
        ]
        if not command[0] or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this system cannot make a locale")
        monkeypatch.setenv("LOCPATH", str(tmp_path))
        locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.usefixtures("german")
def test_a_date_speaks_english_whatever_the_locale() -> None:
    second = 1_760_000_000
    assert time.strftime("%a %b", time.gmtime(second)) == "Do Okt"
    assert http1._render_date(second) == "Thu, 09 Oct 2025 08:53:20 GMT"
