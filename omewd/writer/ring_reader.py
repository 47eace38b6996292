"""A write unit's frames as one array, in storage order: a view of the ring wherever that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.plan import Plan
from omewd.protocol.jobs.frames import WriteUnits
from omewd.ring import pixels
from omewd.ring.layout import FRAME_INDEX, METADATA, METADATA_BYTES, MONOTONIC_NS, SLOT_HEADERS, WAITED_NS, WALL_NS
from omewd.ring.segment import Segment
from omewd.store.scattered import ScatteredFrames

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class UnitFrames:
    """Where each frame of a unit is. ``grid``: frame indexes in storage order; ``sequences``: -1 where absent."""

    unit: int
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
        """Find the frames of a job's units among the slots that it names."""
        units = range(job.unit, job.unit + job.units)
        grids = [frame_indexes(self.plan, unit) for unit in units]
        wanted = np.concatenate([grid.reshape(-1) for grid in grids])
        sequences = np.arange(job.sequence, job.sequence_end)
        present = self._headers[sequences % self._capacity, FRAME_INDEX].astype(np.int64)
        place = np.searchsorted(present, wanted)
        clipped = np.minimum(place, max(len(present) - 1, 0))
        found = (place < len(present)) & (present[clipped] == wanted) if len(present) else np.zeros(wanted.shape, bool)
        where = np.where(found, job.sequence + clipped, -1)
        ends = np.cumsum([grid.size for grid in grids]).tolist()
        parts = zip(units, grids, [0, *ends], ends, strict=False)
        return [UnitFrames(unit, grid, where[a:b].reshape(grid.shape)) for unit, grid, a, b in parts]

    def frame(self, sequence: int) -> Array:
        """The pixels of one frame, as they lie in the ring."""
        frame: Array = self._slots[sequence % self._capacity]
        return frame

    def stamps(self, sequences: Array) -> tuple[Array, Array]:
        """Of frames: (monotonic ns of their publishing, ns that the camera waited for room)."""
        slots = sequences % self._capacity
        return self._headers[slots, MONOTONIC_NS].astype(np.int64), self._headers[slots, WAITED_NS].astype(np.int64)

    def headers(self, sequences: Array) -> tuple[Array, Array, list[bytes]]:
        """Of frames: (wall-clock ns, monotonic ns of their publishing, metadata as JSON, empty where there is none)."""
        slots = sequences % self._capacity
        found = self._headers[slots]
        lengths = np.minimum(found[:, METADATA_BYTES], self.segment.geometry.metadata_max_bytes).tolist()
        starts = (SLOT_HEADERS + METADATA + slots * self.segment.geometry.slot_header_stride).tolist()
        memory = self.segment.memory
        metadata = [memory[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return found[:, WALL_NS], found[:, MONOTONIC_NS], metadata

    def blocks(self, units: Sequence[UnitFrames]) -> list[Array | ScatteredFrames]:
        """The pixels of units, each as :meth:`block` gives it."""
        if len(units) > 1 and len({frames.sequences.shape for frames in units}) == 1:
            together = self._view(np.stack([frames.sequences for frames in units]))
            if together is not None:
                return list(together)
        return [self.block(frames) for frames in units]

    def block(self, frames: UnitFrames) -> Array | ScatteredFrames:
        """A unit's pixels, (…, Y, X); zero where a frame is absent. Valid while the job is leased.

        A view of the ring if the unit's slots lie at regular distances.
        """
        sequences = frames.sequences
        view = self._view(sequences)
        if view is not None:
            return view
        planes = [self._slots[n % self._capacity] if n >= 0 else None for n in sequences.ravel().tolist()]
        return ScatteredFrames(planes, sequences.shape, self._slots[0])

    def _view(self, sequences: Array) -> Array | None:
        """Slots as they lie in the ring, None if there is no such view of them."""
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
    """The constant step along each axis of a grid of numbers, None if there is none."""
    steps = []
    for axis in range(numbers.ndim):
        differences = np.diff(numbers, axis=axis)
        if differences.size and differences.min() != differences.max():
            return None
        steps.append(int(differences.flat[0]) if differences.size else 0)
    return tuple(steps)
