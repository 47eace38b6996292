"""Where in which shard each chunk is. Pure.

The inner chunks of a shard are numbered in C order, in storage order (Zarr v3 sharding codec, "Binary shard format").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.grid import frame_indexes
from omewd.model.plan import Plan
from omewd.model.spec import DIRECT, StreamSpec

Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class ShardPlace:
    """Which shard: ``unit`` is its number in the plan of keys, (row, column) its place across the frame."""

    unit: int
    row: int
    column: int


class ShardLayout:
    """The chunks and shards of one dataset.

    ``chunks`` and ``keys``: the plans whose units are a chunk and a shard along the outer axes. ``grid``: chunks of a
    shard along each axis, storage order.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.chunks, self.keys = Plan.of(spec, DIRECT), Plan.of(spec)
        self._key_shape, self._chunk_shape = spec.stored(spec.key_shape), spec.stored(spec.chunk_shape)
        self.grid = tuple(k // c for k, c in zip(self._key_shape, self._chunk_shape, strict=True))
        self.chunk_bytes = math.prod(self._chunk_shape) * ITEM_BYTES[spec.dtype]
        self._across = tuple(-(-n // c) for n, c in zip(spec.frame_shape, self._chunk_shape[-2:], strict=True))
        shards = (-(-n // g) for n, g in zip(self._across, self.grid[-2:], strict=True))
        self._frame_keys = tuple(product(*map(range, shards)))

    @property
    def chunks_per_shard(self) -> int:
        return math.prod(self.grid)

    def shards_of(self, unit: int) -> Iterator[tuple[ShardPlace, int]]:
        """The shards that a unit of chunks has a part in, each with the number of the unit's first chunk in it."""
        block, order, outer = self.chunks.block(unit), self.chunks.order, self.grid[:-2]
        shard = 0
        for i, blocks in enumerate(self.keys.blocks):
            shard = shard * (blocks or 1) + block[i] // outer[order.index(i)]
        first = 0
        for i, count in zip(order, outer, strict=True):
            first = first * count + block[i] % count
        first *= self.grid[-2] * self.grid[-1]
        for row, column in self._frame_keys:
            yield ShardPlace(shard, row, column), first

    def chunks_of(self, place: ShardPlace) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """A unit's chunks in a shard: (number counted from the unit's first one, the pixels of the frame in it)."""
        rows, columns = self.grid[-2:]
        height, width = self._chunk_shape[-2:]
        for y, x in product(range(rows), range(columns)):
            down, right = place.row * rows + y, place.column * columns + x
            if down < self._across[0] and right < self._across[1]:
                pixels = slice(down * height, (down + 1) * height), slice(right * width, (right + 1) * width)
                yield y * columns + x, pixels

    def shards_in(self, unit: int) -> Iterator[ShardPlace]:
        """All shards of a unit of the plan of keys."""
        return (ShardPlace(unit, row, column) for row, column in self._frame_keys)

    def with_frames(self, place: ShardPlace, written: Flags) -> Flags:
        """Which chunks of a shard hold any of the frames that are written; ``written``: a flag a frame index."""
        indexes = frame_indexes(self.keys, place.unit)  # at a ragged end shorter than the shard
        known = indexes < len(written)
        has = np.zeros(self._key_shape[:-2], bool)
        inside: tuple[Any, ...] = (*(slice(0, n) for n in indexes.shape), ...)
        has[inside][known] = written[indexes[known]]
        outer = len(self.grid) - 2
        apart = has.reshape([n for pair in zip(self.grid, self._chunk_shape[:outer], strict=False) for n in pair])
        units = apart.any(axis=tuple(range(1, 2 * outer, 2))).reshape(-1, 1)
        across = np.zeros(self.grid[-2] * self.grid[-1], bool)
        across[[number for number, _ in self.chunks_of(place)]] = True
        flags: Flags = (units & across).reshape(-1)
        return flags
