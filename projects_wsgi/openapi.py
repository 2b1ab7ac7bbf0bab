"""The OpenAPI 3.1 document, built from the facts of the wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import wire

Document = dict[str, Any]

_PROJECT: Document = {
    "type": "object",
    "description": "A project, which holds what an application traced.",
    "properties": {
        "name": {"type": "string", "minLength": 1, "description": "Unique; case-sensitive."},
        "description": {"type": ["string", "null"]},
        "id": {"type": "string", "description": "Opaque, and never used for another project."},
    },
    "required": ["name", "description", "id"],
    "additionalProperties": False,
}
_PAGE: Document = {
    "type": "object",
    "properties": {
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Project"}},
        "next_cursor": {
            "type": ["string", "null"],
            "description": "The cursor of the next page; null on the last one.",
        },
    },
    "required": ["data", "next_cursor"],
    "additionalProperties": False,
}
_ONE_PROJECT: Document = {
    "type": "object",
    "properties": {"data": {"$ref": "#/components/schemas/Project"}},
    "required": ["data"],
    "additionalProperties": False,
}
_PROJECT_TO_CREATE: Document = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "description": {"type": ["string", "null"]},
    },
    "required": ["name"],
}
_PROJECT_TO_UPDATE: Document = {
    "type": "object",
    "properties": {
        "description": {"type": ["string", "null"], "description": "Null or absent leaves it as it is."},
    },
}
_VALIDATION_ERROR: Document = {
    "type": "object",
    "properties": {
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"enum": sorted(wire.VALIDATION_MESSAGES)},
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                    "input": {"description": "What came."},
                    "ctx": {"type": "object"},
                },
                "required": ["type", "loc", "msg", "input"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["detail"],
    "additionalProperties": False,
}
_TEXT: Document = {"text/plain": {"schema": {"type": "string"}}}

# The answers that more than one operation gives.
_RESPONSES: Document = {
    "ValidationError": {
        "description": "A parameter, the body or one of its fields is not what it should be.",
        "content": {wire.JSON: {"schema": {"$ref": "#/components/schemas/ValidationError"}}, **_TEXT},
    },
    "UnreadableBody": {"description": "The body cannot be read or decoded.", "content": _TEXT},
    "LengthRequired": {"description": "The body came without a length.", "content": _TEXT},
    "ContentTooLarge": {"description": "The body is larger than this server reads.", "content": _TEXT},
    "NotFound": {"description": "There is no such project.", "content": _TEXT},
    "Unavailable": {
        "description": "The store is busy (then with Retry-After) or does not answer.",
        "content": _TEXT,
    },
    "Full": {"description": "The store has no room left.", "content": _TEXT},
}


def build_document(phoenix_version: str) -> Document:
    """Return the document of an application that passes for this version of Phoenix."""
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
            "/v1/projects": {
                "get": {
                    "operationId": "getProjects",
                    "summary": "List projects, newest first, page by page",
                    "parameters": [
                        _query("limit", "Projects on the page; a server may send fewer.", _LIMIT),
                        _query("cursor", "The next_cursor of the page before.", {"type": "string"}),
                        _query(
                            "name_contains",
                            "Only projects with this text in their name, in any case.",
                            {"type": "string"},
                        ),
                        *(
                            _query(name, f"List the {kind.value} projects as well.", _FLAG)
                            for name, kind in wire.KIND_PARAMETERS.items()
                        ),
                    ],
                    "responses": {
                        "200": _json("A page of projects.", "Page"),
                        **_refer("422 ValidationError", "503 Unavailable"),
                    },
                },
                "post": {
                    "operationId": "createProject",
                    "summary": "Create a project",
                    "requestBody": _body("ProjectToCreate"),
                    "responses": {
                        "200": _json("The new project.", "OneProject"),
                        "409": {"description": "A project of this name exists.", "content": _TEXT},
                        **_WRITING,
                    },
                },
            },
            "/v1/projects/{project_identifier}": {
                "parameters": [
                    {
                        "name": "project_identifier",
                        "in": "path",
                        "required": True,
                        "description": "A project's id or name.",
                        "schema": {"type": "string", "minLength": 1},
                    }
                ],
                "get": {
                    "operationId": "getProject",
                    "summary": "Get a project by id or name",
                    "responses": {
                        "200": _json("The project.", "OneProject"),
                        **_refer("404 NotFound", "503 Unavailable"),
                    },
                },
                "put": {
                    "operationId": "updateProject",
                    "summary": "Set the description of a project",
                    "requestBody": _body("ProjectToUpdate"),
                    "responses": {
                        "200": _json("The project as it is now.", "OneProject"),
                        **_refer("404 NotFound"),
                        **_WRITING,
                    },
                },
                "delete": {
                    "operationId": "deleteProject",
                    "summary": "Delete a project and all data that hang on it",
                    "responses": {
                        "204": {"description": "The project is gone."},
                        "403": {"description": "The default project stays.", "content": _TEXT},
                        "409": {"description": "Other data forbid the deletion.", "content": _TEXT},
                        **_refer("404 NotFound", "503 Unavailable", "507 Full"),
                    },
                },
            },
            "/healthz": {
                "get": {
                    "operationId": "getHealth",
                    "summary": "Tell that the process answers",
                    "responses": {"200": {"description": "It does.", "content": _TEXT}},
                }
            },
            "/readyz": {
                "get": {
                    "operationId": "getReadiness",
                    "summary": "Tell whether the store answers",
                    "responses": {
                        "200": {"description": "It does.", "content": {wire.JSON: {"schema": {"const": {}}}}},
                        **_refer("503 Unavailable"),
                    },
                }
            },
            "/arize_phoenix_version": {
                "get": {
                    "operationId": "getPhoenixVersion",
                    "summary": "Tell the version of Phoenix whose API this is",
                    "responses": {"200": {"description": "Three integers.", "content": _TEXT}},
                }
            },
            "/openapi.json": {
                "get": {
                    "operationId": "getOpenAPI",
                    "summary": "Get this document",
                    "responses": {
                        "200": {
                            "description": "This document.",
                            "content": {wire.JSON: {"schema": {"type": "object"}}},
                        }
                    },
                }
            },
        },
        "components": {
            "schemas": {
                "Project": _PROJECT,
                "Page": _PAGE,
                "OneProject": _ONE_PROJECT,
                "ProjectToCreate": _PROJECT_TO_CREATE,
                "ProjectToUpdate": _PROJECT_TO_UPDATE,
                "ValidationError": _VALIDATION_ERROR,
            },
            "responses": _RESPONSES,
        },
    }


_LIMIT: Document = {"type": "integer", "exclusiveMinimum": 0, "default": wire.DEFAULT_LIMIT}
_FLAG: Document = {"type": "boolean", "default": False}


def _query(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _json(description: str, schema: str) -> Document:
    content = {wire.JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _body(schema: str) -> Document:
    return {"required": True, "content": {wire.JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _refer(*responses: str) -> Document:
    pairs: Iterable[Any] = (response.split() for response in responses)
    return {status: {"$ref": f"#/components/responses/{name}"} for status, name in pairs}


_WRITING = _refer(
    "400 UnreadableBody",
    "411 LengthRequired",
    "413 ContentTooLarge",
    "422 ValidationError",
    "503 Unavailable",
    "507 Full",
)
