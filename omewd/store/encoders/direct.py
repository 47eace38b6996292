"""omewd's own encoder: chunks as arrays or bytes, ready for the disk.

A chunk's bytes are those of the codec chain in its array's zarr.json: "bytes" (little-endian, C order; Zarr v3
core specification, codecs/bytes), then none, "blosc" (codecs/blosc) or "zstd" (codecs/zstd).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from omewd.store.encoders.base import Block, Encoded, Encoder, Piece, Pixels, UnitArray
from omewd.store.encoders.compress import compressor
from omewd.store.scattered import gathered, planes_of


class DirectEncoder(Encoder):
    """Encodes chunks; any number of threads may be at it, ``threads`` of them compress at once."""

    lasting = True
    takes_scattered = True

    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:  # noqa: ARG002
        self._array = array
        self._is_flat = math.prod(array.chunk_shape[:-2]) == 1
        self._cores = threading.BoundedSemaphore(threads)
        self._compress = compressor(array.compression, array.dtype)

    def encode(self, block: Pixels) -> Iterator[Encoded]:
        """Raw chunks as arrays; others are compressed by whoever consumes them."""
        for place in self._array.frame_keys:
            yield Encoded(place, self._chunk(self._array.pixels(block, place)))

    def _chunk(self, pixels: Pixels) -> Iterable[Piece]:
        """A chunk as it is stored, in pieces: planes, if it does not lie in one piece, so that it is not copied."""
        if self._compress is not None:
            return self._compressed(pixels)
        if (
            isinstance(pixels, np.ndarray)
            and pixels.shape == self._array.chunk_shape
            and (self._is_flat or pixels.flags.c_contiguous)
        ):
            return (pixels,)
        return planes_of(pixels, self._array.chunk_shape)

    def _compressed(self, pixels: Pixels) -> Iterator[Piece]:
        assert self._compress is not None
        with self._cores:
            chunk = self._compress(np.ascontiguousarray(self._whole(pixels)))
        yield chunk

    def _whole(self, pixels: Pixels) -> Block:
        """A chunk as an array, with the fill value where the pixels are shorter, at a ragged end."""
        if pixels.shape == self._array.chunk_shape:
            return gathered(pixels)
        whole = np.zeros(self._array.chunk_shape, pixels.dtype)
        whole[tuple(slice(0, n) for n in pixels.shape)] = gathered(pixels)
        return whole
