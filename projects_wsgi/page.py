"""The page for people, with the headers that let nothing but its own script and style run in it."""

from __future__ import annotations

from binascii import b2a_base64
from functools import cache

from .wsgi import Response


@cache
def read_page() -> Response:
    """Return the answer with the page, which is read once."""
    # Imported where the page is asked for: a server that is not starts sooner.
    import hashlib
    from importlib import resources

    body = resources.files(__package__).joinpath("page.html").read_bytes()
    body = body.replace(b"\r\n", b"\n")  # as browsers do before they hash

    def source(tag: bytes) -> str:
        text = body.partition(b"<%b" % tag)[2].partition(b">")[2].partition(b"</%b>" % tag)[0]
        return f"'sha256-{b2a_base64(hashlib.sha256(text).digest(), newline=False).decode()}'"

    policy = (
        f"default-src 'none'; script-src {source(b'script')}; style-src {source(b'style')};"
        " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = [("Content-Security-Policy", policy), ("X-Frame-Options", "DENY")]
    return Response(200, "text/html; charset=utf-8", body, headers)
