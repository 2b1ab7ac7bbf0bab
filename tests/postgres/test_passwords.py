"""The password in a database's URL is shown nowhere, however wrong the URL or its place is."""

from __future__ import annotations

import itertools
import logging
import traceback
from contextlib import closing
from pathlib import Path

import pytest
import webtest

from projects_wsgi import StoreUnavailable, make_app
from projects_wsgi.storage import open_store

from ..support.cluster import PASSWORD, Cluster
from ..support.databases import Database
from ..support.process import refusal, run

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
    ],
)
def test_a_url_in_the_wrong_place_is_shown_without_it(arguments: list[str], tmp_path: Path) -> None:
    url = f"postgresql://me:a/ b{PASSWORD}@c@127.0.0.1:1/x"
    result = run(*[url if argument == "URL" else argument for argument in arguments], cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(("usage", "projects-wsgi: "))


@pytest.mark.parametrize(
    "variable", ["PROJECTS_WSGI_PORT", "PROJECTS_WSGI_WORKERS", "PROJECTS_WSGI_READ_ONLY"]
)
def test_a_url_in_the_wrong_variable_is_shown_without_it(variable: str, tmp_path: Path) -> None:
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:1/x"
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
