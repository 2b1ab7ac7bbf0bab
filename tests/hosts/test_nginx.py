"""The application behind nginx.

Run by `make test-hosts`, in a virtual environment of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.process import running_server
from .proofs import prove_answers, prove_bodies
from .recipes import HOSTS, NGINX_KEEPING, NGINX_STRIPPING
from .servers import SERVERS, Server, running

# All that nginx would else keep in the system's folders lies in its own.
CONFIGURATION = """\
daemon off;
user root;
pid nginx.pid;
events {}
http {
access_log off;
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
%s
}
"""

# The shorter way to strip the prefix: the slash at the end makes nginx write the path anew.
BY_ITSELF = NGINX_KEEPING.replace(":6006;", ":6006/;")

RECIPES = {
    "nginx stripping": NGINX_STRIPPING,
    "nginx keeping": NGINX_KEEPING,
    "nginx by itself": BY_ITSELF,
}


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    """Which of the recipes."""
    recipe: str = request.param
    return recipe


@pytest.fixture
def nginx(name: str, tmp_path: Path) -> Iterator[tuple[Server, int]]:
    """nginx in front of what its recipe is for, and its port."""
    with contextlib.ExitStack() as stack:
        if name == "nginx keeping":
            host = running(SERVERS["waitress"], HOSTS["Flask"].module("/phoenix"), prefix="/phoenix")
            port = stack.enter_context(host)
        else:
            port = stack.enter_context(running_server("--quiet", cwd=tmp_path)).port
        server = serving(RECIPES[name].replace("6006", str(port)))
        yield server, stack.enter_context(running(server, prefix="/phoenix"))


def serving(recipe: str) -> Server:
    """Return an nginx that serves by a recipe."""
    command = ("/usr/sbin/nginx", "-e", "stderr", "-p", "{folder}", "-c", "nginx.conf")
    text = CONFIGURATION % recipe.replace("127.0.0.1:80;", "127.0.0.1:{port};")
    return Server(command, files={"nginx.conf": text})


def test_every_answer_is_alike_or_a_listed_difference(name: str, nginx: tuple[Server, int]) -> None:
    prove_answers(name, *nginx, "/phoenix")


def test_a_chunked_body_is_read(name: str, nginx: tuple[Server, int]) -> None:
    prove_bodies(name, *nginx, "/phoenix")
