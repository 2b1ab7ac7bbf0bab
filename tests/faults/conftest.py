from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ..support.cluster import Cluster, running_cluster

ROLE = "guest"  # no superuser, as a program's role should be


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL server of this session: it takes few connections, and forgets nothing in a crash."""
    with running_cluster(max_connections="30", synchronous_commit="on") as cluster:
        cluster.execute(f"CREATE ROLE {ROLE} LOGIN")
        yield cluster


@pytest.fixture(scope="session")
def databases() -> Iterator[str]:
    """Names for databases."""
    return (f"database_{number}" for number in itertools.count())


@pytest.fixture
def url(cluster: Cluster, databases: Iterator[str]) -> Iterator[str]:
    """The URL of a fresh database, which belongs to an ordinary role."""
    name = next(databases)
    cluster.execute(f"CREATE DATABASE {name} OWNER {ROLE}")
    yield cluster.url(user=ROLE, database=name)
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def admin(cluster: Cluster, url: str) -> Iterator[Any]:
    """A superuser's connection to that database."""
    database = url.rpartition("/")[2]
    with contextlib.closing(psycopg.connect(cluster.url(database=database), autocommit=True)) as connection:
        yield connection
