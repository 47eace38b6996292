"""Which shard each chunk is in, and where. Pure.

The inner chunks of a shard are numbered in C order over the axes on disk (Zarr v3 sharding codec, "Binary shard
format").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.levels import Level, levels_of
from omewd.model.plan.memory import PIECE_BYTES
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

Flags = np.ndarray[Any, np.dtype[np.bool_]]
# Which of some frame indexes are written: an array of them → a flag each.
Written = Callable[[np.ndarray[Any, np.dtype[np.int64]]], Flags]


@dataclass(frozen=True)
class ShardPlace:
    """Identifies a shard of a source: its ``unit`` in the plan of keys, and its row and column across the frame."""

    unit: int
    row: int
    column: int


class ShardLayout:
    """The chunks and shards of one source at one resolution.

    ``chunks``, ``keys``: the plans whose units are one chunk, or one shard, along the outer axes. ``grid``: the number
    of chunks in a shard along each axis on disk. ``shards_across``: (rows, columns) of shards across the frame, which
    ``frame_shards`` lists.
    ``chunk_bytes``, ``key_bytes``: the size of the pixels of a chunk, and of a shard. ``is_raw``: chunks are stored as
    they are, so that each has ``chunk_bytes``.
    """

    def __init__(self, spec: StreamSpec, level: Level | None = None, source: int = 0) -> None:
        full = levels_of(spec)[0]
        self.level, self.source = level or full, source
        self.chunks, self.keys = Plan.of(spec, "chunk", source), Plan.of(spec, source=source)
        self._paths = spec.image_paths
        # Frames count at the full resolution for every level, because all have the same grid along the outer axes.
        self._key_frames, self._chunk_frames = full.key_shape[:-2], full.chunk_shape[:-2]
        self.chunk_shape, self.grid = self.level.chunk_shape, self.level.grid
        self.chunk_bytes = math.prod(self.chunk_shape) * ITEM_BYTES[spec.dtype]
        self.key_bytes = self.chunk_bytes * self.chunks_per_shard
        self.is_raw = spec.compression is None
        self._across = tuple(-(-n // c) for n, c in zip(self.level.frame_shape, self.chunk_shape[-2:], strict=True))
        rows, columns = (-(-n // g) for n, g in zip(self._across, self.grid[-2:], strict=True))
        self.shards_across = rows, columns
        self.frame_shards = tuple(product(range(rows), range(columns)))

    def key(self, place: ShardPlace) -> str:
        """The path of a key in the dataset ("default" chunk key encoding)."""
        return f"{self.folder(place.unit)}/{place.row}/{place.column}"

    def folder(self, unit: int) -> str:
        """The folder that holds all keys of a unit of the plan of keys."""
        image = self._paths[self.keys.image_of(unit)]
        outer = self.keys.block_on_disk(unit)
        return "/".join([*([image] if image else []), str(self.level.number), "c", *map(str, outer)])

    def region(self, unit: int) -> list[tuple[int, int]]:
        """The part of its array that a unit of the plan of keys covers: (start, stop) along each outer axis."""
        spans = zip(self.keys.region(unit), self.level.factors, strict=False)
        return [(start // factor, -(-stop // factor)) for (start, stop), factor in spans]

    @property
    def chunks_per_shard(self) -> int:
        return math.prod(self.grid)

    def shards_of(self, unit: int) -> Iterator[tuple[ShardPlace, int]]:
        """The shards that hold a part of a unit of chunks, each with the number of the unit's first chunk in it."""
        block, order, outer = self.chunks.block(unit), self.chunks.order, self.grid[:-2]
        shard = 0
        for i, blocks in enumerate(self.keys.blocks):
            chunks = outer[order.index(i)] if i in order else 1  # 1 along the image axis
            shard = shard * (blocks or 1) + block[i] // chunks
        first = 0
        for i, count in zip(order, outer, strict=True):
            first = first * count + block[i] % count
        first *= self.chunks_of_unit
        for row, column in self.frame_shards:
            yield ShardPlace(shard, row, column), first

    @cached_property
    def chunk_places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """For each chunk across the frame, by (row, column): (which of :meth:`shards_of`, number from the first)."""
        rows, columns = self.grid[-2:]
        places = {}
        for row, column in product(range(self._across[0]), range(self._across[1])):
            which = row // rows * self.shards_across[1] + column // columns
            places[row, column] = which, row % rows * columns + column % columns
        return places

    @cached_property
    def patches(self) -> tuple[tuple[int, int, range, range], ...]:
        """A unit's chunks in rectangles: (which of :meth:`shards_of`, number of the first chunk, rows, columns).

        The numbers of each rectangle's chunks, in C order, are consecutive. It has at most a piece of bytes before
        compression, or a single chunk.
        """
        most = max(1, PIECE_BYTES // self.chunk_bytes)
        rows, columns = self.grid[-2:]
        found = []
        for which, (down, right) in enumerate(self.frame_shards):
            bottom, end = min((down + 1) * rows, self._across[0]), min((right + 1) * columns, self._across[1])
            width = end - right * columns
            tall = most // width if width == columns else 1
            for y in range(down * rows, bottom, max(1, tall)):
                for x in range(right * columns, end, min(most, width)):
                    number = (y - down * rows) * columns + x - right * columns
                    patch = range(y, min(y + max(1, tall), bottom)), range(x, min(x + most, end))
                    found.append((which, number, *patch))
        return tuple(found)

    def run(self, unit: int) -> int:
        """How many units from ``unit`` on have their chunks one behind the other, in the same shards."""
        if self._run_axis is None:
            return 1
        axis, chunks = self._run_axis
        at, blocks = self.chunks.block(unit)[axis], self.chunks.blocks[axis]
        in_shard = chunks - at % chunks
        return in_shard if blocks is None else min(in_shard, blocks - at)

    @cached_property
    def _run_axis(self) -> tuple[int, int] | None:
        """The axis along which consecutive units have consecutive chunks, and the chunks of a shard along it."""
        fill = all(len(rows) * len(columns) == self.chunks_of_unit for _, _, rows, columns in self.patches)
        axes = [axis for axis, blocks in enumerate(self.chunks.blocks) if blocks != 1]
        order, outer = self.chunks.order, self.grid[:-2]
        if not fill or not axes or axes[-1] not in order:
            return None
        place = order.index(axes[-1])
        return (axes[-1], outer[place]) if math.prod(outer[place + 1 :]) == 1 else None

    @property
    def chunks_of_unit(self) -> int:
        """The chunks of a shard at one place along the outer axes."""
        return self.grid[-2] * self.grid[-1]

    def chunks_of(self, place: ShardPlace) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """A unit's chunks in a shard: (number counted from the unit's first chunk, the frame's pixels in it)."""
        rows, columns = self.grid[-2:]
        height, width = self.chunk_shape[-2:]
        for y, x in product(range(rows), range(columns)):
            down, right = place.row * rows + y, place.column * columns + x
            if down < self._across[0] and right < self._across[1]:
                pixels = slice(down * height, (down + 1) * height), slice(right * width, (right + 1) * width)
                yield y * columns + x, pixels

    def shards_in(self, unit: int) -> Iterator[ShardPlace]:
        """All shards of a unit of the plan of keys."""
        return (ShardPlace(unit, row, column) for row, column in self.frame_shards)

    def with_frames(self, place: ShardPlace, written: Written) -> Flags:
        """Which chunks of a shard hold any written frame."""
        indexes = frame_indexes(self.keys, place.unit)  # shorter than the shard at a ragged end
        has = np.zeros(self._key_frames, bool)
        inside: tuple[Any, ...] = (*(slice(0, n) for n in indexes.shape), ...)
        has[inside] = written(indexes)
        outer = len(self.grid) - 2
        apart = has.reshape([n for pair in zip(self.grid, self._chunk_frames, strict=False) for n in pair])
        units = apart.any(axis=tuple(range(1, 2 * outer, 2))).reshape(-1, 1)
        across = np.zeros(self.chunks_of_unit, bool)
        across[[number for number, _ in self.chunks_of(place)]] = True
        flags: Flags = (units & across).reshape(-1)
        return flags
