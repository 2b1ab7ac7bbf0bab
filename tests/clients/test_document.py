"""The OpenAPI document of a running server: what linters say of it, and what clients made from it do.

Run by `make test-clients`, in a virtual environment of its own, into which npm brings what is not Python.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from wsgiref.util import shift_path_info

import pytest

from projects_wsgi import SQLiteStore, make_app
from projects_wsgi.server import Server
from projects_wsgi.testing import live_server
from tests.support.process import running

HERE = Path(__file__).parent
BIN = Path(sys.prefix, "bin")
NODE_MODULES = Path(sys.prefix, "node_modules")
NODE_BIN = NODE_MODULES / ".bin"

KEY = "the-admins-secret-1-" + "x" * 32


def run(*command: str | Path, folder: Path) -> str:
    """Run a program in a folder; return what it prints."""
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    result = subprocess.run(command, cwd=folder, env={**os.environ, **quiet}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextmanager
def serving_mounted(**options: Any) -> Iterator[str]:
    """Serve the application under a prefix."""
    app = make_app(":memory:", **options)

    def mounted(environ: dict[str, Any], start_response: Any) -> Any:
        assert shift_path_info(environ) == "phoenix"
        return app(environ, start_response)

    with closing(app.store), Server("127.0.0.1", 0, mounted) as server, running(server):
        yield f"{server.url}/phoenix"


# Linters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each kind of document that is served, and one with a fault that deserves a warning."""
    folder = tmp_path_factory.mktemp("documents")
    SQLiteStore(folder / "projects.db").close()
    servers = {
        "open": live_server(),
        "keys": live_server(admin_secret=KEY),
        "host": live_server(authenticate=lambda environ: "viewer"),
        "read-only": live_server(database=folder / "projects.db", read_only=True),
        "no-page": live_server(page=False),
        "mounted": serving_mounted(admin_secret=KEY),
    }
    documents = {}
    for name, server in servers.items():
        with server as url, urllib.request.urlopen(f"{url}/openapi.json") as response:
            documents[name] = json.load(response)
    documents["faulty"] = copy.deepcopy(documents["open"])
    documents["faulty"]["components"]["schemas"]["Unused"] = {"type": "string"}
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def test_spectral_finds_nothing_in_any_document(folder: Path) -> None:
    # All rules, but those that want more than a name of the license and of whoever runs the server.
    rules = {"contact-properties": "off", "license-url": "off"}
    (folder / "rules.yaml").write_text(json.dumps({"extends": [["spectral:oas", "all"]], "rules": rules}))
    options = ("--ruleset", "rules.yaml", "--format", "json", "--quiet")
    output = run(NODE_BIN / "spectral", "lint", *options, *folder.glob("*.json"), folder=folder)
    assert [(Path(found["source"]).name, found["code"]) for found in json.loads(output)] == [
        ("faulty.json", "oas3-unused-component")
    ]


def test_redocly_finds_nothing_in_any_document(folder: Path) -> None:
    # With this format, each thing that is found is a line.
    options = ("--extends", "recommended", "--format", "github-actions")
    output = run(NODE_BIN / "redocly", "lint", *options, *folder.glob("*.json"), folder=folder)
    (found,) = output.splitlines()
    assert found.startswith("::warning title=no-unused-components,file=faulty.json,")


# Clients that are made from it

PROJECT = {"name": "a/b ü?", "description": "second", "id": "UHJvamVjdDoy"}
OUTCOME = {
    "created": {**PROJECT, "description": "first"},
    "pages": [["p3", "p2", "p1", "p0"], ["a/b ü?", "default"]],
    "found": ["a/b ü?"],
    "got": {**PROJECT, "description": "first"},
    "updated": PROJECT,
    "kept": PROJECT,
    "exists": [409, "Project with name default already exists"],
    "wrong": [422, "string_too_short", ["body", "name"]],
    "deleted": 204,
    "gone": [404, "Project with name a/b ü? not found"],
    "health": "OK",
    "version": "20.26.1",
    "openapi": "3.1.0",
}


def check_round_trip(*command: str | Path, url: str, folder: Path) -> None:
    """Run a program that uses a client: with the guarded server that it came from, and with an open one."""
    assert json.loads(run(*command, url, KEY, folder=folder)) == {**OUTCOME, "stranger": 401}
    with live_server() as url:
        assert json.loads(run(*command, url, KEY, folder=folder)) == {**OUTCOME, "stranger": 200}


def test_a_client_that_openapi_python_client_makes_does_all(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("post_hooks: []")
    (tmp_path / "round_trip.py").write_bytes((HERE / "round_trip.py").read_bytes())
    generate = (BIN / "openapi-python-client", "generate", "--fail-on-warning", "--config", "config.yaml")
    output = ("--meta", "none", "--output-path", "projects_client")
    with serving_mounted(admin_secret=KEY) as url:
        run(*generate, *output, "--url", f"{url}/openapi.json", folder=tmp_path)
        check_round_trip(sys.executable, "round_trip.py", url=url, folder=tmp_path)
    run(BIN / "mypy", "--strict", "round_trip.py", folder=tmp_path)


def test_a_client_that_openapi_typescript_makes_does_all(tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    for name in ("package.json", "tsconfig.json", "round_trip.ts"):
        (tmp_path / name).write_bytes((HERE / name).read_bytes())
    with serving_mounted(admin_secret=KEY) as url:
        output = ("--output", "projects_client.ts")
        run(NODE_BIN / "openapi-typescript", f"{url}/openapi.json", *output, folder=tmp_path)
        run(NODE_BIN / "tsc", folder=tmp_path)
        check_round_trip("node", "round_trip.js", url=url, folder=tmp_path)
