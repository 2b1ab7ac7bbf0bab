"""The API by hand, with Flask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask

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


def make_app(file: str | Path) -> flask.Flask:
    store = Store(Path(file))
    app = flask.Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/v1/projects")
    def list_projects() -> dict[str, Any]:
        query = flask.request.args
        limit = int(query.get("limit", 100))
        if limit < 1:
            raise ValueError("limit must be greater than 0")
        start_id = parse_cursor(query.get("cursor"))
        return as_page(store.page(start_id, limit + 1, query.get("name_contains")), limit)

    @app.post("/v1/projects")
    def create_project() -> dict[str, Any]:
        return {"data": store.create(*parse_create(flask.request.get_json()))}

    @app.get("/v1/projects/<identifier>")
    def get_project(identifier: str) -> dict[str, Any]:
        return {"data": store.get(parse_key(identifier))}

    @app.put("/v1/projects/<identifier>")
    def update_project(identifier: str) -> dict[str, Any]:
        description = parse_update(flask.request.get_json())
        return {"data": store.update(parse_key(identifier), description)}

    @app.delete("/v1/projects/<identifier>")
    def delete_project(identifier: str) -> tuple[str, int]:
        store.delete(parse_key(identifier))
        return "", 204

    app.register_error_handler(ValueError, lambda error: (str(error), 422))
    app.register_error_handler(NotFound, lambda error: (str(error), 404))
    app.register_error_handler(Exists, lambda error: (str(error), 409))
    app.register_error_handler(Protected, lambda error: (str(error), 403))
    return app
