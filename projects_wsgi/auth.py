"""Who may do what: the roles, and the guard that the application calls before anything else."""

from __future__ import annotations

import enum
from typing import Callable, Optional, Union

from .wsgi import Environ, HTTPError, Request


class Role(str, enum.Enum):
    """What somebody may do: a viewer reads, a member also creates, an admin does everything."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


# Returns the role of the sender of a request, given its environ; None if it is not known.
Authenticate = Callable[[Environ], Optional[Union[Role, str]]]


class KeysError(Exception):
    """The keys file, or a change to it, is not valid; the file is as it was."""


class Unauthorized(HTTPError):
    """A request without a valid key (401); text is the body of the answer."""

    def __init__(self, text: str = "Invalid token") -> None:
        super().__init__(401, text, [("WWW-Authenticate", 'Bearer realm="projects"')])


def authorize(request: Request, authenticate: Authenticate) -> None:
    """Return if a request is allowed; the rest of it, and its body, are not looked at.

    authenticate: called for every path under /v1/; the others are open, and tell nothing of projects.
    Raises HTTPError: 401 if the sender is not known, 403 if the role does not allow the method.
    """
    if not request.path.startswith("/v1/"):
        return
    role = authenticate(request.environ)
    if role is None:
        raise Unauthorized
    role = Role(role)
    if role is Role.VIEWER and request.method not in ("GET", "HEAD"):
        raise HTTPError(403, "Viewers cannot perform this action.")
    if role is Role.MEMBER and request.method in ("PUT", "DELETE"):
        raise HTTPError(403, "Only admin or system users can perform this action.")
