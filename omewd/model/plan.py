"""Routing and planning: where a frame goes, and which frames make a write unit.

The one module that knows both orders: acquisition order, in which frames arrive and are numbered,
and storage order, in which OME-Zarr keeps them.

A write unit is a box of outer coordinates as large as one key (a shard, or a chunk), with the direct
backend as large as one chunk, and spans the whole frame. Frame indexes are the lexicographic order of
the outer coordinates, so the units, numbered in lexicographic order of their block coordinates, complete
in the order of their numbers, and their first frames ascend too. That gives every answer here in closed form.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from omewd.errors import OmewdError
from omewd.model.spec import DIRECT, StreamSpec


def unravel(number: int, counts: tuple[int | None, ...]) -> tuple[int, ...]:
    """The coordinate of a number in lexicographic order; the first count may be None (unbounded)."""
    coordinates = []
    for count in reversed(counts[1:]):
        assert count is not None
        number, coordinate = divmod(number, count)
        coordinates.append(coordinate)
    return (number, *reversed(coordinates)) if counts else ()


@dataclass(frozen=True)
class Plan:
    """The write units of one acquisition. Tuples are in acquisition order unless said otherwise.

    ``counts``: elements of each outer dimension, None if unbounded. ``extents``: elements of a write
    unit along each. ``order``: for each outer axis on disk, the outer dimension that it is.
    """

    counts: tuple[int | None, ...]
    extents: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, spec: StreamSpec, backend: str = "") -> Plan:
        """The units that a backend writes; without one, of a key each."""
        outer = len(spec.dimensions) - 2
        return cls(
            counts=tuple(d.count for d in spec.dimensions[:outer]),
            extents=(spec.chunk_shape if backend == DIRECT else spec.key_shape)[:outer],
            order=spec.storage_order[:outer],
        )

    @cached_property
    def frames_total(self) -> int | None:
        """Frames of the whole acquisition, None if unbounded."""
        return None if None in self.counts else math.prod(c for c in self.counts if c)

    @cached_property
    def units_total(self) -> int | None:
        return None if None in self.blocks else math.prod(b for b in self.blocks if b)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Frames between neighbours along each outer dimension."""
        strides = [1]
        for count in reversed(self.counts[1:]):
            strides.append(strides[-1] * (count or 1))
        return tuple(reversed(strides[: len(self.counts)]))

    @cached_property
    def blocks(self) -> tuple[int | None, ...]:
        """Write units along each outer dimension."""
        return tuple(
            None if count is None else -(-count // extent)
            for count, extent in zip(self.counts, self.extents, strict=True)
        )

    @cached_property
    def group_frames(self) -> int:
        """Frames of one round of units: those that are open together because their frames interleave.

        A ring whose capacity is a multiple of this holds a unit without wrapping inside it, unless gaps or
        a ragged inner dimension shift the units; those are gathered.
        """
        for count, extent, stride in zip(self.counts, self.extents, self.strides, strict=True):
            if extent > 1 and count != 1:
                return stride * (extent if count is None else min(extent, count))
        return 1

    @cached_property
    def window_frames(self) -> int:
        """The most frames a ring must hold for a unit to complete: from its first frame to its last."""
        span = 1
        for count, extent, stride in zip(self.counts, self.extents, self.strides, strict=True):
            span += ((extent if count is None else min(extent, count)) - 1) * stride
        return span

    def block(self, unit: int) -> tuple[int, ...]:
        """The block coordinate of a unit."""
        return unravel(unit, self.blocks)

    def origin(self, unit: int) -> tuple[int, ...]:
        return tuple(b * e for b, e in zip(self.block(unit), self.extents, strict=True))

    def size(self, unit: int) -> tuple[int, ...]:
        """Elements of a unit along each outer dimension; less than the extent at a ragged end."""
        return tuple(
            e if c is None else min(e, c - o)
            for o, e, c in zip(self.origin(unit), self.extents, self.counts, strict=True)
        )

    def first_frame(self, unit: int) -> int:
        return sum(o * s for o, s in zip(self.origin(unit), self.strides, strict=True))

    def last_frame(self, unit: int) -> int:
        spans = zip(self.origin(unit), self.size(unit), self.strides, strict=True)
        return sum((o + n - 1) * s for o, n, s in spans)

    def frame_grid(self, unit: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """A unit's frames in storage order: (first frame index, shape, frame-index step along each axis)."""
        size = self.size(unit)
        return (
            self.first_frame(unit),
            tuple(size[i] for i in self.order),
            tuple(self.strides[i] for i in self.order),
        )

    def block_on_disk(self, unit: int) -> tuple[int, ...]:
        """The unit's place in the grid of keys, in storage order, outer axes only."""
        block = self.block(unit)
        return tuple(block[i] for i in self.order)

    def unit_of(self, frame: int) -> int:
        """The unit that a frame belongs to."""
        coordinate = unravel(frame, self.counts)
        unit = 0
        for place, extent, blocks in zip(coordinate, self.extents, self.blocks, strict=True):
            unit = unit * (blocks or 1) + place // extent
        return unit

    def units_with(self, frames: int) -> int:
        """How many units hold any of the first ``frames`` frames: those with the lowest numbers."""
        if not frames:
            return 0
        begun = self.unit_of(frames - 1) + 1
        most = begun + self.group_frames if self.units_total is None else self.units_total
        return bisect_left(range(most), frames, lo=begun, key=self.first_frame)

    def units_complete(self, frames: int) -> int:
        """How many units have all their frames among the first ``frames``: those with the lowest numbers."""
        return bisect_left(range(self.units_with(frames)), frames, key=self.last_frame)

    def place(self, frame: int) -> tuple[int, ...]:
        """The outer index on disk (storage order) of a frame."""
        coordinate = unravel(frame, self.counts)
        return tuple(coordinate[i] for i in self.order)

    def outer_shape(self, frames: int) -> tuple[int, ...]:
        """The smallest outer shape, in acquisition order, that holds the first ``frames`` frames.

        A dimension is cut short only where all slower ones have a single element: the frames
        [0, n) reach every element of it otherwise.
        """
        if not frames:
            return tuple(0 if i == 0 else (c or 0) for i, c in enumerate(self.counts))
        last = unravel(frames - 1, self.counts)
        shape: list[int] = []
        for position, (coordinate, count) in enumerate(zip(last, self.counts, strict=True)):
            alone = all(n == 1 for n in shape[:position])
            shape.append(coordinate + 1 if alone else count or 1)
        return tuple(shape)


@dataclass(frozen=True)
class Budget:
    """What a stream may take of the daemon's memory: ``free_bytes`` for its ring and ``writer_bytes`` together."""

    free_bytes: int
    writer_bytes: int


def choose_capacity(
    plan: Plan, slot_bytes: int, budget: Budget, *, target_bytes: int, writers: int, wanted_slots: int | None = None
) -> int:
    """How many slots a stream's ring gets. Pure.

    At best a group of units for each writer and two more (one filling, one to absorb a stall of the
    disk), and ``target_bytes``; else those groups and half of what is free, else two groups, else one:
    multiples of the group, so that units lie contiguous. At least the window, in which a unit can
    complete. No more than the acquisition needs.
    ``wanted_slots`` is taken as it is if a unit can complete in it.
    Raises OmewdError ``bad_spec`` or ``no_memory`` with the numbers and a remedy.
    """
    group, window = plan.group_frames, plan.window_frames
    affordable = max(budget.free_bytes - budget.writer_bytes, 0) // slot_bytes
    if wanted_slots is not None and wanted_slots < window:
        raise OmewdError(
            "bad_spec",
            f"a ring of {wanted_slots} slots can't complete a write unit, which spans {window} frames",
            f"Ask for at least {window} ring slots (best a multiple of {group}), or use smaller shards",
        )
    if affordable < window:
        raise _no_memory(window, slot_bytes, budget)
    if wanted_slots is not None:
        if wanted_slots > affordable:
            raise _no_memory(wanted_slots, slot_bytes, budget, f"Ask for {affordable} ring slots or fewer")
        return wanted_slots
    best = max((writers + 2) * group, target_bytes // slot_bytes, 16)
    if plan.frames_total is not None:
        best = min(best, plan.frames_total)
    for slots in (best, max(affordable // 2, (writers + 2) * group), 2 * group, group):
        rounded = -(-slots // group) * group
        if rounded <= affordable:
            return rounded
    return window


def _no_memory(slots: int, slot_bytes: int, budget: Budget, remedy: str = "") -> OmewdError:
    smaller = "Use a smaller chunk or shard in the outer dimensions" if slots > 1 else "Use fewer writers"
    return OmewdError(
        "no_memory",
        f"a ring of {slots} slots of {slot_bytes} bytes needs {slots * slot_bytes / 2**20:.1f} MiB and the writers "
        f"{budget.writer_bytes / 2**20:.1f} MiB; {budget.free_bytes / 2**20:.1f} MiB of the daemon's budget are free",
        f"{remedy or smaller}, or give the daemon more: omewd serve --memory",
    )
