"""A PostgreSQL server that does not answer costs a call little more than the busy timeout."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from typing import Callable

import pytest

from projects_wsgi import OutcomeUnknown, ProjectNotFound, Store, StoreUnavailable
from projects_wsgi.storage import open_store

from ..support.cluster import Cluster
from .proxy import Proxy, running_proxy

BUSY_TIMEOUT = 0.5
MORE = 1.0  # seconds that the client waits longer than the server
SLACK = 1.5

# Of libpq's, for a connection to be made.
LEAST_CONNECT_TIMEOUT = 2.0


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with running_proxy(cluster.port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, cluster: Cluster, url: str) -> Iterator[Store]:
    """A store with one connection, through the proxy, which is made when it is needed."""
    url = url.replace(str(cluster.port), str(proxy.port))
    with closing(open_store(url, busy_timeout=BUSY_TIMEOUT, max_connections=1)) as store:
        yield store


def took(seconds: float, call: Callable[[], object]) -> StoreUnavailable:
    """Return the error of a call that takes so long."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        call()
    assert seconds - 0.1 < time.monotonic() - began < seconds + SLACK
    return caught.value


@contextlib.contextmanager
def stopped_backend(cluster: Cluster, proxy: Proxy) -> Iterator[None]:
    (pid,) = cluster.backends()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def stopped_server(cluster: Cluster, proxy: Proxy) -> Iterator[None]:
    cluster.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def silent_network(cluster: Cluster, proxy: Proxy) -> Iterator[None]:
    proxy.is_silent = True
    try:
        yield
    finally:
        proxy.is_silent = False


Silence = Callable[[Cluster, Proxy], AbstractContextManager[None]]


@pytest.mark.parametrize("silence", [stopped_backend, stopped_server, silent_network])
def test_a_call_on_a_connection_that_falls_silent_ends_in_time(
    silence: Silence, cluster: Cluster, proxy: Proxy, store: Store
) -> None:
    store.create("agent")
    with silence(cluster, proxy):
        error = took(BUSY_TIMEOUT + MORE, lambda: store.create("second"))
    assert isinstance(error, OutcomeUnknown)
    assert store.get("agent").id == 2
    with silence(cluster, proxy):
        error = took(BUSY_TIMEOUT + MORE, store.ping)
    assert not isinstance(error, OutcomeUnknown)
    assert store.update("agent", "here again").description == "here again"


@pytest.mark.parametrize("silence", [stopped_server, silent_network])
def test_a_connection_that_cannot_be_made_ends_in_time(
    silence: Silence, cluster: Cluster, proxy: Proxy, store: Store
) -> None:
    with silence(cluster, proxy):
        error = took(LEAST_CONNECT_TIMEOUT, lambda: store.create("second"))
    assert not isinstance(error, OutcomeUnknown)
    with pytest.raises(ProjectNotFound):
        store.get("second")


def test_several_silent_hosts_cost_no_more_than_one(cluster: Cluster, proxy: Proxy, url: str) -> None:
    host = f"127.0.0.1:{cluster.port}"
    with closing(open_store(url.replace(host, f"127.0.0.1:{proxy.port},{host}"), busy_timeout=4)) as store:
        with stopped_server(cluster, proxy):
            took(4, store.ping)
        store.ping()


def test_a_change_whose_answer_is_lost_may_have_been_made(proxy: Proxy, store: Store) -> None:
    store.ping()
    proxy.must_cut = True
    with pytest.raises(OutcomeUnknown):
        store.create("second")
    assert store.get("second").name == "second"


def test_a_read_whose_answer_is_lost_is_tried_again(proxy: Proxy, store: Store) -> None:
    store.create("agent")
    proxy.must_cut = True
    assert store.get("agent").name == "agent"
    assert not proxy.must_cut
