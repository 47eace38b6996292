"""Measures where a job's time goes, stage by stage, while a writer has several jobs in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
P = ParamSpec("P")
R = TypeVar("R")


class Account:
    """The nanoseconds that one job spends in each stage.

    The threads that a job passes through one after the other charge their own stages, which add up to real time. A
    pool's threads work side by side, so their stages only say in which proportion they share the rest of the job.
    """

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        self._tasks: list[dict[str, int]] = []
        self._last_task_ns = 0

    def add(self, spent: dict[str, int]) -> None:
        """Charge stages that were measured elsewhere."""
        for name, ns in spent.items():
            self._own[name] = self._own.get(name, 0) + ns

    def add_task(self, spent: dict[str, int]) -> None:
        """Charge the stages of one task of a pool, which has just ended. May be called from any thread."""
        self._tasks.append(spent)
        self._last_task_ns = time.monotonic_ns()

    def wait_in_line(self, name: str, since_ns: int, now_ns: int) -> None:
        """Charge a stage with the time since ``since_ns`` or the end of the last task, whichever is later."""
        self.add({name: max(now_ns - max(since_ns, self._last_task_ns), 0)})

    def rename(self, name: str, to: str) -> None:
        """Charge a stage with the time that was charged to another one."""
        self.add({to: self._own.pop(name, 0)})

    def stages(self, wall_ns: int = 0) -> dict[str, int]:
        """The time of each stage. ``wall_ns``: of the whole job, which is their sum if a pool has worked for it."""
        pooled: dict[str, int] = {}
        for task in self._tasks:
            for name, ns in task.items():
                pooled[name] = pooled.get(name, 0) + ns
        whole_ns = sum(pooled.values()) or 1
        rest_ns = max(wall_ns - sum(self._own.values()), 0)
        spent = dict(self._own)
        for name, ns in pooled.items():
            spent[name] = spent.get(name, 0) + rest_ns * ns // whole_ns
        return spent


class _Thread:
    """What a thread is working for: an account, the stages it has spent on it, and for each open stage the time of
    stages within it.
    """

    def __init__(self) -> None:
        self.account: Account | None = None
        self.spent: dict[str, int] = {}
        self.inner: list[int] = []


class _Stage:
    """A block that is charged to a stage. It is a class for speed: it is entered several times for every file."""

    __slots__ = ("_began", "_name", "_thread")

    def __init__(self, thread: _Thread, name: str) -> None:
        self._thread = thread
        self._name = name

    def __enter__(self) -> None:
        self._thread.inner.append(0)
        self._began = time.monotonic_ns()

    def __exit__(self, *_: object) -> None:
        whole = time.monotonic_ns() - self._began
        thread = self._thread
        own = whole - thread.inner.pop()
        thread.spent[self._name] = thread.spent.get(self._name, 0) + own
        if thread.inner:
            thread.inner[-1] += whole


class _Working:
    """A block in which a thread works for an account. ``charge``: gets its stages at the end."""

    __slots__ = ("_account", "_before", "_charge", "_thread")

    def __init__(self, thread: _Thread, account: Account, charge: Callable[[dict[str, int]], None]) -> None:
        self._thread, self._account, self._charge = thread, account, charge

    def __enter__(self) -> None:
        thread = self._thread
        self._before = thread.account, thread.spent, thread.inner
        thread.account, thread.spent, thread.inner = self._account, {}, []

    def __exit__(self, *_: object) -> None:
        thread = self._thread
        self._charge(thread.spent)
        thread.account, thread.spent, thread.inner = self._before


class Stopwatch:
    """Charges the stages of each thread to the account that the thread works for; without one, they are dropped.

    A stage inside another one stops the outer one's clock.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def _thread(self) -> _Thread:
        thread: _Thread | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = self._local.thread = _Thread()
        return thread

    def stage(self, name: str) -> _Stage:
        """Charge the time in the block to a stage."""
        return _Stage(self._thread, name)

    def timed(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Charge the time to make each item to a stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def charging(self, account: Account) -> _Working:
        """A block in which this thread works for an account."""
        return _Working(self._thread, account, account.add)

    def carried(self, function: Callable[P, R]) -> Callable[P, R]:
        """A function that works for this thread's account in whichever thread it is called, as a task of a pool."""
        account = self._thread.account
        if account is None:
            return function

        def task(*args: P.args, **kwargs: P.kwargs) -> R:
            with _Working(self._thread, account, account.add_task):
                return function(*args, **kwargs)

        return task
