"""A store works on both sides of a fork, and no connection crosses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.databases import Database
from ..support.process import environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run_script(script: str, *arguments: str, cwd: Path) -> str:
    """Run a script in a process of its own; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


OPENING = """
import json, sys
import projects_wsgi.storage

def open_store():
    return projects_wsgi.storage.open_store(sys.argv[1], **json.loads(sys.argv[2]))
"""


def run_on(database: Database, script: str, *, cwd: Path) -> str:
    """Run a script that opens its store with open_store()."""
    return run_script(OPENING + script, database.name, json.dumps(database.options), cwd=cwd)


BOTH_SIDES = """
import os
store = open_store()
store.create("before")
store.list_rows()
child = os.fork()
store.create("child" if child == 0 else "parent")
assert store.get("before").id == 2
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(*sorted(row[1] for row in store.list_rows()))
store.close()
"""


def test_a_store_works_on_both_sides_of_a_fork(any_database: Database, tmp_path: Path) -> None:
    # In memory, the child has its own copy from the fork on.
    expected = "before default parent" if any_database.name == ":memory:" else "before child default parent"
    assert run_on(any_database, BOTH_SIDES, cwd=tmp_path) == expected


PARENT_ENDS = """
import os
store = open_store()
store.create("before")
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()
child = os.fork()
if child == 0:
    store.list_rows()
    os.write(to_parent, b"x")
    os.read(from_parent, 1)
    store.create("acknowledged")
    os.kill(os.getpid(), 9)
os.read(from_child, 1)
store.close()
os.write(to_child, b"x")
os.waitpid(child, 0)
print(*[row[1] for row in open_store().list_rows()])
"""


CLOSED = """
import os
from projects_wsgi import StoreUnavailable
for close_in_child in (False, True):
    store = open_store()
    if not close_in_child:
        store.close()
    child = os.fork()
    if child == 0:
        store.close()
        try:
            store.ping()
        except StoreUnavailable:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
store.ping()
store.close()
print("closed")
"""


def test_a_closed_store_stays_closed_in_a_child_and_closing_there_stays_there(
    database: Database, tmp_path: Path
) -> None:
    assert run_on(database, CLOSED, cwd=tmp_path) == "closed"


def test_a_child_loses_nothing_when_its_parent_ends_first(database: Database, tmp_path: Path) -> None:
    assert run_on(database, PARENT_ENDS, cwd=tmp_path) == "acknowledged before default"


FORK_AMONG_THREADS = """
import os, threading, warnings
warnings.simplefilter("ignore")  # newer Pythons advise against this very thing
store = open_store()
done = threading.Event()
made = []

def work(name):
    while not done.is_set():
        made.append(store.create(f"{name}-{len(made)}-{threading.get_ident()}").id)
        store.list_rows()

threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
for thread in threads:
    thread.start()
for turn in range(10):
    child = os.fork()
    if child == 0:
        store.create(f"child-{turn}")
        grandchild = os.fork()
        store.create(f"{'grandchild' if grandchild == 0 else 'parent'}-{turn}")
        if grandchild:
            os.waitpid(grandchild, 0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
done.set()
for thread in threads:
    thread.join()
found = [row[1] for row in store.list_rows(limit=10**6)]
assert len(found) == len(set(found)) == 1 + len(made) + 30, (len(found), len(made))
store.close()
print("all there")
"""


MANY_FORKS = """
import os, threading, warnings
from projects_wsgi import SQLiteStore
warnings.simplefilter("ignore")
store = SQLiteStore("projects.db", synchronous="NORMAL")
done = threading.Event()

def work(name):
    count = 0
    while not done.is_set():
        store.create(f"{name}-{(count := count + 1)}")
        store.list_rows()
        store.list_rows(name_contains="x")

threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
for thread in threads:
    thread.start()
for turn in range(200):
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
done.set()
for thread in threads:
    thread.join()
store.close()
print("nothing was missed")
"""


def test_a_log_that_goes_with_the_last_connection_at_a_fork_is_not_missed(tmp_path: Path) -> None:
    assert run_script(MANY_FORKS, cwd=tmp_path) == "nothing was missed"


def test_a_process_can_fork_while_its_threads_write(database: Database, tmp_path: Path) -> None:
    assert run_on(database, FORK_AMONG_THREADS, cwd=tmp_path) == "all there"


