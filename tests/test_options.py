"""The table of options: what each accepts, as a value and as text."""

from __future__ import annotations

import os
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projects_wsgi import StoreUnavailable
from projects_wsgi.options import (
    ALLOWED_HOSTS,
    ALLOWED_ORIGINS,
    BUSY_TIMEOUT,
    KEYS,
    MAX_DATABASE_SIZE,
    MAX_PAGE_SIZE,
    OPTIONS,
    PAGE,
    PORT,
    READ_ONLY,
    Option,
)
from projects_wsgi.storage import open_store

from .support.process import environment, refusal


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_default_passes_its_own_check(option: Option) -> None:
    if option.kind in (int, float):
        option.check(option.default)
    elif option.kind is not bool and option.default is not None:
        assert option.parse(str(option.default)) == option.default


@pytest.mark.parametrize(
    ("option", "values"),
    [
        (PORT, [0, 65_535]),
        (MAX_PAGE_SIZE, [1, 2**80]),
        (MAX_DATABASE_SIZE, [65_536, None]),
        (BUSY_TIMEOUT, [0.001, 1, 25, 25.0]),
        (ALLOWED_ORIGINS, [None, [], ["https://app.example"], {"http://localhost:3000"}, ("*",)]),
        (ALLOWED_HOSTS, [None, (), ["phoenix.example", "A_b-1.example."]]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_numbers_within_the_bounds_and_texts_that_match_pass(option: Option, values: list[Any]) -> None:
    for value in values:
        option.check(value)


INTEGERS = "an integer of at least 1"
ORIGINS = "origins as browsers send them, like https://app.example or http://localhost:3000"
HOSTS = "the names of hosts, like phoenix.example"
SECONDS = "a number of seconds above 0 and at most 25"


@pytest.mark.parametrize(
    ("option", "expected", "values"),
    [
        (PORT, "an integer from 0 to 65535", [-1, 65_536, 80.0, "80", True, None]),
        (MAX_PAGE_SIZE, INTEGERS, [0, -1, 1.0, True, None, "1", float("inf")]),
        (MAX_DATABASE_SIZE, "an integer of at least 65536", [65_535, 0, False, 1e9, ""]),
        (
            ALLOWED_ORIGINS,
            ORIGINS,
            ["https://app.example", b"https://app.example", 1, [None], ["https://app.example", "x"]],
        ),
        (ALLOWED_HOSTS, HOSTS, ["phoenix.example", "x", [b"x"], ["x", ""]]),
        (BUSY_TIMEOUT, SECONDS, [0, -1, 25.001, 26, float("nan"), float("inf"), True, None, "5"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_any_other_value_is_refused_by_name(option: Option, expected: str, values: list[Any]) -> None:
    for value in values:
        message = f"{option.name} must be {expected}, not {value!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            option.check(value)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        (PORT, "0", 0),
        (PORT, "065535", 65_535),
        (MAX_DATABASE_SIZE, "65536", 65_536),
        (BUSY_TIMEOUT, "2.5", 2.5),
        (BUSY_TIMEOUT, "25", 25.0),
        (KEYS, " x", " x"),
        (READ_ONLY, "1", True),
        (READ_ONLY, "Yes", True),
        (READ_ONLY, "0", False),
        (READ_ONLY, "OFF", False),
        (PAGE, "true", False),
        (PAGE, "no", True),
        (ALLOWED_ORIGINS, "*", ("*",)),
        (
            ALLOWED_ORIGINS,
            "https://app.example, http://[::1]:80443,moz-extension://0a-b",
            ("https://app.example", "http://[::1]:80443", "moz-extension://0a-b"),
        ),
        (ALLOWED_ORIGINS, "https://app.example:80,http://x:443", ("https://app.example:80", "http://x:443")),
        (ALLOWED_HOSTS, "phoenix.example,Other.", ("phoenix.example", "Other.")),
    ],
)
def test_text_becomes_a_value_of_the_options_type(option: Option, text: str, value: object) -> None:
    assert option.parse(text) == value
    assert type(option.parse(text)) is type(value)


@pytest.mark.parametrize(
    ("option", "expected", "texts"),
    [
        (
            PORT,
            "an integer from 0 to 65535",
            ["", "x", "65536", "-1", "+1", " 1", "1_0", "٣", "1.0", "9" * 5_000],
        ),
        (MAX_DATABASE_SIZE, "an integer of at least 65536", ["", "65535", "None"]),
        (BUSY_TIMEOUT, SECONDS, ["", "x", "0", "-1", "25.1", "nan", "inf"]),
        (KEYS, "a text of at least one character", [""]),
        (READ_ONLY, "true or false", ["", "maybe", "2"]),
        (
            ALLOWED_ORIGINS,
            ORIGINS,
            [
                *("", ",", "https://app.example,", "null", "app.example", "//app.example", "https://"),
                *("https://app.example/", "https://app.example/x", "https://app.example?x", "*.example"),
                *("https://*.example", "https://App.example", "HTTPS://app.example", "https://ä.example"),
                *("http://app.example:80", "https://app.example:443", "https://[::1]:443", "https://x:y"),
                *("https://me@app.example", "https://app.\nexample", "https://a.example https://b.example"),
            ],
        ),
        (
            ALLOWED_HOSTS,
            HOSTS,
            ["", "*", "x,", "x,,y", "http://x", "x:80", "*.example", ".example", "a..b", "ä", "x y", "[::1]"],
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_any_other_text_is_refused(option: Option, expected: str, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{text!r} is not {expected}')}$"):
            option.parse(text)


@pytest.mark.parametrize(
    ("database", "options", "error"),
    [
        ("postgresql://nowhere.invalid/x", {"max_database_size": 100_000}, "max_database_size is .* SQLite"),
        (
            "postgresql://nowhere.invalid/x",
            {"synchronous": "NORMAL"},
            "^synchronous is an option of SQLite alone$",
        ),
        ("projects.db", {"schema": "mine"}, "schema is an option of PostgreSQL alone"),
        (":memory:", {"max_connections": 3}, "max_connections is an option of PostgreSQL alone"),
    ],
)
def test_an_option_of_one_engine_is_refused_by_the_other(
    database: str, options: dict[str, Any], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=error):
        open_store(database, **options)
    assert list(tmp_path.iterdir()) == []


def test_both_engines_have_the_options_of_neither_at_their_defaults() -> None:
    with closing(open_store(":memory:", schema=None, max_connections=10)) as store:
        assert store.get("default").id == 1


@pytest.mark.parametrize(
    "database", ["mysql://me@127.0.0.1/x", "password=secret dbname=x", "postgres:x", "me:x@h/y"]
)
def test_a_url_of_no_engine_is_refused_and_not_shown(database: str) -> None:
    text = (
        "the URL of a database must begin with postgresql:// or postgres://, and the path of a file must not"
        " look like one"
    )
    with pytest.raises(ValueError, match=f"^{text}$"):
        open_store(database)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_of_postgresql_needs_a_driver_whatever_its_options(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreUnavailable, match="^PostgreSQL needs psycopg 3.2 or later"):
        open_store(f"{scheme}://127.0.0.1/x", schema="mine", max_connections=3)


def test_a_missing_driver_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('not here')")
    environ = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"}
    line = refusal("--db", "postgresql://127.0.0.1/x", cwd=tmp_path, **environ)
    assert line.startswith('PostgreSQL needs psycopg 3.2 or later: pip install "psycopg[binary]>=3.2"')
