"""The OpenAPI 3.1 document, built from the facts of the wire."""

from __future__ import annotations

from typing import Any

from . import wire
from .model import render_global_id

Document = dict[str, Any]

_STRING: Document = {"type": "string"}
_STRING_OR_NULL: Document = {"type": ["string", "null"]}
_FLAG: Document = {"type": "boolean", "default": False}
_ANY_OBJECT: Document = {"type": "object", "additionalProperties": True}

# The summary of each operation, one sentence, and then its description.
_OPERATIONS = {
    "getProjects": "List projects, newest first, page by page. A next_cursor opens the page after its own."
    " Projects of experiments and of dataset evaluators are listed only if asked for.",
    "createProject": "Create a project. Its name must be new, and cannot be changed.",
    "getProject": "Get a project. It may be one that is listed only if asked for.",
    "updateProject": "Set a description. Null, or none, leaves it as it is.",
    "deleteProject": "Delete a project. All data that belong to it go as well.",
    "getPage": "Get the page for people. It holds no data, and uses this API.",
    "getHealth": "Tell that the process runs. The store is not asked.",
    "getReadiness": "Ping the store. All under /v1/ needs it.",
    "getPhoenixVersion": "Get the version of Phoenix whose API this is. Clients choose features by it.",
    "getOpenAPI": "Get this document. It says whether this server wants a key and has a page.",
}


def build_document(phoenix_version: str, needs_key: bool = False, has_page: bool = True) -> Document:
    """Return the OpenAPI document of an application.

    needs_key: whether paths under /v1/ need a key. has_page: whether / is the page for people.
    """
    key = {"type": "http", "scheme": "bearer", "description": "A key, or what this server takes for one."}
    responses = _responses()
    if not needs_key:
        del responses["Unauthorized"]
    if not has_page:
        del responses["WebPage"]
    version = {
        "description": "The Phoenix whose API this is.",
        "required": True,
        "schema": _schema("Version"),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Projects",
            "version": phoenix_version,
            "description": "The projects part of the Arize Phoenix REST API. HEAD answers as GET does.",
            "contact": {"name": "Whoever runs this server"},
            "license": {"name": "MIT License", "identifier": "MIT"},
        },
        # Relative to the document itself, and so right under any prefix.
        "servers": [{"url": "."}],
        "tags": [
            {"name": "projects", "description": "List, create, describe and delete projects."},
            {"name": "server", "description": "How this server is, what it speaks, and its page."},
        ],
        # Only some operations need a key, if any does; they say so themselves.
        "security": [],
        "paths": _paths(needs_key, has_page),
        "components": {
            "schemas": _schemas(),
            "responses": responses,
            "headers": {
                "Version": version,
                "NoSniff": {"required": True, "schema": {"const": wire.NO_SNIFF[1]}},
            },
            **({"securitySchemes": {"key": key}} if needs_key else {}),
        },
    }


def _paths(needs_key: bool, has_page: bool) -> Document:
    reading = ["503 Unavailable"]
    writing = [*reading, "403 Forbidden", "409 Conflict", "507 Full"]
    with_body = ["200 OneProject", "411 LengthRequired", "413 ContentTooLarge", "422 InvalidBody", *writing]
    limit = {"type": "integer", "exclusiveMinimum": 0, "default": wire.DEFAULT_LIMIT, "examples": [10]}
    collection = {
        "get": _operation(
            "getProjects",
            ["200 Page", "422 InvalidQuery", *reading],
            parameters=[
                _parameter("limit", "Projects on the page; a server may send fewer.", limit),
                _parameter("cursor", "The next_cursor of the page before.", _schema("Id")),
                _parameter("name_contains", "List only names with this text, in any case.", _STRING),
                *(
                    _parameter(name, f"List the {kind.value} projects as well.", _FLAG)
                    for name, kind in wire.KIND_PARAMETERS.items()
                ),
            ],
        ),
        "post": _operation("createProject", with_body, **_body("ProjectToCreate")),
    }
    identifier = {
        "name": "project_identifier",
        "in": "path",
        "required": True,
        "description": "A project's id or name.",
        "schema": {"type": "string", "minLength": 1, "examples": ["default", render_global_id(1)]},
    }
    item: Document = {
        "get": _operation("getProject", ["200 OneProject", "404 NotFound", *reading]),
        "put": _operation("updateProject", ["404 NotFound", *with_body], **_body("ProjectToUpdate")),
        "delete": _operation("deleteProject", ["204 Deleted", "404 NotFound", *writing]),
    }
    if needs_key:
        for operation in (*collection.values(), *item.values()):
            operation["security"] = [{"key": []}]
            operation["responses"]["401"] = _reference("responses", "Unauthorized")
    page = {"/": {"get": _operation("getPage", ["200 WebPage"], tag="server")}}
    return {
        **(page if has_page else {}),
        "/v1/projects": collection,
        "/v1/projects/{project_identifier}": {"parameters": [identifier], **item},
        "/healthz": {"get": _operation("getHealth", ["200 Health"], tag="server")},
        "/readyz": {"get": _operation("getReadiness", ["200 Readiness", *reading], tag="server")},
        "/arize_phoenix_version": {"get": _operation("getPhoenixVersion", ["200 Version"], tag="server")},
        "/openapi.json": {"get": _operation("getOpenAPI", ["200 Document"], tag="server")},
    }


