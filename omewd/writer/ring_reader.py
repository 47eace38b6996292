"""The frames of write units as arrays in storage order, which are views of the ring if possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from omewd.model.plan.grid import unit_runs
from omewd.model.plan.plan import Plan
from omewd.protocol.jobs.frames import WriteUnits
from omewd.ring import pixels
from omewd.ring.layout import FRAME_INDEX, METADATA, METADATA_BYTES, MONOTONIC_NS, SLOT_HEADERS, WAITED_NS, WALL_NS
from omewd.ring.segment import Segment
from omewd.store.scattered import ScatteredFrames

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class UnitFrames:
    """Where the frames of consecutive units of equal shape are.

    ``grid``: the frame indexes, (unit, …) in storage order. ``sequences``: alike, -1 for absent frames.
    """

    units: range
    grid: Array
    sequences: Array

    @property
    def frames(self) -> Array:
        """The number of frames of each unit that are present."""
        there: Array = np.count_nonzero(self.sequences.reshape(len(self.units), -1) >= 0, axis=1)
        return there

    def some(self, start: int, stop: int) -> UnitFrames:
        """Some of the units, counted from the first one."""
        return UnitFrames(self.units[start:stop], self.grid[start:stop], self.sequences[start:stop])

    def with_frames(self) -> Iterator[UnitFrames]:
        """The units that have frames, in runs."""
        is_there = self.frames > 0
        if is_there.all():
            yield self
            return
        edges = np.flatnonzero(np.diff(np.concatenate([[False], is_there, [False]])))
        for start, stop in edges.reshape(-1, 2).tolist():
            yield self.some(start, stop)


class RingReader:
    """A writer's view of one ring."""

    def __init__(self, segment: Segment, plan: Plan) -> None:
        self.segment = segment
        self.plan = plan
        geometry = segment.geometry
        self._capacity = geometry.capacity
        self._slots = pixels.slots(segment)
        self._headers: Array = np.ndarray(
            (geometry.capacity, 8),
            np.uint64,
            buffer=segment.memory,
            offset=SLOT_HEADERS,
            strides=(geometry.slot_header_stride, 8),
        )

    def locate(self, job: WriteUnits) -> list[UnitFrames]:
        """Find the frames of a job's units in the slots that the job names."""
        runs = list(unit_runs(self.plan, range(job.unit, job.unit + job.units)))
        wanted = np.concatenate([grid.reshape(-1) for _, grid in runs])
        sequences = np.arange(job.sequence, job.sequence_end)
        present = self._headers[sequences % self._capacity, FRAME_INDEX].astype(np.int64)
        place = np.searchsorted(present, wanted)
        clipped = np.minimum(place, max(len(present) - 1, 0))
        found = (place < len(present)) & (present[clipped] == wanted) if len(present) else np.zeros(wanted.shape, bool)
        where = np.where(found, job.sequence + clipped, -1)
        ends = np.cumsum([grid.size for _, grid in runs]).tolist()
        parts = zip(runs, [0, *ends], ends, strict=False)
        return [UnitFrames(units, grid, where[a:b].reshape(grid.shape)) for (units, grid), a, b in parts]

    def frame(self, sequence: int) -> Array:
        """The pixels of one frame, as a view of the ring."""
        frame: Array = self._slots[sequence % self._capacity]
        return frame

    def stamps(self, sequences: Array) -> tuple[Array, Array]:
        """For each frame: (the monotonic ns at which it was published, the ns that the camera waited for a slot)."""
        slots = sequences % self._capacity
        return self._headers[slots, MONOTONIC_NS].astype(np.int64), self._headers[slots, WAITED_NS].astype(np.int64)

    def headers(self, sequences: Array) -> tuple[Array, Array, list[bytes]]:
        """For each frame: (wall-clock ns and monotonic ns at which it was published, metadata as JSON or empty)."""
        slots = sequences % self._capacity
        found = self._headers[slots]
        lengths = np.minimum(found[:, METADATA_BYTES], self.segment.geometry.metadata_max_bytes).tolist()
        starts = (SLOT_HEADERS + METADATA + slots * self.segment.geometry.slot_header_stride).tolist()
        memory = self.segment.memory
        metadata = [memory[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return found[:, WALL_NS], found[:, MONOTONIC_NS], metadata

    def blocks(self, frames: UnitFrames) -> Iterator[tuple[UnitFrames, Array | ScatteredFrames]]:
        """The pixels of units: of several together, (unit, …, Y, X), or of one, as from :meth:`block`."""
        start = 0
        for stop in self._laps(frames.sequences):
            some = frames.some(start, stop)
            together = self._view(some.sequences)
            if together is not None:
                yield some, together
            else:
                for number in range(start, stop):
                    one = frames.some(number, number + 1)
                    yield one, self.block(one)
            start = stop

    def _laps(self, sequences: Array) -> list[int]:
        """Where to cut units, (unit, …) of sequences, so that those that pass the end of the ring are alone."""
        whole = sequences.reshape(len(sequences), -1)
        first, last = whole.min(axis=1) // self._capacity, whole.max(axis=1) // self._capacity
        cuts = (first[1:] != last[:-1]) | (first != last)[1:] | (first != last)[:-1]
        return [*(np.flatnonzero(cuts) + 1).tolist(), len(sequences)]

    def block(self, frames: UnitFrames) -> Array | ScatteredFrames:
        """A single unit's pixels, with zeros for absent frames. Valid while the job is leased.

        They are a view of the ring, (1, …, Y, X), if the unit's slots are evenly spaced.
        """
        view = self._view(frames.sequences)
        if view is not None:
            return view
        [sequences] = frames.sequences
        planes = [self._slots[n % self._capacity] if n >= 0 else None for n in sequences.ravel().tolist()]
        return ScatteredFrames(planes, sequences.shape, self._slots[0])

    def _view(self, sequences: Array) -> Array | None:
        """Slots as one view of the ring; None if they are not evenly spaced."""
        laps = sequences // self._capacity
        steps = _regular_steps(sequences)
        if steps is None or laps.min() != laps.max() or sequences.flat[0] < 0:
            return None
        strides = tuple(step * self._slots.strides[0] for step in steps) + self._slots.strides[1:]
        first = self._slots[int(sequences.flat[0]) % self._capacity]
        return np.lib.stride_tricks.as_strided(
            first, (*sequences.shape, *self._slots.shape[1:]), strides, writeable=False
        )

    def close(self) -> None:
        del self._slots, self._headers
        self.segment.close()


def _regular_steps(numbers: Array) -> tuple[int, ...] | None:
    """The constant step along each axis of a grid of numbers; None if one is not constant."""
    steps = []
    for axis in range(numbers.ndim):
        differences = np.diff(numbers, axis=axis)
        if differences.size and differences.min() != differences.max():
            return None
        steps.append(int(differences.flat[0]) if differences.size else 0)
    return tuple(steps)
