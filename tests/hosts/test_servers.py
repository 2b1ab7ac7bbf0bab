"""The application under servers that are not ours.

Run by `make test-hosts`, in a virtual environment of its own.
"""

from __future__ import annotations

import pytest

from ..support.databases import Database
from .proofs import prove_answers, prove_bodies, prove_key, with_a_key
from .servers import SERVERS, running

MODULE = """\
from projects_wsgi import make_app

application = make_app("projects.db")
"""

servers = pytest.mark.parametrize("name", SERVERS)


@servers
def test_every_answer_is_alike_or_a_listed_difference(name: str, database: Database) -> None:
    with running(SERVERS[name], database.in_module(MODULE)) as port:
        prove_answers(name, SERVERS[name], port)


@servers
def test_a_chunked_body_is_read_or_refused(name: str) -> None:
    with running(SERVERS[name], MODULE) as port:
        prove_bodies(name, SERVERS[name], port)


@servers
def test_a_key_comes_through(name: str) -> None:
    with running(SERVERS[name], with_a_key(MODULE)) as port:
        prove_key(SERVERS[name], port)
