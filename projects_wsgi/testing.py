"""A real server for tests, over a database that is thrown away.

>>> with live_server(projects=["my agent"]) as url:
...     client = Client(base_url=url)

Within a process, no server is needed: webtest.TestApp(make_app(":memory:")) is one line.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import make_app
from .server import Server

_POLL_SECONDS = 0.01  # how long stopping may take


@contextlib.contextmanager
def live_server(projects: Iterable[str | Mapping[str, Any]] = (), **options: Any) -> Iterator[str]:
    """Serve the projects API at a free port of this machine until the block ends; give its URL.

    projects: those to begin with, besides "default": names, or the arguments of Store.create, as in
        {"name": "agent", "description": "first steps", "kind": "experiment"}.
    options: those of make_app; database is ":memory:" unless given.
    Raises ProjectExists, and whatever else make_app or Store.create does.
    """
    app = make_app(options.pop("database", ":memory:"), **options)
    with contextlib.closing(app.store):
        for project in projects:
            app.store.create(**({"name": project} if isinstance(project, str) else project))
        with Server("127.0.0.1", 0, app, headers=app.common_headers) as server:
            thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
            thread.start()
            try:
                yield server.url
            finally:
                server.shutdown()
                thread.join()
