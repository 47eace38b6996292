"""omewd's own encoder: chunks as arrays or bytes, ready for the disk; shards are :mod:`omewd.store.sinks.shards`' work.

A chunk's bytes are those of the codec chain in its array's zarr.json: "bytes" (little-endian, C order; Zarr v3
core specification, codecs/bytes), then none, "blosc" (codecs/blosc) or "zstd" (codecs/zstd).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from omewd.model.spec.spec import DIRECT
from omewd.store.encoders.base import Block, Encoded, Piece, Pixels, UnitArray
from omewd.store.encoders.compress import compressor
from omewd.store.filesystem import network_filesystem
from omewd.store.scattered import gathered, planes_of


class DirectBackend:
    name = DIRECT
    module = "numcodecs"

    def unusable(self) -> str | None:
        missing = [name for name in ("numcodecs", "google_crc32c") if not find_spec(name)]
        return f"direct needs {' and '.join(missing)}: pip install {' '.join(missing)}" if missing else None

    def incompatible(self, array: UnitArray) -> str | None:  # noqa: ARG002
        return None

    def unsuited(self, folder: Path) -> str | None:
        kind = network_filesystem(folder)
        return f"direct is for local filesystems, and {folder} is on {kind}" if kind else None

    def open(self, array: UnitArray, *, threads: int, scratch: Path) -> DirectSink:  # noqa: ARG002
        return DirectSink(array, threads)


class DirectSink:
    """Encodes chunks; any number of threads may be at it, ``cores`` of them compress at once."""

    lasting = True

    def __init__(self, array: UnitArray, cores: int) -> None:
        self.array = array
        self._cores = threading.BoundedSemaphore(cores)
        self._compress = compressor(array.compression, array.dtype)

    def array_of(self, pixels: Pixels) -> Block:
        """A whole chunk: ``pixels`` itself, or with the fill value where they are shorter, at a ragged end."""
        if pixels.shape == self.array.chunk_shape:
            return gathered(pixels)
        whole = np.zeros(self.array.chunk_shape, pixels.dtype)
        whole[tuple(slice(0, n) for n in pixels.shape)] = gathered(pixels)
        return whole

    def chunk(self, pixels: Pixels) -> Iterable[Piece]:
        """A chunk as it is stored, in pieces; raw ones by planes, so that a large one is not copied whole."""
        if self._compress is not None:
            with self._cores:
                return (self._compress(np.ascontiguousarray(self.array_of(pixels))),)
        if isinstance(pixels, np.ndarray) and pixels.shape == self.array.chunk_shape:
            return (pixels,)
        return planes_of(pixels, self.array.chunk_shape)

    def encode(self, block: Pixels) -> Iterator[Encoded]:
        """Keys that are chunks; each is encoded by whoever consumes it."""
        for place in self.array.frame_keys:
            yield Encoded(place, self._pieces(place, block))

    def _pieces(self, place: tuple[int, int], block: Pixels) -> Iterator[Piece]:
        yield from self.chunk(self.array.pixels(block, place))

    def close(self) -> None:
        """Nothing is held."""
