"""The interface of sinks, which take the cells of write units and make them durable.

A caller puts units, sets a fence, and commits it. It may put more units before it commits, so that the units before the
fence are synced while the next one is encoded::

    sink.put(layout, 0, encoder.encode(block))
    first = sink.fence()
    sink.put(layout, 1, …)
    [outcome] = commit([first], tools.syncs)  # unit 0 is durable, or outcome is an error

One thread puts units and sets fences. Another one may commit them, several together: their syncs then go out at once,
and the filesystem merges them. A fence that fails does not harm another one, unless a file that both need has failed. A
failed sync is never repeated: the units before a fence that fails must be put again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from omewd.model.plan.shards import ShardLayout, Written
from omewd.process.names import sync_folder
from omewd.store.encoders.base import Cells

Result = TypeVar("Result")
Key = TypeVar("Key")

# What is to be synced, by the path of the file or folder.
Syncs = dict[Path, Callable[[], None]]
# A commit in steps: it yields what must be synced before its next step, and returns the size on disk.
Steps = Generator[Syncs, None, int]


class Batch(ABC):
    """The units put between two fences. Errors are OSError, or whatever an encoder raises."""

    @abstractmethod
    def put(self, layout: ShardLayout, unit: int, cells: Cells) -> None:
        """See :meth:`Sink.put`."""

    def begin_to_finish(self) -> None:  # noqa: B027  most have nothing to do
        """Start work that can only start once no more units will be put."""

    @property
    def is_written(self) -> bool:
        """Whether no thread works on it any more."""
        return True

    def settle(self) -> None:  # noqa: B027
        """Wait until no thread works on it any more, whatever came of it."""

    @abstractmethod
    def commit(self) -> Steps:
        """Make it durable once it is written. The error of a sync is raised where it was asked for."""

    @abstractmethod
    def give_up(self) -> None:
        """Release the batch, durable or not. No thread works on it afterwards."""


class Fence:
    """Marks the units that were put since the previous fence. It is over once it was committed or given up."""

    def __init__(self, batch: Batch, over: Callable[[Fence], None]) -> None:
        self._batch: Batch | None = batch
        self._over = over

    @property
    def is_written(self) -> bool:
        """Whether a commit would not have to wait for threads."""
        return self._batch is None or self._batch.is_written

    def settle(self) -> None:
        """Wait until it is written, or has failed."""
        if self._batch is not None:
            self._batch.settle()

    def commit(self) -> Steps:
        """See :meth:`Batch.commit`. Raises ValueError if the fence is over."""
        if self._batch is None:
            raise ValueError("what was put before this fence was given up: put it again")
        try:
            return (yield from self._batch.commit())
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Release the units before it, durable or not."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.give_up()
            self._over(self)


class Sink(ABC):
    """Puts cells in their places. One thread puts units, sets fences and gives up; any one thread may commit and seal.

    Errors are OSError, or whatever the encoder raises.
    """

    def __init__(self) -> None:
        self._batch = self._begin()
        self._fences: set[Fence] = set()

    @abstractmethod
    def _begin(self) -> Batch:
        """A batch for the next units."""

    def put(self, layout: ShardLayout, unit: int, cells: Cells) -> None:
        """Store the cells of a unit, or of several from ``unit`` on. Putting the same unit again overwrites it.

        ``layout``: of the units' source and resolution. ``cells``: an iterator is consumed now; a patchwork until the
        fence is over, by any thread. Aligned arrays are written without a copy.
        After an error, the caller must give up.
        """
        self._batch.put(layout, unit, cells)

    def fence(self) -> Fence:
        """Mark the units that were put since the last fence. After an error, they are given up."""
        batch, self._batch = self._batch, self._begin()
        try:
            batch.begin_to_finish()
        except BaseException:
            batch.give_up()
            raise
        fence = Fence(batch, self._fences.discard)
        self._fences.add(fence)
        return fence

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
        """Give up all units that are not durable."""
        self.give_up()
        for fence in list(self._fences):
            fence.give_up()


def commit(fences: Sequence[Fence], syncs: Executor) -> list[int | Exception]:
    """Make the units before each fence durable; returns the size on disk of each, or the error of one that failed.

    Units are durable once they are synced, and recorded if the sink has a record; without durability, once they are
    written. ``fences``: in the order in which they were set. ``syncs``: threads for syncs.

    The fences go step by step together. A file that several of them need is synced once, through the descriptor that
    was opened first: the kernel reports an error to every descriptor that was open by then, and not to later ones.
    """
    outcomes: dict[int, int | Exception] = {}
    steps = {number: fence.commit() for number, fence in enumerate(fences)}
    errors: dict[Path, Exception] = {}
    asked: dict[int, Syncs] = {number: {} for number in steps}
    while steps:
        for number, step in list(steps.items()):
            error = next((errors[path] for path in asked[number] if path in errors), None)
            try:
                asked[number] = step.throw(error) if error is not None else next(step)
            except StopIteration as done:
                outcomes[number] = done.value
                del steps[number]
            except Exception as failure:  # noqa: BLE001  libraries may raise anything
                outcomes[number] = failure
                del steps[number]
        together: dict[Path, Callable[[], None]] = {}
        for number in steps:
            for path, sync in asked[number].items():
                together.setdefault(path, sync)
        errors = at_once(together, syncs)
    try:
        return [outcomes[number] for number in range(len(fences))]
    finally:
        error = None
        outcomes.clear()  # breaks a cycle: the traceback of an error holds them, and the pixels that were to be written


def committed(fence: Fence, syncs: Executor) -> int:
    """Make the units before one fence durable; returns their size on disk, or raises its error."""
    [outcome] = commit([fence], syncs)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def at_once(calls: Mapping[Key, Callable[[], None]], threads: Executor) -> dict[Key, Exception]:
    """Make calls in threads and in this one, and wait for all of them; returns the errors of those that failed."""
    if not calls:
        return {}
    *others, (own, call) = calls.items()  # a thread costs 20 µs, and this one would only wait
    futures = {key: threads.submit(other) for key, other in others}
    try:
        failures: dict[Key, BaseException | None] = {own: _failure(call)}
    finally:
        wait(futures.values())
    failures |= {key: future.exception() for key, future in futures.items()}
    errors: dict[Key, Exception] = {}
    for key, failure in failures.items():
        if isinstance(failure, Exception):
            errors[key] = failure
        elif failure is not None:
            raise failure
    return errors


def _failure(call: Callable[[], None]) -> Exception | None:
    """The error that a call raises. Its traceback does not hold the caller's frame, which keeps the error."""
    try:
        call()
    except Exception as failure:  # noqa: BLE001  it may be any library's
        return failure
    return None


def folder_syncs(folders: Iterable[Path]) -> Syncs:
    return {folder: partial(sync_folder, folder) for folder in folders}


def results(futures: list[Future[Result]]) -> list[Result]:
    """Wait for all tasks; returns their results, or raises the first error."""
    wait(futures)
    try:
        return list(map(Future.result, futures))
    finally:
        futures.clear()  # breaks a cycle: the traceback of an error holds them, and they hold the error
