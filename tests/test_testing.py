"""live_server, used as in the tests of other projects."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from typing import Any

import pytest

from projects_wsgi import ProjectExists, ProjectKind, StoreUnavailable
from projects_wsgi.testing import live_server

from .support.databases import Database
from .support.process import environment

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.loads(response.read())


def test_a_live_server_holds_the_projects_that_were_asked_for() -> None:
    projects: list[str | dict[str, Any]] = [
        "Straße/1",
        {"name": "b", "description": "x"},
        {"name": "run", "kind": ProjectKind.EXPERIMENT},
    ]
    with live_server(projects) as url:
        page = get(f"{url}/v1/projects")["data"]
        assert [(project["name"], project["description"]) for project in page] == [
            ("b", "x"),
            ("Straße/1", None),
            ("default", "Default project"),
        ]
        assert get(f"{url}/v1/projects/run")["data"]["name"] == "run"


def test_each_live_server_has_a_database_of_its_own_and_leaves_nothing() -> None:
    threads = threading.active_count()
    with live_server(["a"]) as first, live_server(["b"]) as second:
        assert first != second
        assert get(f"{first}/v1/projects/a")["data"]["id"] == get(f"{second}/v1/projects/b")["data"]["id"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{first}/v1/projects/b")
    assert threading.active_count() <= threads
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(f"{first}/healthz")


def test_a_live_server_takes_the_options_of_make_app(database: Database) -> None:
    options = {"database": database.name, **database.options}
    with live_server(["a", "b"], **options, max_page_size=1) as url:
        assert len(get(f"{url}/v1/projects")["data"]) == 1
    with closing(database.open_store()) as store:
        assert store.get("b").id == 3
    with pytest.raises(ValueError, match="max_page_size"), live_server(max_page_size=0):
        pass


def test_a_live_server_that_cannot_start_leaves_nothing() -> None:
    threads = threading.active_count()
    with pytest.raises(ProjectExists), live_server(["a", "a"]):
        pass
    assert threading.active_count() == threads


@pytest.mark.parametrize("one", ["my agent", {"name": "my agent"}])
def test_one_project_is_not_taken_for_a_list_of_them(one: Any) -> None:
    with pytest.raises(TypeError, match="projects must be a list"), live_server(one):
        pass


def test_a_live_server_that_finds_too_few_free_descriptors_leaves_none_of_those_that_it_had() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lowest() -> int:
        with open(os.devnull) as free:
            return free.fileno()

    with live_server():  # so that all is imported
        before = lowest()
    before, errors = lowest(), []
    for count in range(5):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + count, hard))
        try:
            with live_server():
                pass
        except (OSError, StoreUnavailable) as error:
            errors.append(error)  # which keeps what the frames hold
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert lowest() == before
    assert len(errors) > 1


def test_a_live_server_ends_with_its_block_whatever_happens() -> None:
    with pytest.raises(ZeroDivisionError), live_server() as url:
        raise ZeroDivisionError
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(f"{url}/healthz")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_a_hundred_live_servers_leave_no_thread_no_descriptor_and_no_memory() -> None:
    def count_threads() -> int:
        return len(sys._current_frames())

    def use(count: int) -> tuple[int, int]:
        for _ in range(count):
            with live_server(["a"]) as url:
                assert get(f"{url}/v1/projects/a")["data"]["name"] == "a"
        gc.collect()
        return len(os.listdir("/proc/self/fd")), sys.getallocatedblocks()

    threads = count_threads()
    descriptors, blocks = use(30)
    descriptors_after, blocks_after = use(100)
    assert descriptors_after <= descriptors
    assert blocks_after - blocks < 3_000
    deadline = time.monotonic() + 5
    while count_threads() > threads:  # the last may be about to end
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_script(script: str) -> str:
    """Run a script in a process of its own, which must end well; return what it prints."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


CHILD_STAYS = """
import os, urllib.error, urllib.request
from projects_wsgi.testing import live_server

reader, writer = os.pipe()
with live_server() as url:
    urllib.request.urlopen(url + "/healthz", timeout=5).close()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent ends
        os._exit(0)
try:
    urllib.request.urlopen(url + "/healthz", timeout=5)
except urllib.error.URLError as error:
    print(type(error.reason).__name__)
"""


@needs_fork
def test_clients_are_refused_after_the_block_while_a_forked_child_lives_on() -> None:
    assert run_script(CHILD_STAYS) == "ConnectionRefusedError\n"


CHILD_LEAVES = """
import http.client, os, urllib.request
from projects_wsgi.testing import live_server

def read(url):
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()

with live_server() as url:
    client = http.client.HTTPConnection(url.rpartition("/")[2], timeout=5)
    client.request("GET", "/healthz")
    client.getresponse().read()
    child = os.fork()
    if child == 0:
        with live_server(["of the child"]) as childs_url:
            print("child", read(childs_url + "/v1/projects/of%20the%20child"), flush=True)
    else:
        assert os.waitpid(child, 0)[1] == 0
        client.request("GET", "/healthz")  # over the same connection
        print("parent", client.getresponse().read(), read(url + "/healthz"), flush=True)
        client.close()
"""


@needs_fork
def test_a_forked_child_has_live_servers_of_its_own_and_leaves_those_of_its_parent_alone() -> None:
    child, parent = run_script(CHILD_LEAVES).splitlines()
    assert '"name":"of the child"' in child
    assert parent == "parent b'OK' OK"
