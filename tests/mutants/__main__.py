"""Changes the code of a room in small ways, one at a time, and shows which changes no test notices.

The mutants are mutmut's; see `make mutants`. All that it writes is left in build/mutants.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BUILD = REPOSITORY / "build" / "mutants"

# What other processes do does not count for this one.
WITHOUT_SOCKETS = "not over_a_socket and not linear_time"

# What depends on the moment tells nothing of a mutant, all the less while others are tested beside it.
WITHOUT_RACES = "not no_moment and not reads_are_quick and not ten_thousand and not log_that_goes"

# The tests that are quick and about a room, as pytest's arguments.
ROOMS = {
    "wire": ["tests/test_wire.py", "tests/test_app.py", "tests/test_recorded.py", "-k", WITHOUT_SOCKETS],
    "router": ["tests/test_app.py"],
    "wsgi": ["tests/test_app.py"],
    "http1": ["tests/test_http1.py", "-k", "not tiny_chunks"],
    "auth": ["tests/test_auth.py"],
    "keys": [
        "tests/test_keys.py",
        "tests/test_auth.py",
        "tests/faults/test_permissions.py::test_a_keys_file_that_is_mounted_alone_is_not_changed_there",
    ],
    "storage/pool": [
        "tests/test_pool.py",
        "tests/test_storage.py",
        "tests/promises/test_busy.py",
        "tests/promises/test_companions.py::test_nothing_is_acknowledged_after_a_file_was_lost",
        "tests/promises/test_fork.py",
        "-k",
        WITHOUT_RACES,
    ],
    "storage/__init__": [
        "tests/test_storage.py",
        "tests/test_transfer.py",
        "tests/test_options.py",
        "tests/promises/test_host.py",
    ],
}

CONFIGURATION = """
[mutmut]
source_paths = projects_wsgi
only_mutate = projects_wsgi/{room}.py
pytest_add_cli_args =
    -p
    no:cacheprovider
    --hypothesis-seed=0
pytest_add_cli_args_test_selection =
    {tests}
# Each mutant begins with the caches empty.
process_isolation = forkserver
timeout_constant = 3
timeout_multiplier = 3
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("rooms", nargs="*", default=list(ROOMS), help=" ".join(ROOMS))
    parser.add_argument("--children", type=int, default=2, help="how many run at a time")
    parser.add_argument("--every", type=int, default=1, help="3 judges every third mutant, to look sooner")
    arguments = parser.parse_args()
    for room in arguments.rooms:
        if room not in ROOMS:
            parser.error(f"no room is called {room!r}")
    for room in arguments.rooms:
        prepare(room)
        counts = [str(arguments.children), str(arguments.every)]
        command = [sys.executable, REPOSITORY / "tests/mutants/run.py", *counts]
        began = time.monotonic()
        environment = {**os.environ, "HYPOTHESIS_EXAMPLES": "50"}
        with open(BUILD / f"{room.replace('/', '-')}.log", "w") as log:
            subprocess.run(command, cwd=BUILD / room, env=environment, stdout=log, stderr=log, check=True)
        print(f"\n{room}: {time.monotonic() - began:.0f} s")
        print((BUILD / room / "survivors").read_text())
    print_table(arguments.rooms)


def prepare(room: str) -> None:
    """Make the folder in which mutmut works: it wants one with nothing else in it."""
    folder = BUILD / room
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("projects_wsgi", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    configuration = CONFIGURATION.format(room=room, tests="\n    ".join(ROOMS[room]))
    (folder / "setup.cfg").write_text((REPOSITORY / "setup.cfg").read_text() + configuration)


def print_table(rooms: Iterable[str]) -> None:
    """Print how many mutants of each room were killed, and how many survived."""
    print(f"{'room':<18}{'mutants':>8}{'killed':>8}{'timeout':>8}{'survived':>9}{'killed %':>9}")
    for room in rooms:
        outcomes = json.loads((BUILD / room / "outcomes.json").read_text())
        total = sum(outcomes.values())
        killed, timeout = outcomes.get("killed", 0), outcomes.get("timeout", 0)
        share = 100 * (killed + timeout) / total
        print(f"{room:<18}{total:>8}{killed:>8}{timeout:>8}{total - killed - timeout:>9}{share:>9.1f}")


if __name__ == "__main__":
    main()
