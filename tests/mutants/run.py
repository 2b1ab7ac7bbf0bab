"""Runs mutmut in the current folder, whose setup.cfg says what is changed and tested.

Leaves the counts of outcomes in outcomes.json, and what was changed without notice in survivors.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import libcst
import mutmut.__main__
import pytest
from _pytest.config import _prepareconfig
from mutmut.mutation import file_mutation
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import change_cwd, walk_mutatable_files
from mutmut.utils.format_utils import mangled_name_from_mutant_name
from mutmut.workers import isolation


def main(children: int, every: int) -> None:
    """Run mutmut; unlike mutmut alone, change decorated functions as well. every: 3 is every third mutant."""
    collect = mutmut.__main__.collect_source_file_mutation_data
    skip = file_mutation.MutationVisitor._skip_node_and_children
    arrange = file_mutation.function_trampoline_arrangement

    def collect_some(**names: Any) -> Any:
        mutants, data = collect(**names)
        return mutants[::every], data

    def skip_all_but_functions(self: Any, node: Any) -> bool:
        return not isinstance(node, libcst.FunctionDef) and skip(self, node)

    def arrange_bare(function: Any, mutants: Any, class_name: Any) -> Any:
        """Decorate what chooses between the mutants, and not each of them."""
        bare = function.with_changes(decorators=[])
        before, (chooser, *others), after, names = arrange(bare, mutants, class_name)
        chooser = chooser.with_changes(decorators=[*function.decorators, *chooser.decorators])
        return before, [chooser, *others], after, names

    mutmut.__main__.collect_source_file_mutation_data = collect_some
    file_mutation.MutationVisitor._skip_node_and_children = skip_all_but_functions
    file_mutation.function_trampoline_arrangement = arrange_bare
    isolation.PytestRunner = QuickRunner
    state().tests_by_mangled_function_name = TestsByFunction(set)
    mutmut.__main__._run((), children)
    (path,) = walk_mutatable_files()
    data = SourceFileMutationData(path=path)
    data.load()
    outcomes = {
        mutant: status_by_exit_code[code]
        for mutant, code in data.exit_code_by_key.items()
        if code is not None
    }
    Path("outcomes.json").write_text(json.dumps(Counter(outcomes.values())))
    with open("survivors", "w") as file:
        for mutant, outcome in outcomes.items():
            if outcome not in ("killed", "timeout"):
                print(f"{mutant}: {outcome}", *find_changes(mutant), sep="\n", file=file)


def find_changes(mutant: str) -> list[str]:
    """Return the lines that a mutant changes, as a diff shows them."""
    return [line for line in get_diff_for_mutant(mutant).splitlines() if re.match(r"[-+](?![-+])", line)]


class TestsByFunction(defaultdict[str, set[str]]):
    """Has those tests judge each function too whose processes may reach it.

    They are promises, and tests that reach nothing in their own process.
    """

    def get(self, function: str, default: Any = None) -> Any:
        reaching = set().union(*self.values())
        tests = state().duration_by_test
        return self[function] | {test for test in tests if "/promises/" in test or test not in reaching}


class QuickRunner(PytestRunner):
    """Collects the tests once for all mutants.

    Begins with those that have killed other mutants of the same function; the quick ones come next.
    """

    session: pytest.Session | None = None
    killer = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.killer = report.nodeid

    def warm_up(self) -> None:
        with change_cwd("mutants"):
            # Without what explains a failure, which nobody reads. With -s, for what pytest captures would be
            # one file for all processes.
            quick = ["-s", "--tb=no", "--assert=plain", "--no-summary"]
            arguments = [*self._pytest_args_regular_run([]), *quick, *self._pytest_add_cli_args]
            config = _prepareconfig(arguments)
            config.pluginmanager.register(self)
            config._do_configure()
            self.session = pytest.Session.from_config(config)
            config.hook.pytest_sessionstart(session=self.session)
            config.hook.pytest_collection(session=self.session)
        gc.collect()
        gc.freeze()  # so that the processes go on sharing this memory

    def run_stats(self, *, tests: Iterable[str]) -> int:
        del os.environ["MUTANT_UNDER_TEST"]  # processes that tests start cannot count for this one
        return int(super().run_stats(tests=tests))

    def run_forced_fail(self) -> int:
        return int(super().run_tests(mutant_name=None, tests=[]))

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        if self.session is None:
            self.warm_up()
        session = self.session
        assert session is not None
        durations = state().duration_by_test
        wanted = set(tests) or set(durations)
        session.items = [item for item in session.items if item.nodeid in wanted]
        with open("killers", "a+") as file:  # each line a function and a test, as JSON
            file.seek(0)
            function = mangled_name_from_mutant_name(mutant_name) if mutant_name else None
            killers = Counter(killer for name, killer in map(json.loads, file) if name == function)
            session.items.sort(key=lambda item: (-killers[item.nodeid], durations[item.nodeid]))
            self._run_items(session)
            if self.killer:
                print(json.dumps([function, self.killer]), file=file)
        return int(session.testsfailed > 0)

    def _run_items(self, session: pytest.Session) -> None:
        with tempfile.TemporaryDirectory() as tempfile.tempdir, change_cwd("mutants"):
            os.chmod(tempfile.tempdir, 0o755)  # some tests let another user in
            with contextlib.suppress(session.Failed):
                session.config.hook.pytest_runtestloop(session=session)
            session.config.hook.pytest_sessionfinish(session=session, exitstatus=0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
