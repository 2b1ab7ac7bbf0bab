"""A real server for tests, with a temporary database.

>>> with live_server(projects=["my agent"]) as url:
...     client = Client(base_url=url)

A test that calls the application directly needs no server: ``webtest.TestApp(make_app(":memory:"))``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import make_app
from .server import Server


@contextlib.contextmanager
def live_server(projects: Iterable[str | Mapping[str, Any]] = (), **options: Any) -> Iterator[str]:
    """Serve the projects API at a free port of this machine until the block ends; yield its URL.

    projects: the projects to create, besides "default": names, or arguments of Store.create, such as
        {"name": "agent", "description": "first steps", "kind": "experiment"}.
    options, errors: those of make_app, and of Store.create; the database is ":memory:" if none is given.
    """
    if isinstance(projects, (str, Mapping)):  # which would be taken for a list of its letters or keys
        raise TypeError(f"projects must be a list of names or mappings, not {projects!r}")
    app = make_app(options.pop("database", ":memory:"), **options)
    with contextlib.closing(app.store):
        for project in projects:
            app.store.create(**({"name": project} if isinstance(project, str) else project))
        with Server("127.0.0.1", 0, app, headers_for=app.headers_for) as server:
            thread = server.start()
            try:
                yield server.url
            finally:
                server.shutdown()
                thread.join()
