"""A write unit's frames as one array, in storage order: a view of the ring wherever that is possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from omewd.control.jobs import Job
from omewd.model.grid import frame_indexes
from omewd.model.plan import Plan
from omewd.ring import pixels
from omewd.ring.layout import FRAME_INDEX, MONOTONIC_NS, SLOT_HEADERS, WAITED_NS
from omewd.ring.segment import Segment

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class UnitFrames:
    """Where each frame of a unit is. ``grid``: frame indexes in storage order; ``sequences``: -1 where absent."""

    grid: Array
    sequences: Array

    @property
    def count(self) -> int:
        """Frames that are there."""
        return int(np.count_nonzero(self.sequences >= 0))


class RingReader:
    """A writer's view of one ring."""

    def __init__(self, segment: Segment, plan: Plan) -> None:
        self.segment = segment
        self._plan = plan
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

    def locate(self, job: Job, unit: int) -> UnitFrames:
        """Find a unit's frames among the slots that the job names."""
        grid = frame_indexes(self._plan, unit)
        sequences = np.arange(job.sequence, job.sequence_end)
        present = self._headers[sequences % self._capacity, FRAME_INDEX].astype(np.int64)
        place = np.searchsorted(present, grid)
        clipped = np.minimum(place, max(len(present) - 1, 0))
        found = (place < len(present)) & (present[clipped] == grid) if len(present) else np.zeros(grid.shape, bool)
        return UnitFrames(grid, np.where(found, job.sequence + clipped, -1))

    def stamps(self, frames: UnitFrames) -> tuple[Array, Array]:
        """Of a unit's frames that are there: (monotonic ns of their publishing, ns that the camera waited for room)."""
        slots = frames.sequences[frames.sequences >= 0] % self._capacity
        return self._headers[slots, MONOTONIC_NS].astype(np.int64), self._headers[slots, WAITED_NS].astype(np.int64)

    def block(self, frames: UnitFrames) -> Array:
        """The unit's pixels, (…, Y, X); zero where a frame is absent. Valid while the job is leased.

        A view of the ring if the unit's slots lie at regular distances; else gathered.
        """
        sequences = frames.sequences
        if frames.count == sequences.size:
            laps = sequences // self._capacity
            steps = _regular_steps(sequences)
            if steps is not None and laps.min() == laps.max():
                slot = int(sequences.flat[0]) % self._capacity
                strides = tuple(step * self._slots.strides[0] for step in steps) + self._slots.strides[1:]
                return np.lib.stride_tricks.as_strided(
                    self._slots[slot], (*sequences.shape, *self._slots.shape[1:]), strides, writeable=False
                )
        shape = (*sequences.shape, *self._slots.shape[1:])
        block = np.empty(shape, self._slots.dtype)
        for place, sequence in np.ndenumerate(sequences):
            block[place] = self._slots[sequence % self._capacity] if sequence >= 0 else 0
        return block

    def close(self) -> None:
        del self._slots, self._headers
        self.segment.close()


def _regular_steps(numbers: Array) -> tuple[int, ...] | None:
    """The constant step along each axis of a grid of numbers, None if there is none."""
    steps = []
    for axis in range(numbers.ndim):
        differences = np.diff(numbers, axis=axis)
        if differences.size and differences.min() != differences.max():
            return None
        steps.append(int(differences.flat[0]) if differences.size else 0)
    return tuple(steps)
