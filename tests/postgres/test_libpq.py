"""All that libpq knows of finding, and of trusting, a server works: variables, files, TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from projects_wsgi import StoreError, StoreUnavailable
from projects_wsgi.storage import open_store

from ..support.cluster import PASSWORD, Cluster, running_cluster
from ..support.databases import Database
from ..support.process import running_server

OURS = {"connect_timeout", "client_encoding", "application_name", "fallback_application_name"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server that asks for a password, and speaks TLS with a certificate for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", folder / "server.key", "-out", folder / "server.crt")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files],
        check=True,
        capture_output=True,
    )
    with running_cluster(listen_addresses="localhost") as cluster:
        for file in folder.iterdir():
            copy = cluster.data / file.name
            copy.write_bytes(file.read_bytes())
            copy.chmod(0o600)
            if cluster.account:
                os.chown(copy, cluster.account["user"], cluster.account["group"])
        cluster.execute(f"CREATE USER owner PASSWORD '{PASSWORD}'")
        cluster.execute("CREATE DATABASE projects OWNER owner")
        (cluster.data / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all all all scram-sha-256\nhost all all all scram-sha-256\n"
        )
        cluster.configure(ssl="on")
        yield cluster


@pytest.fixture
def encrypting(guarded: Cluster) -> Cluster:
    """That server, if it was built with TLS: Debian's is, the wheel's is not."""
    if guarded.execute("SHOW ssl") != ["on"]:
        pytest.skip("this server was built without TLS")
    return guarded


def in_variables(cluster: Cluster, _: Path) -> tuple[str, dict[str, str]]:
    environ = {
        "PGHOST": "localhost",
        "PGPORT": str(cluster.port),
        "PGUSER": "owner",
        "PGDATABASE": "projects",
    }
    return "postgresql://", {**environ, "PGPASSWORD": PASSWORD}


def in_a_password_file(cluster: Cluster, folder: Path) -> tuple[str, dict[str, str]]:
    file = folder / "passwords"
    file.write_text(f"localhost:{cluster.port}:projects:owner:{PASSWORD}\n")
    file.chmod(0o600)
    return f"postgres://owner@localhost:{cluster.port}/projects", {"PGPASSFILE": str(file)}


def in_a_service_file(cluster: Cluster, folder: Path) -> tuple[str, dict[str, str]]:
    file = folder / "services"
    settings = {"host": "localhost", "port": cluster.port, "user": "owner", "dbname": "projects"}
    lines = [f"{name}={value}" for name, value in {**settings, "password": PASSWORD}.items()]
    file.write_text("\n".join(["[phoenix]", *lines, ""]))
    return "postgresql://?service=phoenix", {"PGSERVICEFILE": str(file)}


@pytest.mark.parametrize("given", [in_variables, in_a_password_file, in_a_service_file])
def test_what_the_url_leaves_out_comes_from_where_libpq_looks(
    guarded: Cluster, given: object, tmp_path: Path
) -> None:
    assert callable(given)
    url, environ = given(guarded, tmp_path)
    with running_server("--quiet", "--db", url, cwd=tmp_path, environ=environ) as process:
        assert process.ask("GET", "/v1/projects/default")[0] == 200
    place = "?service=phoenix" if "service" in url else f"owner@localhost:{guarded.port}/projects"
    assert place in process.output


def test_every_parameter_may_be_given_also_those_that_we_give_ourselves(database: Database) -> None:
    from psycopg import pq

    places = {"host", "hostaddr", "port"}
    names = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} - places
    assert names > OURS
    for name in names:
        with contextlib.suppress(*([] if name in OURS else [StoreError])):  # to many, 10 says nothing
            open_store(f"{database.name}?{name}=10", **database.options).close()


def test_the_name_of_an_application_is_the_one_that_the_url_gives(database: Database) -> None:
    for name in ("application_name", "fallback_application_name"):
        with (
            closing(open_store(f"{database.name}?{name}=mine", **database.options)) as store,
            store._reading() as session,
        ):
            assert session.execute("SHOW application_name").fetchone() == ("mine",)


@pytest.mark.parametrize(
    ("connect_timeout", "busy_timeout"), [("1", 25.0), ("1000", 0.1), ("0", 0.1), ("-1", 0.1)]
)
def test_of_connect_timeout_and_busy_timeout_the_smaller_one_ends_the_wait_for_a_connection(
    connect_timeout: str, busy_timeout: float
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout={connect_timeout}"
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="timeout"):
            open_store(url, busy_timeout=busy_timeout)
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("text", ["x", "inf", "nan", PASSWORD])
def test_a_connect_timeout_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="connect_timeout of the database's URL is no number") as caught:
        open_store(f"postgresql:///x?connect_timeout={text}")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://h/x?conect_timeout=10", "invalid URI query parameter; check the names"),
        ("postgresql://h/x?sslmode", "missing key/value separator"),
        ("postgresql://h/x?a=b=c", "extra key/value separator"),
        ("postgresql://a%zz@h/x", "invalid percent-encoded token"),
        (f"postgresql://me@h/x?password=a&{PASSWORD}", "missing key/value separator"),
        (f"postgresql://me@h/x?password=a&{PASSWORD}=b", "invalid URI query parameter"),
    ],
)
def test_what_libpq_says_of_a_malformed_url_is_said_without_what_it_quotes(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="the database's URL is malformed") as caught:
        open_store(url)
    assert complaint in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert "conect" not in str(caught.value)


def test_a_server_whose_certificate_is_trusted_is_spoken_to_over_tls(encrypting: Cluster) -> None:
    url = (
        f"postgresql://owner:{PASSWORD}@localhost:{encrypting.port}/projects?sslmode=verify-full&sslrootcert="
    )
    with closing(open_store(f"{url}{encrypting.data}/server.crt")) as store:
        store.ping()
        with store._reading() as session:
            (is_encrypted,) = session.execute(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            ).fetchone()
        assert is_encrypted
        assert store.create("agent").name == "agent"
    with pytest.raises(StoreUnavailable, match="certificate") as caught:
        open_store(f"{url}{encrypting.data}/server.crt".replace("@localhost", "@127.0.0.1"))
    assert PASSWORD not in str(caught.value)


def test_a_lost_connection_is_noticed_under_tls_too(encrypting: Cluster) -> None:
    url = f"postgresql://owner:{PASSWORD}@localhost:{encrypting.port}/projects?sslmode=require"
    with closing(open_store(url)) as store:
        store.get_or_create("agent")
        owners = "FROM pg_stat_activity WHERE usename = 'owner'"
        encrypting.execute(f"SELECT pg_terminate_backend(pid) {owners}")
        while encrypting.execute(f"SELECT pid {owners}"):  # it says goodbye before it ends
            time.sleep(0.01)
        assert store.update("agent", "x").description == "x"
