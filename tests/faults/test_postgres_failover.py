"""A primary server dies and its standby takes over: nothing acknowledged is lost, nothing restarted."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from projects_wsgi import OutcomeUnknown, StoreUnavailable, make_app
from projects_wsgi.storage import open_store

from ..support.cluster import Cluster, running_cluster, running_standby
from .worker import sending_to_app
from .writers import Writer, end, verify


class Pair(NamedTuple):
    """A server, and one that has all that the first has acknowledged. url: of both, the standby first."""

    primary: Cluster
    standby: Cluster
    url: str

    def fail_over(self) -> None:
        self.primary.kill()
        time.sleep(0.3)  # until somebody notices
        self.standby.promote()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running_cluster(synchronous_commit="on"))
        standby = stack.enter_context(running_standby(primary))
        primary.configure(synchronous_standby_names="*")
        while primary.execute("SELECT sync_state FROM pg_stat_replication") != ["sync"]:
            time.sleep(0.01)
        yield Pair(primary, standby, standby.url(primary))


def test_a_failover_loses_nothing_that_was_acknowledged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "projects_wsgi")
    app = make_app(pair.url)
    writers = [Writer(number, lambda: sending_to_app(app)) for number in range(4)]
    with closing(app.store):
        for writer in writers:
            writer.start()
        time.sleep(1.5)
        pair.fail_over()
        promoted_at = time.monotonic()
        time.sleep(1.5)
        end(writers)
        statuses = verify(writers, app.store)
    print(statuses)
    assert statuses["POST 200"] > 100
    # All were in the middle of something, and all went on.
    assert sum(count for key, count in statuses.items() if key.endswith(("503", "unknown"))) >= len(writers)
    assert all(writer.answered_at > promoted_at + 1 for writer in writers)


def test_a_failover_costs_idle_connections_no_failed_call(pair: Pair) -> None:
    with closing(open_store(pair.url)) as store:
        store.create("agent")
        store.list_rows(name_contains="agent")
        pair.fail_over()
        assert store.create("second").name == "second"
        assert [row[1] for row in store.list_rows(name_contains="agent")] == ["agent"]


def test_a_standby_answers_reads_and_is_unavailable_for_changes(pair: Pair) -> None:
    with closing(open_store(pair.url)) as store:
        store.create("agent")
    while pair.standby.execute("SELECT count(*) FROM projects") != ["2"]:
        time.sleep(0.01)
    with closing(make_app(pair.standby.url()).store) as store:
        assert store.get("agent").name == "agent"
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.create("second")
        pair.standby.promote()
        assert store.create("second").name == "second"


def test_a_change_that_waits_for_a_silent_standby_may_have_been_made(pair: Pair) -> None:
    with closing(open_store(pair.url, busy_timeout=0.5)) as store:
        store.create("agent")
        pair.standby.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown):
                store.create("second")
            assert time.monotonic() - began < 3
            assert store.get("agent").name == "agent"
        finally:
            pair.standby.send_signal(signal.SIGCONT)
        assert store.get_or_create("second")[0].name == "second"
