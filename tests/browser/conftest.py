from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from projects_wsgi import ProjectsApp, make_app
from projects_wsgi.server import Server
from projects_wsgi.testing import live_server
from tests.support.process import running

CHROMIUM = "/usr/bin/chromium"  # Debian's; Playwright's own would be downloaded

Open = Callable[..., Page]
Serve = Callable[..., str]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium, to which every name within .example is this machine."""
    names = "--host-resolver-rules=MAP *.example 127.0.0.1, MAP *.example. 127.0.0.1"
    with sync_playwright() as playwright:
        # Its sandbox does not run as root.
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", names])


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """A function that opens a page in a browser of its own; what it has to complain of fails the test.

    allowed: a text of which the browser may complain. The rest: see Browser.new_context.
    """
    complaints: list[str] = []
    with contextlib.ExitStack() as stack:

        def open_page(url: str, *, allowed: str = "", **options: Any) -> Page:
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            page = context.new_page()

            def note(message: ConsoleMessage) -> None:
                text = message.text
                # The browser itself calls each error that the API answers with one.
                is_answer = "Failed to load resource" in text and "/v1/projects" in message.location["url"]
                is_expected = is_answer or (allowed and allowed in text)
                if message.type in ("error", "warning") and not is_expected:
                    complaints.append(text)

            page.on("console", note)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(url)
            return page

        yield open_page
    assert complaints == []


@contextlib.contextmanager
def serving(application: Any, port: int = 0) -> Iterator[str]:
    """Serve an application until the block ends; give its URL."""
    with Server("127.0.0.1", port, application) as server, running(server):
        yield server.url


def make(projects: Iterable[str | Mapping[str, Any]] = (), **options: Any) -> ProjectsApp:
    """Return the application over projects of these names, or with these arguments of Store.create."""
    app = make_app(options.pop("database", ":memory:"), **options)
    for project in projects:
        app.store.create(**({"name": project} if isinstance(project, str) else project))
    return app


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that serves the application over projects until the test ends, and returns its URL."""
    with contextlib.ExitStack() as stack:

        def serve(*projects: str | Mapping[str, Any], **options: Any) -> str:
            return stack.enter_context(live_server(projects, **options))

        yield serve


def names(page: Page) -> list[str]:
    """Return the names that the page lists, from top to bottom."""
    return page.locator("li h2").all_text_contents()
