"""Moves the projects of the real Phoenix into a database of ours, and compares both servers.

Run by `make test-phoenix`, in a virtual environment of its own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from ..support.process import Process, Server, run, running_server
from .server import Phoenix, running_phoenix

WILD_NAMES = (
    *(" ", "  padded  ", "\t", "line\r\nbreak", "\0", "nul\0inside", "\x7f", "\x80\x9f", "\u2028"),
    *("a/b", "/", "//", ".", "..", "a%2Fb", "100%", "under_score", "a*b", "?q=1#f", "a+b", "a&b=c"),
    *('"quoted"', "it's", "back\\slash", "<b>bold</b>", "${x}", "'; DROP TABLE projects; --"),
    *(
        "Ünïcode",
        "ÜNÏCODE",
        "é",
        "e\u0301",
        "straße",
        "項目",
        "🎉 party",
        "👩‍👩‍👧",
        "\u202etfel",
        "\uffff",
        "\U0010ffff",
    ),
    *("Default", "Project:1", "UHJvamVjdDo=", "UHJvamVjdDoxLjA=", "null", "playground", "x" * 10_000),
)
DESCRIPTIONS = (None, "", "plain", " nul\0, line\nbreak, 🎉, \U0010ffff ", "long " * 2_000)

KINDS = [
    dict.fromkeys(included, "true")
    for included in itertools.chain.from_iterable(
        itertools.combinations(("include_experiment_projects", "include_dataset_evaluator_projects"), count)
        for count in range(3)
    )
]
kinds = pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: " and ".join(kinds) or "standard")


def post(server: Server, path: str, document: Any) -> Any:
    status, _, text = server.ask("POST", path, document)
    assert status == 200, text
    return json.loads(text)["data"]


def fill(phoenix: Phoenix) -> None:
    """Make projects of every kind, as their users would."""
    upload = {"name": "questions", "action": "create", "inputs": [{"q": "?"}], "outputs": [{"a": "!"}]}
    dataset = post(phoenix, "/v1/datasets/upload?sync=true", upload)["dataset_id"]
    ids = []
    for number, name in enumerate([*WILD_NAMES, *(f"project {number}" for number in range(200))]):
        document = {"name": name, "description": DESCRIPTIONS[number % len(DESCRIPTIONS)]}
        ids.append(post(phoenix, "/v1/projects", document)["id"])
        if number % 15 == 0:
            post(phoenix, f"/v1/datasets/{dataset}/experiments", {"name": f"experiment {number}"})
        if number % 25 == 0:
            create_evaluator(phoenix, dataset, f"evaluator-{number}")
    for id_ in ids[60::40]:
        assert phoenix.ask("DELETE", f"/v1/projects/{id_}")[0] == 204
    assert phoenix.ask("PUT", "/v1/projects/default", {"description": "What came first"})[0] == 200


def create_evaluator(phoenix: Phoenix, dataset: str, name: str) -> None:
    """Have the exact matches in a dataset counted; Phoenix makes a project for that."""
    evaluators = post(phoenix, "/graphql", {"query": "{ builtInEvaluators { id } }"})["builtInEvaluators"]
    mutation = """
        mutation ($input: CreateDatasetBuiltinEvaluatorInput!) {
            createDatasetBuiltinEvaluator(input: $input) { evaluator { id } }
        }
    """
    variables = {
        "datasetId": dataset,
        "evaluatorId": evaluators[0]["id"],
        "name": name,
        "inputMapping": {"literalMapping": {}, "pathMapping": {}},
    }
    assert post(phoenix, "/graphql", {"query": mutation, "variables": {"input": variables}}) is not None


@pytest.fixture(scope="module")
def phoenix() -> Iterator[Phoenix]:
    """A Phoenix that holds projects of every kind."""
    with running_phoenix() as phoenix:
        fill(phoenix)
        yield phoenix


def source_of(phoenix: Phoenix, kind: str) -> str:
    return str(phoenix.file) if kind == "file" else f"http://{phoenix.host}:{phoenix.port}"


sources = pytest.mark.parametrize("source", ["file", "http"])


@pytest.fixture(scope="module", params=["file", "http"])
def ours(
    request: pytest.FixtureRequest, phoenix: Phoenix, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """A server of ours, over what was imported from Phoenix while it ran."""
    folder = tmp_path_factory.mktemp("ours")
    result = run("import", source_of(phoenix, request.param), "--db", "projects.db", cwd=folder)
    assert result.returncode == 0, result.stderr
    with running_server("--quiet", "--db", "projects.db", cwd=folder) as server:
        yield server


def pages(server: Server, **parameters: object) -> Iterator[str]:
    """Return the pages of a server, as they came."""
    while True:
        status, _, text = server.ask("GET", f"/v1/projects?{urlencode(parameters)}")
        assert status == 200, text
        yield text
        parameters["cursor"] = json.loads(text)["next_cursor"]
        if parameters["cursor"] is None:
            return


def projects(server: Server, **parameters: object) -> list[dict[str, Any]]:
    return [project for page in pages(server, **parameters) for project in json.loads(page)["data"]]


def test_phoenix_holds_projects_of_each_kind(phoenix: Phoenix) -> None:
    standard, experiment, evaluator, both = (len(projects(phoenix, **kinds)) for kinds in KINDS)
    assert standard > 200
    assert experiment > standard + 10
    assert evaluator > standard + 5
    assert both == experiment + evaluator - standard


@kinds
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_every_page_is_the_same(phoenix: Phoenix, ours: Process, limit: int, kinds: dict[str, str]) -> None:
    assert list(pages(ours, limit=limit, **kinds)) == list(pages(phoenix, limit=limit, **kinds))


@kinds
@pytest.mark.parametrize(
    "text",
    [
        "project 1",
        "PROJECT",
        "e",
        "ünï",
        "é",
        "%",
        "_",
        "*",
        "/",
        "\\",
        "'",
        "\0",
        " ",
        "🎉",
        "experiment-",
        "-",
    ],
)
def test_every_search_finds_the_same(
    phoenix: Phoenix, ours: Process, text: str, kinds: dict[str, str]
) -> None:
    found = list(pages(phoenix, limit=7, name_contains=text, **kinds))
    assert list(pages(ours, limit=7, name_contains=text, **kinds)) == found


def test_every_project_has_its_id_and_its_name(phoenix: Phoenix, ours: Process) -> None:
    for project in projects(phoenix, **KINDS[-1]):
        identifiers = [project["id"], project["name"]]
        # Phoenix itself reaches no name with a slash.
        for identifier in identifiers if "/" not in project["name"] else identifiers[:1]:
            path = "/v1/projects/" + quote(identifier, safe="")
            status, _, text = ours.ask("GET", path)
            assert (status, text) == phoenix.ask("GET", path)[::2]
            assert json.loads(text) == {"data": project}


def test_the_next_project_has_the_id_that_phoenix_would_give(phoenix: Phoenix, ours: Process) -> None:
    document = {"name": f"next, beside port {ours.port}"}
    assert post(ours, "/v1/projects", document) == post(phoenix, "/v1/projects", document)


def test_the_file_in_use_is_left_as_it_was(phoenix: Phoenix, tmp_path: Path) -> None:
    files = [phoenix.file, phoenix.file.with_name(phoenix.file.name + "-wal")]
    before = [file.read_bytes() for file in files], sorted(phoenix.file.parent.iterdir())
    result = run("import", str(phoenix.file), "--db", "projects.db", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert ([file.read_bytes() for file in files], sorted(phoenix.file.parent.iterdir())) == before


@pytest.fixture
def id_like_name(phoenix: Phoenix) -> Iterator[str]:
    """The name of a project in Phoenix that reads as the id of another."""
    name = "UHJvamVjdDox"
    id_ = post(phoenix, "/v1/projects", {"name": name})["id"]
    yield name
    assert phoenix.ask("DELETE", f"/v1/projects/{id_}")[0] == 204


@sources
def test_a_name_that_reads_as_an_id_is_refused_or_left_behind(
    phoenix: Phoenix, id_like_name: str, source: str, tmp_path: Path
) -> None:
    command = ("import", source_of(phoenix, source), "--db", "projects.db")
    refused = run(*command, cwd=tmp_path)
    assert refused.returncode == 2
    assert id_like_name in refused.stderr

    skipped = run(*command, "--skip-invalid", cwd=tmp_path)
    assert skipped.returncode == 0, skipped.stderr
    everything = projects(phoenix, **KINDS[-1])
    with running_server("--quiet", "--db", "projects.db", cwd=tmp_path) as ours:
        assert projects(ours, **KINDS[-1]) == [it for it in everything if it["name"] != id_like_name]
