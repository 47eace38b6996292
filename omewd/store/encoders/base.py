"""What omewd asks of an encoder: the bytes of one write unit. Getting them to disk is omewd's own.

An encoder sees an array that holds exactly one write unit: a single cell along every outer axis, and all cells
across the frame. A cell is a key of that array: a shard or a chunk of the dataset, or of a dataset in shards one of
their chunks, which is then like a key without shards. So no library ever opens, reads, locks or rewrites anything
in a dataset, and whichever made the bytes, they reach the disk by one of two paths (:mod:`omewd.store.sinks`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.levels import Level, levels_of
from omewd.model.spec.backend import Cell
from omewd.model.spec.compression import Compression
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.array_document import array_document
from omewd.store.scattered import ScatteredFrames

# c-blosc 1, BLOSC_MAX_BUFFERSIZE: what one chunk may hold.
_BLOSC_MAX_BYTES = 2**31 - 17

Block = np.ndarray[Any, Any]
Buffer = bytes | memoryview
# Bytes as they are, or an array of any strides, for its elements in C order.
Piece = Buffer | Block
# What the direct encoder takes, too.
Pixels = Block | ScatteredFrames
PixelsOf = TypeVar("PixelsOf", Block, ScatteredFrames, Pixels)


@dataclass(frozen=True)
class UnitArray:
    """The array of one write unit at one resolution; shapes in elements, storage order, frame axes last.

    Its keys are the cells that an encoder makes; ``sharded``: whether they are shards.
    """

    shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dtype: str
    compression: str | None
    sharded: bool

    @classmethod
    def of(cls, spec: StreamSpec, level: Level | None = None, cell: Cell = "key") -> UnitArray:
        """That of a stream's units of such cells; ``level``: at which resolution, the full one without it."""
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
        """The keys across the frame: (y, x) places in the grid of keys."""
        rows, columns = (-(-n // k) for n, k in zip(self.shape[-2:], self.key_shape[-2:], strict=True))
        return tuple((row, column) for row in range(rows) for column in range(columns))

    @property
    def key_bytes(self) -> int:
        """Bytes of one key before compression."""
        return math.prod(self.key_shape) * ITEM_BYTES[self.dtype]

    @property
    def chunks_per_key(self) -> int:
        """Inner chunks of a shard; 1 without sharding."""
        return math.prod(self.key_shape) // math.prod(self.chunk_shape)

    @property
    def unencodable(self) -> str | None:
        """Why no backend can encode this array, None if one may."""
        chunk_bytes = math.prod(self.chunk_shape) * ITEM_BYTES[self.dtype]
        compression = Compression.parse(self.compression)
        if chunk_bytes > _BLOSC_MAX_BYTES and compression is not None and compression.codec.is_blosc:
            return f"a chunk of {chunk_bytes} bytes is more than blosc takes, {_BLOSC_MAX_BYTES}: use smaller chunks"
        return None

    def key(self, place: tuple[int, int]) -> str:
        """The chunk key ("default" encoding) of a place within this unit's array."""
        return "/".join(["c", *["0"] * (len(self.shape) - 2), str(place[0]), str(place[1])])

    def region(self, block: Block) -> tuple[slice, ...]:
        """Where a block lies in the array: at the origin, shorter at a ragged end."""
        return tuple(slice(0, n) for n in block.shape)

    def pixels(self, block: PixelsOf, place: tuple[int, int]) -> PixelsOf:
        """The part of a block that the key at a place holds."""
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
    """One cell's bytes, in pieces; several cells of a unit may be consumed at once, each by one thread.

    ``place``: (y, x) in the grid of cells; ``pieces``: a tuple where they cost nothing to make.
    """

    place: tuple[int, int]
    pieces: Iterable[Piece]


class Encoder(ABC):
    """Turns units into the bytes of their cells; a writer has one for each stream and resolution.

    ``lasting``: pieces may be consumed by any thread as long as the block stays unchanged, not only until the next
    call. ``takes_scattered``: it takes frames where they are, too.
    """

    lasting: ClassVar[bool] = False
    takes_scattered: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:
        """``threads``: cores it may use. ``scratch``: a folder in memory for it alone, which it may make."""

    @staticmethod
    def incompatible(array: UnitArray) -> str | None:  # noqa: ARG004
        """Why it can't encode such an array, None if it can. Imports nothing heavy."""
        return None

    @abstractmethod
    def encode(self, block: Block) -> Iterator[Encoded]:
        """Encode a unit; every cell of it is yielded once, also one that holds only the fill value.

        ``block``: (…, Y, X) in storage order, any strides, shorter than the unit at a ragged end; the rest
        of the unit gets the fill value. The block must stay unchanged until all pieces are consumed.
        """

    def close(self) -> None:  # noqa: B027  most hold nothing
        """Let go of what it holds."""
