"""Errors are shown where they belong, in words, and what was typed is still there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from .conftest import Open, Serve, make, names, serving
from .test_changes import button, create, delete

READ_ONLY = "This server is read-only: nothing can be created, changed or deleted"
UNREACHABLE = "There is no connection to the server. Try again when it runs."


def try_to_create(page: Page, name: str, text: str) -> None:
    button(page, "New project").click()
    page.get_by_label("Name").fill(name)
    button(page, "Create").click()
    expect(page.get_by_role("alert")).to_have_text(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("taken", "Project with name taken already exists"),
        ("", "String should have at least 1 character"),
        ("UHJvamVjdDox", "Value error, the name reads as a project ID and could never be addressed"),
    ],
)
def test_what_is_wrong_with_a_name_is_said_beside_it(
    name: str, text: str, serve: Serve, open_page: Open
) -> None:
    page = open_page(serve("taken"))
    try_to_create(page, name, text)
    expect(page.get_by_label("Name")).to_be_focused()
    beside = [page.get_by_label("Name"), page.get_by_role("alert"), page.get_by_label("Description")]
    heights = [(it.bounding_box() or {})["y"] for it in beside]
    assert heights == sorted(heights)
    page.get_by_label("Name").fill("free")
    button(page, "Create").click()
    expect(page.get_by_role("status")).to_have_text("Created free. 3 projects shown")


def try_all(page: Page, texts: dict[str, str]) -> None:
    """Create, describe and delete a project x; for each, the error if one is due."""
    if texts.get("POST"):
        try_to_create(page, "y", texts["POST"])
        button(page, "Cancel").click()
    else:
        create(page, "y")
        expect(page.get_by_role("status")).to_contain_text("Created y.")
    button(page, "Edit x").click()
    page.get_by_label("Description").fill("new")
    button(page, "Save").click()
    if texts.get("PUT"):
        expect(page.get_by_role("alert")).to_have_text(texts["PUT"])
        button(page, "Cancel").click()
    expect(page.get_by_label("Description")).to_have_count(0)
    delete(page, "x", "x")
    if texts.get("DELETE"):
        expect(page.get_by_role("alert")).to_have_text(texts["DELETE"])
        button(page, "Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_read_only_server_is_called_so(tmp_path: Path, open_page: Open) -> None:
    file = tmp_path / "projects.db"
    make(["x"], database=file).store.close()
    app = make(database=file, read_only=True)
    with closing(app.store), serving(app) as url:
        try_all(open_page(url), dict.fromkeys(("POST", "PUT", "DELETE"), READ_ONLY))


ADMINS = "Only admin or system users can perform this action."


@pytest.mark.parametrize(
    ("role", "texts"),
    [
        ("viewer", dict.fromkeys(("POST", "PUT", "DELETE"), "Viewers cannot perform this action.")),
        ("member", {"PUT": ADMINS, "DELETE": ADMINS}),
        ("admin", {}),
    ],
)
def test_each_role_does_what_it_may_and_is_told_of_the_rest(
    role: str, texts: dict[str, str], serve: Serve, open_page: Open
) -> None:
    def authenticate(environ: dict[str, Any]) -> Any:
        return role if environ.get("HTTP_AUTHORIZATION") == "Bearer good" else None

    page = open_page(serve("x", authenticate=authenticate))
    sign_in(page, "good")
    try_all(page, texts)


def sign_in(page: Page, key: str) -> None:
    expect(page.get_by_role("dialog", name="This server asks for a key")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(key)
    button(page, "Sign in").click()


SECRET = "secret0123456789" * 2


def test_a_key_is_asked_for_and_kept_until_one_signs_out(serve: Serve, open_page: Open) -> None:
    page = open_page(serve("x", admin_secret=SECRET))
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    sign_in(page, "wrong")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text("Invalid token")
    assert page.evaluate("sessionStorage.length") == 0
    sign_in(page, SECRET)
    expect(page.get_by_role("status")).to_have_text("2 projects shown")
    page.reload()
    expect(page.get_by_role("status")).to_have_text("2 projects shown")
    other_tab = page.context.new_page()
    other_tab.goto(page.url)
    expect(other_tab.get_by_label("Key", exact=True)).to_be_visible()  # it is kept for this tab alone
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]

    button(page, "Sign out").click()
    expect(page.get_by_label("Key", exact=True)).to_be_visible()
    assert names(page) == []
    assert page.evaluate("sessionStorage.length") == 0
    button(page, "Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("This server asks for a key. Try again with one.")
    button(page, "Try again").click()
    expect(page.get_by_label("Key", exact=True)).to_be_visible()


def test_a_wrong_key_is_refused_however_late_a_browser_says_that_the_dialog_was_closed(
    serve: Serve, open_page: Open
) -> None:
    page = open_page(serve("x", admin_secret=SECRET))
    page.evaluate(
        "HTMLDialogElement.prototype.remove = function () {"
        " setTimeout(() => Element.prototype.remove.call(this), 1000) }"
    )
    sign_in(page, "wrong")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text("Invalid token")


def test_a_key_that_is_revoked_meanwhile_is_asked_for_anew_and_what_was_typed_stays(
    open_page: Open,
) -> None:
    keys = {"Bearer old": "admin"}
    app = make(authenticate=lambda environ: keys.get(environ.get("HTTP_AUTHORIZATION", "")))
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        sign_in(page, "old")
        expect(page.get_by_role("status")).to_have_text("1 project shown")
        keys["Bearer new"] = keys.pop("Bearer old")
        button(page, "New project").click()
        page.get_by_label("Name").fill("typed")
        button(page, "Create").click()
        page.locator("#search").dispatch_event("input")  # a second request without a good key
        page.wait_for_timeout(300)
        sign_in(page, "new")
        expect(page.get_by_label("Name")).to_have_value("typed")
        button(page, "Create").click()
        expect(page.get_by_role("status")).to_have_text("Created typed. 2 projects shown")


def test_who_finds_the_database_busy_tries_again(tmp_path: Path, open_page: Open) -> None:
    file = tmp_path / "projects.db"
    app = make(database=file, busy_timeout=0.1)
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            try_to_create(page, "x", "The database is busy. Nothing was changed; try again")
        button(page, "Create").click()
        expect(page.get_by_role("status")).to_have_text("Created x. 2 projects shown")


def test_a_database_out_of_reach_is_told_with_try_again(tmp_path: Path, open_page: Open) -> None:
    file = tmp_path / "projects.db"
    app = make(["x"], database=file)
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        expect(page.get_by_role("status")).to_have_text("2 projects shown")
        file.rename(tmp_path / "away")
        page.get_by_label("Search").fill("x")
        expect(page.get_by_role("alert")).to_have_text(
            "The database does not answer. Nothing was changed; see the server's log. Try again later."
        )
        (tmp_path / "away").rename(file)
        button(page, "Try again").click()
        expect(page.get_by_role("status")).to_have_text("1 project shown")
        expect(page.get_by_role("alert")).to_have_count(0)


def test_a_server_that_was_stopped_and_started_again_is_found_again(open_page: Open) -> None:
    app = make(map(str, range(150)))
    with closing(app.store):
        with serving(app) as url:
            page = open_page(url)
            expect(page.get_by_role("status")).to_have_text("100 projects shown, more below")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        expect(page.get_by_role("alert")).to_have_text(UNREACHABLE)
        expect(page.get_by_role("status")).to_have_text("100 projects shown, more below")
        try_again = button(page, "Try again")
        try_again.click()
        expect(page.get_by_role("alert")).to_have_text(UNREACHABLE)
        page.evaluate("scrollTo(0, 0)")
        button(page, "New project").click()
        page.get_by_label("Name").fill("new")
        button(page, "Create").click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(UNREACHABLE)
        with serving(app, urlsplit(url).port or 0):
            button(page, "Create").click()
            expect(page.get_by_role("status")).to_have_text("Created new. 100 projects shown, more below")
            expect(page.get_by_role("alert")).to_have_count(0)
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            expect(page.get_by_role("status")).to_have_text("152 projects shown")


def test_an_answer_that_is_not_the_apis_is_called_so(open_page: Open) -> None:
    app = make()

    def host(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            return app(environ, start_response)
        start_response("502 Bad Gateway", [("Content-Type", "text/html"), ("Content-Length", "15")])
        return [b"<h1>Sorry.</h1>"]

    with closing(app.store), serving(host) as url:
        page = open_page(url)
        expect(page.get_by_role("alert")).to_have_text("This is no answer of the projects API: 502")
