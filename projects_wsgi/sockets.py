"""The port that servers listen at, and how many connections a process may have."""

from __future__ import annotations

import contextlib
import socket
import sys

MAX_CONNECTIONS = 2_000
RESERVED_DESCRIPTORS = 100  # left to the application, whose database needs some
_BACKLOG = 1_024  # clients that wait to be accepted


def listen(host: str, port: int, is_shared: bool) -> socket.socket:
    """Return a socket that listens, and never waits. is_shared: whether others may, too. Raises OSError."""
    listener = _bind(host, port, is_shared, listens=True)
    listener.setblocking(False)
    return listener


def hold_port(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port, on which it does not listen, for this user's shared servers.

    port: 0 takes a free one. Raises OSError if there is a server already, also a shared one.
    """
    with _bind(host, port, False) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        host, port = alone.getsockname()[:2]
        holder = _bind(host, port, True)
    # Now that it is bound beside earlier clients' connections, it refuses who does not share.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, False)
    return holder


def _bind(host: str, port: int, is_shared: bool, *, listens: bool = False) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        bound.bind(address)
        if listens:
            bound.listen(_BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can reach an address."""
    return address == "::1" or address.removeprefix("::ffff:").startswith("127.")


def most_connections() -> int:
    """Return how many connections leave enough file descriptors to the application."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MAX_CONNECTIONS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < 0:  # infinity
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(limit - RESERVED_DESCRIPTORS, limit // 4))


def allow_many_connections() -> None:
    """Raise this process's limit of file descriptors, which is often low for historical reasons."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # Windows has none

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MAX_CONNECTIONS + RESERVED_DESCRIPTORS), hard))
