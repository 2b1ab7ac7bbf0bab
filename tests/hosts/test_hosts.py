"""The application within hosts, beside their own routes.

Run by `make test-hosts`, in a virtual environment of its own.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from ..support.databases import Database
from ..support.replay import sending_to_server
from .differences import OWN_DIFFERENCES
from .proofs import JSON, prove_answers, prove_bodies, prove_key, with_a_key
from .recipes import FLASK_VIEW, HOSTS
from .servers import CHERRYPY, SERVERS, UVICORN, running

SERVER_OF = {
    **dict.fromkeys(HOSTS, SERVERS["waitress"]),
    "CherryPy": CHERRYPY,
    "FastAPI": UVICORN,
    "Starlette": UVICORN,
}

# The other ways, which look shorter.
BOTTLES_OWN = """\
from projects_wsgi import make_app

application.mount("/phoenix", make_app("projects.db"))
"""

PYRAMIDS_OWN = """\
from projects_wsgi import make_app
from pyramid.wsgi import wsgiapp2

config.add_route("projects", "/phoenix/*subpath")
config.add_view(wsgiapp2(make_app("projects.db")), route_name="projects")
application = config.make_wsgi_app()
"""

hosts = pytest.mark.parametrize("name", HOSTS)


@hosts
@pytest.mark.parametrize("prefix", ["/phoenix", "/apis/phoenix"])
def test_mounted_below_a_prefix_it_answers_and_so_do_the_hosts_own_routes(name: str, prefix: str) -> None:
    with running(SERVER_OF[name], HOSTS[name].module(prefix), prefix=prefix) as port:
        prove_answers(name, SERVER_OF[name], port, prefix)
        with sending_to_server("127.0.0.1", port) as send:
            assert send("GET", "/hello", {}, None)[::2] == (200, "Hello")
            for path in ("/v1/projects", "/phoenixes", f"{prefix}es/v1/projects"):
                assert "X-Phoenix-Server-Version" not in send("GET", path, {}, None).headers


def test_a_view_of_the_hosts_uses_the_store(database: Database) -> None:
    module = database.in_module(f"{HOSTS['Flask'].module('/phoenix')}\n{FLASK_VIEW}")
    with (
        running(SERVER_OF["Flask"], module, prefix="/phoenix") as port,
        sending_to_server("127.0.0.1", port) as send,
    ):
        for status in (201, 200):
            assert send("POST", "/agents/a/b", {}, None)[::2] == (status, {"id": "UHJvamVjdDoy"})
        assert send("GET", "/phoenix/v1/projects/a/b", {}, None).payload["data"]["name"] == "a/b"


@hosts
def test_mounted_at_the_root_it_answers(name: str, database: Database) -> None:
    with running(SERVER_OF[name], database.in_module(HOSTS[name].module(""))) as port:
        at_root = f"{name} at the root"
        prove_answers(at_root if at_root in OWN_DIFFERENCES else name, SERVER_OF[name], port)


@hosts
def test_a_chunked_body_is_read_or_refused(name: str) -> None:
    with running(SERVER_OF[name], HOSTS[name].module("/phoenix"), prefix="/phoenix") as port:
        prove_bodies(name, SERVER_OF[name], port, "/phoenix")


@hosts
def test_a_key_comes_through(name: str) -> None:
    with running(SERVER_OF[name], with_a_key(HOSTS[name].module("/phoenix")), prefix="/phoenix") as port:
        prove_key(SERVER_OF[name], port, "/phoenix")


@pytest.mark.parametrize(
    ("name", "recipe", "lost", "answer"),
    [("Bottle", BOTTLES_OWN, "日本語", 400), ("Pyramid", PYRAMIDS_OWN, "a//b", 404)],
)
def test_the_hosts_own_way_to_mount_it_loses_names(name: str, recipe: str, lost: str, answer: int) -> None:
    module = HOSTS[name]._replace(recipe=recipe).module("/phoenix")
    with (
        running(SERVERS["waitress"], module, prefix="/phoenix") as port,
        sending_to_server("127.0.0.1", port, prefix="/phoenix") as send,
    ):
        for made, status in (("alpha", 200), (lost, answer)):
            assert send("POST", "/v1/projects", JSON, json.dumps({"name": made}).encode()).status == 200
            assert send("GET", f"/v1/projects/{quote(made)}", {}, None).status == status


@hosts
def test_a_recipe_has_at_most_six_lines_of_code(name: str) -> None:
    assert len([line for line in HOSTS[name].recipe.splitlines() if line]) <= 6
