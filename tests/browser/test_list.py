"""The list of the page: what it shows, and what it asks the server."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, expect

from .conftest import Open, Serve, make, names, serving


def count(page: Page) -> Any:
    return expect(page.get_by_role("status"))


def test_projects_are_listed_newest_first_with_their_number(serve: Serve, open_page: Open) -> None:
    page = open_page(serve("a", {"name": "b", "description": "first steps"}))
    count(page).to_have_text("3 projects shown")
    assert names(page) == ["b", "a", "default"]
    row = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="b", exact=True))
    expect(row).to_contain_text("first steps")
    expect(row.locator("code").first).to_have_text("UHJvamVjdDoz")
    assert page.title() == "Projects"


def test_further_pages_load_as_one_scrolls(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(*map(str, range(250))))
    count(page).to_have_text("100 projects shown, more below")
    for shown in ("200 projects shown, more below", "251 projects shown"):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        count(page).to_have_text(shown)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    assert names(page) == [*map(str, reversed(range(250))), "default"]


def test_a_button_shows_more_and_the_keyboard_goes_on_with_the_first_of_them(
    serve: Serve, open_page: Open
) -> None:
    page = open_page(serve(*map(str, range(150))))
    count(page).to_have_text("100 projects shown, more below")
    page.get_by_role("button", name="Show more").dispatch_event("click")  # without scrolling to it
    count(page).to_have_text("151 projects shown")
    expect(page.get_by_role("button", name="Edit 49", exact=True)).to_be_focused()


def test_a_search_asks_the_server_while_one_types_but_not_at_every_key(serve: Serve, open_page: Open) -> None:
    page = open_page(serve("my Agent", "other", *(f"filler {number}" for number in range(100))))
    count(page).to_have_text("100 projects shown, more below")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_label("Search").press_sequentially("agent", delay=10)
    count(page).to_have_text("1 project shown")
    assert names(page) == ["my Agent"]  # which was not on the first page
    assert [parse_qs(urlsplit(url).query)["name_contains"] for url in asked] == [["agent"]]
    page.get_by_label("Search").fill("%")
    count(page).to_have_text("0 projects shown")
    page.get_by_label("Search").fill("")
    count(page).to_have_text("100 projects shown, more below")


def test_more_of_a_search_is_more_of_it(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(*(f"{kind} {number}" for number in range(120) for kind in ("even", "odd"))))
    page.get_by_label("Search").fill("even")
    count(page).to_have_text("100 projects shown, more below")
    expect(page.get_by_role("heading", name="odd 119")).to_have_count(0)
    page.evaluate("document.querySelector('[type=search]').value = 'odd'")  # typed, and not searched for yet
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    count(page).to_have_text("120 projects shown")
    assert all(name.startswith("even") for name in names(page))


def test_an_older_answer_never_overwrites_a_newer_one(open_page: Open) -> None:
    app = make(["ab", "ac"])
    is_asked = {"a": threading.Event(), "ab": threading.Event()}
    may_be_answered = {"a": threading.Event(), "ab": threading.Event()}

    def slow(environ: Any, start_response: Any) -> Any:
        (text,) = parse_qs(environ["QUERY_STRING"]).get("name_contains", [""])
        if text:
            is_asked[text].set()
            may_be_answered[text].wait(10)
        return app(environ, start_response)

    with closing(app.store), serving(slow) as url:
        page = open_page(url)
        count(page).to_have_text("3 projects shown")
        for text in ("a", "ab"):
            page.get_by_label("Search").fill(text)
            page.wait_for_timeout(300)
            assert is_asked[text].wait(10)
            # What is asked for no more is no error either.
            count(page).to_have_text("3 projects shown")
            expect(page.get_by_role("alert")).to_be_hidden()
        may_be_answered["ab"].set()
        count(page).to_have_text("1 project shown")
        may_be_answered["a"].set()
        page.wait_for_timeout(300)
        assert names(page) == ["ab"]
        expect(page.get_by_role("alert")).to_be_hidden()


def test_check_boxes_list_the_other_kinds(serve: Serve, open_page: Open) -> None:
    page = open_page(
        serve({"name": "run", "kind": "experiment"}, {"name": "judge", "kind": "dataset_evaluator"})
    )
    for box, shown in (
        ("Experiments", ["run", "default"]),
        ("Dataset evaluators", ["judge", "run", "default"]),
    ):
        page.get_by_label(box).check()
        count(page).to_have_text(f"{len(shown)} projects shown")
        assert names(page) == shown
    page.get_by_label("Experiments").uncheck()
    count(page).to_have_text("2 projects shown")
    assert names(page) == ["judge", "default"]


def work_of_scrolling(page: Page, rows: int) -> float:
    """Return how long the page computes, in processor seconds, to scroll over rows in fifty frames.

    Other processes don't change that, as they would the time between two frames.
    """
    page.evaluate(
        """async rows => {
            while (document.querySelectorAll("li").length < rows) {
                scrollTo(0, document.body.scrollHeight);
                await new Promise(requestAnimationFrame);
            }
        }""",
        rows,
    )
    count(page).to_have_text(f"{rows:,} projects shown")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def work() -> float:
        began = worked()
        page.evaluate(
            """async () => {
                for (let frame = 0; frame < 50; frame++) {
                    scrollBy(0, frame < 25 ? -500 : 500);
                    await new Promise(requestAnimationFrame);
                }
            }"""
        )
        return worked() - began

    return min(work() for _ in range(2))


def test_ten_thousand_projects_scroll_as_smoothly_as_a_thousand(serve: Serve, open_page: Open) -> None:
    def work(rows: int) -> float:
        return work_of_scrolling(open_page(serve(*(f"project {number}" for number in range(rows - 1)))), rows)

    assert work(10_000) < 2 * work(1_000)  # were all of them drawn, it would be more than three times as much
