"""Routing and planning: where a frame goes, and which frames make a write unit.

This is the one module that knows both orders: acquisition order, in which frames arrive and are numbered, and storage
order, in which OME-Zarr keeps them.

A write unit is a box of outer coordinates. It is as large as what the backend encodes by itself, one key (a shard, or a
chunk) or one chunk, and spans the whole frame. It lies in one image: along positions it has one element. Frames are
numbered in lexicographic order of their outer coordinates, and units in lexicographic order of their block coordinates.
So units complete in the order of their numbers, and their first frames ascend, too. This gives every answer here in
closed form.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from omewd.errors import OmewdError
from omewd.model.spec.backend import Cell
from omewd.model.spec.spec import StreamSpec


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
    """The write units of one source's frames. Tuples are in acquisition order unless said otherwise.

    ``counts``: the elements of each outer dimension, None if unbounded. ``extents``: the elements of a write unit along
    each. ``order``: for each outer axis on disk, the index of its outer dimension. ``image_axis``: the outer dimension
    whose elements are images. ``source_axis``: the outer dimension of the sources, of which source number ``source``
    has only the element ``element``; it comes last because it does not order the frames. ``names``: the outer
    dimensions' names, for messages.
    """

    counts: tuple[int | None, ...]
    extents: tuple[int, ...]
    order: tuple[int, ...]
    image_axis: int | None = None
    source_axis: int | None = None
    source: int = 0
    element: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: StreamSpec, cell: Cell = "key", source: int = 0) -> Plan:
        """The units of a source: each is one key, or one of the chunks that a backend encodes by itself."""
        dims, own = spec.dimensions, spec.source_axis
        shape = spec.chunk_shape if cell == "chunk" else spec.key_shape
        outer = [i for i in range(len(dims) - 2) if i != own] + ([] if own is None else [own])
        images = next((i for i in outer if dims[i].type == "position"), None)
        return cls(
            counts=tuple(1 if i == own else dims[i].count for i in outer),
            extents=tuple(shape[i] for i in outer),
            order=tuple(outer.index(i) for i in spec.disk_order[:-2]),
            image_axis=None if images is None else outer.index(images),
            source_axis=None if own is None else len(outer) - 1,
            source=source,
            element=spec.source_elements[source],
            names=tuple(dims[i].name for i in outer),
        )

    @cached_property
    def frames_total(self) -> int | None:
        """The number of frames in the whole acquisition, None if unbounded."""
        return None if None in self.counts else math.prod(c for c in self.counts if c)

    @cached_property
    def units_total(self) -> int | None:
        return None if None in self.blocks else math.prod(b for b in self.blocks if b)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """The step in frame index between neighbours along each outer dimension."""
        strides = [1]
        for count in reversed(self.counts[1:]):
            strides.append(strides[-1] * (count or 1))
        return tuple(reversed(strides[: len(self.counts)]))

    @cached_property
    def blocks(self) -> tuple[int | None, ...]:
        """The number of write units along each outer dimension, None if unbounded."""
        return tuple(
            None if count is None else -(-count // extent)
            for count, extent in zip(self.counts, self.extents, strict=True)
        )

    @cached_property
    def group_frames(self) -> int:
        """The frames of a group of units, which are open at the same time because their frames interleave.

        In a ring whose capacity is a multiple of this, no unit wraps around the end, unless gaps or a ragged inner
        dimension shift the units. Shifted units are gathered.
        """
        for count, extent, stride in zip(self.counts, self.extents, self.strides, strict=True):
            if extent > 1 and count != 1:
                return stride * (extent if count is None else min(extent, count))
        return 1

    @cached_property
    def group_units(self) -> int:
        """The units of a group. The frames of whole groups are consecutive."""
        for i, (count, extent) in enumerate(zip(self.counts, self.extents, strict=True)):
            if extent > 1 and count != 1:
                return math.prod(blocks or 1 for blocks in self.blocks[i + 1 :])
        return 1

    @cached_property
    def window_frames(self) -> int:
        """How many frames a ring must hold for any unit to complete: from the unit's first frame to its last."""
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
        """The elements of a unit along each outer dimension; fewer than the extent at a ragged end."""
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
        """A unit's frames in storage order: (first frame index, shape, step in frame index along each axis)."""
        size = self.size(unit)
        return (
            self.first_frame(unit),
            tuple(size[i] for i in self.order),
            tuple(self.strides[i] for i in self.order),
        )

    def image_of(self, unit: int) -> int:
        """The number of the image that a unit is in."""
        return self._image(self.block(unit))

    def block_on_disk(self, unit: int) -> tuple[int, ...]:
        """The unit's place in its image's grid of keys, in storage order, outer axes only."""
        return self._on_disk(self.block(unit))

    def unit_at(self, image: int, place: Sequence[int]) -> int | None:
        """The unit at a place in an image's grid of keys (outer axes, storage order); None if there is none."""
        block = [0] * len(self.counts)
        for i, at in zip(self.order, place, strict=True):
            block[i] = at
        if self.image_axis is not None:
            block[self.image_axis] = image
        if self.source_axis is not None:  # in this plan the axis has one element
            block[self.source_axis] -= self.element
        unit = 0
        for at, blocks in zip(block, self.blocks, strict=True):
            if not 0 <= at < (at + 1 if blocks is None else blocks):
                return None
            unit = unit * (blocks or 1) + at
        return unit

    def _image(self, coordinate: tuple[int, ...]) -> int:
        if self.image_axis is None:
            return 0
        return self.element if self.image_axis == self.source_axis else coordinate[self.image_axis]

    def _on_disk(self, coordinate: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.element if i == self.source_axis else coordinate[i] for i in self.order)

    def region(self, unit: int) -> list[tuple[int, int]]:
        """The part of its image that a unit covers: (start, stop) along each outer axis, in storage order."""
        origin, size = self.origin(unit), self.size(unit)
        return [
            (self.element, self.element + 1) if i == self.source_axis else (origin[i], origin[i] + size[i])
            for i in self.order
        ]

    def unit_of(self, frame: int) -> int:
        """The unit that a frame belongs to."""
        coordinate = unravel(frame, self.counts)
        unit = 0
        for place, extent, blocks in zip(coordinate, self.extents, self.blocks, strict=True):
            unit = unit * (blocks or 1) + place // extent
        return unit

    def units_with(self, frames: int) -> int:
        """How many units hold any of the first ``frames`` frames; they have the lowest numbers."""
        return self._units_before(frames, whole=False)

    def units_complete(self, frames: int) -> int:
        """How many units have all their frames among the first ``frames``; they have the lowest numbers."""
        return self._units_before(frames, whole=True)

    def _units_before(self, frames: int, *, whole: bool) -> int:
        """How many units have their first frame, or with ``whole`` their last one, before the frame of this index.

        Compares coordinates as frames are ordered: a faster dimension only decides between units that have the frame's
        own coordinate along all slower ones.
        """
        if self.frames_total is not None and frames >= self.frames_total:
            assert self.units_total is not None
            return self.units_total
        units, is_tied = 0, True
        for at, extent, count, blocks in zip(
            unravel(frames, self.counts), self.extents, self.counts, self.blocks, strict=True
        ):
            units *= blocks or 1
            if not is_tied:
                continue
            below = at // extent if whole else -(-at // extent)
            corner = below * extent
            if whole:
                corner += extent - 1
                corner = corner if count is None else min(corner, count - 1)
            units += below
            is_tied = corner == at
        return units

    def place(self, frame: int) -> tuple[int, ...]:
        """A frame's index along the outer axes of its image, in storage order."""
        return self._on_disk(unravel(frame, self.counts))

    def image(self, frame: int) -> int:
        """The number of the image that a frame is in."""
        return self._image(unravel(frame, self.counts))

    def outer_shape(self, frames: int, image: int = 0) -> tuple[int, ...]:
        """The smallest outer shape that holds those of the first ``frames`` frames that are in an image.

        If there are none, the image's slowest axis is empty. A dimension is shorter than its count only if all slower
        ones have a single element; otherwise the frames reach all its elements.
        """
        first = self._first(image)
        if not self.holds(frames, image):
            slowest = next((i for i in range(len(first)) if i != self.image_axis), None)
            return tuple(0 if i == slowest else (c or 0) for i, c in enumerate(self.counts))
        last = unravel(frames - 1, self.counts)
        shape: list[int] = []
        for i, count in enumerate(self.counts):
            alone = first[:i] == last[:i]
            if not alone or i == self.image_axis:
                shape.append(count or 1)
            else:  # the last element may not have a frame in this image yet
                shape.append(last[i] + (first[i + 1 :] <= last[i + 1 :]))
        return tuple(shape)

    def holds(self, frames: int, image: int) -> bool:
        """Whether any of the first ``frames`` frames is in an image."""
        first = self._first(image)
        return frames > 0 and self._image(first) == image and first <= unravel(frames - 1, self.counts)

    def _first(self, image: int) -> tuple[int, ...]:
        """The coordinate of this source's first frame in an image, if it has one."""
        return tuple(image if i == self.image_axis != self.source_axis else 0 for i in range(len(self.counts)))


