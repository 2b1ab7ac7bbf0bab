"""The tiny router: a method and a path become a handler, or an error that says what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

from .wsgi import HTTPError, Response

Handler = Callable[..., Response]


class Router:
    """Finds the handler of a request.

    routes: for each path its methods, for each method its handler. A path that ends in "{name}"
    is a prefix: all that follows is the argument, slashes included. GET answers HEAD as well,
    and every path answers OPTIONS.
    """

    def __init__(self, routes: Mapping[str, Mapping[str, Handler]]) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._prefixes: dict[str, dict[str, Handler]] = {}
        for path, methods in routes.items():
            handlers: dict[str, Handler] = {}
            for method, handler in methods.items():
                handlers[method] = handler
                if method == "GET":
                    handlers["HEAD"] = handler
            handlers["OPTIONS"] = _answer_options(", ".join([*handlers, "OPTIONS"]))
            prefix, brace, _ = path.partition("{")
            (self._prefixes if brace else self._exact)[prefix] = handlers

    def match(self, method: str, path: str) -> tuple[Handler, tuple[str, ...]]:
        """Return the handler of a request, and the arguments in its path (none or one).

        Raises HTTPError: 404 for an unknown path, 405 with Allow for a method that it lacks.
        """
        handlers, arguments = self._match_path(path)
        handler = handlers.get(method)
        if handler is None:
            raise HTTPError(405, "Method Not Allowed", [("Allow", ", ".join(handlers))])
        return handler, arguments

    def _match_path(self, path: str) -> tuple[dict[str, Handler], tuple[str, ...]]:
        if path in self._exact:
            return self._exact[path], ()
        for prefix, handlers in self._prefixes.items():
            if path.startswith(prefix):
                return handlers, (path[len(prefix) :],)
        raise HTTPError(404, "Not Found")


def _answer_options(allow: str) -> Handler:
    def options(*_: object) -> Response:
        return Response(204, headers=[("Allow", allow)])

    return options
