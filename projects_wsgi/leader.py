"""Leader and followers (Schmidt et al., POSA 2): threads, one of which leads at a time.

The leader waits for whatever comes, and does by itself what is quick. What may take its time it keeps: it
leaves the lead to a follower, a thread that waits for just that and is started when there is none. Once it is
done, it follows. Where a call takes longer than expected, the watch leaves the lead to a follower in the
leader's name. The lock _change makes each of these one step: who leads, what is called, how many follow.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from typing import Callable, Generic, TypeVar

PATIENCE_SECONDS = 0.005  # that the leader may take for a call
BREATH_SECONDS = 0.02  # until the next try, if there was no memory
_QUIET_LOOKS = 20  # without a call, after which the watch sleeps
_MAX_FOLLOWERS = 64
_FOLLOW_SECONDS = 2.0  # after which a follower that was not needed ends
_BIRTH_SECONDS = 1.0  # that a new thread may take to begin: without memory it may die before

Task = TypeVar("Task")
Result = TypeVar("Result")


def insisting(step: Callable[..., Result]) -> Callable[..., Result]:
    """Try a step, without which the lead, a thread or a connection would be lost, until there is memory."""

    def insist(*arguments: object) -> Result:
        while True:
            try:
                return step(*arguments)
            except MemoryError:
                time.sleep(BREATH_SECONDS)

    return insist


class LeaderFollowers(Generic[Task]):
    """Has threads do what _lead_on and _finish say; see the module.

    A task is what a call is for. Of a call that takes long, the thread that leads now keeps it.
    """

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._lead = threading.Lock()  # held by who leads; until _run, nobody does
        self._lead.acquire()
        self._leader = 0  # the thread that leads
        self._call: tuple[float, Task | None] | None = None  # when the leader called something, and for what
        self._followers = self._threads = 0
        self._sleep = threading.Lock()  # not an Event, which is broken for good if memory runs out within
        self._is_watching = True
        self._is_over = False

    def _lead_on(self) -> Task | None:
        """Lead until all is over, or another thread leads; return what this one keeps then."""
        raise NotImplementedError

    def _finish(self, task: Task) -> None:
        """Do what this thread has kept, while another leads."""
        raise NotImplementedError

    def _take_out(self, task: Task) -> None:
        """Leave a task to the thread that leads now, which another will follow as the leader."""
        raise NotImplementedError

    def _note_slow(self, task: Task | None) -> None:
        """Take note of a call that takes long."""
        raise NotImplementedError

    def _run(self) -> None:
        """Have threads lead until all is over. Raises RuntimeError, MemoryError if none can be started."""
        self._start_follower()
        self._lead.release()
        self._watch()

    def _forget_threads(self) -> None:
        """In a forked child, which has this thread alone: go on without the others, and their locks."""
        self._is_over = True
        self._threads = 0
        self._change, self._lead = threading.Lock(), threading.Lock()  # another thread may have held them
        if self._leader == _thread.get_ident():
            self._lead.acquire()
        self._wake_watch()  # which a signal's handler that forks may have interrupted

    def _watch(self) -> None:
        """Look after the leader until all is over. While nothing is called, sleep."""
        quiet_looks = 0
        while not self._is_over:
            time.sleep(PATIENCE_SECONDS)
            call = self._call
            quiet_looks = 0 if call else quiet_looks + 1
            try:
                if call and time.monotonic() - call[0] >= PATIENCE_SECONDS:
                    self._note_slow(call[1])
                    self._leave_lead()
                elif quiet_looks > _QUIET_LOOKS:
                    self._sleep.acquire(blocking=False)
                    self._is_watching = False
                    if not (self._call or self._is_over):
                        self._sleep.acquire()
                    self._is_watching = True
            except (RuntimeError, MemoryError):  # the leader will do without
                continue

    def _wake_watch(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake
            self._sleep.release()

    def _leave_lead(self) -> None:
        """Leave the lead to a follower, and the task of the call to the thread that leads now.

        Raises RuntimeError, MemoryError if there is no follower to be had.
        """
        self._start_follower()
        with self._change:
            if self._followers and self._call:  # both may have ended in the meantime
                _, task = self._call
                if task is not None:
                    self._take_out(task)
                self._call = None
                self._leader = 0
                self._lead.release()

    def _start_follower(self) -> None:
        """Start a thread if none follows. Raises RuntimeError, MemoryError."""
        if self._followers:
            return
        # Thread.start() would wait for ever for a thread that finds no memory to begin with.
        _thread.start_new_thread(self._follow, ())
        deadline = time.monotonic() + _BIRTH_SECONDS
        while not self._followers:
            if time.monotonic() > deadline:
                raise RuntimeError("can't start new thread")
            time.sleep(0)

    def _follow(self) -> None:
        """Wait for the lead, lead, and do what this thread has kept, until it is not needed."""
        with self._change:
            self._threads += 1
        try:
            while self._await_lead():
                task = self._lead_on()
                if self._end_call():
                    self._lead.release()
                    break
                if task is not None:
                    self._finish(task)
        finally:
            self._end_thread()

    def _await_lead(self) -> bool:
        """Follow until this thread leads; False: it is not needed."""
        with self._change:
            if self._followers >= _MAX_FOLLOWERS:
                return False
            self._followers += 1
        leads = None
        while True:
            try:
                if leads is None:
                    leads = self._lead.acquire(timeout=_FOLLOW_SECONDS)
                with self._change:
                    # Whoever has left the lead to this thread since then did so with this lock held.
                    leads = leads or self._lead.acquire(blocking=False)
                    if leads:
                        self._leader = _thread.get_ident()
                    self._followers -= 1
                    return leads
            except MemoryError:  # if this thread went away, the lead could be left to nobody
                time.sleep(BREATH_SECONDS)

    @insisting
    def _end_thread(self) -> None:
        with self._change:
            self._threads -= 1

    def _keep(self, task: Task) -> bool:
        """Leave the lead to another thread, and keep a task. Tell whether a thread was to be had."""
        self._call = time.monotonic(), task
        try:
            while self._leader == _thread.get_ident():
                self._leave_lead()
        except (RuntimeError, MemoryError):
            return not self._end_call()
        return True

    def _begin_call(self, task: Task | None) -> None:
        """Have the watch leave the lead to another thread if what follows takes long."""
        self._call = time.monotonic(), task
        if not self._is_watching:
            self._wake_watch()

    @insisting
    def _end_call(self) -> bool:
        """Tell whether this thread still leads; if so, nothing is called any more."""
        with self._change:
            leads = self._leader == _thread.get_ident()
            if leads:
                self._call = None
            return leads
