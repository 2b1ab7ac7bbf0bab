"""Imports run one way, and need nothing but the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import projects_wsgi

PACKAGE = Path(projects_wsgi.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Module: the modules of the package that it imports.
ALLOWED: dict[str, set[str]] = {
    "options": set(),
    "files": set(),
    "locations": set(),
    "model": set(),
    "wsgi": set(),
    "origins": {"wsgi"},
    "hosts": set(),
    "wire": {"model", "wsgi"},
    "router": {"wsgi"},
    "openapi": {"model", "wire"},
    "storage": {"locations", "model", "options", "storage.pool", "storage.postgres", "storage.sqlite"},
    "storage.pool": {"model"},
    "storage.sqlite": {
        "model",
        "options",
        "storage",
        "storage.pool",
        "storage.sqlite.database",
        "storage.sqlite.file",
        "storage.sqlite.schema",
        "storage.upkeep",
    },
    "storage.sqlite.database": {"files", "model", "storage.pool", "storage.sqlite.schema"},
    "storage.sqlite.log": {"files", "model", "storage.sqlite.database"},
    "storage.sqlite.file": {
        "model",
        "options",
        "storage.pool",
        "storage.sqlite.database",
        "storage.sqlite.log",
        "storage.sqlite.schema",
    },
    "storage.sqlite.schema": {"model", "storage.pool"},
    "storage.postgres": {
        "model",
        "options",
        "storage",
        "storage.pool",
        "storage.postgres.database",
        "storage.postgres.schema",
    },
    "storage.postgres.database": {"locations", "model"},
    "storage.postgres.schema": {"model", "storage.pool"},
    "storage.upkeep": {
        "files",
        "model",
        "storage.pool",
        "storage.sqlite.database",
        "storage.sqlite.file",
        "storage.sqlite.log",
        "storage.sqlite.schema",
    },
    "storage.sqlite.foreign": {
        "model",
        "storage.pool",
        "storage.sqlite.database",
        "storage.sqlite.file",
        "storage.sqlite.log",
        "storage.sqlite.schema",
    },
    "transfer": {"model", "storage", "transfer.lines", "transfer.sources"},
    "transfer.lines": {"model"},
    "transfer.remote": {"locations", "model", "transfer.lines"},
    "transfer.sources": {
        "locations",
        "model",
        "storage",
        "storage.sqlite.foreign",
        "transfer.lines",
        "transfer.remote",
    },
    "page": {"wsgi"},
    "app": {"auth", "model", "openapi", "origins", "page", "router", "storage", "wire", "wsgi"},
    "http1": {"wsgi"},
    "sockets": set(),
    "access_log": {"http1"},
    "connection": {"access_log", "hosts", "http1", "wsgi"},
    "leader": set(),
    "server": {"access_log", "connection", "hosts", "leader", "options", "sockets", "wsgi"},
    "auth": {"wsgi"},
    "keys": {"auth", "files", "wsgi"},
    "": {"app", "auth", "keys", "model", "options", "origins", "storage", "storage.sqlite", "wire"},
    "signals": set(),
    "workers": {"signals"},
    "commands": {
        "",
        "auth",
        "keys",
        "locations",
        "model",
        "signals",
        "storage",
        "storage.upkeep",
        "transfer",
    },
    "serving": {
        "",
        "access_log",
        "commands",
        "files",
        "locations",
        "origins",
        "server",
        "signals",
        "sockets",
        "workers",
    },
    "cli": {"", "auth", "commands", "locations", "model", "options", "serving", "signals", "storage"},
    "testing": {"", "server"},
    "__main__": {"cli"},
}

# What one module imports within its functions, when a store of that engine is opened.
DRIVERS = {"storage.postgres.database": "psycopg"}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(file: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def imported_from_the_package(file: Path) -> set[str]:
    here = file.relative_to(PACKAGE).parent.parts
    found = set()
    for node in imports(file):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            module = ".".join(part for part in base if part)
            for alias in node.names:
                submodule = f"{module}.{alias.name}".strip(".")
                found.add(submodule if submodule in ALLOWED else module)
    return found


@pytest.mark.parametrize("file", MODULES, ids=module_name)
def test_every_module_imports_exactly_what_it_may(file: Path) -> None:
    assert imported_from_the_package(file) == ALLOWED[module_name(file)]


def test_there_are_no_permissions_for_modules_that_are_gone() -> None:
    assert set(ALLOWED) == {module_name(file) for file in MODULES}


@pytest.mark.parametrize("file", MODULES, ids=module_name)
def test_every_other_import_is_from_the_standard_library(
    file: Path,
) -> None:
    for node in imports(file):
        if isinstance(node, ast.ImportFrom):
            names = [] if node.level else [node.module or ""]
        else:
            names = [alias.name for alias in node.names]
        for name in names:
            package = name.partition(".")[0]
            is_driver = package == DRIVERS.get(module_name(file)) and node.col_offset > 0  # in a function
            assert is_driver or is_in_the_standard_library(package), f"{file}: {name}"


def is_in_the_standard_library(name: str) -> bool:
    if sys.version_info >= (3, 10):
        return name in sys.stdlib_module_names
    module = __import__(name)
    return "site-packages" not in (getattr(module, "__file__", None) or "")


def test_the_layers_do_not_speak_each_others_languages() -> None:
    sources = {module_name(file): file.read_text(encoding="utf-8") for file in MODULES}
    for module in ("wsgi", "router"):
        assert "phoenix" not in sources[module].lower()
    for word in ("SELECT", "sqlite"):
        assert word not in sources["wire"]
        assert word not in sources["app"]
    in_storage = [file for file in MODULES if module_name(file).partition(".")[0] == "storage"]
    assert len(in_storage) > 1
    for file in in_storage:
        imported = {
            name.partition(".")[0]
            for node in imports(file)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        }
        assert not imported & {"json", "base64", "binascii", "http"}, file


def test_nothing_is_imported_before_it_is_needed() -> None:
    # Cryptography is for keys; an engine and its driver for its store.
    late = ("hashlib", "secrets", "psycopg", "projects_wsgi.storage.postgres")
    program = f"import sys, projects_wsgi.cli; print(sorted({{*{late}}} & set(sys.modules)))"
    line = [sys.executable, "-S", "-c", program]
    result = subprocess.run(line, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_importing_reads_no_environment_and_touches_no_file(tmp_path: Path) -> None:
    # A hook sees every access that Python audits; imports themselves open files to read them.
    program = """
import sys
seen = []
def hook(event, arguments):
    is_writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if is_writing or event in ("sqlite3.connect", "socket.bind", "os.putenv"):
        seen.append((event, arguments))
import os
os.environ = None
sys.addaudithook(hook)
import projects_wsgi
print(seen)
"""
    result = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
