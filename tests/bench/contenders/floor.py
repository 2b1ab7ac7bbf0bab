"""The floor: for each request a bare WSGI callable that runs its statement and fills in its JSON.

It checks nothing, closes nothing and serves one thread; it does what cannot be left out, over a file
that the package made.
"""

from __future__ import annotations

import json
import sqlite3
from binascii import a2b_base64, b2a_base64
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any, Callable

SELECT = "SELECT id, name, description FROM projects"
SELECT_BY_ID = f"{SELECT} WHERE id = ?"
SELECT_BY_NAME = f"{SELECT} WHERE name = ?"
SELECT_PAGE = f"{SELECT} WHERE kind = 'standard' ORDER BY id DESC LIMIT 101"
NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
SELECT_BY_TEXT = (
    "SELECT id FROM projects INDEXED BY projects_listed WHERE kind = 'standard' AND instr(folded_name, ?)"
)
INSERT = (
    "INSERT INTO projects (name, folded_name, kind, created_at, updated_at, description)"
    f" VALUES (?, ?, 'standard', {NOW}, {NOW}, ?)"
)
UPDATE = f"UPDATE projects SET description = ?, updated_at = {NOW} WHERE id = ?"
DELETE = "DELETE FROM projects WHERE id = ?"

PREFIX_LENGTH = len("/v1/projects/")
TYPE_LENGTH = len("Project:")


def connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def identifier(environ: dict[str, Any]) -> str:
    return environ["PATH_INFO"][PREFIX_LENGTH:].encode("latin-1").decode()


def render(row: tuple[int, str, str]) -> str:
    return '{"name":%s,"description":%s,"id":"%s"}' % (
        quoted(row[1]),
        quoted(row[2]),
        b2a_base64(b"Project:%d" % row[0], newline=False).decode(),
    )


def answer(start_response: Callable[..., Any], text: str) -> list[bytes]:
    body = text.encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def get_by_id(file: Path) -> Callable[..., Any]:
    connection = connect(file)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        number = int(a2b_base64(identifier(environ))[TYPE_LENGTH:])
        row = connection.execute(SELECT_BY_ID, (number,)).fetchone()
        return answer(start_response, '{"data":%s}' % render(row))

    return app


def get_by_name(file: Path) -> Callable[..., Any]:
    connection = connect(file)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        row = connection.execute(SELECT_BY_NAME, (identifier(environ),)).fetchone()
        return answer(start_response, '{"data":%s}' % render(row))

    return app


def list_page(file: Path) -> Callable[..., Any]:
    connection = connect(file)

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        rows = connection.execute(SELECT_PAGE).fetchall()
        next_cursor = b2a_base64(b"Project:%d" % rows.pop()[0], newline=False).decode()
        # Not with render(): a call for each row would take a twentieth of the time.
        data = ",".join(
            [
                '{"name":%s,"description":%s,"id":"%s"}'
                % (
                    quoted(name),
                    quoted(description),
                    b2a_base64(b"Project:%d" % number, newline=False).decode(),
                )
                for number, name, description in rows
            ]
        )
        return answer(start_response, '{"data":[%s],"next_cursor":"%s"}' % (data, next_cursor))

    return app


def search(file: Path) -> Callable[..., Any]:
    connection = connect(file)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        text = environ["QUERY_STRING"].partition("name_contains=")[2]
        connection.execute(SELECT_BY_TEXT, (text,)).fetchall()
        return answer(start_response, '{"data":[],"next_cursor":null}')

    return app


def create(file: Path) -> Callable[..., Any]:
    connection = connect(file)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        name, description = body["name"], body["description"]
        number = connection.execute(INSERT, (name, name.casefold(), description)).lastrowid
        return answer(start_response, '{"data":%s}' % render((number, name, description)))

    return app


def update(file: Path) -> Callable[..., Any]:
    connection = connect(file)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        number = int(a2b_base64(identifier(environ))[TYPE_LENGTH:])
        connection.execute(UPDATE, (body["description"], number))
        row = connection.execute(SELECT_BY_ID, (number,)).fetchone()
        return answer(start_response, '{"data":%s}' % render(row))

    return app


def delete(file: Path) -> Callable[..., Any]:
    connection = connect(file)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        number = int(a2b_base64(identifier(environ))[TYPE_LENGTH:])
        connection.execute(DELETE, (number,))
        start_response("204 No Content", [])
        return []

    return app
