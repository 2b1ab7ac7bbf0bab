"""What hosts, servers and proxies make of a request before the application sees it, one entry per row.

An answer that is not the application's must be explained by the entry for its request, and by nothing else.
"""

from __future__ import annotations

import re
from posixpath import normpath
from typing import Callable
from urllib.parse import quote, unquote

from ..support.differences import Difference
from ..support.replay import Answer, Send, Step

Applies = Callable[[Step], bool]


def _refused(row: str, applies: Applies, status: int) -> Difference:
    """A request that the application never sees."""

    def holds(step: Step, answer: Answer, send: Send) -> bool:
        return answer.status == status and "X-Phoenix-Server-Version" not in answer.headers

    return Difference(row, applies, holds)


def _rewritten(row: str, rewrite: Callable[[str], str]) -> Difference:
    """A path for which the application sees another one; rewrite: returns it."""

    def applies(step: Step) -> bool:
        return "?" not in step.path and rewrite(step.path) != step.path

    def holds(step: Step, answer: Answer, send: Send) -> bool:
        return answer[:3] == send(step.method, rewrite(step.path), step.headers, step.body)[:3]

    return Difference(row, applies, holds)


def _what_was_refused_is_still_there(step: Step, answer: Answer, send: Send) -> bool:
    names = [project["name"] for project in answer.payload["data"]]
    names.remove("nul\0x")
    return names == [project["name"] for project in step.answer["json"]["data"]]


def _has_nul(step: Step) -> bool:
    return "%00" in step.path and "?" not in step.path


def _is_long(step: Step) -> bool:
    return len(step.path) > 4000


def _without_dots(path: str) -> str:
    return normpath(path) if {".", ".."} & set(path.split("/")) else path


def _normalised(path: str) -> str:
    """Return the path as a file's: decoded, and then without empty segments and those of dots."""
    decoded = unquote(path)
    normal = _without_dots(re.sub("//+", "/", decoded))
    return path if normal == decoded else quote(normal)


_SLASHES_ARE_ENCODED = _rewritten("%2F is not undone", lambda path: path.replace("%2F", "%252F"))
_SLASHES_ARE_MERGED = _rewritten("// is /", lambda path: re.sub("(?<=.)//+", "/", path))
# As in https://host/path.
_HOST_AT_THE_START = _rewritten("//x at the start is a host", lambda path: re.sub("^//[^/]*/?", "/", path))
_NO_HOST_AT_THE_START = _refused("// at the start is 400", lambda step: step.path.startswith("//"), 400)
_IS_NORMALISED = _rewritten("// is /, and dots are resolved, encoded or not", _normalised)
_NEWLINES = _refused("a newline in a path is 404", lambda step: "%0A" in step.path, 404)
_FINAL = Difference(
    "what could not be deleted is still there",
    lambda step: step.tag == "final state",
    _what_was_refused_is_still_there,
)

_NGINX = (
    _refused("NUL in a path is 400", _has_nul, 400),
    _refused("TRACE is 405", lambda step: step.method == "TRACE", 405),
    _FINAL,
)
_GUNICORN = (_refused("a path of more than 4,000 characters is 414", _is_long, 414),)
_CHERRYPY = (_SLASHES_ARE_ENCODED, _SLASHES_ARE_MERGED)

# By the name of the host, the server, or the proxy's recipe.
OWN_DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "CherryPy": _CHERRYPY,
    "CherryPy at the root": (*_CHERRYPY, _HOST_AT_THE_START),
    "FastAPI": (_NEWLINES,),
    "Starlette": (_NEWLINES,),
    "cheroot": (_SLASHES_ARE_ENCODED, _NO_HOST_AT_THE_START),
    "gunicorn": _GUNICORN,
    "gunicorn --preload": _GUNICORN,
    "gunicorn --threads": _GUNICORN,
    "mod_wsgi": (
        _refused("NUL in a path is 404", _has_nul, 404),
        _refused("a path of more than 4,000 characters is 404", _is_long, 404),
        _refused("TRACE is 405", lambda step: step.method == "TRACE", 405),
        _IS_NORMALISED,
        _FINAL,
    ),
    "nginx stripping": _NGINX,
    "nginx keeping": _NGINX,
    "nginx at a socket": (*_NGINX, *_GUNICORN),
    "nginx by itself": (*_NGINX, _IS_NORMALISED),
    "uWSGI": (_rewritten("dots are resolved", _without_dots),),
}
