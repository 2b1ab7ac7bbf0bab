"""The OpenAPI document is valid and true."""

from __future__ import annotations

import re
from typing import Any

import pytest
import webtest
from openapi_spec_validator import validate

from projects_wsgi import wire


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
