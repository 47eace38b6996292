"""What omewd asks of a sink: take the cells of write units, and say when they are durable.

A caller puts units, sets a fence, and waits for it. It may put more in between, so that what is before a fence is
synced while the next unit is encoded::

    sink.put(layout, 0, encoder.encode(block), lasting=encoder.lasting)
    first = sink.fence()
    sink.put(layout, 1, …)
    sink.wait(first)      # unit 0 is durable: its slots may be released

A failed sync is never tried again: what was put before a fence that fails is given up, and has to be put again.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

from omewd.model.plan.shards import ShardLayout, Written
from omewd.store.encoders.base import Encoded

Result = TypeVar("Result")


class Batch(ABC):
    """What is put between two fences."""

    @abstractmethod
    def put(self, layout: ShardLayout, unit: int, cells: Iterable[Encoded], *, lasting: bool) -> None:
        """See :meth:`Sink.put`."""

    @abstractmethod
    def finish(self) -> int:
        """Make all of it durable; returns the bytes that it takes. Nobody is at it any more, even if this raises."""

    @abstractmethod
    def give_up(self) -> None:
        """Let go of all of it, finished or not. Nobody is at it any more when this returns."""

    def begin_to_finish(self) -> None:  # noqa: B027  most have nothing to begin
        """No more will be put."""


class Fence:
    """Marks all that was put before it."""

    def __init__(self, batch: Batch) -> None:
        self._batch: Batch | None = batch
        self._stored_bytes: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is durable, or was given up."""
        return self._batch is None

    @property
    def is_durable(self) -> bool:
        return self._stored_bytes is not None

    def finish(self) -> None:
        """Make what is before it, and after the one before it, durable."""
        assert self._batch is not None
        try:
            self._stored_bytes = self._batch.finish()
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Let go of what is before it, finished or not."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.give_up()

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk of what is before it, and after the one before it. Raises ValueError if it has failed."""
        if self._stored_bytes is None:
            raise ValueError("what was put before this fence was given up: put it again")
        return self._stored_bytes


class Sink(ABC):
    """Puts cells where they belong. One thread puts and sets fences; any may wait.

    Errors are OSError, or whatever the encoder raises.
    """

    def __init__(self) -> None:
        self._batch = self._begin()
        self._fences: deque[Fence] = deque()
        self._finishing = threading.Lock()

    @abstractmethod
    def _begin(self) -> Batch:
        """A batch for what is put next."""

    def put(self, layout: ShardLayout, unit: int, cells: Iterable[Encoded], *, lasting: bool) -> None:
        """Store the cells of a unit; the same unit again overwrites it.

        ``layout``: of its source and resolution. ``lasting``: pieces may be consumed until the fence is waited for, and
        in any thread; else they are consumed now. Arrays that lie aligned are written from where they are.
        After an error the caller has to give up.
        """
        self._batch.put(layout, unit, cells, lasting=lasting)

    def fence(self) -> Fence:
        """Mark all that was put so far."""
        batch, self._batch = self._batch, self._begin()
        batch.begin_to_finish()
        fence = Fence(batch)
        self._fences.append(fence)
        return fence

    def wait(self, fence: Fence) -> int:
        """Until all that was put before a fence is durable; returns the bytes that it takes since the one before.

        Durable is what is synced, and on record where the sink has a record; without durability, what is written.
        Raises the error of the first fence that fails, once. What is before that one has to be put again.
        """
        with self._finishing:
            while not fence.is_over:
                self._fences.popleft().finish()
        return fence.stored_bytes

    def is_durable(self, fence: Fence) -> bool:
        """Whether all that was put before a fence is durable."""
        return fence.is_durable

    def give_up(self) -> None:
        """Let go of what was put since the last fence; nobody is at it any more when this returns."""
        batch, self._batch = self._batch, self._begin()
        batch.give_up()

    @abstractmethod
    def seal(self, layout: ShardLayout, below: int | None = None, written: Written | None = None) -> None:
        """Put shards that get no more frames in place: those that only have frame indexes below ``below``, or all.

        Nobody may be putting anything into them. With ``written``, chunks without a frame that is
        written are left out then. Running it again, after it was cut off anywhere, does the rest.
        """

    def close(self) -> None:
        """Give up what no fence has made durable."""
        self.give_up()
        with self._finishing:
            while self._fences:
                self._fences.popleft().give_up()


def results(futures: list[Future[Result]]) -> list[Result]:
    """What tasks return, or the first error; none of them is at work any more either way."""
    wait(futures)
    try:
        return [future.result() for future in futures]
    finally:
        futures.clear()  # an error's traceback holds them, they hold the error, and it the frames of the ring
