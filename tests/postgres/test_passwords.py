"""The password in a database's URL is shown nowhere, however wrong the URL or its place is."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path

import pytest
import webtest

from projects_wsgi import StoreUnavailable, make_app
from projects_wsgi.locations import is_url
from projects_wsgi.storage import open_store

from ..support.cluster import PASSWORD, Cluster
from ..support.databases import Database
from ..support.process import check_secret, environment, refusal, run

MALFORMED = [
    f"postgresql://me:{PASSWORD}%zz@127.0.0.1/x",
    f"postgresql://me:a%{PASSWORD}@127.0.0.1/x",
    f"postgresql://me:a@{PASSWORD}@127.0.0.1/x",
    f"postgresql://me:{PASSWORD}@b@127.0.0.1/x",
    f"postgresql://me:a/{PASSWORD}@127.0.0.1/x",
    f"postgresql://me:{PASSWORD}/b@127.0.0.1/x",
    f"postgresql://me:1/{PASSWORD}@127.0.0.1/x",
    f"postgresql://me:{PASSWORD}/b?c@127.0.0.1/x",
    f"postgresql://me:a?{PASSWORD}/c@127.0.0.1/x",
    f"postgresql://me:a[{PASSWORD}@127.0.0.1:{PASSWORD}/x",
    f"postgresql://me:a#@[{PASSWORD}/x",
    f"postgresql://me:a@127.0.0.1/x?password {PASSWORD}",
    f"postgresql://me:a@127.0.0.1/x?{PASSWORD}=1",
    f"postgresql://me:\udc80{PASSWORD}@127.0.0.1/x",
    f"postgresql://me:\0{PASSWORD}@127.0.0.1/x",
    f"postgresql:/me:{PASSWORD}@127.0.0.1/x",
    f"postgresql:me:{PASSWORD}@127.0.0.1/x",
    f"POSTGRESQL://me:{PASSWORD}@127.0.0.1/x",
    f" postgresql://me:{PASSWORD}@127.0.0.1/x",
    f"'postgresql://me:{PASSWORD}@127.0.0.1/x'",
    f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1/x",
    f"postgres+x:/me:{PASSWORD}@127.0.0.1/x",
    f"mysql://me:{PASSWORD}@127.0.0.1/x",
    f"me://{PASSWORD}@127.0.0.1",
    f"host=127.0.0.1 user=me password={PASSWORD}",
    f"dbname=x PASSWORD = '{PASSWORD}'",
    f"me:{PASSWORD}@127.0.0.1/x",
    f"u:{PASSWORD}@127.0.0.1/x",
    f"me@x:{PASSWORD}@127.0.0.1/x",
    f"me%40x:{PASSWORD}@127.0.0.1/x",
    f"//me:{PASSWORD}@127.0.0.1/x",
    f"postgresql//me:{PASSWORD}@127.0.0.1/x",
    f"postgresql:///dbname=x%20password={PASSWORD}?host=127.0.0.1",
    f"postgresql:///x?host=127.0.0.1&dbname=password%3D{PASSWORD}",
    f"postgresql://user=me%20pass%77ord%20=%20{PASSWORD}@127.0.0.1/x",
    f"postgresql://127.0.0.1/x?sslmode=password={PASSWORD}",
]


@pytest.mark.parametrize("url", MALFORMED, ids=itertools.count())
def test_a_malformed_url_is_refused_without_it(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        make_app(url)
    error = caught.value
    assert PASSWORD not in "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert PASSWORD not in repr(error)


@pytest.mark.parametrize("url", [url for url in MALFORMED if "\0" not in url], ids=itertools.count())
def test_the_command_line_refuses_it_in_one_line(url: str, tmp_path: Path) -> None:
    assert "URL" in refusal("--db", url, cwd=tmp_path)  # which looks for the password
    assert list(tmp_path.iterdir()) == []


ONE_AFTER_THE_OTHER = """
import json, sys
from projects_wsgi import cli

statuses = []
for line in json.loads(sys.argv[1]):
    try:
        statuses.append(cli.main(line, {}))
    except SystemExit as exit:
        statuses.append(exit.code)
