"""The interface of encoders, which make the bytes of one write unit. omewd itself puts them on disk.

An encoder sees an array that holds exactly one write unit: a single cell along every outer axis, and all cells across
the frame. A cell is a key of that array: a shard or a chunk of the dataset, or a single chunk of a shard, which then is
like a key without sharding. So no library ever opens, reads, locks or rewrites anything in a dataset. Whichever library
made the bytes, they reach the disk by one of two paths (:mod:`omewd.store.sinks`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.levels import Level, levels_of
from omewd.model.spec.backend import Cell
from omewd.model.spec.compression import Compression
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.array_document import array_document
from omewd.store.scattered import ScatteredFrames

# c-blosc 1, BLOSC_MAX_BUFFERSIZE: the largest chunk.
_BLOSC_MAX_BYTES = 2**31 - 17

Block = np.ndarray[Any, Any]
Sizes = np.ndarray[Any, np.dtype[np.uint64]]
Buffer = bytes | memoryview
# Bytes, or an array of any strides, which stands for its elements in C order.
Piece = Buffer | Block
# The direct encoder also takes scattered frames.
Pixels = Block | ScatteredFrames
PixelsOf = TypeVar("PixelsOf", Block, ScatteredFrames, Pixels)


@dataclass(frozen=True)
class UnitArray:
    """The array of one write unit at one resolution. Shapes are in elements, in storage order, frame axes last.

    Its keys are the cells that an encoder makes. ``sharded``: whether they are shards.
    """

    shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dtype: str
    compression: str | None
    sharded: bool

    @classmethod
    def of(cls, spec: StreamSpec, level: Level | None = None, cell: Cell = "key") -> UnitArray:
        """The array of a stream's units with this kind of cells. ``level``: the resolution; None for the full one."""
        level = level or levels_of(spec)[0]
        key_shape = level.key_shape if cell == "key" else level.chunk_shape
        sharded = spec.sharded and cell == "key"
        shape = (*key_shape[:-2], *level.frame_shape)
        return cls(shape, key_shape, level.chunk_shape, spec.dtype, spec.compression, sharded)

    @property
    def document(self) -> dict[str, Any]:
        return array_document(
            shape=self.shape,
            key_shape=self.key_shape,
            chunk_shape=self.chunk_shape,
            dtype=self.dtype,
            compression=self.compression,
            sharded=self.sharded,
        )

    @cached_property
    def frame_keys(self) -> tuple[tuple[int, int], ...]:
        """The keys across the frame, as (y, x) places in the grid of keys."""
        rows, columns = (-(-n // k) for n, k in zip(self.shape[-2:], self.key_shape[-2:], strict=True))
        return tuple((row, column) for row in range(rows) for column in range(columns))

    @property
    def key_bytes(self) -> int:
        """The size of one key before compression."""
        return math.prod(self.key_shape) * ITEM_BYTES[self.dtype]

    @property
    def chunks_per_key(self) -> int:
        """The number of inner chunks in a shard; 1 without sharding."""
        return math.prod(self.key_shape) // math.prod(self.chunk_shape)

    @property
    def unencodable(self) -> str | None:
        """Why no backend can encode this array; None if one may."""
        chunk_bytes = math.prod(self.chunk_shape) * ITEM_BYTES[self.dtype]
        compression = Compression.parse(self.compression)
        if chunk_bytes > _BLOSC_MAX_BYTES and compression is not None and compression.codec.is_blosc:
            return f"a chunk of {chunk_bytes} bytes is over blosc's limit of {_BLOSC_MAX_BYTES}: use smaller chunks"
        return None

    def key(self, place: tuple[int, int]) -> str:
        """The chunk key ("default" encoding) of a place within this unit's array."""
        return "/".join(["c", *["0"] * (len(self.shape) - 2), str(place[0]), str(place[1])])

    def region(self, block: Block) -> tuple[slice, ...]:
        """The part of the array that a block fills: at the origin, and shorter at a ragged end."""
        return tuple(slice(0, n) for n in block.shape)

    def pixels(self, block: PixelsOf, place: tuple[int, int]) -> PixelsOf:
        """The part of a block that belongs to the key at a place."""
        part: PixelsOf = block[self._parts[place]]
        return part

    @cached_property
    def _parts(self) -> dict[tuple[int, int], tuple[Any, ...]]:
        """The index of each key's pixels in a block."""
        height, width = self.key_shape[-2:]
        return {
            (y, x): (..., slice(y * height, (y + 1) * height), slice(x * width, (x + 1) * width))
            for y, x in self.frame_keys
        }


class Encoded(NamedTuple):
    """One cell's bytes, in pieces. ``place``: (y, x) in the grid of cells."""

    place: tuple[int, int]
    pieces: Iterable[Piece]


class Patch(ABC):
    """Cells whose bytes can be made by any thread, as long as the units' pixels stay unchanged.

    ``count``: how many cells. ``room_bytes``: the most bytes that they take. ``is_exact``: whether they take just that.
    """

    count: int = 1
    room_bytes: int
    is_exact: bool

    def in_place(self) -> list[Block] | None:
        """Arrays that hold the cells' bytes, one behind the other; None if they are not in memory yet."""
        return None

    @abstractmethod
    def pieces(self) -> Iterable[Piece]:
        """The bytes of a single cell, made piece by piece."""

    @abstractmethod
    def encode_into(self, out: Block) -> Sizes:
        """Write the cells' bytes into ``out``, one cell behind the other; returns the size of each.

        ``out``: bytes, at least ``room_bytes`` of them.
        """


class Patchwork(ABC):
    """The cells of one or several consecutive units, which are made when they are needed. ``units``: how many."""

    units: int

    @abstractmethod
    def cells(self, unit: int = 0) -> Iterator[Encoded]:
        """A unit's cells one by one. Any thread may consume the pieces of each."""

    @abstractmethod
    def patch(self, units: range, rows: range, columns: range) -> Patch:
        """A rectangle of cells of some units, in C order."""


Cells = Iterator[Encoded] | Patchwork


def by_unit(first: int, cells: Cells) -> Iterator[tuple[int, Iterator[Encoded]]]:
    """The cells of each unit, from unit ``first`` on."""
    if isinstance(cells, Patchwork):
        for number in range(cells.units):
            yield first + number, cells.cells(number)
    else:
        yield first, cells


class Encoder(ABC):
    """Turns units into the bytes of their cells. A writer has one encoder for each stream and resolution."""

    @abstractmethod
    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:
        """``threads``: the cores that it may use. ``scratch``: a folder in memory of its own, which it may create."""

    @staticmethod
    def incompatible(array: UnitArray) -> str | None:  # noqa: ARG004
        """Why it can't encode such an array; None if it can. Imports nothing heavy."""
        return None

    @abstractmethod
    def encode(self, block: Block) -> Cells:
        """Encode a unit. It has every cell once, even those that hold only the fill value.

        ``block``: (…, Y, X) in storage order, with any strides. At a ragged end it is smaller than the unit, and the
        rest of the unit gets the fill value. The block must stay unchanged until all cells are consumed: at once if
        they are an iterator, whose bytes only last until the next cell, and by any thread, at any time, if they are a
        patchwork.
        """

    def close(self) -> None:  # noqa: B027  most hold nothing
        """Release what the encoder holds."""


class RunEncoder(Encoder):
    """An encoder that also takes several units at once, and scattered frames."""

    @abstractmethod
    def encode_run(self, pixels: Pixels) -> Patchwork:
        """Encode consecutive units, (unit, …, Y, X), or one that is scattered, each as :meth:`encode` does."""
