"""The tiny router: a method and a path become a handler, or an error that says what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Callable

from .wsgi import HTTPError, Response

Handler = Callable[..., Response]


class Router:
    """Finds the handler of a request.

    routes: for each path the handler of each method; HEAD has that of GET, and every path answers OPTIONS.
        A path that ends in "{name}" is a prefix: the rest of a path is the identifier, slashes included.
    """

    def __init__(self, routes: Mapping[str, Mapping[str, Handler]]) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._prefixes: dict[str, dict[str, Handler]] = {}
        for path, methods in routes.items():
            handlers = {"GET": methods["GET"], "HEAD": methods["GET"], **methods}
            handlers["OPTIONS"] = partial(_answer_options, ", ".join([*handlers, "OPTIONS"]))
            prefix, brace, _ = path.partition("{")
            group = self._prefixes if brace else self._exact
            group[prefix] = handlers

    def match(self, method: str, path: str) -> tuple[Handler, str | None]:
        """Return the handler of a request, and the identifier in its path; None if the path has none.

        Raises HTTPError: 404 for an unknown path, 405 with Allow for a method that the path lacks.
        """
        handlers = self._exact.get(path)
        identifier = None
        if handlers is None:
            for prefix, candidates in self._prefixes.items():
                if path.startswith(prefix):
                    handlers = candidates
                    identifier = path[len(prefix) :]
                    break
            else:
                raise HTTPError(404, "Not Found")
        handler = handlers.get(method)
        if handler is None:
            raise HTTPError(405, "Method Not Allowed", [("Allow", ", ".join(handlers))])
        return handler, identifier


def _answer_options(allow: str, *_: object) -> Response:
    return Response(204, headers=[("Allow", allow)])