@dataclass(frozen=True)
class Budget:
    """The daemon's memory that a stream may take: ``free_bytes``, for its rings and the writers' ``writer_bytes``.

    ``cause``: why the writers need so much, if the depth of the write units is not the reason.
    """

    free_bytes: int
    writer_bytes: int
    rings: int = 1
    cause: str = ""


def choose_capacity(
    plan: Plan,
    slot_bytes: int,
    budget: Budget,
    *,
    target_bytes: int,
    writers: int,
    wanted_slots: int | None = None,
    writer_bytes_of: Callable[[Plan], int] | None = None,
) -> int:
    """Decide how many slots each ring of a stream gets. ``slot_bytes``: one slot in every ring. Pure.

    The first of these that fits into the budget, rounded up to whole groups so that units are contiguous:

    - a group of units for each writer and two more (one that fills, one to absorb a stall of the disk), at least
      ``target_bytes``, and no more than the acquisition needs;
    - half of the free memory, at least a group for each writer and two more;
    - two groups;
    - one group.

    If none fits, the window, which is the least that a unit needs to complete.

    ``wanted_slots`` is taken unchanged if a unit can complete in it. ``writer_bytes_of`` gives the writers' need for
    other units, so that the remedy can name units that fit.
    Raises OmewdError ``bad_spec`` or ``no_memory`` with the numbers and a remedy.
    """
    group, window = plan.group_frames, plan.window_frames
    affordable = max(budget.free_bytes - budget.writer_bytes, 0) // slot_bytes
    if wanted_slots is not None and wanted_slots < window:
        raise OmewdError(
            "bad_spec",
            f"a ring of {wanted_slots} slots can't complete a write unit, which spans {window} frames",
            f"Pass at least `ring_slots={window}` (preferably a multiple of {group}), or use smaller shards",
        )
    if affordable < window:
        remedy = _smaller_units(plan, slot_bytes, budget, writer_bytes_of or (lambda _: budget.writer_bytes))
        raise _no_memory(window, slot_bytes, budget, remedy, budget.cause or _depth(plan))
    if wanted_slots is not None:
        if wanted_slots > affordable:
            raise _no_memory(wanted_slots, slot_bytes, budget, f"Pass `ring_slots={affordable}` or fewer")
        return wanted_slots
    best = max((writers + 2) * group, target_bytes // slot_bytes, 16)
    if plan.frames_total is not None:
        best = min(best, plan.frames_total)
    for slots in (best, max(affordable // 2, (writers + 2) * group), 2 * group, group):
        rounded = -(-slots // group) * group
        if rounded <= affordable:
            return rounded
    return window


def _smaller_units(plan: Plan, slot_bytes: int, budget: Budget, writer_bytes_of: Callable[[Plan], int]) -> str:
    """The remedy that names write units which fit into the budget. It cuts the slowest dimension first."""
    extents = [e if c is None else min(e, c) for e, c in zip(plan.extents, plan.counts, strict=True)]

    def fits(axis: int, extent: int) -> bool:
        smaller = replace(plan, extents=(*extents[:axis], extent, *extents[axis + 1 :]))
        return smaller.window_frames * slot_bytes + writer_bytes_of(smaller) <= budget.free_bytes

    cuts: list[str] = []
    for i, deep in enumerate(extents):
        if deep == 1:
            continue
        # The deepest that fits; if none does, 1, and the next dimension is cut as well.
        extents[i] = max(bisect_left(range(1, deep + 1), True, key=lambda extent: not fits(i, extent)), 1)
        cuts.append(f"{extents[i]} along {plan.names[i] if plan.names else f'dimension {i}'}")
        if fits(i, extents[i]):
            return f"Use write units (chunks; with backends other than direct, shards) of at most {' and '.join(cuts)}"
    return "Use smaller frames, shards of fewer chunks or fewer writers"


def _depth(plan: Plan) -> str:
    """Explains why a write unit is large: its depth along each dimension."""
    names = [plan.names[i] if plan.names else f"dimension {i}" for i in range(len(plan.counts))]
    deep = [
        f"{extent if count is None else min(extent, count)} deep along {name}"
        for name, extent, count in zip(names, plan.extents, plan.counts, strict=True)
        if extent > 1 and count != 1
    ]
    if not deep:
        return ""
    return f"a write unit is {' and '.join(deep)}, and the ring must hold the {plan.window_frames} frames that it spans"


def _no_memory(slots: int, slot_bytes: int, budget: Budget, remedy: str, cause: str = "") -> OmewdError:
    rings = "a ring" if budget.rings == 1 else f"{budget.rings} rings, each"
    more = slots * slot_bytes + budget.writer_bytes - budget.free_bytes
    return OmewdError(
        "no_memory",
        f"{rings} of {slots} slots of {slot_bytes // budget.rings} bytes needs {slots * slot_bytes / 2**20:.1f} MiB "
        f"and the writers {budget.writer_bytes / 2**20:.1f} MiB; {budget.free_bytes / 2**20:.1f} MiB of the daemon's "
        f"budget are free{'; ' if cause else ''}{cause}",
        f"{remedy}, or give the daemon {math.ceil(more / 2**20)} MiB more: omewd serve --memory",
    )
