"""Connections to PostgreSQL that are lost: a call that was under way may fail, and nothing else."""

from __future__ import annotations

import random
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest

from projects_wsgi import OutcomeUnknown, StoreUnavailable, make_app, transfer
from projects_wsgi.storage import open_store

from ..support.cluster import Cluster
from ..support.process import running_server
from ..test_transfer import project
from .proxy import running_proxy
from .test_postgres import disconnect
from .worker import sending_to_server
from .writers import Writer, end, verify

SECONDS = 10
TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT {}"""


def test_backends_terminated_at_random_fail_only_calls_that_were_under_way(
    url: str, admin: Any, tmp_path: Path
) -> None:
    dice = random.Random(0)
    terminated = 0
    with running_server("--quiet", "--db", url, cwd=tmp_path) as process:
        target = f"http://{process.host}:{process.port}"
        writers = [Writer(number, lambda: sending_to_server(target)) for number in range(4)]
        for writer in writers:
            writer.start()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            time.sleep(dice.uniform(0, 0.05))
            terminated += len(admin.execute(TERMINATE.format(dice.randint(1, 3))).fetchall())
        end(writers)
    assert "Traceback" not in process.log
    with closing(open_store(url)) as store:
        statuses = verify(writers, store)
    print(f"{terminated} backends terminated: {statuses}")
    assert terminated > 10 * SECONDS
    assert all(statuses[key] > 100 for key in ("GET 200", "POST 200", "PUT 200", "DELETE 204"))
    unknown = sum(count for key, count in statuses.items() if key.endswith("unknown"))
    assert 0 < unknown <= terminated


def restart(cluster: Cluster, admin: Any) -> None:
    cluster.restart(signal.SIGINT)


def crash(cluster: Cluster, admin: Any) -> None:
    cluster.restart()


def terminate(cluster: Cluster, admin: Any) -> None:
    disconnect(admin)


@pytest.mark.parametrize("lose", [restart, crash, terminate], ids=lambda lose: lose.__name__)
def test_idle_connections_that_are_lost_cost_no_failed_call(
    lose: Callable[[Cluster, Any], None], cluster: Cluster, url: str, admin: Any
) -> None:
    with closing(make_app(url, busy_timeout=1).store) as store:
        store.create("agent")
        store.list_rows(name_contains="agent")
        assert len(cluster.backends()) == 3  # for searches, for all else, and the superuser's
        lose(cluster, admin)
        assert store.create("second").name == "second"
        assert [row[1] for row in store.list_rows(name_contains="agent")] == ["agent"]


def test_an_import_whose_connection_is_lost_brings_in_nothing_and_one_whose_answer_is_lost_is_unknown(
    cluster: Cluster, url: str, admin: Any
) -> None:
    projects = [project(it, str(it)) for it in range(2, 3_002)]

    def lose(done: int, total: int | None) -> None:
        if done == 1_800 and total is not None:
            disconnect(admin)

    with running_proxy(cluster.port) as proxy:
        proxied = url.replace(str(cluster.port), str(proxy.port))
        with closing(open_store(proxied)) as store, closing(open_store(url)) as witness:
            with pytest.raises(StoreUnavailable) as caught:
                transfer.import_projects(store, projects, progress=lose)
            assert not isinstance(caught.value, OutcomeUnknown)
            assert len(list(witness.read_all())) == 1

            def cut(done: int, total: int | None) -> None:
                proxy.must_cut = done == total == len(projects)

            with pytest.raises(OutcomeUnknown, match="may or may not have been made"):
                transfer.import_projects(store, projects, progress=cut)
            assert len(list(witness.read_all())) in (1, len(projects) + 1)
            transfer.import_projects(store, projects, on_conflict="skip")
            assert len(list(store.read_all())) == len(projects) + 1