print(statuses)
"""

# Each with a password that libpq would find.
WELL_FORMED = [
    f"postgresql://127.0.0.1:1/db?password={PASSWORD}",
    f"postgresql://127.0.0.1:1/db?user=u&password={PASSWORD}&sslmode=require",
    f"postgresql://127.0.0.1:1/db?pass%77ord={PASSWORD}",
    f"postgresql://127.0.0.1:1/db?%70%61%73%73%77%6f%72%64={PASSWORD}",
    f"postgresql://127.0.0.1:1/db?sslkey=x&sslpassword={PASSWORD}",
    f"postgresql://u%40corp:{PASSWORD}@127.0.0.1:1/db",
    f"host=h password={PASSWORD}",
    f"host=h password = 'night {PASSWORD}'",
    f"host=h PassWord='it\\'s \"{PASSWORD}\"'",
]


@pytest.mark.parametrize(
    "arguments",
    [
        ["URL"],
        ["check", "URL"],
        ["check", "--db", "URL"],
        ["backup", "--db", "URL", "x"],
        ["restore", "--db", "URL", "x"],
        ["restore", "URL"],
        ["backup", "URL"],
        ["keys", "URL"],
        ["keys", "add", "--role", "URL", "x"],
        ["keys", "list", "URL"],
        ["--host", "URL"],
        ["--port", "URL"],
        ["--keys", "URL"],
        ["--db", "URL", "--max-database-size", "100000"],
        ["--db", "URL", "--workers", "0"],
        ["--databse", "URL"],
        ["--databse=URL"],
        ["--schema", "URL"],
        ["--allowed-origins", "URL"],
        ["--allowed-hosts", "URL"],
        ["--busy-timeout", "URL"],
        ["export", "URL"],
        ["export", "--schema", "URL", "x"],
        ["export", "--db", "URL"],
        ["import", "URL"],
        ["import", "/dev/null", "--db", "URL"],
        ["import", "x", "--on-conflict", "URL"],
        ["import", "http://h/URL"],
        ["keys", "add", "--role", "admin", "URL"],
        ["keys", "add", "--role", "admin", "--keys", "URL", "x"],
        ["keys", "add", "--role", "admin", "--expires", "URL", "x"],
        ["keys", "revoke", "--keys", "URL", "x"],
        ["keys", "revoke", "URL"],
        ["keys", "list", "--keys", "URL"],
    ],
)
def test_a_url_in_the_wrong_place_is_shown_without_it(arguments: list[str], tmp_path: Path) -> None:
    urls = [f"postgresql://me:a/ b{PASSWORD}@c@127.0.0.1:1/x", *MALFORMED[-10:], *WELL_FORMED]
    lines = [[argument.replace("URL", url) for argument in arguments] for url in urls]
    command = [sys.executable, "-W", "error", "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    check_secret(result.stdout + result.stderr)
    assert result.stdout == f"{[2] * len(urls)}\n"
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["./me:x@y.db", "C:\\me@home\\x.db", "C:/me@home/x.db", "/1:2/me@home/x.db", "a b@c.db"]
)
def test_a_path_that_holds_no_password_is_no_url(name: str) -> None:
    assert not is_url(name)


@pytest.mark.parametrize(
    "variable",
    ["PROJECTS_WSGI_PORT", "PROJECTS_WSGI_WORKERS", "PROJECTS_WSGI_READ_ONLY", "PROJECTS_WSGI_KEYS"],
)
def test_a_url_in_the_wrong_variable_is_shown_without_it(variable: str, tmp_path: Path) -> None:
    for url in (f"postgresql://me:{PASSWORD}@127.0.0.1:1/x", *WELL_FORMED):
        result = run("--db", "nowhere/x.db", cwd=tmp_path, **{variable: url})
        assert result.returncode == 2


def test_a_url_that_is_no_text_is_shown_without_it() -> None:
    with pytest.raises(TypeError, match="not bytes") as caught:
        make_app(f"postgresql://me:{PASSWORD}@127.0.0.1/x".encode())  # type: ignore[arg-type]
    assert PASSWORD not in str(caught.value)


def test_nothing_of_a_store_shows_it(
    cluster: Cluster, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with closing(database.open_store()) as store:
        store.create("agent")
        assert PASSWORD in database.name
        assert store.location == f"postgresql://postgres@127.0.0.1:{cluster.port}/postgres"
        with store._reading() as session:
            shown = [repr(it) for it in (store, session, session.driver, session.connection)]
        assert PASSWORD not in "".join(shown)
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("password", [PASSWORD, f"not%20{PASSWORD}%40%2F%3A"])
def test_a_server_that_asks_for_it_gets_it_and_shows_it_to_nobody(cluster: Cluster, password: str) -> None:
    access = cluster.data / "pg_hba.conf"
    before = access.read_text()
    access.write_text(f"host all guarded all scram-sha-256\n{before}")
    cluster.configure()  # which makes the server read it
    cluster.execute(f"CREATE USER guarded PASSWORD '{PASSWORD}'")
    cluster.execute("CREATE SCHEMA guarded AUTHORIZATION guarded")
    url = f"postgresql://guarded:{password}@127.0.0.1:{cluster.port}/postgres"
    try:
        if password == PASSWORD:
            open_store(url, schema="guarded").close()
        else:
            with pytest.raises(StoreUnavailable, match="password authentication failed for user") as caught:
                open_store(url, schema="guarded")
            assert PASSWORD not in "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    finally:
        access.write_text(before)
        cluster.configure()
        cluster.execute("DROP OWNED BY guarded CASCADE")
        cluster.execute("DROP USER guarded")


def test_an_answer_and_the_log_of_an_error_do_not_show_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    app = database.make_app()
    with closing(app.store), database.connect() as connection:
        connection.execute("DROP TABLE projects")
        answer = webtest.TestApp(app).get("/v1/projects", status=503)
        assert PASSWORD not in answer.text + caplog.text
        assert "cannot use postgresql://postgres@" in caplog.text
