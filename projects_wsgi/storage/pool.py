"""Lends connections to threads, one thread at a time each, and to none across a fork.

A loan is over when its block ends, whatever ends it. Should an exception (of a signal's handler, say)
arrive in between two steps of this very module, the loan dies with its frame, and the pool, which
knows its loans by weak references, takes back what a dead one held.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from ..model import ProjectsError, StoreBusy, StoreUnavailable

# SQLite gives up the interpreter at each step: many readers at a time are three times as slow as one
# after the other. So the next one is lent when the last has come back, or after this time.
_TURN_SECONDS = 0.005

# Those who wait look again after one turn, then ever more seldom, up to this time.
_MAX_LOOK_SECONDS = 0.1

_RETRY_SECONDS = 0.001
_FORK_LOOK_SECONDS = 0.001


class Driver(Protocol):
    """What a pool must know of the connections that it lends.

    error: the class of the errors that connections raise.
    is_lasting: whether a connection is kept as long as the pool, because it is the database itself.
    """

    @property
    def error(self) -> type[Exception]: ...

    @property
    def is_lasting(self) -> bool: ...

    def connect(self, deadline: float) -> Any:
        """Return a new connection. deadline: until when others are waited for, by time.monotonic()."""
        ...

    def is_busy(self, error: Exception) -> bool:
        """Tell whether others stood in the way, so that the same statement may succeed later."""
        ...

    def translated(self, error: Exception) -> ProjectsError:
        """Return the error of the model that stands for one of the connection's."""
        ...

    def reset(self, connection: Any) -> None:
        """Undo what a block that failed has left unfinished."""
        ...


class Session:
    """A connection, and the time by which the work on it must be done.

    connection: the driver's. deadline: by time.monotonic().
    """

    __slots__ = ("__weakref__", "connection", "deadline", "driver")

    def __init__(self, driver: Driver, connection: Any, deadline: float) -> None:
        self.driver = driver
        self.connection = connection
        self.deadline = deadline

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Execute a statement and return its cursor; while others stand in its way, try again.

        Raises the driver's errors: that of being busy once the deadline has passed.
        """
        while True:
            try:
                return self.connection.execute(sql, parameters)
            except self.driver.error as error:
                if not self.driver.is_busy(error) or time.monotonic() >= self.deadline:
                    raise
            time.sleep(_RETRY_SECONDS)


class Loan(Session):
    """A session on a connection of a pool, for the length of a with block.

    patience: seconds that it may wait in all, for a connection and for what is done with it.
    is_search: whether it may take long.
    Entering the block raises StoreBusy when no connection becomes free, and StoreUnavailable when the
    pool is closed. What the block raises undoes what it has left unfinished, and the driver's errors
    leave it as the model's.
    """

    __slots__ = ("_pool", "lane", "mark", "place", "ready", "thread")

    def __init__(self, pool: Pool, patience: float, *, is_search: bool = False) -> None:
        self.driver = pool.driver
        self.deadline = time.monotonic() + patience
        self._pool = pool
        self.lane = pool.searches if is_search else pool.others
        self.thread = threading.get_ident()
        self.mark = weakref.ref(self)
        self.place = -1  # of its connection in the pool; -1: it has none
        self.ready: threading.Lock | None = None  # opened by whoever hands a connection over

    def __enter__(self) -> Loan:
        try:
            self.connection = self._pool.take(self)
        except BaseException as error:
            self.__exit__(None, error, None)
            raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._pool.give_back(self, error is None)
        if error is not None and isinstance(error, self.driver.error):
            raise self.driver.translated(error) from error


class _Lane:
    """Those who wait for connections in one order, and take turns with each other.

    limit: how many of them may have a connection at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: deque[Loan] = deque()
        self.turn_ends = 0.0


