"""The page for people, as it comes over HTTP; tests/browser shows it in a browser."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest

import projects_wsgi
from projects_wsgi import ProjectsApp, make_app

from .support.process import environment, refusal, running_server
from .test_app import call

PAGE = (Path(projects_wsgi.__file__).parent / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("prefix", "path"), [("", "/"), ("", "//"), ("/phoenix", ""), ("/phoenix", "/"), ("/phoenix", "///")]
)
def test_the_page_is_at_the_root_and_at_the_bare_mount_point(
    projects_app: ProjectsApp, prefix: str, path: str
) -> None:
    status, headers, body = call(projects_app, "GET", path, prefix)
    assert (status, body.decode()) == (200, PAGE)
    assert ("Content-Type", "text/html; charset=utf-8") in headers
    assert ("X-Frame-Options", "DENY") in headers
    assert call(projects_app, "HEAD", path, prefix) == (200, headers, b"")
    assert call(projects_app, "POST", path, prefix)[0] == 405


def test_only_its_own_script_and_style_may_run(app: webtest.TestApp) -> None:
    policy = dict(part.split(" ", 1) for part in app.get("/").headers["Content-Security-Policy"].split("; "))
    for name in ("script", "style"):
        (text,) = re.findall(f"<{name}[^>]*>(.*?)</{name}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_it_is_one_readable_file_that_needs_nothing_else_and_writes_no_html() -> None:
    lines = PAGE.splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 110
    assert not re.search(
        r"https?:|//\w|@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write", PAGE
    )


def test_it_is_open_where_all_else_needs_a_key() -> None:
    app = make_app(":memory:", authenticate=lambda environ: None)
    with closing(app.store):
        assert call(app, "GET", "/")[0] == 200
        assert call(app, "GET", "/v1/projects")[0] == 401


def test_a_host_may_have_none() -> None:
    app = make_app(":memory:", page=False)
    with closing(app.store):
        for prefix, path in (("", "/"), ("", "//"), ("/phoenix", "")):
            assert call(app, "GET", path, prefix)[::2] == (404, b"Not Found")
        document = webtest.TestApp(app).get("/openapi.json").json
        assert "/" not in document["paths"]


def test_it_is_left_out_on_request(tmp_path: Path) -> None:
    with running_server("--quiet", "--no-page", cwd=tmp_path) as process:
        assert process.ask("GET", "/")[::2] == (404, "Not Found")
    assert process.output.endswith(" (the API; Ctrl-C stops)\n")
    with running_server("--quiet", cwd=tmp_path, environ={"PROJECTS_WSGI_NO_PAGE": "0"}) as process:
        assert process.ask("GET", "/")[::2] == (200, PAGE)
    assert process.output.endswith(" (the page and the API; Ctrl-C stops)\n")
    line = refusal("--open", "--no-page", cwd=tmp_path)
    assert line == "--open: with --no-page there is nothing to open"


def test_hosts_that_never_show_it_do_not_read_it() -> None:
    program = (
        "import sys, projects_wsgi as it, projects_wsgi.page as page; it.make_app(':memory:').store.close();"
    )
    program += " print('hashlib' in sys.modules, page.read_page.cache_info().currsize)"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("False 0\n", "")


BROWSER = """#!/bin/sh
echo "$1" > opened
"""


@pytest.mark.skipif(os.name != "posix", reason="needs /bin/sh")
@pytest.mark.parametrize(
    ("arguments", "host"),
    [([], "127.0.0.1"), (["--host", "0.0.0.0"], "127.0.0.1"), (["--workers", "2"], "127.0.0.1")],
    ids=str,
)
def test_it_is_opened_in_a_browser_on_request(tmp_path: Path, arguments: list[str], host: str) -> None:
    browser = tmp_path / "browser"
    browser.write_text(BROWSER)
    browser.chmod(0o755)
    environ: dict[str, Any] = {"BROWSER": str(browser)}
    with running_server("--quiet", "--open", *arguments, cwd=tmp_path, environ=environ) as process:
        opened = tmp_path / "opened"
        while not (opened.exists() and opened.read_text().endswith("\n")):
            assert process.popen.poll() is None
        assert opened.read_text() == f"http://{host}:{process.port}\n"


def test_where_there_is_no_browser_the_server_says_so_and_serves(tmp_path: Path) -> None:
    environ = {"BROWSER": "false"}
    with running_server("--quiet", "--open", cwd=tmp_path, environ=environ) as process:
        assert process.ask("GET", "/healthz")[0] == 200
        while "warning" not in process.logged():
            assert process.popen.poll() is None
    assert (
        process.log == f"projects-wsgi: warning: no browser was found; open http://127.0.0.1:{process.port}\n"
    )
