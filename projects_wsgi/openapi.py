"""The OpenAPI 3.1 document, built from the facts of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import wire
from .model import render_global_id

Document = dict[str, Any]

_TEXT: Document = {"type": "string"}


def build_document(phoenix_version: str, needs_key: bool = False) -> Document:
    """Return the document of an application.

    phoenix_version: the Phoenix that it passes for. needs_key: whether all under /v1/ asks for a key.
    """
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
            "Delete a project and all data that hang on it",
            ["204 Deleted", "404 NotFound", *writing],
        ),
    )
    health = _operation("getHealth", "Tell that the process answers", ["200 Health"])
    readiness = _operation("getReadiness", "Tell whether the store answers", ["200 Readiness", *reading])
    version = _operation("getPhoenixVersion", "Tell the Phoenix whose API this is", ["200 Version"])
    document = _operation("getOpenAPI", "Get this document", ["200 Document"])
    if needs_key:
        for operation in (*_operations(collection), *_operations(item)):
            operation["security"] = [{"key": []}]
            operation["responses"]["401"] = _reference("responses", "Unauthorized")
            operation["responses"]["403"] = _reference("responses", "Forbidden")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Projects",
            "version": phoenix_version,
            "description": "The projects part of the Arize Phoenix REST API. HEAD answers as GET does.",
        },
        # Relative to the document itself, and so right under any prefix.
        "servers": [{"url": "."}],
        "paths": {
            "/v1/projects": collection,
            "/v1/projects/{project_identifier}": item,
            "/healthz": _path(get=health),
            "/readyz": _path(get=readiness),
            "/arize_phoenix_version": _path(get=version),
            "/openapi.json": _path(get=document),
        },
        "components": {
            "schemas": {**_schemas(), "Version": {"const": phoenix_version}},
            "responses": _responses(),
            "headers": {"Version": _header("The Phoenix whose API this is.", _schema("Version"))},
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if needs_key else {}),
        },
    }


def _schemas() -> Document:
    text_or_null: Document = {"type": ["string", "null"]}
    id_, project = _schema("Id"), _schema("Project")
    name = {"type": "string", "minLength": 1, "description": "Unique and case-sensitive."}
    error = _exactly(
        {
            "type": {"enum": sorted(wire.VALIDATION_MESSAGES)},
            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
            "msg": _TEXT,
            "input": {"description": "What came."},
        },
        optional={"ctx": {"type": "object"}},
    )
    return {
        "Id": {"type": "string", "pattern": f"^{wire.ID_PATTERN}$", "examples": [render_global_id(1)]},
        "Project": _exactly({"name": name, "description": text_or_null, "id": id_}),
        "OneProject": _exactly({"data": project}),
        "Page": _exactly(
            {
                "data": {"type": "array", "items": project},
                "next_cursor": {"anyOf": [id_, {"type": "null"}]},
            }
        ),
        "ProjectToCreate": {
            "type": "object",
            # What reads as an id would address another project.
            "properties": {"name": {**name, "not": id_}, "description": text_or_null},
            "required": ["name"],
            "examples": [{"name": "my agent", "description": "first steps"}],
        },
        # Null, or none, leaves the description as it is.
        "ProjectToUpdate": {
            "type": "object",
            "properties": {"description": text_or_null},
            "examples": [{"description": "second steps"}],
        },
        "Errors": _exactly({"detail": {"type": "array", "minItems": 1, "items": error}}),
        "Empty": _exactly({}),
        "OpenAPI": {"type": "object"},
    }


def _responses() -> Document:
    return {
        "OneProject": {**_json("The project as it is now.", "OneProject"), "links": _project_links()},
        "Page": {
            **_json("A page of projects.", "Page"),
            "links": {"nextPage": _link("getProjects", "cursor", "/next_cursor")},
        },
        "Deleted": _answer("The project is gone."),
        "Methods": _answer("No content.", headers={"Allow": _header("The methods of this path.", _TEXT)}),
        "Health": _text("The process answers.", {"const": "OK"}),
        "Readiness": _json("The store answers.", "Empty"),
        "Version": _text("Three integers.", _schema("Version")),
        "Document": _json("This document.", "OpenAPI"),
        "InvalidBody": _json("The body or some of its fields are not what they should be.", "Errors"),
        "InvalidQuery": _answer(
            "Some parameters are not what they should be; text where it is the cursor.",
            {**_content(wire.JSON, _schema("Errors")), **_content("text/plain", _TEXT)},
        ),
        "Unreadable": _text("The body cannot be read or decoded."),
        "Unauthorized": _answer(
            "The key is missing, unknown or past its day.",
            _content("text/plain", _TEXT),
            {"WWW-Authenticate": _header("The scheme.", _TEXT)},
        ),
        "Forbidden": _text(
            "The role does not allow it, the server is read-only, or it is the default project."
        ),
        "NotFound": _text("There is no such project."),
        "Conflict": _text("A project of this name exists, or other data forbid the change."),
        "LengthRequired": _text("The body came without a length."),
        "ContentTooLarge": _text("The body is larger than this server reads."),
        "Unavailable": _answer(
            "The store is busy (then with Retry-After) or does not answer.",
            _content("text/plain", _TEXT),
            {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
        ),
        "Full": _text("The store has no room left."),
    }


def _project_links() -> Document:
    """From a project to what can be done with it, by its id and by its name."""
    return {
        f"{operation_id}By{key.title()}": _link(operation_id, "project_identifier", f"/data/{key}")
        for operation_id in ("getProject", "updateProject", "deleteProject")
        for key in ("id", "name")
    }


def _identifier_parameter() -> Document:
    return {
        "name": "project_identifier",
        "in": "path",
        "required": True,
        "description": "A project's id or name.",
        "schema": {"type": "string", "minLength": 1, "examples": ["default", render_global_id(1)]},
    }


def _page_parameters() -> list[Document]:
    limit = {"type": "integer", "exclusiveMinimum": 0, "default": wire.DEFAULT_LIMIT, "examples": [10]}
    cursor = {"type": "string", "pattern": f"^({wire.ID_PATTERN})?$", "examples": [render_global_id(1)]}
    flag = {"type": "boolean", "default": False}
    return [
        _query("limit", "Projects on the page; a server may send fewer.", limit),
        _query("cursor", "The next_cursor of the page before.", cursor),
        _query("name_contains", "List only names with this text, in any case.", _TEXT),
        *(
            _query(name, f"List the {kind.value} projects as well.", flag)
            for name, kind in wire.KIND_PARAMETERS.items()
        ),
    ]


def _path(**operations: Any) -> Document:
    options = {"summary": "Tell the methods", "responses": {"204": _reference("responses", "Methods")}}
    return {**operations, "options": options}


def _operations(path: Document) -> list[Document]:
    return [operation for method, operation in path.items() if method != "parameters"]


def _operation(operation_id: str, summary: str, answers: Sequence[str], **more: Any) -> Document:
    """Return an operation; answers: a status and a name in components/responses for each."""
    responses = {status: _reference("responses", name) for status, name in map(str.split, answers)}
    return {"operationId": operation_id, "summary": summary, **more, "responses": responses}


def _query(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _body(schema: str) -> Document:
    return {"required": True, "content": _content(wire.JSON, _schema(schema))}


def _json(description: str, schema: str) -> Document:
    return _answer(description, _content(wire.JSON, _schema(schema)))


def _text(description: str, schema: Document = _TEXT) -> Document:
    return _answer(description, _content("text/plain", schema))


def _answer(description: str, content: Document | None = None, headers: Document | None = None) -> Document:
    answer: Document = {
        "description": description,
        "headers": {wire.VERSION_HEADER: _reference("headers", "Version"), **(headers or {})},
    }
    return answer if content is None else {**answer, "content": content}


def _header(description: str, schema: Document) -> Document:
    return {"description": description, "required": True, "schema": schema}


def _content(media_type: str, schema: Document) -> Document:
    return {media_type: {"schema": schema}}


def _link(operation_id: str, parameter: str, pointer: str) -> Document:
    return {"operationId": operation_id, "parameters": {parameter: f"$response.body#{pointer}"}}


def _schema(name: str) -> Document:
    return _reference("schemas", name)


def _reference(kind: str, name: str) -> Document:
    return {"$ref": f"#/components/{kind}/{name}"}


def _exactly(required: Document, optional: Document | None = None) -> Document:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }
