"""The OpenAPI 3.1 document, built from the facts of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import wire

Document = dict[str, Any]


def build_document(phoenix_version: str) -> Document:
    """Return the document of an application that passes for this version of Phoenix."""
    reading = ["503 Unavailable"]
    writing = [*reading, "507 Full"]
    with_body = [*writing, "400 UnreadableBody", "411 LengthRequired", "413 ContentTooLarge", "422 Invalid"]
    collection = {
        "get": _operation(
            "getProjects",
            "List projects, newest first, page by page",
            {"200": _json("A page of projects.", "Page")},
            ["422 Invalid", *reading],
            parameters=_page_parameters(),
        ),
        "post": _operation(
            "createProject",
            "Create a project",
            {"200": _json("The new project.", "OneProject"), "409": _text("A project of this name exists.")},
            with_body,
            requestBody=_body("ProjectToCreate"),
        ),
    }
    item = {
        "parameters": [
            {
                "name": "project_identifier",
                "in": "path",
                "required": True,
                "description": "A project's id or name.",
                "schema": {"type": "string", "minLength": 1},
            }
        ],
        "get": _operation(
            "getProject",
            "Get a project by id or name",
            {"200": _json("The project.", "OneProject")},
            ["404 NotFound", *reading],
        ),
        "put": _operation(
            "updateProject",
            "Set the description of a project",
            {"200": _json("The project as it is now.", "OneProject")},
            ["404 NotFound", *with_body],
            requestBody=_body("ProjectToUpdate"),
        ),
        "delete": _operation(
            "deleteProject",
            "Delete a project and all data that hang on it",
            {
                "204": {"description": "The project is gone."},
                "403": _text("The default project stays."),
                "409": _text("Other data forbid the deletion."),
            },
            ["404 NotFound", *writing],
        ),
    }
    health = _operation("getHealth", "Tell that the process answers", {"200": _text("It does.")})
    readiness = _operation(
        "getReadiness", "Tell whether the store answers", {"200": _json("It does.", "Empty")}, reading
    )
    version = _operation(
        "getPhoenixVersion", "Tell the Phoenix whose API this is", {"200": _text("Three integers.")}
    )
    document = _operation("getOpenAPI", "Get this document", {"200": _json("This document.", "OpenAPI")})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Projects",
            "version": phoenix_version,
            "description": "The projects part of the Arize Phoenix REST API.",
        },
        # Relative to the document itself, and so right under any prefix.
        "servers": [{"url": "."}],
        "paths": {
            "/v1/projects": collection,
            "/v1/projects/{project_identifier}": item,
            "/healthz": {"get": health},
            "/readyz": {"get": readiness},
            "/arize_phoenix_version": {"get": version},
            "/openapi.json": {"get": document},
        },
        "components": {"schemas": _schemas(), "responses": _responses()},
    }


def _schemas() -> Document:
    text: Document = {"type": "string"}
    text_or_null: Document = {"type": ["string", "null"]}
    project = {"$ref": "#/components/schemas/Project"}
    name = {"type": "string", "minLength": 1, "description": "Unique and case-sensitive."}
    error = _exactly(
        {
            "type": {"enum": sorted(wire.VALIDATION_MESSAGES)},
            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
            "msg": text,
            "input": {"description": "What came."},
        },
        optional={"ctx": {"type": "object"}},
    )
    return {
        "Project": _exactly({"name": name, "description": text_or_null, "id": text}),
        "OneProject": _exactly({"data": project}),
        "Page": _exactly({"data": {"type": "array", "items": project}, "next_cursor": text_or_null}),
        "ProjectToCreate": {
            "type": "object",
            "properties": {"name": name, "description": text_or_null},
            "required": ["name"],
        },
        # Null, or none, leaves the description as it is.
        "ProjectToUpdate": {"type": "object", "properties": {"description": text_or_null}},
        "Errors": _exactly({"detail": {"type": "array", "items": error}}),
        "Empty": _exactly({}),
        "OpenAPI": {"type": "object"},
    }


def _responses() -> Document:
    invalid = _json("A parameter, the body or one of its fields is not what it should be.", "Errors")
    invalid["content"].update(_text("")["content"])  # a cursor is refused in plain text
    return {
        "Invalid": invalid,
        "NotFound": _text("There is no such project."),
        "UnreadableBody": _text("The body cannot be read or decoded."),
        "LengthRequired": _text("The body came without a length."),
        "ContentTooLarge": _text("The body is larger than this server reads."),
        "Unavailable": _text("The store is busy (then with Retry-After) or does not answer."),
        "Full": _text("The store has no room left."),
    }


def _page_parameters() -> list[Document]:
    limit = {"type": "integer", "exclusiveMinimum": 0, "default": wire.DEFAULT_LIMIT}
    flag = {"type": "boolean", "default": False}
    return [
        _query("limit", "Projects on the page; a server may send fewer.", limit),
        _query("cursor", "The next_cursor of the page before.", {"type": "string"}),
        _query("name_contains", "List only names with this text, in any case.", {"type": "string"}),
        *(
            _query(name, f"List the {kind.value} projects as well.", flag)
            for name, kind in wire.KIND_PARAMETERS.items()
        ),
    ]


def _operation(
    operation_id: str, summary: str, own: Document, shared: Sequence[str] = (), **more: Any
) -> Document:
    responses = dict(own)
    for status, name in map(str.split, shared):
        responses[status] = {"$ref": f"#/components/responses/{name}"}
    return {"operationId": operation_id, "summary": summary, **more, "responses": responses}


def _exactly(required: Document, optional: Document | None = None) -> Document:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _query(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _body(schema: str) -> Document:
    return {"required": True, "content": _content(schema)}


def _json(description: str, schema: str) -> Document:
    return {"description": description, "content": _content(schema)}


def _content(schema: str) -> Document:
    return {wire.JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _text(description: str) -> Document:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}
