"""The interface of sinks, which take the cells of write units and say when they are durable.

A caller puts units, sets a fence, and waits for it. It may put more units before it waits, so that the units before the
fence are synced while the next one is encoded::

    sink.put(layout, 0, encoder.encode(block), lasting=encoder.lasting)
    first = sink.fence()
    sink.put(layout, 1, …)
    sink.wait(first)      # unit 0 is durable: its slots may be released

A failed sync is never repeated: units before a fence that fails are given up and must be put again.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from omewd.model.plan.shards import ShardLayout, Written
from omewd.store.encoders.base import Encoded

Result = TypeVar("Result")


class Batch(ABC):
    """The units put between two fences."""

    @abstractmethod
    def put(self, layout: ShardLayout, unit: int, cells: Iterable[Encoded], *, lasting: bool) -> None:
        """See :meth:`Sink.put`."""

    @abstractmethod
    def finish(self) -> int:
        """Make the batch durable; returns its size on disk. No thread works on it afterwards, even if this raises."""

    @abstractmethod
    def give_up(self) -> None:
        """Release the batch, finished or not. No thread works on it afterwards."""

    def begin_to_finish(self) -> None:  # noqa: B027  most have nothing to do
        """Start work that can only start once no more units will be put."""


class Fence:
    """Marks all units that were put before it."""

    def __init__(self, batch: Batch) -> None:
        self._batch: Batch | None = batch
        self._stored_bytes: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether the units before it are durable or were given up."""
        return self._batch is None

    @property
    def is_durable(self) -> bool:
        return self._stored_bytes is not None

    def finish(self) -> None:
        """Make the units between the previous fence and this one durable."""
        assert self._batch is not None
        try:
            self._stored_bytes = self._batch.finish()
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Release the units before it, finished or not."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.give_up()

    @property
    def stored_bytes(self) -> int:
        """The size on disk of the units between the previous fence and this one. Raises ValueError if it has failed."""
        if self._stored_bytes is None:
            raise ValueError("what was put before this fence was given up: put it again")
        return self._stored_bytes


class Sink(ABC):
    """Puts cells in their places. One thread puts units and sets fences; any thread may wait.

    Errors are OSError, or whatever the encoder raises.
    """

    def __init__(self) -> None:
        self._batch = self._begin()
        self._fences: deque[Fence] = deque()
        self._finishing = threading.Lock()

    @abstractmethod
    def _begin(self) -> Batch:
        """A batch for the next units."""

    def put(self, layout: ShardLayout, unit: int, cells: Iterable[Encoded], *, lasting: bool) -> None:
        """Store the cells of a unit. Putting the same unit again overwrites it.

        ``layout``: of the unit's source and resolution. ``lasting``: any thread may consume the pieces until the fence
        is waited for; otherwise they are consumed now. Aligned arrays are written without a copy.
        After an error, the caller must give up.
        """
        self._batch.put(layout, unit, cells, lasting=lasting)

    def fence(self) -> Fence:
        """Mark all units that were put so far. After an error, they are given up."""
        batch, self._batch = self._batch, self._begin()
        try:
            batch.begin_to_finish()
        except BaseException:
            batch.give_up()
            raise
        fence = Fence(batch)
        self._fences.append(fence)
        return fence

    def wait(self, fence: Fence) -> int:
        """Wait until all units before a fence are durable; returns the size on disk of those after the previous fence.

        Units are durable once they are synced, and recorded if the sink has a record; without durability, once they are
        written. Raises the error of the first fence that fails, once. The units before that fence must be put again.
        """
        with self._finishing:
            while not fence.is_over:
                self._fences.popleft().finish()
        return fence.stored_bytes

    def is_durable(self, fence: Fence) -> bool:
        """Whether all units before a fence are durable."""
        return fence.is_durable

    def give_up(self) -> None:
        """Release the units that were put since the last fence. No thread works on them afterwards."""
        batch, self._batch = self._batch, self._begin()
        batch.give_up()

    @abstractmethod
    def seal(self, layout: ShardLayout, below: int, since: int = 0) -> None:
        """Seal the shards that only hold frame indexes below ``below``.

        Nobody may be putting units into them. ``since``: those that only hold frame indexes below it are sealed
        already. If it is interrupted, running it again does the rest.
        """

    @abstractmethod
    def seal_all(self, layouts: Iterable[ShardLayout], written: Sequence[Written] | None = None) -> None:
        """Seal all shards in progress.

        Nobody may be putting units into them. ``written``: of each source; chunks without a written frame are left out.
        If it is interrupted, running it again does the rest.
        """

    def close(self) -> None:
        """Give up all units that no fence has made durable."""
        self.give_up()
        with self._finishing:
            while self._fences:
                self._fences.popleft().give_up()


def results(futures: list[Future[Result]]) -> list[Result]:
    """Wait for all tasks; returns their results, or raises the first error."""
    wait(futures)
    try:
        return [future.result() for future in futures]
    finally:
        futures.clear()  # breaks a cycle: the traceback of an error holds them, and they hold the error