class Pool:
    """At most size connections, lent first to the threads that have waited longest.

    size: connections, > 0. when_busy: what StoreBusy says when none becomes free.
    fork_patience: seconds that a fork waits for other threads to give their connections back.

    Searches, which may take long, queue in a lane of their own and hold at most a third of the
    connections, so that nobody else waits for them. Within a lane, connections are lent in turns; see
    _TURN_SECONDS.
    """

    def __init__(self, driver: Driver, size: int, when_busy: str, fork_patience: float) -> None:
        self.driver = driver
        self._places = tuple(range(size))
        self._when_busy = when_busy
        self._fork_patience = fork_patience
        self._is_closed = False
        self._inherited: list[Any] = []
        self._connections: list[Any] = []
        self._begin()
        _pools[id(self)] = self
        _hook_into_forks()

    def _begin(self) -> None:
        """Begin with nothing lent, in this process."""
        # A signal's handler may use the store while its thread is in here: the lock lets it in.
        self._lock = threading.RLock()
        self._holders: dict[int, weakref.ref[Loan]] = {}  # by the place of a connection
        self._forking: list[int] = []  # the threads that are about to fork
        size = len(self._places)
        self.others, self.searches = _Lane(size), _Lane(max(1, size // 3))
        self._served_last = self.searches
        if not (self.driver.is_lasting and self._connections):
            # What a child has inherited is neither used nor closed: SQLite would drop locks and files
            # that are the parent's.
            self._inherited.append(self._connections)
            self._connections = [None] * len(self._places)
        self._pid = os.getpid()

    def take(self, loan: Loan) -> Any:
        """Return the connection of a loan, which is the loan's until it is given back."""
        if self._pid != os.getpid():
            self._begin()  # forked by something that does not tell Python
        with self._lock:
            if (loan.lane.waiting or not self._give(loan)) and not self._is_closed:
                loan.ready = threading.Lock()
                loan.ready.acquire()
                loan.lane.waiting.append(loan)
        if loan.ready is not None:
            self._wait(loan, loan.ready)
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
        connection = self._connections[loan.place]
        if connection is None:
            connection = self._connections[loan.place] = self.driver.connect(loan.deadline)
        return connection

    def give_back(self, loan: Loan, is_clean: bool) -> None:
        """Take back a loan's connection, or its place among those who wait.

        is_clean: False where something may be left unfinished.
        """
        with self._lock:
            if not is_clean and loan in loan.lane.waiting:
                loan.lane.waiting.remove(loan)
            if self._is_lent_to(loan):
                if not is_clean:
                    self._tidy(loan.place)
                if self._is_closed:
                    self._disconnect(loan.place)
                del self._holders[loan.place]
            if self.others.waiting or self.searches.waiting:
                self._hand_over()

    def close(self) -> None:
        """Close all connections for good: those in use when they come back."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            self._is_closed = True
            self._disconnect_free()
            self._hand_over()

    def __del__(self) -> None:
        # Without this, connections would be closed all the same, but with a warning from Python 3.13 on.
        if hasattr(self, "_pid"):
            self.close()

    # With the lock held

    def _give(self, loan: Loan) -> bool:
        """Give a loan a connection if it may have one now; tell whether it may."""
        if self._forking or self._is_closed:
            return False
        lane = loan.lane
        now = time.monotonic()
        if now < lane.turn_ends and self._count_lent(lane):
            return False
        if lane is self.searches and self._count_lent(lane) >= lane.limit:
            return False
        for place in self._places:
            loan.place = place
            # One step, which a signal's handler that uses the pool cannot come between.
            if self._holders.setdefault(place, loan.mark) is loan.mark:
                lane.turn_ends = now + _TURN_SECONDS
                return True
        loan.place = -1
        return False

    def _is_lent_to(self, loan: Loan) -> bool:
        return self._holders.get(loan.place) is loan.mark

    def _hand_over(self) -> None:
        """Give connections to those who have waited longest, as far as there are any."""
        self._reclaim()
        lanes = [self.others, self.searches]
        if self._served_last is self.others:
            lanes.reverse()
        for lane in lanes:
            while lane.waiting and (self._is_closed or self._give(lane.waiting[0])):
                self._served_last = lane
                ready = lane.waiting.popleft().ready
                assert ready is not None
                ready.release()

    def _reclaim(self) -> None:
        """Take back what loans hold that died without giving it back."""
        for place, mark in tuple(self._holders.items()):
            if mark() is None:
                self._tidy(place)
                del self._holders[place]

    def _loans(self) -> list[Loan]:
        return [loan for mark in self._holders.values() if (loan := mark()) is not None]

    def _count_lent(self, lane: _Lane) -> int:
        return sum(loan.lane is lane for loan in self._loans())

    def _tidy(self, place: int) -> None:
        connection = self._connections[place]
        if connection is not None:
            try:
                self.driver.reset(connection)
            except self.driver.error:
                self._disconnect(place)

    def _disconnect(self, place: int) -> None:
        connection, self._connections[place] = self._connections[place], None
        if connection is not None:
            connection.close()

    def _disconnect_free(self) -> None:
        for place in self._places:
            if place not in self._holders:
                self._disconnect(place)

    # Waiting

    def _wait(self, loan: Loan, ready: threading.Lock) -> None:
        look_after = _TURN_SECONDS
        while not ready.acquire(timeout=max(0.0, min(look_after, loan.deadline - time.monotonic()))):
            with self._lock:
                self._hand_over()
                if self._is_lent_to(loan) or self._is_closed:
                    # Who handed over was broken off before it said so.
                    with contextlib.suppress(ValueError):
                        loan.lane.waiting.remove(loan)
                    return
                if time.monotonic() >= loan.deadline:
                    raise StoreBusy(self._when_busy)
            look_after = min(2 * look_after, _MAX_LOOK_SECONDS)

    # Forks
    #
    # No connection may cross one: with one open, SQLite in the child would take the parent's file locks
    # for its own, and when the parent then ends, it would remove the log under the child's feet.

    def prepare_fork(self) -> None:
        """Lend nothing more, wait for what is lent, and close all connections.

        What cannot be waited for is left as it is: what this thread has itself, or one that is about
        to fork as well, and what others keep for longer than the pool's patience.
        """
        me = threading.get_ident()
        with self._lock:
            self._forking.append(me)
        deadline = time.monotonic() + self._fork_patience
        while self._is_awaited() and time.monotonic() < deadline:
            time.sleep(_FORK_LOOK_SECONDS)
        with self._lock:
            if not self.driver.is_lasting:
                self._disconnect_free()

    def _is_awaited(self) -> bool:
        with self._lock:
            self._reclaim()
            return any(loan.thread not in self._forking for loan in self._loans())

    def is_prepared(self) -> bool:
        """Tell whether this thread has prepared a fork that is still to come."""
        return threading.get_ident() in self._forking

    def resume(self) -> None:
        """Lend again, in the parent of a fork."""
        with self._lock:
            if self.is_prepared():
                self._forking.remove(threading.get_ident())
            self._hand_over()

    def resume_in_child(self) -> None:
        """Begin anew in the child of a fork."""
        self._begin()


# Of this dictionary a list is made in one step, whatever other threads do to it meanwhile.
_pools: weakref.WeakValueDictionary[int, Pool] = weakref.WeakValueDictionary()


@functools.cache
def _hook_into_forks() -> None:
    """Register the hooks of all pools: once, since the interpreter keeps them for good."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_prepare_fork, after_in_parent=_resume, after_in_child=_resume_in_child)


def _living() -> list[Pool]:
    return [pool for reference in _pools.valuerefs() if (pool := reference()) is not None]


def _prepare_fork() -> None:
    # Again, for those that are made while others are waited for.
    while unprepared := [pool for pool in _living() if not pool.is_prepared()]:
        for pool in unprepared:
            pool.prepare_fork()


def _resume() -> None:
    for pool in _living():
        pool.resume()


def _resume_in_child() -> None:
    for pool in _living():
        pool.resume_in_child()
