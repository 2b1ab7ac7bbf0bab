"""The official TypeScript client, unmodified, in a page of another origin.

Run by `make test-browser`, in a virtual environment of its own; npm brings the client, and what bundles it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from .elsewhere import serving_page, serving_target

PACKAGES = ["@arizeai/phoenix-client@6.14.2", "esbuild@0.28.2"]
OTHER = "https://app.example"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A script that makes the client's createClient global."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "package.json").write_text("{}")
    (folder / "entry.js").write_text(
        'import { createClient } from "@arizeai/phoenix-client";\nglobalThis.createClient = createClient;\n'
    )
    # Without its peers: those are for experiments.
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--legacy-peer-deps", *PACKAGES]
    subprocess.run(install, cwd=folder, check=True, timeout=300)
    esbuild = [
        "node_modules/.bin/esbuild",
        "entry.js",
        "--bundle",
        "--platform=browser",
        "--log-level=warning",
    ]
    return subprocess.run(esbuild, cwd=folder, check=True, timeout=60, stdout=subprocess.PIPE).stdout


@pytest.fixture
def page(browser: Browser, bundle: bytes) -> Iterator[Page]:
    """A page that has loaded the client, at an origin of its own."""
    context = browser.new_context()
    page = context.new_page()
    with serving_page({"/client.js": bundle}) as port:
        page.goto(f"http://localhost:{port}/")
        yield page
        context.close()


def origin(page: Page) -> str:
    return page.url.rstrip("/")


def role_of_key(environ: dict[str, Any]) -> str | None:
    """Take the role itself for a key."""
    return environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ") or None


# Takes the URL and a key, and returns what each call became: its data, or the error's status and text.
CALLS = """
async ([baseUrl, key]) => {
    const client = createClient({options: {baseUrl, headers: key ? {Authorization: `Bearer ${key}`} : {}}});
    const path = identifier => ({params: {path: {project_identifier: identifier}}});
    const calls = {
        create: () => client.POST('/v1/projects', {body: {name: 'a/b ü', description: 'first'}}),
        again: () => client.POST('/v1/projects', {body: {name: 'a/b ü'}}),
        wrong: () => client.POST('/v1/projects', {body: {name: ''}}),
        list: () => client.GET('/v1/projects', {params: {query: {limit: 1}}}),
        get: () => client.GET('/v1/projects/{project_identifier}', path('a/b ü')),
        update: () => client.PUT('/v1/projects/{project_identifier}',
            {...path('a/b ü'), body: {description: 'second'}}),
        delete: () => client.DELETE('/v1/projects/{project_identifier}', path('a/b ü')),
        gone: () => client.GET('/v1/projects/{project_identifier}', path('a/b ü')),
        protected: () => client.DELETE('/v1/projects/{project_identifier}', path('default')),
        large: () => client.POST('/v1/projects', {body: {name: 'x'.repeat(2_000_000)}}),
        nowhere: () => client.GET('/v1/datasets'),
        version: async () => ({data: (await client.getServerVersion()).join('.')}),
    };
    const results = {};
    for (const [name, call] of Object.entries(calls)) {
        try {
            results[name] = (await call()).data ?? null;
        } catch (error) {
            results[name] = error.name === 'HttpError'
                ? [error.status, await error.response.text()]
                : error.name;
        }
    }
    return results;
}
"""


@pytest.mark.parametrize("key", [None, "admin"])
def test_a_page_of_an_allowed_origin_can_do_all_and_read_every_error(page: Page, key: str | None) -> None:
    authenticate = role_of_key if key else None
    with serving_target(allowed_origins=[OTHER, origin(page)], authenticate=authenticate) as target:
        results = page.evaluate(CALLS, [target.url, key])
    made = {"name": "a/b ü", "description": "first", "id": "UHJvamVjdDoy"}
    assert results == {
        "create": {"data": made},
        "again": [409, "Project with name a/b ü already exists"],
        "wrong": [422, results["wrong"][1]],
        "list": {"data": [made], "next_cursor": "UHJvamVjdDox"},
        "get": {"data": made},
        "update": {"data": {**made, "description": "second"}},
        "delete": None,
        "gone": [404, "Project with name a/b ü not found"],
        "protected": [403, "The default project cannot be deleted"],
        "large": [413, "The body is larger than 1048576 bytes"],
        "nowhere": [404, "Not Found"],
        "version": "20.26.1",
    }
    assert "String should have at least 1 character" in results["wrong"][1]
    # The version came with the first answer: who may read its header need not ask for it.
    assert "/arize_phoenix_version" not in {path for _, path, _ in target.requests}


@pytest.mark.parametrize(
    ("key", "outcome"),
    [
        (None, [401, "Invalid token"]),
        ("viewer", [403, "Viewers cannot perform this action."]),
    ],
)
def test_it_can_read_that_it_needs_a_key_or_another(page: Page, key: str | None, outcome: list[Any]) -> None:
    with serving_target(allowed_origins=[origin(page)], authenticate=role_of_key) as target:
        results = page.evaluate(CALLS, [target.url, key])
        assert results["create"] == results["delete"] == outcome
        assert target.changes == []


@pytest.mark.parametrize("allowed_origins", [None, [OTHER]])
@pytest.mark.parametrize("key", [None, "admin"])
def test_a_page_of_any_other_origin_can_do_and_read_nothing(
    page: Page, allowed_origins: list[str] | None, key: str | None
) -> None:
    authenticate = role_of_key if key else None
    with serving_target(allowed_origins=allowed_origins, authenticate=authenticate) as target:
        results = page.evaluate(CALLS, [target.url, key])
        version = results.pop("version")
        assert target.changes == []
    assert set(results.values()) == {"TypeError"}
    assert version == "Error"


def test_a_refused_host_is_told_to_an_allowed_origin(page: Page) -> None:
    with serving_target(allowed_origins=[origin(page)]) as target:
        url = target.url.replace("127.0.0.1", "phoenix.example")
        status, text = page.evaluate(CALLS, [url, None])["list"]
    assert status == 403
    assert "--allowed-hosts phoenix.example" in text
