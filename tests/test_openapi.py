"""The OpenAPI document is valid and true."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import webtest
from openapi_spec_validator import validate

from projects_wsgi import Application, openapi, wire

from .test_app import call, exchanges


@pytest.fixture
def document(app: webtest.TestApp) -> Any:
    return app.get("/openapi.json").json


def test_it_is_a_valid_document(document: Any) -> None:
    validate(document)


def test_it_names_every_route_and_method(app: webtest.TestApp, document: Any) -> None:
    for path, operations in document["paths"].items():
        allow = app.options(re.sub(r"\{.*\}", "x", path)).headers["Allow"].split(", ")
        methods = {method.upper() for method in operations if method != "parameters"}
        assert methods == set(allow) - {"HEAD", "OPTIONS"}
    assert len(document["paths"]) == 6


def test_it_names_the_parameters_that_the_wire_reads(document: Any) -> None:
    parameters = [parameter["name"] for parameter in document["paths"]["/v1/projects"]["get"]["parameters"]]
    assert parameters == ["limit", "cursor", "name_contains", *wire.KIND_PARAMETERS]


def test_its_server_is_relative_to_the_document(document: Any) -> None:
    assert document["servers"] == [{"url": "."}]


def test_every_answer_is_one_that_it_promises(projects_app: Application) -> None:
    document = openapi.build_document(wire.PHOENIX_VERSION)
    seen = set()
    for method, path, extra in exchanges():
        status, headers, body = call(projects_app, method, path, **extra)
        template = {"/v1/projects/": "/v1/projects", "//v1/projects": "/v1/projects"}.get(path, path)
        if template.startswith("/v1/projects/"):
            template = "/v1/projects/{project_identifier}"
        operation = document["paths"].get(template, {}).get(method.lower())
        if operation is None:
            assert status in (204, 404, 405) or method == "HEAD"
            continue
        response = operation["responses"][str(status)]
        if "$ref" in response:
            response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        seen.add((operation["operationId"], status))
        if status == 204:
            assert "content" not in response
            continue
        media_type = dict(headers)["Content-Type"].partition(";")[0]
        schema = {**response["content"][media_type]["schema"], "components": document["components"]}
        value = json.loads(body) if media_type == wire.JSON else body.decode()
        jsonschema.validate(value, schema, jsonschema.Draft202012Validator)
    assert {operation for operation, status in seen if status in (200, 204)} == {
        operation["operationId"]
        for operations in document["paths"].values()
        for method, operation in operations.items()
        if method != "parameters"
    }
    assert {status for _, status in seen} >= {200, 204, 400, 403, 404, 409, 411, 413, 422}
