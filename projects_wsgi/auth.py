"""Who may do what: a WSGI wrapper that lets nobody in who does not belong; the app knows nothing of it."""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable
from typing import Any, Callable, Optional, Union

from . import wire
from .wsgi import Environ, HTTPError, Request, Response, StartResponse, WSGIApplication, request_line

logger = logging.getLogger("projects_wsgi")

# All that is closed begins so, in the path as the router reads it; the rest tells nothing of projects.
_PROTECTED_PREFIX = "/v1/"


class Role(str, enum.Enum):
    """What somebody may do: a viewer reads, a member creates as well, an admin does everything.

    The members are strings, so ``"viewer"`` and ``Role.VIEWER`` are interchangeable.
    """

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


# Tells the role of whoever sent a request; None: nobody known.
Authenticate = Callable[[Environ], Optional[Union[Role, str]]]


class KeysError(Exception):
    """A keys file, or a change to it, that is not as it should be; the file is as it was."""


class Unauthorized(HTTPError):
    """A request of nobody known (401). text: the answer's body."""

    def __init__(self, text: str = wire.INVALID_TOKEN) -> None:
        super().__init__(401, text, [("WWW-Authenticate", 'Bearer realm="projects"')])


class GuardedApp:
    """A WSGI callable that lets through to an application only who may do what it is asked for.

    See require_role. ``store`` and ``common_headers`` are the application's.
    """

    def __init__(self, app: WSGIApplication, authenticate: Authenticate) -> None:
        self.app = app
        self.store: Any = getattr(app, "store", None)
        self.common_headers: Iterable[tuple[str, str]] = getattr(app, "common_headers", ())
        self._authenticate = authenticate

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request as PEP 3333 has it."""
        try:
            request = Request(environ)
            if request.path.startswith(_PROTECTED_PREFIX):
                _check(self._authenticate(environ), request.method)
        except HTTPError as error:
            response = Response(error.status, wire.TEXT, wire.render_text(error.text), error.headers)
        except Exception:
            logger.exception("an unforeseen error at %a", request_line(environ))
            response = Response(500, wire.TEXT, b"Internal Server Error")
        else:
            return self.app(environ, start_response)
        is_head = environ.get("REQUEST_METHOD") == "HEAD"
        return response.send(start_response, self.common_headers, with_body=not is_head)


def require_role(app: WSGIApplication, authenticate: Authenticate) -> GuardedApp:
    """Return an application that answers under /v1/ only those whose role allows what they ask for.

    app: what make_app returned. authenticate: takes the environ, returns "viewer", "member", "admin"
        or None; what it raises is logged and answered with 500.
    Nobody known is answered with 401, and who may not with 403, before a byte of the body is read.
    """
    return GuardedApp(app, authenticate)


def _check(role: Role | str | None, method: str) -> None:
    """Raise HTTPError, 401 or 403, unless the role allows the method."""
    if role is None:
        raise Unauthorized
    role = Role(role)
    if role is Role.VIEWER and method not in ("GET", "HEAD"):
        raise HTTPError(403, wire.VIEWERS_CANNOT)
    if role is Role.MEMBER and method in ("PUT", "DELETE"):
        raise HTTPError(403, wire.ONLY_ADMINS_CAN)
