"""What must hold wherever the application is served."""

from __future__ import annotations

import contextlib

from ..support.differences import judge
from ..support.replay import RECORDED, read_steps, sending_to_server
from .differences import OWN_DIFFERENCES
from .names import name_steps
from .servers import Server

FIXED, FUZZ = (read_steps(file) for file in RECORDED[:2])
JSON = {"Content-Type": "application/json"}

_KEY = "phoenix1" * 4


def prove_answers(name: str, server: Server, port: int, prefix: str = "") -> None:
    """Prove that recorded answers and names come through, but for all the differences of that name."""
    own = OWN_DIFFERENCES.get(name, ())
    with sending_to_server("127.0.0.1", port, prefix=prefix, is_kept_alive=server.is_kept_alive) as send:
        rows = judge(send, [*FIXED, *name_steps(len(FIXED))], own)
    assert rows >= {difference.row for difference in own}
    with sending_to_server("127.0.0.1", port, prefix=prefix, is_kept_alive=server.is_kept_alive) as send:
        head = send("HEAD", "/healthz", {}, None)
        assert head[:3] == (200, "text/plain", "")
        assert head.headers["Content-Length"] == "2"
        assert send("GET", "/healthz", {}, None)[:3] == (200, "text/plain", "OK")
        assert send("GET", "/", {}, None)[:2] == (200, "text/html")


def prove_bodies(name: str, server: Server, port: int, prefix: str = "") -> None:
    """Prove that bodies come through, in chunks where the server undoes them, or that those are refused."""
    is_kept_alive = server.is_kept_alive and server.skips_unread_chunks
    with sending_to_server(
        "127.0.0.1", port, prefix=prefix, is_chunked=server.undoes_chunks, is_kept_alive=is_kept_alive
    ) as send:
        judge(send, FUZZ, OWN_DIFFERENCES.get(name, ()))
    with sending_to_server("127.0.0.1", port, prefix=prefix, is_chunked=True) as send:
        if not server.undoes_chunks:
            assert send("POST", "/v1/projects", JSON, b'{"name":"chunked"}')[:2] == (411, "text/plain")
        elif not server.skips_unread_chunks:
            assert send("POST", "/v1/projects/default", JSON, b'{"name":"chunked"}').status == 405
            with contextlib.suppress(ConnectionError):
                assert send("GET", "/healthz", {}, None).status == 400


def with_a_key(module: str) -> str:
    """Return the text of a module in which the application lets in nobody without a key."""
    return module.replace('make_app("projects.db")', f'make_app(":memory:", admin_secret="{_KEY}")')


def prove_key(server: Server, port: int, prefix: str = "") -> None:
    """Prove that the key of a request comes through."""
    with sending_to_server("127.0.0.1", port, prefix=prefix, is_kept_alive=server.is_kept_alive) as send:
        assert send("GET", "/v1/projects", {}, None).status == 401
        assert send("GET", "/v1/projects", {"Authorization": f"Bearer {_KEY}"}, None).status == 200
