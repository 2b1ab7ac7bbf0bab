"""Pages of other people, in a real browser, reach nothing.

Run by `make test-browser`, in a virtual environment of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from .elsewhere import Target, serving_page, serving_target


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


# A name that is bound again

READ = "fetch('/v1/projects').then(async answer => [answer.status, await answer.text()])"
WRITE = """
fetch('/v1/projects', {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{"name": "theirs"}'
}).then(answer => answer.status)
"""


@pytest.mark.parametrize("allowed_hosts", [None, ["evil.example"]])
@pytest.mark.parametrize(
    "name", ["evil.example", "EVIL.example.", "evil%2Eexample", "localhost.evil.example"]
)
def test_a_page_whose_name_is_bound_to_this_machine_once_it_is_loaded_reads_and_changes_nothing(
    page: Page, name: str, allowed_hosts: list[str] | None
) -> None:
    with serving_page() as port:
        page.goto(f"http://{name}:{port}/")
    # What listens there now is not theirs, and the browser cannot know.
    with serving_target(port=port, allowed_hosts=allowed_hosts) as target:
        status, text = page.evaluate(READ)
        made = page.evaluate(WRITE)
    if allowed_hosts and "localhost" not in name:  # so the attack would work
        assert (status, made, target.changes) == (200, 200, ["created"])
        return
    assert (status, made, target.changes, target.requests) == (403, 403, [], [])
    assert "--allowed-hosts" in text
    assert "default" not in text


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "theirs.localhost", "127.0.0.1", "127.0.0.1."),
        # The browser makes the same address of all these.
        *(
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "127%2E0.0.1",
            "127\u30020\u30020\u30021",
        ),
    ],
)
def test_whatever_is_an_address_or_nobodys_name_to_a_browser_is_served(page: Page, host: str) -> None:
    with serving_target() as target:
        answer = page.goto(f"http://{host}:{target.server.port}/v1/projects")
        assert answer is not None
        assert answer.status == 200


# What a page may send without being asked

STRANGER = "evil.example"
# As a part of each, so that what reads any of them as JSON would make or delete a project.
SIMPLE_REQUESTS = """
async url => {
    const json = '{"name":"theirs","description":"x"}';
    const collection = url + '/v1/projects', project = collection + '/mine';
    const typed = {'Content-Type': 'application/json'};
    const outcomes = [];
    const attempt = (what, promise) => promise.then(
        answer => outcomes.push([what, answer.type]), error => outcomes.push([what, error.name]));
    const wait = (element, parent = document.body) => new Promise(done => {
        element.onload = element.onerror = done;
        parent.append(element);
    });
    for (const action of [collection, project])
        for (const enctype of ['application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain']) {
            const frame = document.createElement('iframe');
            frame.name = `frame-${action}-${enctype}`;
            await wait(frame);
            const form = document.createElement('form');
            Object.assign(form, {action, enctype, method: 'POST', target: frame.name});
            for (const [name, value] of
                    [['{"name":"theirs","description":"', '"}'], ['name', 'theirs'], ['_method', 'DELETE']]) {
                const field = document.createElement('input');
                Object.assign(field, {name, value});
                form.append(field);
            }
            document.body.append(form);
            const loaded = new Promise(done => frame.onload = done);
            form.submit();
            await loaded;
        }
    const bodies = {
        text: json,
        untyped: new Blob([json]),
        typed: new Blob([json], {type: 'text/plain;x=application/json'}),
        tricky: new Blob([json], {type: 'text/plain; application/json'}),
        buffer: new TextEncoder().encode(json),
        fields: new URLSearchParams([[json, '']]),
        form: new FormData(),
        empty: '',
    };
    for (const [what, body] of Object.entries(bodies)) {
        for (const headers of [{}, {...typed, 'X-HTTP-Method-Override': 'DELETE'}])
            for (const action of [collection, project])
                await attempt(what, fetch(action, {method: 'POST', mode: 'no-cors', body, headers}));
        navigator.sendBeacon(collection, body);
    }
    navigator.sendBeacon(collection, new Blob([json], {type: 'application/json'}));
    for (const method of ['PUT', 'DELETE', 'PATCH']) {
        await attempt('no-cors ' + method, fetch(project, {method, mode: 'no-cors'}));
        await attempt('cors ' + method, fetch(project, {method, body: json, headers: typed}));
    }
    await attempt('cors JSON', fetch(collection, {method: 'POST', body: json, headers: typed}));
    await attempt('cors text', fetch(collection, {method: 'POST', body: json}));
    await attempt('cors GET', fetch(collection));
    for (const [tag, attribute] of [['img', 'src'], ['script', 'src'], ['link', 'href'], ['iframe', 'src']]) {
        const element = document.createElement(tag);
        element.rel = 'stylesheet';
        element[attribute] = project + '?_method=DELETE&name=theirs';
        await wait(element);
    }
    await new Promise(done => new EventSource(collection).onerror = done);
    await new Promise(done => new WebSocket(collection.replace('http', 'ws')).onerror = done);
    await fetch(url + '/healthz?last', {mode: 'no-cors'});
    return outcomes;
}
"""


def attack(page: Page, target: Target) -> list[list[str]]:
    """Send all from a stranger's page; return what its fetches became."""
    with serving_page() as port:
        page.goto(f"http://{STRANGER}:{port}/")
        outcomes: list[list[str]] = page.evaluate(SIMPLE_REQUESTS, target.url)
    return outcomes


@pytest.mark.parametrize("allowed_origins", [None, ["https://app.example"]])
def test_no_request_that_a_page_may_send_without_being_asked_changes_anything(
    page: Page, allowed_origins: list[str] | None
) -> None:
    with serving_target(allowed_origins=allowed_origins) as target:
        target.app.store.create("mine", "as it was")
        target.changes.clear()
        outcomes = attack(page, target)
        assert target.changes == []
        assert target.app.store.get("mine").description == "as it was"
    # They did arrive, but for those before which the browser asks.
    posts = {(path, kind.partition(";")[0]) for method, path, kind in target.requests if method == "POST"}
    kinds = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""]
    assert posts >= {(path, kind) for path in ("/v1/projects", "/v1/projects/mine") for kind in kinds}
    assert {method for method, _, _ in target.requests} == {"GET", "POST", "OPTIONS"}
    assert "application/json" not in {kind.partition(";")[0] for _, _, kind in target.requests}
    # And of none has the page seen the answer.
    assert {outcome for _, outcome in outcomes} == {"opaque", "TypeError"}
    assert all(outcome == "TypeError" for what, outcome in outcomes if "cors" in what)


def test_what_a_browser_asks_for_first_is_sent_where_every_origin_is_allowed(page: Page) -> None:
    with serving_target(allowed_origins=["*"]) as target:
        target.app.store.create("mine")
        target.changes.clear()
        outcomes = dict(attack(page, target))
    # So it is the preflight that stands between them and the projects.
    assert target.changes == ["updated", "deleted", "created"]
    assert outcomes["cors GET"] == "cors"
