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
from omewd.store.encoders.base import Block, Encoded, Encoder, Patch, Patchwork, Piece, Pixels, Sizes, UnitArray
from omewd.store.encoders.compress import Compressor, compressor
from omewd.store.encoders.gather import cells_view, gather
from omewd.store.scattered import planes_of

# Chunks are gathered, before they are compressed, in parts of this size, which stay in the CPU's cache.
_GATHERED_BYTES = 1 << 20

_gathered = Buffers()


class DirectEncoder(Encoder):
    """Makes a unit's chunks when they are needed, in the threads that need them."""

    takes_scattered = True

    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:  # noqa: ARG002
        self._array = array
        self._compressor = compressor(array.compression, array.dtype)
        # For chunks that become files: more threads write those than may compress.
        self._cores = threading.BoundedSemaphore(threads)

    def encode(self, block: Pixels) -> Patchwork:
        return _Chunks(self._array, self._compressor, self._cores, block)


class _Chunks(Patchwork):
    """The chunks of one unit."""

    def __init__(
        self, array: UnitArray, packer: Compressor | None, cores: threading.BoundedSemaphore, pixels: Pixels
    ) -> None:
        self._array, self._packer, self._cores, self._pixels = array, packer, cores, pixels

    def __iter__(self) -> Iterator[Encoded]:
        for y, x in self._array.frame_keys:
            pieces = self.patch(range(y, y + 1), range(x, x + 1)).pieces()
            yield Encoded((y, x), pieces if self._packer is None else self._with_a_core(pieces))

    def _with_a_core(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        with self._cores:
            made = list(pieces)
        yield from made

    def patch(self, rows: range, columns: range) -> Patch:
        rectangle = _Rectangle(self._pixels, rows, columns, self._array.chunk_shape)
        return _Raw(rectangle) if self._packer is None else _Compressed(rectangle, self._packer)


class _Rectangle(NamedTuple):
    """Chunks of a unit across the frame. ``shape``: of a chunk."""

    pixels: Pixels
    rows: range
    columns: range
    shape: tuple[int, ...]

    @property
    def chunks(self) -> int:
        return len(self.rows) * len(self.columns)

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
        """The planes of a single chunk."""
        height, width = self.shape[-2:]
        [y], [x] = self.rows, self.columns
        across = slice(y * height, (y + 1) * height), slice(x * width, (x + 1) * width)
        return planes_of(self.pixels[..., *across], self.shape)

    def gather_into(self, out: Block) -> Block:
        """Copy the chunks into bytes; returns them as an array (chunk, …)."""
        array = out[: self.chunks * self.chunk_bytes].view(self.pixels.dtype)
        gather(self.pixels, self.rows, self.columns, array.reshape(len(self.rows), len(self.columns), *self.shape))
        return array.reshape(self.chunks, *self.shape)

    def parts(self, chunks: int) -> Iterator[_Rectangle]:
        """Parts of at most so many chunks, in C order."""
        tall, wide = max(1, chunks // len(self.columns)), min(chunks, len(self.columns))
        for top in range(self.rows.start, self.rows.stop, tall):
            for left in range(self.columns.start, self.columns.stop, wide):
                rows, columns = (
                    range(top, min(top + tall, self.rows.stop)),
                    range(left, min(left + wide, self.columns.stop)),
                )
                yield self._replace(rows=rows, columns=columns)


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
