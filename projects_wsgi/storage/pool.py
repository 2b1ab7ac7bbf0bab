"""Lends connections, each to one thread at a time, and to none across a fork.

A loan is over when its block ends, whatever ends it. Even if a signal's handler raises in the middle of
this module: the loan dies with its frame, and the pool takes back what a dead loan held.
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

_LOOK_SECONDS = 0.005  # after which a thread that waits looks again, then ever more seldom
_MAX_LOOK_SECONDS = 0.1
_RETRY_SECONDS = 0.001


class Driver(Protocol):
    """What a pool must know of the connections that it lends.

    error: the class of their errors. is_lasting: whether a connection is the database itself.
    turn: seconds for which no other is lent, unless all have come back. may_retry: tells whether a
    statement that failed may succeed if it is executed again. translated: returns the model's error for one
    of theirs. reset: undoes what a failed block began; if it raises, the connection is closed. check: makes
    sure that a session can be used. check_unchanged: makes sure that what was read is of one moment.
    disconnect: closes a connection.
    """

    error: type[Exception]
    is_lasting: bool
    turn: float

    def connect(self, deadline: float) -> Any: ...
    def may_retry(self, session: Session, sql: str, error: Exception) -> bool: ...
    def translated(self, error: Exception) -> ProjectsError: ...
    def reset(self, connection: Any) -> None: ...
    def check(self, session: Session) -> None: ...
    def check_unchanged(self) -> None: ...
    def disconnect(self, connection: Any) -> None: ...


class Session:
    """A connection, and the time by which the work on it must be done, by time.monotonic().

    As a context, it closes the connection at the end.
    """

    __slots__ = ("__weakref__", "connection", "deadline", "driver")

    def __init__(self, driver: Driver, connection: Any, deadline: float) -> None:
        self.driver = driver
        self.connection = connection
        self.deadline = deadline

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Execute a statement and return its cursor; until the deadline, try again where that may help."""
        while True:
            try:
                return self.connection.execute(sql, parameters)
            except self.driver.error as error:
                if not self.driver.may_retry(self, sql, error) or time.monotonic() >= self.deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.connection.close()


class Loan(Session):
    """A session on a connection of a pool, for the length of a with block.

    patience: seconds that it may take in all. Entering the block raises StoreBusy or StoreUnavailable.
    An error in the block undoes what it began; the driver's errors become the model's.
    """

    __slots__ = ("_pool", "is_renewed", "mark", "place", "ready", "thread")

    def __init__(self, pool: Pool, patience: float) -> None:
        self.driver = pool.driver
        self.deadline = time.monotonic() + patience
        self._pool = pool
        self.is_renewed = False
        self.thread = threading.get_ident()
        self.mark = weakref.ref(self)
        self.place = 0  # of its connection in the pool, when it has one
        self.ready: Any = None  # while it waits: a lock, released when it has a connection

    def __enter__(self) -> Loan:
        try:
            self.connection = self._pool.take(self)
            self.driver.check(self)
        except BaseException as error:
            self.__exit__(None, error, None)
            raise
        return self

    def renew(self) -> None:
        """Take a new connection in the place of one that is lost."""
        self.is_renewed = True
        self.driver.disconnect(self.connection)
        self.connection = self._pool.connect(self)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._pool.give_back(self, error is None)
        if error is None:
            self.driver.check_unchanged()
        elif isinstance(error, self.driver.error):
            raise self.driver.translated(error) from error


