from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = "/usr/bin/chromium"  # Debian's


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser to which every name within .example is this machine."""
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1, MAP *.example. 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()
