"""omewd's own encoder, which makes chunks as arrays or bytes that are ready for the disk.

A chunk's bytes follow the codec chain in its array's zarr.json: "bytes" (little-endian, C order; Zarr v3 core
specification, codecs/bytes), then none, "blosc" (codecs/blosc) or "zstd" (codecs/zstd).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from omewd.store.buffers import Buffers
from omewd.store.encoders.base import Block, Encoded, Patch, Patchwork, Piece, Pixels, RunEncoder, Sizes, UnitArray
from omewd.store.encoders.compress import Compressor, compressor
from omewd.store.encoders.gather import cells_view, gather
from omewd.store.scattered import ScatteredFrames, planes_of

# Chunks are gathered, before they are compressed, in parts of this size, which stay in the CPU's cache.
_GATHERED_BYTES = 1 << 20

_gathered = Buffers()


class DirectEncoder(RunEncoder):
    """Makes chunks when they are needed, in the threads that need them."""

    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:  # noqa: ARG002
        self._array = array
        self._compressor = compressor(array.compression, array.dtype)
        # For chunks that become files: more threads write those than may compress.
        self._cores = threading.BoundedSemaphore(threads)

    def encode(self, block: Pixels) -> Patchwork:
        return self.encode_run(block[None] if isinstance(block, np.ndarray) else block)

    def encode_run(self, pixels: Pixels) -> Patchwork:
        return _Chunks(self._array, self._compressor, self._cores, pixels)


class _Chunks(Patchwork):
    """The chunks of units. ``pixels``: (unit, …, Y, X), or the scattered frames of one unit."""

    def __init__(
        self, array: UnitArray, packer: Compressor | None, cores: threading.BoundedSemaphore, pixels: Pixels
    ) -> None:
        self._array, self._packer, self._cores, self._pixels = array, packer, cores, pixels
        self.units = len(pixels) if isinstance(pixels, np.ndarray) else 1

    def cells(self, unit: int = 0) -> Iterator[Encoded]:
        for y, x in self._array.frame_keys:
            pieces = self.patch(range(unit, unit + 1), range(y, y + 1), range(x, x + 1)).pieces()
            yield Encoded((y, x), pieces if self._packer is None else self._with_a_core(pieces))

    def _with_a_core(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        with self._cores:
            made = list(pieces)
        yield from made

    def patch(self, units: range, rows: range, columns: range) -> Patch:
        pixels = self._pixels
        if isinstance(pixels, np.ndarray):
            pixels = pixels[units.start : units.stop]
        chunks = _Rectangle(pixels, len(units), rows, columns, self._array.chunk_shape)
        return _Raw(chunks) if self._packer is None else _Compressed(chunks, self._packer)


class _Rectangle(NamedTuple):
    """Chunks of units across the frame. ``shape``: of a chunk."""

    pixels: Pixels
    units: int
    rows: range
    columns: range
    shape: tuple[int, ...]

    @property
    def chunks(self) -> int:
        return self.units * len(self.rows) * len(self.columns)

    @property
    def chunk_bytes(self) -> int:
        item_bytes: int = self.pixels.dtype.itemsize
        return math.prod(self.shape) * item_bytes

    def contiguous_view(self) -> Block | None:
        """The chunks as a view (chunk, …) of the pixels; None if they are not contiguous there."""
        if not isinstance(self.pixels, np.ndarray):
            return None
        view = cells_view(self.pixels, self.rows, self.columns, self.shape)
        return view.reshape(self.chunks, *self.shape) if view is not None and view.flags.c_contiguous else None

    def planes(self) -> Iterator[Block]:
        """The planes of a single chunk of each unit."""
        height, width = self.shape[-2:]
        [y], [x] = self.rows, self.columns
        across = slice(y * height, (y + 1) * height), slice(x * width, (x + 1) * width)
        part = self.pixels[..., *across]
        for unit in (part,) if isinstance(part, ScatteredFrames) else part:
            yield from planes_of(unit, self.shape)

    def gather_into(self, out: Block) -> Block:
        """Copy the chunks into bytes; returns them as an array (chunk, …)."""
        array = out[: self.chunks * self.chunk_bytes].view(self.pixels.dtype)
        apart = array.reshape(self.units, len(self.rows), len(self.columns), *self.shape)
        gather(self.pixels, self.rows, self.columns, apart)
        return array.reshape(self.chunks, *self.shape)

    def parts(self, chunks: int) -> Iterator[_Rectangle]:
        """Parts of at most so many chunks, in C order."""
        across = len(self.rows) * len(self.columns)
        at_once = max(1, chunks // across)
        for unit in range(0, self.units, at_once):
            units = self
            if isinstance(self.pixels, np.ndarray):
                pixels = self.pixels[unit : unit + at_once]
                units = self._replace(pixels=pixels, units=len(pixels))
            yield from (units,) if chunks >= across else units._across(chunks)

    def _across(self, chunks: int) -> Iterator[_Rectangle]:
        tall, wide = max(1, chunks // len(self.columns)), min(chunks, len(self.columns))
        for top in range(self.rows.start, self.rows.stop, tall):
            rows = range(top, min(top + tall, self.rows.stop))
            for left in range(self.columns.start, self.columns.stop, wide):
                yield self._replace(rows=rows, columns=range(left, min(left + wide, self.columns.stop)))


class _Raw(Patch):
    """Chunks as they are."""

    is_exact = True

    def __init__(self, chunks: _Rectangle) -> None:
        self._chunks, self.count = chunks, chunks.chunks
        self.room_bytes = self.count * chunks.chunk_bytes

    def in_place(self) -> list[Block] | None:
        view = self._chunks.contiguous_view()
        if view is not None:
            return [view]
        # Whole frames lie in the ring one by one.
        return list(self._chunks.planes()) if self._chunks.pixels.shape[-2:] == self._chunks.shape[-2:] else None

    def pieces(self) -> Iterable[Piece]:
        view = self._chunks.contiguous_view()
        return self._chunks.planes() if view is None else [view]

    def encode_into(self, out: Block) -> Sizes:
        self._chunks.gather_into(out)
        return np.full(self.count, self._chunks.chunk_bytes, np.uint64)


class _Compressed(Patch):
    is_exact = False

    def __init__(self, chunks: _Rectangle, packer: Compressor) -> None:
        self._chunks, self._packer, self.count = chunks, packer, chunks.chunks
        self.room_bytes = self.count * packer.room(chunks.chunk_bytes)

    def pieces(self) -> Iterator[Piece]:
        yield from map(self._packer.encode, _contiguous(self._chunks))

    def encode_into(self, out: Block) -> Sizes:
        end, sizes = 0, []
        for part in self._chunks.parts(max(1, _GATHERED_BYTES // self._chunks.chunk_bytes)):
            sizes.append(self._packer.encode_into(_contiguous(part), out[end:]))
            end += int(sizes[-1].sum())
        return np.concatenate(sizes)


def _contiguous(chunks: _Rectangle) -> Block:
    """Chunks as one array (chunk, …): a view, or a copy that this thread's next call overwrites."""
    view = chunks.contiguous_view()
    if view is not None:
        return view
    size = chunks.chunks * chunks.chunk_bytes
    return chunks.gather_into(_gathered.get(size) if size <= _GATHERED_BYTES else np.empty(size, np.uint8))
