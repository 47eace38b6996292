"""Measures where a job's time goes, stage by stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class _Thread:
    """One thread's times: nanoseconds by stage, and for each open stage the time of stages within it."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = {}
        self.inner: list[int] = []

    def take(self) -> dict[str, int]:
        spent, self.spent = self.spent, {}
        return spent


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


class Stopwatch:
    """Adds up the nanoseconds that a job spends in its stages, so that the stages add up to the job.

    A stage inside another one stops the outer one's clock. The thread that creates a stopwatch owns it. Stages of other
    threads only count in blocks of :meth:`pooled`.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._others: list[_Thread] = []
        self._owner = self._local.thread = _Thread()

    def stage(self, name: str) -> _Stage:
        """Charge the time in the block to a stage."""
        thread: _Thread | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = self._local.thread = _Thread()
            self._others.append(thread)
        return _Stage(thread, name)

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

    @contextmanager
    def pooled(self) -> Iterator[None]:
        """A block in which other threads work, too, each in stages of its own. They are done when the block ends.

        The block's time, except for the owner's own stages, is shared among the stages of the other threads, in
        proportion to the time that they spent in each.
        """
        self._take_others()
        try:
            with self.stage(""):
                yield
        finally:
            spent = self._owner.spent
            wall_ns, others = spent.pop("", 0), self._take_others()
            whole_ns = sum(others.values()) or 1
            for name, ns in others.items():
                spent[name] = spent.get(name, 0) + wall_ns * ns // whole_ns

    def _take_others(self) -> dict[str, int]:
        spent: dict[str, int] = {}
        for thread in self._others:
            for name, ns in thread.take().items():
                spent[name] = spent.get(name, 0) + ns
        return spent

    def take(self) -> dict[str, int]:
        """The nanoseconds of each stage since the last call."""
        return self._owner.take()
