"""What people change with the page."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from projects_wsgi import ProjectNotFound

from .conftest import Open, Serve, make, names, serving


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def create(page: Page, name: str, description: str = "") -> None:
    button(page, "New project").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Description").fill(description)
    button(page, "Create").click()
    expect(dialog).to_have_count(0)


def delete(page: Page, name: str, typed: str) -> None:
    button(page, f"Delete {name}").click()
    page.get_by_label("Type").fill(typed)
    button(page, "Delete").click()


@pytest.mark.parametrize("prefix", ["", "/", "/phoenix", "/phoenix/", "/a b/é/"])
def test_a_stranger_makes_finds_describes_opens_and_deletes_a_project(prefix: str, open_page: Open) -> None:
    app = make(["other"])
    host: Any = app
    if prefix.strip("/"):
        host = DispatcherMiddleware(Flask(__name__), {prefix.rstrip("/").encode().decode("latin-1"): app})
    with closing(app.store), serving(host) as url:
        page = open_page(url + prefix, permissions=["clipboard-read"])
        create(page, "my agent", "first steps")
        expect(page.get_by_role("status")).to_have_text("Created my agent. 3 projects shown")
        assert names(page) == ["my agent", "other", "default"]
        page.get_by_label("Search").fill("AGENT")
        expect(page.get_by_role("status")).to_have_text("1 project shown")
        button(page, "Edit my agent").click()
        page.get_by_label("Description").fill("second steps")
        button(page, "Save").click()
        expect(page.get_by_role("listitem")).to_contain_text("second steps")
        project = app.store.get("my agent")
        assert project.description == "second steps"

        button(page, "Copy id my agent").click()
        assert page.evaluate("navigator.clipboard.readText()") == project.global_id
        button(page, "Copy Python my agent").click()
        line = page.evaluate("navigator.clipboard.readText()")
        namespace: dict[str, Any] = {}
        exec(line, namespace)  # with the official client
        assert namespace["project"]["name"] == "my agent"

        delete(page, "my agent", "my agent")
        expect(page.get_by_role("status")).to_have_text("Deleted my agent. 0 projects shown")
        with pytest.raises(ProjectNotFound):
            app.store.get("my agent")


def test_a_new_project_is_shown_whatever_was_searched_for(serve: Serve, open_page: Open) -> None:
    page = open_page(serve("old"))
    page.get_by_label("Search").fill("old")
    expect(page.get_by_role("status")).to_have_text("1 project shown")
    create(page, "new")
    expect(page.get_by_role("status")).to_have_text("Created new. 3 projects shown")
    assert names(page) == ["new", "old", "default"]


def test_a_project_without_a_description_has_none(open_page: Open) -> None:
    app = make()
    with closing(app.store), serving(app) as url:
        create(open_page(url), "plain")
        assert app.store.get("plain").description is None


@pytest.mark.parametrize("way", ["Escape", "Cancel"])
def test_nothing_is_changed_by_who_thinks_better_of_it(way: str, open_page: Open) -> None:
    app = make([{"name": "kept", "description": "as it was"}])
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        for opened, field in (("New project", "Name"), ("Edit kept", "Description"), ("Delete kept", "Type")):
            button(page, opened).click()
            page.get_by_label(field).fill("kept")
            page.keyboard.press(way) if way == "Escape" else button(page, way).click()
            expect(page.get_by_label(field)).to_have_count(0)
            expect(button(page, opened)).to_be_focused()
        expect(page.get_by_role("listitem").first).to_contain_text("as it was")
        assert [row[1:] for row in app.store.list_rows()] == [
            ("kept", "as it was"),
            ("default", "Default project"),
        ]


def test_a_description_can_be_emptied_and_saving_the_same_leaves_its_newlines(open_page: Open) -> None:
    app = make([{"name": "x", "description": "a\r\nb"}])
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        for typed, saved in (("a\nb", "a\r\nb"), ("a\nb\nc", "a\nb\nc"), ("", "")):
            button(page, "Edit x").click()
            page.get_by_label("Description").fill(typed)
            button(page, "Save").click()
            expect(button(page, "Edit x")).to_be_focused()
            assert app.store.get("x").description == saved


def test_what_is_typed_stays_when_the_list_is_shown_anew(open_page: Open) -> None:
    app = make(["x", "y"])
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        button(page, "Edit x").click()
        page.get_by_role("listitem").get_by_label("Description").fill("typed")
        create(page, "z")
        page.get_by_label("Search").fill("y")
        expect(page.get_by_role("status")).to_have_text("1 project shown")
        page.get_by_label("Search").fill("")
        expect(page.get_by_role("status")).to_have_text("4 projects shown")
        button(page, "Save").click()
        expect(button(page, "Edit x")).to_be_focused()
        assert app.store.get("x").description == "typed"
        create(page, "last")
        expect(button(page, "Save")).to_have_count(0)


def test_the_news_of_a_long_name_is_short(serve: Serve, open_page: Open) -> None:
    page = open_page(serve())
    create(page, "long " * 2_000)
    expect(page.get_by_role("status")).to_contain_text("2 projects shown")
    height: float = page.evaluate("document.querySelector('header').offsetHeight")
    assert height < 300


def test_a_project_is_deleted_only_once_its_name_is_typed(open_page: Open) -> None:
    app = make(["my agent"])
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        for typed in ("", "agent", "My agent"):
            delete(page, "my agent", typed)
            expect(page.get_by_role("alert")).to_have_text("What you typed is not the name")
            button(page, "Cancel").click()
        assert app.store.get("my agent").id == 2


def test_the_default_project_has_no_delete(serve: Serve, open_page: Open) -> None:
    page = open_page(serve("other"))
    expect(button(page, "Edit default")).to_be_visible()
    expect(button(page, "Delete other")).to_be_visible()
    expect(button(page, "Delete default")).to_be_hidden()


@pytest.mark.parametrize(
    "name",
    [
        "two\nlines",
        "nul\0 \x1b[31m",
        "  blanks   within  ",
        " ",
        "\u202e\u200f",
        "\u3164\u034f",
        "\u2800",
        "x" * 5_000,
        "👩\u200d💻 e\u0301",
    ],
    ids=ascii,
)
def test_a_name_that_no_keyboard_has_is_deleted_by_what_the_dialog_shows_of_it(
    name: str, open_page: Open
) -> None:
    app = make([name])
    with closing(app.store), serving(app) as url:
        page = open_page(url)
        page.get_by_role("button", name="Delete").first.click()
        shown = page.locator("dialog code").inner_text()
        assert 0 < len(shown) <= 40
        page.get_by_label("Type").fill(shown)
        button(page, "Delete").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert [row[0] for row in app.store.list_rows()] == [1]


def test_two_tabs_tell_what_the_other_one_has_done(serve: Serve, open_page: Open) -> None:
    url = serve("x")
    one, other = open_page(url), open_page(url)
    delete(one, "x", "x")
    expect(one.get_by_role("status")).to_have_text("Deleted x. 1 project shown")
    button(other, "Edit x").click()
    other.get_by_label("Description").fill("new")
    button(other, "Save").click()
    expect(other.get_by_role("alert")).to_have_text("Project with ID UHJvamVjdDoy not found")
    button(other, "Cancel").click()
    delete(other, "x", "x")
    expect(other.get_by_role("alert")).to_have_text("Project with ID UHJvamVjdDoy not found")
