"""A thread that maps the pages of rings, so that a ring of many gigabytes does not hold up jobs for other streams."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from omewd.ring.prefault import STEP_BYTES, populate
from omewd.ring.segment import Segment


def _map_for_reading(segment: Segment, start: int) -> bool:
    return populate(segment, start, writable=False)


class Prefault:
    """Maps the segments given to it, one after the other, each from its start.

    ``step``: maps one step from a byte on, and says whether there may be more.
    """

    def __init__(self, step: Callable[[Segment, int], bool] = _map_for_reading) -> None:
        self._step = step
        self._segments: queue.SimpleQueue[Segment | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefault", daemon=True)
        self._thread.start()

    def begin(self, segment: Segment) -> None:
        """Map the pages of a segment soon. It may be closed at any time."""
        self._segments.put(segment)

    def end(self) -> None:
        """Stop after the current step, and wait for that."""
        self._ended.set()
        self._segments.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (segment := self._segments.get()) is not None:
            at = 0
            while not self._ended.is_set() and self._step(segment, at):
                at += STEP_BYTES
            del segment  # a closed ring's mapping goes with the last reference
