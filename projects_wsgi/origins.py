"""CORS (the Fetch standard, 3.3): the origins whose pages may use the API from a browser.

A page of any other origin gets the answers that everybody gets, but its browser lets it read none, and asks
in vain before it sends what a form could not. Each answer varies by Origin, also where none is sent: else a
cache could give one origin the answer to another. If every origin is allowed, all get the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from .wsgi import Environ, Response

ANY = "*"
_METHODS = "GET, HEAD, POST, PUT, DELETE"
_HEADERS = ["Authorization", "Content-Type"]  # that every client of the API needs
_MAX_AGE = "600"  # seconds for which a browser need not ask again; so long may an origin outlive its removal
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2


class Origins:
    """Tells browsers which origins are allowed; exposed: the header that their pages may read besides."""

    def __init__(self, allowed: Collection[str], exposed: str) -> None:
        self._allowed = frozenset(allowed)
        self._exposed = ("Access-Control-Expose-Headers", exposed)

    def headers(self, environ: Environ) -> list[tuple[str, str]]:
        """Return what every answer to a request carries."""
        if ANY in self._allowed:
            return [("Access-Control-Allow-Origin", ANY), self._exposed]
        origin = environ.get("HTTP_ORIGIN")
        if origin not in self._allowed:
            return [("Vary", "Origin")]
        return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin"), self._exposed]

    def is_preflight(self, environ: Environ) -> bool:
        """Tell whether a browser asks what a page of an allowed origin may send."""
        return (
            environ["REQUEST_METHOD"] == "OPTIONS"
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
            and (ANY in self._allowed or environ.get("HTTP_ORIGIN") in self._allowed)
        )


def answer_preflight(environ: Environ) -> Response:
    """Answer what a page may send: at every path the same, so that it can read a 404 and a 405 as well."""
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").split(",")
    headers = {name.lower(): name for name in [*_HEADERS, *map(str.strip, asked)] if _TOKEN.fullmatch(name)}
    return Response(
        204,
        headers=[
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", ", ".join(headers.values())),
            ("Access-Control-Max-Age", _MAX_AGE),
        ],
    )
