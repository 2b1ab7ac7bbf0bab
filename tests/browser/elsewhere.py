"""Other people's web pages, and the server that they are after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from projects_wsgi import make_app
from projects_wsgi.server import Server
from tests.support.process import running

HTML = "text/html; charset=utf-8"


@contextlib.contextmanager
def serving_page(scripts: Mapping[str, bytes] = {}) -> Iterator[int]:
    """Serve an empty page at / that runs these scripts, by their paths; yield the port."""
    tags = "".join(f'<script src="{path}"></script>' for path in scripts)
    page = f"<!doctype html><title>Elsewhere</title><body>{tags}".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = scripts.get(self.path, page)
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if self.path in scripts else HTML)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, running(server):
        yield server.server_port


class Target:
    """A server of projects. url: its own. requests: method, path, type of what came. changes: what it did."""

    def __init__(self, port: int = 0, **options: Any) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.changes: list[str] = []
        self.app = make_app(
            ":memory:",
            allowed_origins=options.pop("allowed_origins", None),
            authenticate=options.pop("authenticate", None),
            on_change=lambda event, _: self.changes.append(event),
        )
        self.server = Server("127.0.0.1", port, self._serve, headers_for=self.app.headers_for, **options)
        self.url = self.server.url

    def _serve(self, environ: Any, start_response: Any) -> Any:
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("CONTENT_TYPE", "")
        self.requests.append(request)
        return self.app(environ, start_response)


@contextlib.contextmanager
def serving_target(**options: Any) -> Iterator[Target]:
    """Serve projects at a free port, or at the one that is given; options: those of Target."""
    target = Target(**options)
    with closing(target.app.store), target.server as server, running(server):
        yield target
