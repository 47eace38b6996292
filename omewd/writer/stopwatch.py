"""Where the time of a job goes, stage by stage."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Adds up the nanoseconds that a job spends in its stages, so that the stages add up to the job.

    A stage inside another one stops the outer one's clock. The thread that makes a stopwatch owns it; stages of
    other threads count in the blocks of :meth:`pooled` only.
    """

    def __init__(self) -> None:
        self._owner = threading.get_ident()
        self._lock = threading.Lock()
        self._threads = threading.local()
        self._spent: Counter[str] = Counter()
        self._in_pool: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge the time in the block to a stage."""
        inner: list[int] = self._threads.__dict__.setdefault("inner", [])
        began = time.monotonic_ns()
        inner.append(0)
        try:
            yield
        finally:
            whole = time.monotonic_ns() - began
            self._charge(name, whole - inner.pop())
            if inner:
                inner[-1] += whole

    def timed(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Charge the time that it takes to make each item to a stage."""
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
        """A block in which other threads work too, each at a stage of its own.

        The block's time, but for the owner's own stages in it, is shared out among the stages of the
        threads, in proportion to the time they spent in each.
        """
        try:
            with self.stage(""):
                yield
        finally:
            with self._lock:
                wall_ns = self._spent.pop("", 0)
                whole_ns = self._in_pool.total() or 1
                for name, ns in self._in_pool.items():
                    self._spent[name] += wall_ns * ns // whole_ns
                self._in_pool.clear()

    def _charge(self, name: str, ns: int) -> None:
        spent = self._spent if threading.get_ident() == self._owner else self._in_pool
        with self._lock:
            spent[name] += ns

    def take(self) -> dict[str, int]:
        """The nanoseconds of each stage since the last call."""
        with self._lock:
            spent, self._spent = dict(self._spent), Counter()
            return spent
