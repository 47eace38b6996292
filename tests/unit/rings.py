"""Rings in anonymous memory, plans of all shapes, and a plain model of what a plan has to say."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from omewd.model.plan.plan import Plan
from omewd.ring import pixels
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import Geometry
from omewd.ring.ring import ProducerRing
from omewd.ring.segment import Segment

Coordinate = tuple[int, ...]


def make_geometry(capacity: int = 4, **fields: Any) -> Geometry:
    values: dict[str, Any] = {
        "name": "cam0",
        "epoch": 7,
        "frame_shape": (2, 3),
        "dtype": "uint16",
        "backpressure": "block",
        "frames_total": None,
    }
    return Geometry.plan(capacity=capacity, **{**values, **fields})


def anonymous_memory(size: int) -> int:
    """A descriptor of memory that looks like a ring's: regular, of that size, only for its owner."""
    descriptor = os.memfd_create("ring", os.MFD_CLOEXEC)
    os.fchmod(descriptor, 0o600)
    os.ftruncate(descriptor, size)
    return descriptor


@contextlib.contextmanager
def open_segment(geometry: Geometry) -> Iterator[Segment]:
    """A formatted ring."""
    segment = Segment(anonymous_memory(geometry.total_bytes), geometry, writable=True)
    DaemonRing(segment).format()
    try:
        yield segment
    finally:
        segment.close()


@dataclass
class Ends:
    """Both ends of one ring in this process."""

    segment: Segment
    producer: ProducerRing
    daemon: DaemonRing

    def publish(self, count: int = 1, metadata: bytes = b"") -> int:
        """Publish frames whose pixels all hold their frame index; returns the last index."""
        frame = -1
        for _ in range(count):
            assert self.producer.free()
            pixels.slots(self.segment)[self.producer.slot] = self.producer.next_frame % 60_000
            frame = self.producer.publish(monotonic_ns=11, wall_ns=22, metadata=metadata)
        return frame


@contextlib.contextmanager
def open_ring(capacity: int = 4, **fields: Any) -> Iterator[Ends]:
    with open_segment(make_geometry(capacity, **fields)) as segment:
        ends = Ends(segment, ProducerRing(segment), DaemonRing(segment))
        try:
            yield ends
        finally:
            ends.producer.release()


@st.composite
def plans(draw: st.DrawFn, *, unbounded: bool | None = None, max_frames: int = 150) -> Plan:
    """Plans of up to three outer dimensions, any extents and storage orders, ragged ends included."""
    rank = draw(st.integers(1 if unbounded else 0, 3))
    counts: list[int | None] = []
    room = max_frames
    for _ in range(rank):
        count = draw(st.integers(1, min(9, room)))
        counts.append(count)
        room //= count
    if rank and (draw(st.booleans()) if unbounded is None else unbounded):
        counts[0] = None
    extents = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    order = tuple(draw(st.permutations(range(rank))))
    return Plan(tuple(counts), extents, order)


class Expected:
    """A plan written out frame by frame. An unbounded dimension is three full units long."""

    def __init__(self, plan: Plan) -> None:
        self.counts = tuple(
            3 * extent if count is None else count for count, extent in zip(plan.counts, plan.extents, strict=True)
        )
        self.coordinates: list[Coordinate] = list(itertools.product(*map(range, self.counts)))
        self.index = {coordinate: frame for frame, coordinate in enumerate(self.coordinates)}
        self.units: dict[Coordinate, list[int]] = {}
        for frame, coordinate in enumerate(self.coordinates):
            block = tuple(c // e for c, e in zip(coordinate, plan.extents, strict=True))
            self.units.setdefault(block, []).append(frame)
        self.blocks = sorted(self.units)
        self._order = plan.order

    @property
    def frames(self) -> int:
        return len(self.coordinates)

    def frames_of(self, unit: int) -> list[int]:
        return self.units[self.blocks[unit]]

    def stored(self, coordinate: Coordinate) -> Coordinate:
        return tuple(coordinate[i] for i in self._order)

    def grid(self, unit: int) -> np.ndarray[Any, Any]:
        """The frame indexes of a unit, as they lie in storage order."""
        places = [self.stored(self.coordinates[frame]) for frame in self.frames_of(unit)]
        corner = tuple(min(axis) for axis in zip(*places, strict=True))
        shape = tuple(max(axis) - low + 1 for axis, low in zip(zip(*places, strict=True), corner, strict=True))
        grid = np.full(shape, -1)
        for frame, place in zip(self.frames_of(unit), places, strict=True):
            grid[tuple(p - low for p, low in zip(place, corner, strict=True))] = frame
        return grid


def is_even(plan: Plan) -> bool:
    """Whether no unit is shorter along an inner dimension than its neighbours."""
    inner = zip(plan.counts[1:], plan.extents[1:], strict=True)
    return all(count is not None and (count % extent == 0 or extent >= count) for count, extent in inner)
