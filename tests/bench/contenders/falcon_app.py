"""The API by hand, with Falcon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon

from .projects import (
    Exists,
    NotFound,
    Protected,
    Store,
    as_page,
    parse_create,
    parse_cursor,
    parse_key,
    parse_update,
)


class Collection:
    """/v1/projects"""

    def __init__(self, store: Store) -> None:
        self.store = store

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        limit = request.get_param_as_int("limit", min_value=1, default=100)
        start_id = parse_cursor(request.get_param("cursor"))
        projects = self.store.page(start_id, limit + 1, request.get_param("name_contains"))
        response.media = as_page(projects, limit)

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        response.media = {"data": self.store.create(*parse_create(request.get_media()))}


class Item:
    """/v1/projects/{identifier}"""

    def __init__(self, store: Store) -> None:
        self.store = store

    def on_get(self, _: falcon.Request, response: falcon.Response, identifier: str) -> None:
        response.media = {"data": self.store.get(parse_key(identifier))}

    def on_put(self, request: falcon.Request, response: falcon.Response, identifier: str) -> None:
        description = parse_update(request.get_media())
        response.media = {"data": self.store.update(parse_key(identifier), description)}

    def on_delete(self, _: falcon.Request, response: falcon.Response, identifier: str) -> None:
        self.store.delete(parse_key(identifier))
        response.status = falcon.HTTP_204


def make_app(file: str | Path) -> falcon.App:
    store = Store(Path(file))
    app = falcon.App()
    app.add_route("/v1/projects", Collection(store))
    app.add_route("/v1/projects/{identifier}", Item(store))

    def answer_with(status: str) -> Any:
        def answer(
            _: falcon.Request, response: falcon.Response, error: Exception, __: dict[str, Any]
        ) -> None:
            response.status = status
            response.text = str(error)

        return answer

    app.add_error_handler(ValueError, answer_with(falcon.HTTP_422))
    app.add_error_handler(NotFound, answer_with(falcon.HTTP_404))
    app.add_error_handler(Exists, answer_with(falcon.HTTP_409))
    app.add_error_handler(Protected, answer_with(falcon.HTTP_403))
    return app