NO_CONNECTION_CROSSES = """
import os, time
from projects_wsgi import SQLiteStore, make_app
app = make_app("projects.db")
app.store.create("before")
app.store.list_rows()
def open_databases():
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    paths = [os.readlink(link) for link in links if os.path.exists(link)]
    return [path for path in paths if "projects.db" in path]
assert open_databases()
child = os.fork()
if child == 0:
    os._exit(len(open_databases()))
assert os.waitpid(child, 0)[1] == 0
app.store.list_rows()
app.store.close()
print("none")
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not tell")
def test_no_connection_crosses_a_fork(tmp_path: Path) -> None:
    assert run_script(NO_CONNECTION_CROSSES, cwd=tmp_path) == "none"


FORK_FROM_A_THREAD = """
import os, threading, warnings
warnings.simplefilter("ignore")  # newer Pythons advise against this very thing
store = open_store()
store.create("before")
statuses = []

def work(name):
    child = os.fork()
    store.create(f"{'child' if child == 0 else 'parent'} {name}")
    if child == 0:
        os._exit(0 if store.get("before").id == 2 else 1)
    statuses.append(os.waitpid(child, 0)[1])

threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert statuses == [0] * 4, statuses
print(len(store.list_rows()))
store.close()
"""


def test_threads_can_fork_too_even_at_once(database: Database, tmp_path: Path) -> None:
    assert run_on(database, FORK_FROM_A_THREAD, cwd=tmp_path) == "10"


FORK_WHILE_WRITING = """
import os, threading, time, warnings
from projects_wsgi import SQLiteStore
warnings.simplefilter("ignore")
store = SQLiteStore("projects.db", busy_timeout=0.2)
is_writing = threading.Event()

def write_slowly():
    with store._writing() as session:
        store._begin(session, 0)
        session.execute("UPDATE projects SET description = 'slow' WHERE id = 1")
        is_writing.set()
        time.sleep(0.5)

thread = threading.Thread(target=write_slowly)
thread.start()
is_writing.wait()
child = os.fork()
store.create("child" if child == 0 else "parent")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
print(sorted(row[1:] for row in store.list_rows()))
store.close()
"""


def test_a_fork_waits_for_the_transaction_under_way(tmp_path: Path) -> None:
    expected = "[('child', None), ('default', 'slow'), ('parent', None)]"
    assert run_script(FORK_WHILE_WRITING, cwd=tmp_path) == expected


FORK_WHILE_READING = """
import os, threading, time, warnings
from projects_wsgi import SQLiteStore
warnings.simplefilter("ignore")
store = SQLiteStore("projects.db", busy_timeout=0.2)
for number in range(10):
    store.create(f"before {number}")
is_reading, has_forked = threading.Event(), threading.Event()
found = []

def read_slowly():
    with store._reading() as session:
        rows = session.execute("SELECT * FROM projects")
        next(rows)
        is_reading.set()
        has_forked.wait()
        found.extend(rows)

thread = threading.Thread(target=read_slowly)
thread.start()
is_reading.wait()
began = time.monotonic()
child = os.fork()
if child == 0:
    store.create("child")
    os._exit(len(store.list_rows()) - 12)
assert 0.2 <= time.monotonic() - began < 5
assert os.waitpid(child, 0)[1] == 0
has_forked.set()
thread.join()
assert len(found) == 10  # of 11, as they were when the reading began
store.create("parent")
print(len(store.list_rows()))
store.close()
"""


def test_a_fork_does_not_wait_for_ever_for_those_who_read(tmp_path: Path) -> None:
    assert run_script(FORK_WHILE_READING, cwd=tmp_path) == "13"


GRANDCHILDREN = """
import os
store = open_store()
for depth in range(4):
    store.create(str(depth))
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        store.list_rows()
        store.close()
        os._exit(0)
print(*[row[1] for row in store.list_rows()], flush=True)
os._exit(0)
"""


def test_children_can_fork_again(database: Database, tmp_path: Path) -> None:
    assert run_on(database, GRANDCHILDREN, cwd=tmp_path) == "3 2 1 0 default"


FORK_WITH_A_CONNECTION_IN_HAND = """
import os, signal, sys, time
from projects_wsgi import SQLiteStore
store = SQLiteStore(sys.argv[1], busy_timeout=5)
store.create("agent")
took = []

