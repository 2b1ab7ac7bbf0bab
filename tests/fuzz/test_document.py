"""Schemathesis, with all that it has, against the running server: the document is true.

Run by `make test-fuzz`, in a virtual environment of its own. FUZZ_EXAMPLES says how many requests
each operation gets and how many scenarios are played, FUZZ_SEED which ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import ensure_resource_availability

from projects_wsgi import SQLiteStore
from tests.support.databases import connect
from tests.support.process import Process, environment, running_server

EXAMPLES = int(os.environ["FUZZ_EXAMPLES"])
SEED = int(os.environ["FUZZ_SEED"])
CONFIG = Path(__file__).with_name("schemathesis.toml")
PHASES = ("examples", "coverage", "fuzzing")


def document_url(process: Process) -> str:
    return f"http://{process.host}:{process.port}/openapi.json"


def test_every_operation_does_what_the_document_says(tmp_path: Path) -> None:
    with running_server("--quiet", cwd=tmp_path) as process:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", document_url(process), "--checks", "all", "--mode", "all", "--phases", ",".join(PHASES)),
            *("--max-examples", str(EXAMPLES), "--seed", str(SEED), "--continue-on-failure"),
            *("--report-json-path", "report.json"),
        ]
        result = subprocess.run(command, cwd=tmp_path, env=environment())
    assert (result.returncode, process.log) == (0, "")
    # Nothing was left out.
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [report["phases"][phase]["status"] for phase in PHASES] == ["success"] * len(PHASES)
    assert report["operations"]["tested"] == report["operations"]["total"] > 0


def test_every_link_leads_where_the_document_says(tmp_path: Path) -> None:
    """The stateful phase; each scenario starts from the same store, lest its replay take another course.

    Where it does, the command ends the phase early and calls that a success.
    """
    followed: set[str] = set()
    file = tmp_path / "projects.db"
    with closing(SQLiteStore(file)) as store:
        for name in ("a", "b", "c"):
            store.create(name)
    with (
        running_server("--quiet", "--max-page-size", "1", cwd=tmp_path) as process,
        connect(file) as database,
        connect(Path(":memory:")) as fresh_database,
    ):
        database.backup(fresh_database)
        document = schemathesis.openapi.from_url(
            document_url(process), config=schemathesis.Config.from_path(CONFIG)
        )

        @hypothesis.seed(SEED)
        class Scenario(document.as_state_machine()):
            def setup(self) -> None:
                fresh_database.backup(database)
                self.projects: dict[str, set[str]] = {}  # by either identifier, both
                self.gone: set[str] = set()

            def step(self, start: Any) -> Any:
                output = super().step(start)
                if start.is_applied and output.response.status_code < 300:
                    followed.add(start.transition.id)
                return output

            def after_call(self, response: Any, case: Any) -> None:
                super().after_call(response, case)
                if (case.method, response.status_code) == ("POST", 200):
                    project = response.json()["data"]
                    both = {project["id"], project["name"]}
                    self.projects.update(dict.fromkeys(both, both))
                    self.gone -= both
                elif (case.method, response.status_code) == ("DELETE", 204):
                    self.gone |= self.projects.get(identifier(case), set())

            def validate_response(self, response: Any, case: Any, **_: Any) -> None:
                # Schemathesis does not know that a project is gone by its name when it is by its id.
                is_gone = identifier(case) in self.gone
                assert not (is_gone and case.method == "GET") or response.status_code == 404
                excluded = [ensure_resource_availability] if is_gone else []
                case.validate_response(response, excluded_checks=excluded, recorder=self.recorder)

        Scenario.run(
            settings=hypothesis.settings(
                max_examples=EXAMPLES,
                stateful_step_count=10,
                deadline=None,
                database=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
        )
    assert process.log == ""
    links = [
        name
        for response in document.raw_schema["components"]["responses"].values()
        for name in response.get("links", ())
    ]
    assert [name for name in links if not any(f" {name} -> " in id_ for id_ in followed)] == []
    assert len(links) == 7


def identifier(case: Any) -> str:
    return unquote(str((case.path_parameters or {}).get("project_identifier", "")))
