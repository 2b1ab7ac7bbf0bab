"""How the application comes into each host, and behind nginx: the very text that the README shows."""

from __future__ import annotations

from typing import NamedTuple


class Host(NamedTuple):
    """An application beside which ours is mounted, at /phoenix.

    own: its module so far, which answers /hello with "Hello". recipe: what is added at its end.
    route: what answers /hello, where the recipe makes the application itself.
    """

    own: str
    recipe: str
    route: str = ""

    def module(self, prefix: str) -> str:
        """Return the module, with ours mounted at another prefix; "" is the root."""
        recipe = self.recipe.replace("/phoenix", prefix).replace("[8:]", f"[{len(prefix)}:]")
        return f"{self.own}\n{recipe}\n{self.route}"


# For whatever calls itself `application`. 8 is the length of /phoenix.
ANY_WSGI = """\
from projects_wsgi import make_app

host, projects = application, make_app("projects.db")


def application(environ, start_response):
    if not environ["PATH_INFO"].startswith("/phoenix/"):
        return host(environ, start_response)
    return projects(dict(environ, SCRIPT_NAME="/phoenix", PATH_INFO=environ["PATH_INFO"][8:]), start_response)
"""

FLASK = """\
from flask import Flask
from projects_wsgi import make_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware

app = Flask(__name__)
projects = make_app("projects.db")
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/phoenix": projects})
"""

# A route of the host's own that uses the store.
FLASK_VIEW = """\
@app.post("/agents/<path:name>")
def start(name):
    project, is_new = projects.store.get_or_create(name)
    return {"id": project.global_id}, 201 if is_new else 200
"""

CHERRYPY = """\
import cherrypy
from projects_wsgi import make_app

cherrypy.tree.graft(make_app("projects.db"), "/phoenix")
"""

# FastAPI and Starlette.
ANY_ASGI = """\
from a2wsgi import WSGIMiddleware
from projects_wsgi import make_app

app.mount("/phoenix", WSGIMiddleware(make_app("projects.db")))
"""

HOSTS = {
    "Flask": Host(
        "",
        FLASK,
        """\
application = app
app.add_url_rule("/hello", view_func=lambda: "Hello")
""",
    ),
    "Django": Host(
        """\
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"])
urlpatterns = [path("hello", lambda request: HttpResponse("Hello"))]
application = get_wsgi_application()
""",
        ANY_WSGI,
    ),
    "Bottle": Host(
        """\
from bottle import Bottle

application = Bottle()
application.route("/hello", callback=lambda: "Hello")
""",
        ANY_WSGI,
    ),
    "Pyramid": Host(
        """\
from pyramid.config import Configurator
from pyramid.response import Response

config = Configurator()
config.add_route("hello", "/hello")
config.add_view(lambda request: Response("Hello"), route_name="hello")
application = config.make_wsgi_app()
""",
        ANY_WSGI,
    ),
    "Falcon": Host(
        """\
import falcon


class Hello:
    def on_get(self, request, response):
        response.content_type = falcon.MEDIA_TEXT
        response.text = "Hello"


application = falcon.App()
application.add_route("/hello", Hello())
""",
        ANY_WSGI,
    ),
    "CherryPy": Host(
        """\
import cherrypy


class Root:
    @cherrypy.expose
    def hello(self):
        return "Hello"


cherrypy.tree.mount(Root())
""",
        CHERRYPY,
    ),
    "FastAPI": Host(
        """\
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()
app.add_api_route("/hello", lambda: PlainTextResponse("Hello"))
""",
        ANY_ASGI,
    ),
    "Starlette": Host(
        """\
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/hello", lambda request: PlainTextResponse("Hello"))])
""",
        ANY_ASGI,
    ),
}

# In front of the bundled server, which knows of no prefix. What nginx makes of the path by itself
# is decoded, and so no longer tells a%2Fb from a/b.
NGINX_STRIPPING = """\
map $request_uri $projects_uri {
    "~^/phoenix(?<path>/.*)$" $path;
}

server {
    listen 127.0.0.1:80;

    location /phoenix/ {
        proxy_pass http://127.0.0.1:6006$projects_uri;
    }
}
"""

# In front of an application within which ours is mounted at /phoenix: no slash after the port.
NGINX_KEEPING = """\
server {
    listen 127.0.0.1:80;

    location /phoenix/ {
        proxy_pass http://127.0.0.1:6006;
    }
}
"""

# A server that listens at a Unix socket, and nginx in front of it.
GUNICORN_AT_SOCKET = """\
$ pip install . gunicorn
$ sudo install -d -o "$(whoami)" /run/projects
$ gunicorn --bind unix:/run/projects/http.sock --threads 4 'projects_wsgi:make_app("projects.db")'
$ curl --unix-socket /run/projects/http.sock http://localhost/v1/projects
"""

NGINX_AT_SOCKET = """\
server {
    listen 127.0.0.1:80;

    location / {
        proxy_pass http://unix:/run/projects/http.sock;
    }
}
"""