def fork(*_):
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        if sys.argv[1] == ":memory:":  # of which it has a copy
            store.create("child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    took.append(time.monotonic() - began)

if sys.argv[2] == "progress":
    store.backup("copy.db", fork)
else:
    signal.signal(signal.SIGALRM, fork)
    with store._writing() as session:
        store._begin(session, 0)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(0.05)
assert len(took) >= 1 and max(took) < 3, took
print(store.create("another").id)
store.close()
"""


@pytest.mark.parametrize("database", ["projects.db", ":memory:"])
@pytest.mark.parametrize("moment", ["progress", "signal"])
def test_a_fork_does_not_wait_for_what_its_own_thread_holds(
    tmp_path: Path, database: str, moment: str
) -> None:
    assert run_script(FORK_WITH_A_CONNECTION_IN_HAND, database, moment, cwd=tmp_path) == "3"


FORK_IN_THE_MIDDLE_OF_THE_POOL = """
import os, threading, time, warnings
from projects_wsgi import SQLiteStore
warnings.simplefilter("ignore")
store = SQLiteStore("projects.db", busy_timeout=20)
is_held, may_end = threading.Event(), threading.Event()

def read():
    with store._reading():
        is_held.set()
        may_end.wait()

thread = threading.Thread(target=read)
thread.start()
is_held.wait()
began = time.monotonic()
with store._readers._lock:  # as if a signal's handler forked while its thread is in the pool
    may_end.set()
    child = os.fork()
    if child == 0:
        os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
assert time.monotonic() - began < 5
print(store.create("agent").id)
store.close()
"""


def test_a_fork_in_the_middle_of_the_pool_does_not_wait_for_what_cannot_come_back(tmp_path: Path) -> None:
    assert run_script(FORK_IN_THE_MIDDLE_OF_THE_POOL, cwd=tmp_path) == "2"


FORK_FROM_TWO_BACKUPS = """
import os, threading, time, warnings
from projects_wsgi import SQLiteStore
warnings.simplefilter("ignore")
store = SQLiteStore("projects.db", busy_timeout=5)
both = threading.Barrier(2)
took = []

def back_up(name):
    def fork(*_):
        both.wait()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        took.append(time.monotonic() - began)
    store.backup(name, fork)

threads = [threading.Thread(target=back_up, args=(name,)) for name in ("a.db", "b.db")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(took) == 2 and max(took) < 3, took
store.create("agent")
print(len(store.list_rows()))
store.close()
"""


def test_two_threads_that_fork_do_not_wait_for_each_other(tmp_path: Path) -> None:
    assert run_script(FORK_FROM_TWO_BACKUPS, cwd=tmp_path) == "2"


A_TRANSACTION_IS_LEFT_TO_THE_PARENT = """
import gc, logging, os, signal, time
from projects_wsgi import SQLiteStore
logging.disable()
os.symlink("nowhere", "projects.db-shm")  # so that SQLite has a rollback journal
store = SQLiteStore("projects.db")
statuses = []

class Leave(BaseException):
    pass

def fork(*_):
    child = os.fork()
    if child == 0:
        raise Leave
    statuses.append(os.waitpid(child, 0)[1])

signal.signal(signal.SIGALRM, fork)
try:
    with store._writing() as session:
        store._begin(session, 0)
        session.execute("UPDATE projects SET description = 'of the parent'")
        assert os.path.exists("projects.db-journal")
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(0.05)
        assert os.path.exists("projects.db-journal")
except Leave:
    is_child = True
else:
    is_child = False
del session
if is_child:
    gc.collect()
    description = store.get("default").description  # over a connection of its own
    gc.collect()
    is_left = os.path.exists("projects.db-journal")
    os._exit(0 if is_left and description == "Default project" else 1)
assert statuses == [0], statuses
print(store.get("default").description)
store.close()
"""


def test_a_child_leaves_the_transaction_of_its_parent_alone(tmp_path: Path) -> None:
    assert run_script(A_TRANSACTION_IS_LEFT_TO_THE_PARENT, cwd=tmp_path) == "of the parent"
