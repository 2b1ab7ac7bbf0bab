"""The OpenAPI document is valid and true."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
import webtest
from openapi_spec_validator import validate

from projects_wsgi import (
    ChangeForbidden,
    ProjectsApp,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
    make_app,
    openapi,
    wire,
)

from .support.process import Process
from .test_app import DEFAULT, REQUESTS, BrokenStore, call, create, exchanges, known_as_role


@pytest.fixture
def document(app: webtest.TestApp) -> Any:
    return app.get("/openapi.json").json


@pytest.mark.parametrize("needs_key", [False, True])
@pytest.mark.parametrize("has_page", [False, True])
def test_it_is_a_valid_document_that_uses_all_it_holds(needs_key: bool, has_page: bool) -> None:
    document: Any = openapi.build_document(wire.PHOENIX_VERSION, needs_key, has_page)
    validate(document)
    text = json.dumps(document)
    for kind in ("schemas", "responses", "headers"):
        for name in document["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text
    for path, _, operation in operations_of(document):
        assert operation["tags"] == ["projects" if path.startswith("/v1/") else "server"]
        assert not operation["summary"].endswith(".")
        assert operation["description"].endswith(".")


def test_it_names_every_route_and_its_methods_but_head_and_options(
    app: webtest.TestApp, document: Any
) -> None:
    for path, operations in document["paths"].items():
        allow = app.options(re.sub(r"\{.*\}", "x", path)).headers["Allow"].split(", ")
        methods = {method.upper() for method in operations if method != "parameters"}
        assert methods == set(allow) - {"HEAD", "OPTIONS"}
    assert len(document["paths"]) == 7


def test_a_client_made_from_it_takes_the_answers_of_another_version() -> None:
    one, other = (openapi.build_document(version) for version in ("13.0.5", "20.26.1"))
    assert one.pop("info") != other.pop("info")
    assert one == other


def test_it_names_the_parameters_that_the_wire_reads(document: Any) -> None:
    parameters = [parameter["name"] for parameter in document["paths"]["/v1/projects"]["get"]["parameters"]]
    assert parameters == ["limit", "cursor", "name_contains", *wire.KIND_PARAMETERS]


def test_its_server_is_relative_to_the_document(document: Any) -> None:
    assert document["servers"] == [{"url": "."}]


def test_every_link_leads_from_a_project_to_the_same_one(app: webtest.TestApp, document: Any) -> None:
    operations = {
        operation["operationId"]: (method, path) for path, method, operation in operations_of(document)
    }
    links = document["components"]["responses"]["OneProject"]["links"]
    for number, link in enumerate(links.values()):
        project = create(app, f"p{number}")
        method, path = operations[link["operationId"]]
        assert method in ("get", "put", "delete")
        value = project[link["parameters"]["project_identifier"].rpartition("/")[2]]
        path = path.replace("{project_identifier}", quote(value))
        response = app.request(path, method=method.upper(), body=b"{}", headers={"Content-Type": wire.JSON})
        assert response.status_int == 204 or response.json["data"] == project
    assert len(links) == 6


def test_its_pages_lead_to_the_next(app: webtest.TestApp, document: Any) -> None:
    assert document["components"]["responses"]["Page"]["links"] == {
        "nextPage": {"operationId": "getProjects", "parameters": {"cursor": "$response.body#/next_cursor"}}
    }
    create(app, "x")
    cursor = app.get("/v1/projects?limit=1").json["next_cursor"]
    assert app.get(f"/v1/projects?cursor={cursor}").json["data"] == [DEFAULT]


def test_every_answer_is_one_that_it_promises(projects_app: ProjectsApp) -> None:
    seen = set()
    with ExitStack() as stack:
        cases = [(projects_app, exchange) for exchange in exchanges()]
        for error in (StoreBusy(), StoreUnavailable(), StoreFull(), ChangeForbidden()):
            broken = make_app(stack.enter_context(closing(BrokenStore(error))))
            for method, path, body in REQUESTS:
                if method != "GET" or isinstance(error, (StoreBusy, StoreUnavailable)):
                    cases.append((broken, (method, path, {"body": body, "CONTENT_TYPE": wire.JSON})))
        guarded = make_app(projects_app.store, authenticate=known_as_role)
        for credentials in ({}, {"HTTP_AUTHORIZATION": "Bearer viewer"}):
            for method, path, extra in exchanges():
                cases.append((guarded, (method, path, {**extra, **credentials})))
        for application, (method, path, extra) in cases:
            document = json.loads(call(application, "GET", "/openapi.json")[2])
            status, headers, body = call(application, method, path, **extra)
            template = {"/v1/projects/": "/v1/projects", "//v1/projects": "/v1/projects"}.get(path, path)
            if template.startswith("/v1/projects/"):
                template = "/v1/projects/{project_identifier}"
            operation = document["paths"].get(template, {}).get(method.lower())
            if operation is None:
                assert status in (401, 403, 404, 405) or method in ("HEAD", "OPTIONS")
                continue
            seen.add((template, method.lower(), status))
            response = resolve(document, operation["responses"][str(status)])
            assert_conforms(document, response, headers, body)
    assert {(path, method) for path, method, status in seen if status in (200, 204)} == {
        (path, method) for path, method, _ in operations_of(openapi.build_document(wire.PHOENIX_VERSION))
    }
    assert {status for *_, status in seen} == {200, 204, 400, 401, 403, 404, 409, 411, 413, 422, 503, 507}


def test_every_operation_answers_a_malformed_request_as_it_promises(server: Process) -> None:
    document = json.loads(server.ask("GET", "/openapi.json")[2])
    operations = operations_of(document)
    assert len(operations) == 10
    for path, method, operation in operations:
        with closing(HTTPConnection(server.host, server.port, timeout=30)) as connection:
            connection.request(method.upper(), re.sub(r"\{.*\}", "x", path), headers={"Bad name": "x"})
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 400
        of_the_server = ("Connection", "Date", "Server")
        headers = [header for header in answer.getheaders() if header[0] not in of_the_server]
        assert_conforms(document, resolve(document, operation["responses"]["400"]), headers, body)


def operations_of(document: Any) -> list[tuple[str, str, Any]]:
    """Return path, method and operation of each."""
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]


def assert_conforms(document: Any, response: Any, headers: list[tuple[str, str]], body: bytes) -> None:
    """Fail unless headers and body are those of a response in the document, and no others."""
    named = dict(headers)
    media_type = named.pop("Content-Type", "").partition(";")[0]
    assert named.pop("Content-Length", "0") == str(len(body))
    for name, reference in response["headers"].items():
        header = resolve(document, reference)
        if name in named or header.get("required"):
            value = named.pop(name)
            is_number = header["schema"].get("type") == "integer"
            validate_value(document, int(value) if is_number else value, header["schema"])
    assert named == {}
    assert media_type in response.get("content", {"": None})
    if media_type:
        value = json.loads(body) if media_type == wire.JSON else body.decode()
        validate_value(document, value, response["content"][media_type]["schema"])


def validate_value(document: Any, value: Any, schema: Any) -> None:
    schema = {**schema, "components": document["components"]}
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator)


def resolve(document: Any, reference: Any) -> Any:
    """Return what a reference within the document refers to; anything else as it is."""
    if "$ref" not in reference:
        return reference
    for key in reference["$ref"].split("/")[1:]:
        document = document[key]
    return document
