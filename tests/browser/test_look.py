"""What the page looks like, to eyes, to a keyboard and to a screen reader."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from .conftest import Open, Serve, names
from .test_changes import button, create
from .test_errors import SECRET, sign_in, try_to_create

NASTY = (
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "</script><script>window.ran = 1</script>",
    "{{constructor.constructor('window.ran = 1')()}}",
    "javascript:window.ran=1",
    "\u202eright to left override",
    "\u0645\u0634\u0631\u0648\u0639 \u05e2\u05d1\u05e8\u05d9",
    "👩\u200d👩\u200d👧 e\u0301 🏳\ufe0f\u200d🌈",
    "Z\u0335\u0321\u0322\u031b\u0353" * 100,
    "one\ntwo\n\n\n\n\n\nthree",
    "W" * 5_000,
    "many words " * 450,
)
CONTROL = "nul\0 bell\x07 escape\x1b[31m delete\x7f next line\x85"


def test_nasty_texts_are_shown_as_what_they_are(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(*({"name": text, "description": text} for text in NASTY)))
    expect(page.get_by_role("status")).to_have_text(f"{len(NASTY) + 1} projects shown")
    assert names(page) == [*reversed(NASTY), "default"]
    assert page.locator("li p.text").all_text_contents() == [*reversed(NASTY), "Default project"]
    page.get_by_role("button", name="Delete").first.click()
    assert page.evaluate("[window.ran, document.querySelectorAll('li img, li script').length]") == [None, 0]


def test_control_characters_are_shown_by_pictures_and_what_cannot_be_seen_in_quotes(
    serve: Serve, open_page: Open
) -> None:
    blanks = ["  ", "\u200b", "\u3164\ufeff"]
    page = open_page(serve(*blanks, {"name": CONTROL, "description": CONTROL}, "\x07"))
    expect(page.get_by_role("status")).to_have_text("6 projects shown")
    shown = "nul␀ bell␇ escape␛[31m delete␦ next line␦"
    assert names(page) == ["␇", shown, *(f'"{blank}"' for blank in reversed(blanks)), "default"]
    assert page.locator("li p.text").all_text_contents()[1] == shown


@pytest.mark.parametrize("width", [320, 360, 1_100])
def test_the_layout_holds_whatever_the_texts_and_the_width(width: int, serve: Serve, open_page: Open) -> None:
    url = serve(*({"name": text, "description": text} for text in NASTY))
    page = open_page(url, viewport={"width": width, "height": 740})
    expect(page.get_by_role("status")).to_have_text(f"{len(NASTY) + 1} projects shown")

    def holds() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes: list[Any] = page.evaluate(
            """[...document.querySelectorAll("button, input, textarea, dialog")]
                .map((it) => it.getBoundingClientRect()).filter((box) => box.width)
                .map((box) => [box.left, box.right])"""
        )
        assert all(0 <= left < right <= width for left, right in boxes)

    holds()
    heights = page.evaluate("[...document.querySelectorAll('li')].map((it) => it.offsetHeight)")
    assert max(heights) < 300
    page.get_by_role("button", name="Edit").nth(3).click()
    holds()
    button(page, "Cancel").click()
    button(page, "New project").click()
    holds()
    button(page, "Cancel").click()
    page.get_by_role("button", name="Delete WWW").click()
    holds()
    expect(button(page, "Delete")).to_be_in_viewport()


def test_a_long_text_is_shown_whole_to_who_asks(serve: Serve, open_page: Open) -> None:
    page = open_page(serve({"name": "long", "description": "word " * 1_000}, {"name": "short"}))
    row = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="long"))
    before = (row.bounding_box() or {})["height"]
    expect(button(page, "Show all long")).to_have_attribute("aria-expanded", "false")
    button(page, "Show all long").press("Enter")
    expect(button(page, "Show all long")).to_have_attribute("aria-expanded", "true")
    assert (row.bounding_box() or {})["height"] > 5 * before
    button(page, "Show all long").press("Enter")
    assert (row.bounding_box() or {})["height"] == before
    expect(button(page, "Show all short")).to_be_hidden()


def find_faults(page: Page) -> list[str]:
    """Return what axe-core has to say against the page as it is now."""
    return [f"{fault['id']}: {fault['nodes'][0]['html']}" for fault in Axe().run(page).response["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, serve: Serve, open_page: Open) -> None:
    url = serve({"name": "long", "description": "word " * 1_000}, "x", NASTY[0], admin_secret=SECRET)
    page = open_page(url, color_scheme=scheme)
    sign_in(page, "wrong")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
    assert find_faults(page) == []
    sign_in(page, SECRET)
    expect(page.get_by_role("status")).to_have_text("4 projects shown")
    assert find_faults(page) == []
    try_to_create(page, "x", "Project with name x already exists")
    assert find_faults(page) == []
    button(page, "Cancel").click()
    button(page, "Edit x").click()
    assert find_faults(page) == []
    button(page, "Cancel").click()
    button(page, "Delete x").click()
    assert find_faults(page) == []


def test_the_keyboard_alone_does(serve: Serve, open_page: Open) -> None:
    page = open_page(serve("x"))
    expect(page.get_by_role("status")).to_have_text("2 projects shown")

    def go_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if (
                page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent")
                == name
            ):
                # Where one is must be seen.
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
                return
        raise AssertionError(f"no way to {name}")

    go_to("New project")
    page.keyboard.press("Enter")
    page.keyboard.type("typed")
    page.keyboard.press("Tab")
    page.keyboard.type("one")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Created typed. 3 projects shown")
    go_to("Edit typed")
    page.keyboard.press("Space")
    page.keyboard.press("End")
    page.keyboard.type(", two")
    go_to("Save")
    page.keyboard.press("Enter")
    expect(page.get_by_role("listitem").first).to_contain_text("one, two")
    page.keyboard.press("Tab")  # from Edit
    page.keyboard.press("Enter")
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Deleted typed. 2 projects shown")
    expect(button(page, "Edit x")).to_be_focused()


def test_a_screen_reader_is_told_what_is_what(serve: Serve, open_page: Open) -> None:
    page = open_page(serve("x"))
    expect(page.locator("body")).to_match_aria_snapshot(
        """
        - banner:
          - heading "Projects" [level=1]
          - button "New project"
          - search:
            - searchbox "Search"
            - checkbox "Experiments"
            - checkbox "Dataset evaluators"
          - status: 2 projects shown
        - main:
          - list "Projects":
            - listitem:
              - heading "x" [level=2]
              - button "Edit x"
              - button "Delete x"
              - paragraph:
                - button "Copy id x"
                - button "Copy Python x"
        """
    )
    button(page, "New project").click()
    expect(page.get_by_role("dialog", name="New project").get_by_role("textbox")).to_have_count(2)


def brightness(page: Page) -> int:
    color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))


def test_it_is_dark_where_the_system_is(serve: Serve, open_page: Open) -> None:
    page = open_page(serve(), color_scheme="light")
    assert brightness(page) > 700
    page.emulate_media(color_scheme="dark")
    assert brightness(page) < 150


def test_nothing_moves(serve: Serve, open_page: Open) -> None:
    # Not even for those who do not ask for reduced motion.
    page = open_page(serve("x"))
    create(page, "y")
    button(page, "Delete y").click()
    button(page, "Cancel").hover()
    assert page.evaluate("document.getAnimations().length") == 0
    moves = """
        (it) => it.transitionDuration !== "0s" || it.animationName !== "none" || it.scrollBehavior !== "auto"
    """
    styles = "[...document.querySelectorAll('*')].map((it) => getComputedStyle(it))"
    assert page.evaluate(f"{styles}.filter({moves}).length") == 0