def _schemas() -> Document:
    name = {"type": "string", "minLength": 1, "description": "Unique, case-sensitive, and not like an id."}
    error = _object(
        {
            "type": {"enum": sorted(wire.VALIDATION_MESSAGES)},
            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
            "msg": _STRING,
            "input": {"description": "What came."},
        },
        ctx=_ANY_OBJECT,
    )
    next_cursor = {"anyOf": [_schema("Id"), {"type": "null"}]}
    return {
        "Id": {"type": "string", "pattern": wire.ID_PATTERN, "examples": [render_global_id(1)]},
        "Project": _object({"name": name, "description": _STRING_OR_NULL, "id": _schema("Id")}),
        "OneProject": _object({"data": _schema("Project")}),
        "Page": _object({"data": {"type": "array", "items": _schema("Project")}, "next_cursor": next_cursor}),
        "ProjectToCreate": {
            "type": "object",
            "properties": {"name": name, "description": _STRING_OR_NULL},
            "required": ["name"],
            "examples": [{"name": "my agent", "description": "first steps"}],
        },
        "ProjectToUpdate": {"type": "object", "properties": {"description": _STRING_OR_NULL}},
        "Errors": _object({"detail": {"type": "array", "minItems": 1, "items": error}}),
        "Empty": _object({}),
        "OpenAPI": _ANY_OBJECT,
        # Not this server's own: a client made from the document outlives it.
        "Version": {"type": "string", "pattern": wire.VERSION_PATTERN, "examples": [wire.PHOENIX_VERSION]},
    }


def _responses() -> Document:
    # From a project to what can be done with it, by its id and by its name.
    links = {
        f"{operation_id}By{key.title()}": _link(operation_id, "project_identifier", f"/data/{key}")
        for operation_id in ("getProject", "updateProject", "deleteProject")
        for key in ("id", "name")
    }
    next_page = _link("getProjects", "cursor", "/next_cursor")
    scheme = {"description": "The scheme.", "required": True, "schema": _STRING}
    retry_after = {"description": "Seconds.", "schema": {"type": "integer"}}
    texts = {
        "Unreadable": "The request is malformed, or its body cannot be read or decoded.",
        "Unauthorized": "The key is missing, unknown or expired.",
        "Forbidden": "The role does not allow it, the server is read-only, or it is the default project.",
        "NotFound": "There is no such project.",
        "Conflict": "A project of this name exists, or other data forbid the change.",
        "LengthRequired": "The body came without a length.",
        "ContentTooLarge": "The body is larger than this server reads.",
        "Unavailable": "The store is busy (then with Retry-After) or does not answer."
        " The text says so where a change may have been made all the same.",
        "Full": "The store has no room left.",
    }
    responses = {
        "OneProject": _response("The project as it is now.", content=_json("OneProject"), links=links),
        "Page": _response("A page of projects.", content=_json("Page"), links={"nextPage": next_page}),
        "Deleted": _response("The project is gone, and all data that belong to it."),
        "Health": _response("The process runs.", content=_text({"const": "OK"})),
        "Readiness": _response("The store answers.", content=_json("Empty")),
        "Version": _response("Three integers.", content=_text(_schema("Version"))),
        "WebPage": _response("The page.", content={"text/html": {"schema": _STRING}}),
        "Document": _response("This document.", content=_json("OpenAPI")),
        "InvalidBody": _response("The body or some of its fields are not valid.", content=_json("Errors")),
        "InvalidQuery": _response(
            "Some parameters are not valid; text if it is the cursor.", content={**_json("Errors"), **_text()}
        ),
        **{name: _response(description, content=_text()) for name, description in texts.items()},
    }
    responses["Unauthorized"]["headers"]["WWW-Authenticate"] = scheme
    responses["Unavailable"]["headers"]["Retry-After"] = retry_after
    for name in ("Content-Security-Policy", "X-Frame-Options"):
        responses["WebPage"]["headers"][name] = {"required": True, "schema": _STRING}
    return responses


def _operation(operation_id: str, answers: list[str], tag: str = "projects", **more: Any) -> Document:
    """Return an operation.

    answers: a status and a name in components/responses for each; 400 is added, which all have.
    """
    summary, _, description = _OPERATIONS[operation_id].partition(". ")
    statuses = map(str.split, sorted(["400 Unreadable", *answers]))
    return {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        "description": description,
        **more,
        "responses": {status: _reference("responses", name) for status, name in statuses},
    }


def _parameter(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _body(schema: str) -> Document:
    return {"requestBody": {"required": True, "content": _json(schema)}}


def _response(description: str, **more: Any) -> Document:
    headers = {
        wire.VERSION_HEADER: _reference("headers", "Version"),
        wire.NO_SNIFF[0]: _reference("headers", "NoSniff"),
    }
    return {"description": description, "headers": headers, **more}


def _json(schema: str) -> Document:
    return {wire.JSON: {"schema": _schema(schema)}}


def _text(schema: Document = _STRING) -> Document:
    return {"text/plain": {"schema": schema}}


def _link(operation_id: str, parameter: str, pointer: str) -> Document:
    return {"operationId": operation_id, "parameters": {parameter: f"$response.body#{pointer}"}}


def _schema(name: str) -> Document:
    return _reference("schemas", name)


def _reference(kind: str, name: str) -> Document:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(required: Document, **optional: Document) -> Document:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }
