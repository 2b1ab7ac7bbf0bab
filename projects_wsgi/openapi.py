"""The OpenAPI 3.1 document, built from the facts of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import wire
from .model import render_global_id

Document = dict[str, Any]

_STRING: Document = {"type": "string"}
_STRING_OR_NULL: Document = {"type": ["string", "null"]}


def build_document(phoenix_version: str, needs_key: bool = False) -> Document:
    """Return the OpenAPI document of an application.

    phoenix_version: that of the Phoenix whose API it is. needs_key: whether paths under /v1/ need a key.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Projects",
            "version": phoenix_version,
            "description": "The projects part of the Arize Phoenix REST API. HEAD answers as GET does.",
        },
        # Relative to the document itself, and so right under any prefix.
        "servers": [{"url": "."}],
        "paths": _paths(needs_key),
        "components": {
            "schemas": {**_schemas(), "Version": {"const": phoenix_version}},
            "responses": _responses(),
            "headers": {"Version": _header("The version of Phoenix whose API this is.", _schema("Version"))},
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if needs_key else {}),
        },
    }


# Paths


def _paths(needs_key: bool) -> Document:
    reading = ["503 Unavailable"]
    writing = [*reading, "403 Forbidden", "409 Conflict", "507 Full"]
    with_body = [*writing, "400 Unreadable", "411 LengthRequired", "413 ContentTooLarge", "422 InvalidBody"]
    collection = _path(
        get=_operation(
            "getProjects",
            "List projects, newest first, page by page",
            ["200 Page", "422 InvalidQuery", *reading],
            parameters=_page_parameters(),
        ),
        post=_operation(
            "createProject",
            "Create a project",
            ["200 OneProject", *with_body],
            requestBody=_body("ProjectToCreate"),
        ),
    )
    item = _path(
        parameters=[_identifier_parameter()],
        get=_operation(
            "getProject", "Get a project by id or name", ["200 OneProject", "404 NotFound", *reading]
        ),
        put=_operation(
            "updateProject",
            "Set the description of a project",
            ["200 OneProject", "404 NotFound", *with_body],
            requestBody=_body("ProjectToUpdate"),
        ),
        delete=_operation(
            "deleteProject",
            "Delete a project and all data that belong to it",
            ["204 Deleted", "404 NotFound", *writing],
        ),
    )
    if needs_key:
        for path in (collection, item):
            for method in path.keys() - {"parameters"}:
                path[method]["security"] = [{"key": []}]
                path[method]["responses"]["401"] = _reference("responses", "Unauthorized")
                path[method]["responses"]["403"] = _reference("responses", "Forbidden")
    health = _operation("getHealth", "Tell that the process runs", ["200 Health"])
    readiness = _operation("getReadiness", "Tell whether the store answers", ["200 Readiness", *reading])
    version = _operation(
        "getPhoenixVersion", "Tell the version of Phoenix whose API this is", ["200 Version"]
    )
    document = _operation("getOpenAPI", "Get this document", ["200 Document"])
    return {
        "/v1/projects": collection,
        "/v1/projects/{project_identifier}": item,
        "/healthz": _path(get=health),
        "/readyz": _path(get=readiness),
        "/arize_phoenix_version": _path(get=version),
        "/openapi.json": _path(get=document),
    }


def _page_parameters() -> list[Document]:
    limit = {"type": "integer", "exclusiveMinimum": 0, "default": wire.DEFAULT_LIMIT, "examples": [10]}
    flag = {"type": "boolean", "default": False}
    return [
        _query_parameter("limit", "Projects on the page; a server may send fewer.", limit),
        _query_parameter("cursor", "The next_cursor of the page before.", _schema("Id")),
        _query_parameter("name_contains", "List only names with this text, in any case.", _STRING),
        *(
            _query_parameter(name, f"List the {kind.value} projects as well.", flag)
            for name, kind in wire.KIND_PARAMETERS.items()
        ),
    ]


def _identifier_parameter() -> Document:
    return {
        "name": "project_identifier",
        "in": "path",
        "required": True,
        "description": "A project's id or name.",
        "schema": {"type": "string", "minLength": 1, "examples": ["default", render_global_id(1)]},
    }


# Schemas


def _schemas() -> Document:
    project = _schema("Project")
    name = {"type": "string", "minLength": 1, "description": "Unique and case-sensitive."}
    error = _object(
        {
            "type": {"enum": sorted(wire.VALIDATION_MESSAGES)},
            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
            "msg": _STRING,
            "input": {"description": "What came."},
        },
        optional={"ctx": {"type": "object"}},
    )
    return {
        "Id": {"type": "string", "pattern": wire.ID_PATTERN, "examples": [render_global_id(1)]},
        "Project": _object({"name": name, "description": _STRING_OR_NULL, "id": _schema("Id")}),
        "OneProject": _object({"data": project}),
        "Page": _object(
            {
                "data": {"type": "array", "items": project},
                "next_cursor": {"anyOf": [_schema("Id"), {"type": "null"}]},
            }
        ),
        "ProjectToCreate": {
            "type": "object",
            "properties": {
                "name": {**name, "description": "Unique and case-sensitive; it must not read as an id."},
                "description": _STRING_OR_NULL,
            },
            "required": ["name"],
            "examples": [{"name": "my agent", "description": "first steps"}],
        },
        # A description of null, or none, leaves it as it is.
        "ProjectToUpdate": {
            "type": "object",
            "properties": {"description": _STRING_OR_NULL},
            "examples": [{"description": "second steps"}],
        },
        "Errors": _object({"detail": {"type": "array", "minItems": 1, "items": error}}),
        "Empty": _object({}),
        "OpenAPI": {"type": "object"},
    }


# Responses


def _responses() -> Document:
    return {
        "OneProject": {**_json_response("The project as it is now.", "OneProject"), "links": _links()},
        "Page": {
            **_json_response("A page of projects.", "Page"),
            "links": {"nextPage": _link("getProjects", "cursor", "/next_cursor")},
        },
        "Deleted": _response("The project is gone."),
        "Methods": _response("No content.", headers={"Allow": _header("The methods of this path.", _STRING)}),
        "Health": _text_response("The process runs.", {"const": "OK"}),
        "Readiness": _json_response("The store answers.", "Empty"),
        "Version": _text_response("Three integers.", _schema("Version")),
        "Document": _json_response("This document.", "OpenAPI"),
        "InvalidBody": _json_response("The body or some of its fields are not valid.", "Errors"),
        "InvalidQuery": _response(
            "Some parameters are not valid; text if it is the cursor.",
            {**_json_content("Errors"), **_text_content()},
        ),
        "Unreadable": _text_response("The body cannot be read or decoded."),
        "Unauthorized": _response(
            "The key is missing, unknown or expired.",
            _text_content(),
            {"WWW-Authenticate": _header("The scheme.", _STRING)},
        ),
        "Forbidden": _text_response(
            "The role does not allow it, the server is read-only, or it is the default project."
        ),
        "NotFound": _text_response("There is no such project."),
        "Conflict": _text_response("A project of this name exists, or other data forbid the change."),
        "LengthRequired": _text_response("The body came without a length."),
        "ContentTooLarge": _text_response("The body is larger than this server reads."),
        "Unavailable": _response(
            "The store is busy (then with Retry-After) or does not answer.",
            _text_content(),
            {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
        ),
        "Full": _text_response("The store has no room left."),
    }


def _links() -> Document:
    """From a project to what can be done with it, by its id and by its name."""
    return {
        f"{operation_id}By{key.title()}": _link(operation_id, "project_identifier", f"/data/{key}")
        for operation_id in ("getProject", "updateProject", "deleteProject")
        for key in ("id", "name")
    }


# The makers


def _path(**operations: Any) -> Document:
    options = {"summary": "Tell the methods", "responses": {"204": _reference("responses", "Methods")}}
    return {**operations, "options": options}


def _operation(operation_id: str, summary: str, answers: Sequence[str], **more: Any) -> Document:
    """Return an operation; answers: for each, a status and a name in components/responses."""
    responses = {status: _reference("responses", name) for status, name in map(str.split, answers)}
    return {"operationId": operation_id, "summary": summary, **more, "responses": responses}


def _query_parameter(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _body(schema: str) -> Document:
    return {"required": True, "content": _json_content(schema)}


def _json_response(description: str, schema: str) -> Document:
    return _response(description, _json_content(schema))


def _text_response(description: str, schema: Document = _STRING) -> Document:
    return _response(description, _text_content(schema))


def _response(description: str, content: Document | None = None, headers: Document | None = None) -> Document:
    response: Document = {
        "description": description,
        "headers": {wire.VERSION_HEADER: _reference("headers", "Version"), **(headers or {})},
    }
    return response if content is None else {**response, "content": content}


def _json_content(schema: str) -> Document:
    return {wire.JSON: {"schema": _schema(schema)}}


def _text_content(schema: Document = _STRING) -> Document:
    return {"text/plain": {"schema": schema}}


def _header(description: str, schema: Document) -> Document:
    return {"description": description, "required": True, "schema": schema}


def _link(operation_id: str, parameter: str, pointer: str) -> Document:
    return {"operationId": operation_id, "parameters": {parameter: f"$response.body#{pointer}"}}


def _schema(name: str) -> Document:
    return _reference("schemas", name)


def _reference(kind: str, name: str) -> Document:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(required: Document, optional: Document | None = None) -> Document:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }
