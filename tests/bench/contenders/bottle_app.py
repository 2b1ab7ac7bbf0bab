"""The API by hand, with Bottle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import bottle

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


def answer_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A plugin: the errors of the store and of the checks become answers."""

    def answer(*arguments: Any, **parameters: Any) -> Any:
        try:
            return handler(*arguments, **parameters)
        except NotFound as error:
            return bottle.HTTPResponse(str(error), 404)
        except Exists as error:
            return bottle.HTTPResponse(str(error), 409)
        except Protected as error:
            return bottle.HTTPResponse(str(error), 403)
        except ValueError as error:
            return bottle.HTTPResponse(str(error), 422)

    return answer


def make_app(file: str | Path) -> bottle.Bottle:
    store = Store(Path(file))
    app = bottle.Bottle()
    app.install(answer_errors)

    @app.get("/v1/projects")
    def list_projects() -> dict[str, Any]:
        query = bottle.request.query
        limit = int(query.get("limit", 100))
        if limit < 1:
            raise ValueError("limit must be greater than 0")
        start_id = parse_cursor(query.get("cursor"))
        return as_page(store.page(start_id, limit + 1, query.get("name_contains")), limit)

    @app.post("/v1/projects")
    def create_project() -> dict[str, Any]:
        return {"data": store.create(*parse_create(bottle.request.json))}

    @app.get("/v1/projects/<identifier>")
    def get_project(identifier: str) -> dict[str, Any]:
        return {"data": store.get(parse_key(identifier))}

    @app.put("/v1/projects/<identifier>")
    def update_project(identifier: str) -> dict[str, Any]:
        description = parse_update(bottle.request.json)
        return {"data": store.update(parse_key(identifier), description)}

    @app.delete("/v1/projects/<identifier>")
    def delete_project(identifier: str) -> None:
        store.delete(parse_key(identifier))
        bottle.response.status = 204

    return app