class Pool:
    """At most size connections, lent in turns to the threads that have waited longest.

    fork_patience: seconds that a fork waits for other threads to give their connections back, so that all
        are closed before it; None: it need not, because open ones do no harm as long as no child uses them.
    """

    _is_closed = True  # until it is whole

    def __init__(self, driver: Driver, size: int, fork_patience: float | None) -> None:
        self.driver = driver
        self.places = range(size)
        self._fork_patience = fork_patience
        self._connections: list[Any] = []
        self._inherited: list[Any] = []
        self.begin()
        self._is_closed = False
        _pools[id(self)] = self
        _hook_into_forks()

    def begin(self) -> None:
        """Begin with nothing lent, in this process."""
        # A signal's handler may use the store while its thread is in here: the lock lets it in.
        self._lock = threading.RLock()
        self._holders: dict[int, weakref.ref[Loan]] = {}  # by the place of a connection
        self._waiting: deque[Loan] = deque()
        self._turn_ends = 0.0
        if self.driver.is_lasting and any(self._connections):
            for connection in self._connections:  # each process has its own after a fork
                self.driver.reset(connection)
        else:
            # A child neither uses nor closes what it has inherited: that would undo the parent's work.
            self._inherited.append(self._connections)
            self._connections = [None for _ in self.places]

    def take(self, loan: Loan) -> Any:
        """Return a connection, which is the loan's until it is given back."""
        with self._lock:
            must_wait = bool(self._waiting) or not self._lend(loan)
            if must_wait:
                loan.ready = threading.Lock()
                loan.ready.acquire()
                self._waiting.append(loan)
        if must_wait:
            self._wait(loan)
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
        connection = self._connections[loan.place]
        return self.connect(loan) if connection is None else connection

    def connect(self, loan: Loan) -> Any:
        """Return a new connection, which is kept in the loan's place instead of one that is closed."""
        self._connections[loan.place] = None  # until there is one
        connection = self._connections[loan.place] = self.driver.connect(loan.deadline)
        return connection

    def give_back(self, loan: Loan, is_clean: bool) -> None:
        """Take back a loan's connection, or its place in the queue. is_clean: whether its block succeeded."""
        with self._lock:
            if not is_clean and loan in self._waiting:
                self._waiting.remove(loan)
            if self._holders.get(loan.place) is loan.mark:
                self._free(loan.place, is_clean)
            if self._waiting:
                self._hand_over()

    def close(self) -> None:
        """Close all connections for good: those that are lent when they come back."""
        with self._lock:
            self._is_closed = True
            self._disconnect()
            self._hand_over()

    def __del__(self) -> None:
        # Connections that are only dropped are closed as well, but with a warning from Python 3.13 on.
        if not self._is_closed:
            self.close()

    # With the lock held

    def _lend(self, loan: Loan) -> bool:
        """Give a loan a place if it may have one now; tell whether its wait is over."""
        now = time.monotonic()
        if _forking or (now < self._turn_ends and self._holders):
            return self._is_closed
        for place in self.places:
            loan.place = place
            # One step, which a signal's handler that uses the pool cannot come between.
            if self._holders.setdefault(place, loan.mark) is loan.mark:
                self._turn_ends = now + self.driver.turn
                return True
        return self._is_closed

    def _hand_over(self) -> None:
        """Lend to those who have waited longest, as far as there are connections."""
        self._reclaim()
        while self._waiting and self._lend(self._waiting[0]):
            self._waiting.popleft().ready.release()

    def _reclaim(self) -> None:
        for place, mark in tuple(self._holders.items()):
            if mark() is None:
                self._free(place, is_clean=False)

    def _free(self, place: int, is_clean: bool) -> None:
        connection = self._connections[place]
        if not is_clean and connection is not None:
            try:
                self.driver.reset(connection)
            except (self.driver.error, MemoryError):
                self._connections[place] = None
                self.driver.disconnect(connection)
        del self._holders[place]
        if self._is_closed:
            self._disconnect()

    def _disconnect(self) -> None:
        """Close the connections that are not lent."""
        for place, connection in enumerate(self._connections):
            if connection is not None and place not in self._holders:
                self._connections[place] = None
                self.driver.disconnect(connection)

    # Waiting and forking

    def _wait(self, loan: Loan) -> None:
        look_after = _LOOK_SECONDS
        while not loan.ready.acquire(timeout=max(0.0, min(look_after, loan.deadline - time.monotonic()))):
            with self._lock:
                self._hand_over()
                if self._holders.get(loan.place) is loan.mark:
                    # Whoever handed over was broken off before the release.
                    with contextlib.suppress(ValueError):
                        self._waiting.remove(loan)
                    return
                if time.monotonic() >= loan.deadline:
                    raise StoreBusy("other threads have used the database for longer than the busy timeout")
            look_after = min(2 * look_after, _MAX_LOOK_SECONDS)

    def prepare_fork(self) -> None:
        """Wait for what is lent, while nothing more is, and close all connections.

        With one open, SQLite in the child would take the parent's locks for its own, and remove its log
        when the parent has ended. What cannot be waited for is left: what this thread or another one
        that forks has itself, and what others keep for too long.
        """
        if self._fork_patience is None:
            return
        deadline = time.monotonic() + self._fork_patience
        if self._lock._is_owned():  # type: ignore[attr-defined]
            deadline = 0.0  # a signal came while this thread was in here: nobody can give back
        while self._is_in_use() and time.monotonic() < deadline:
            time.sleep(_RETRY_SECONDS)
        with self._lock:
            if not self.driver.is_lasting:
                self._disconnect()

    def _is_in_use(self) -> bool:
        with self._lock:
            self._reclaim()
            loans = [mark() for mark in self._holders.values()]
            return any(loan is not None and loan.thread not in _forking for loan in loans)


# A fork concerns all pools of the process. The interpreter keeps its hooks for good, so they are
# registered once. A list of this dictionary's values is made in one step, whatever other threads do.
_pools: weakref.WeakValueDictionary[int, Pool] = weakref.WeakValueDictionary()
_forking: list[int] = []  # the threads that are about to fork; until they have, nothing is lent


@functools.cache
def _hook_into_forks() -> None:
    def before() -> None:
        _forking.append(threading.get_ident())
        for pool in _living():
            pool.prepare_fork()

    def after_in_parent() -> None:
        _forking.remove(threading.get_ident())

    def after_in_child() -> None:
        _forking.clear()
        for pool in _living():
            pool.begin()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)


def _living() -> list[Pool]:
    return [pool for reference in _pools.valuerefs() if (pool := reference()) is not None]
