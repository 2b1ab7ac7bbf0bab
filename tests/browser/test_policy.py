"""The page's Content-Security-Policy, in force in a browser."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import expect

from .conftest import Open, Serve, make, serving

INJECTED = b"""
<script>window.ran = 1</script><img src="data:," onerror="window.ran = 1"><style>h1 { color: red }</style>
"""


@pytest.mark.parametrize("has_policy", [True, False])
def test_what_is_injected_into_the_page_does_not_run(has_policy: bool, open_page: Open) -> None:
    app = make()

    def host(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]]) -> Any:
            kept = {"Content-Type"} | ({"Content-Security-Policy"} if has_policy else set())
            return start_response(status, [header for header in headers if header[0] in kept])

        body = b"".join(app(environ, start))
        return [body.replace(b"<main>", b"<main>" + INJECTED)]

    with closing(app.store), serving(host) as url:
        page = open_page(url, allowed="Content Security Policy" if has_policy else "")
        expect(page.get_by_role("status")).to_have_text("1 project shown")
        page.wait_for_timeout(100)
        # Without the policy it runs: else this test would prove nothing.
        assert page.evaluate("window.ran") == (None if has_policy else 1)
        color = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
        assert (color != "rgb(255, 0, 0)") == has_policy


def test_no_other_page_can_frame_it(serve: Serve, open_page: Open) -> None:
    url = serve()

    def framing(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [f"<iframe src='{url}'></iframe>".encode()]

    with serving(framing) as other:
        page = open_page(other, allowed="frame")
        page.wait_for_timeout(300)
        assert [frame.locator("#list").count() for frame in page.frames] == [0, 0]


def test_nothing_comes_from_elsewhere(serve: Serve, open_page: Open) -> None:
    url = serve("x")
    page = open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    expect(page.get_by_role("status")).to_have_text("2 projects shown")
    page.wait_for_timeout(200)
    assert [address.removeprefix(url).partition("?")[0] for address in asked] == ["/", "/v1/projects"]
