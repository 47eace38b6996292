"""Threads for system calls that would make the loop wait: syncs of the journal, and memory that is given back.

A thread only gets values, and touches nothing of the loop's. The loop hears of each end through an eventfd.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from omewd.daemon.loop import Loop

log = structlog.get_logger("background")

Item = TypeVar("Item")
Outcome = Exception | None
Then = Callable[[Outcome], object]


class Background(Generic[Item]):
    """A thread that works through items in the order in which they were added.

    ``work``: called in the thread with all items that wait; returns for each one its error, or None. The thread starts
    with the first item.
    """

    def __init__(self, loop: Loop, name: str, work: Callable[[Sequence[Item]], Sequence[Outcome]]) -> None:
        self._loop, self._work = loop, work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Item, Then]] = deque()
        self._ended: deque[tuple[Then, Outcome]] = deque()
        self._is_working = self._is_closing = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.watch(self._bell, self.tell)

    def add(self, item: Item, then: Then) -> None:
        """Work on an item, and then call ``then`` with the outcome, in the loop."""
        if self._thread.ident is None:
            self._thread.start()
        with self._changed:
            self._waiting.append((item, then))
            self._changed.notify_all()

    def tell(self) -> None:
        """Tell of the items that the thread is done with. The loop calls this."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while self._ended:
            then, outcome = self._ended.popleft()
            try:
                then(outcome)
            except Exception:
                log.exception("the end of work in the background could not be handled: this is a bug")

    def finish(self) -> None:
        """Wait until the thread has done all items."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_working)

    def close(self) -> None:
        """Do all items, and end the thread. Nobody is told of the ends."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._loop.forget(self._bell)
        os.close(self._bell)

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._take():
            try:
                outcomes: Sequence[Outcome] = self._work([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001  whoever waits for it decides what follows
                outcomes = [error] * len(batch)
            self._ended.extend((then, outcome) for (_, then), outcome in zip(batch, outcomes, strict=True))
            os.eventfd_write(self._bell, 1)
            with self._changed:
                self._is_working = False
                self._changed.notify_all()

    def _take(self) -> list[tuple[Item, Then]]:
        """Wait for items, and take all; returns none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            taken = list(self._waiting)
            self._waiting.clear()
            self._is_working = bool(taken)
            return taken
