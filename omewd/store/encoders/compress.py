"""Compresses chunks, one after the other, in the calling thread and without the GIL."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.spec.compression import SHUFFLES, Compression
from omewd.store.encoders.base import Block, Sizes

# c-blosc 1, BLOSC_MAX_OVERHEAD: with this room, noise is stored as it is. With more, it may grow.
_BLOSC_OVERHEAD_BYTES = 16
# ZSTD_COMPRESSBOUND of n bytes is at most n + n / 256 + 64.
_OVERHEAD_BYTES = 64


class Compressor:
    """Compresses with numcodecs, which allocates each result."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    @staticmethod
    def room(chunk_bytes: int) -> int:
        """The most bytes that a compressed chunk takes."""
        return chunk_bytes + (chunk_bytes >> 8) + _OVERHEAD_BYTES

    def encode(self, chunk: Block) -> bytes:
        """Compress a contiguous chunk."""
        encoded: bytes = self._codec.encode(chunk)
        return encoded

    def encode_into(self, chunks: Block, out: Block) -> Sizes:
        """Compress chunks into ``out`` (bytes), one behind the other; returns their sizes.

        ``chunks``: contiguous, (chunk, …), at least one. ``out`` must have :meth:`room` for each, or ValueError is
        raised.
        """
        self._check(chunks, out)
        sizes, end = np.empty(len(chunks), np.uint64), 0
        for number, chunk in enumerate(chunks):
            encoded = self.encode(chunk)
            sizes[number] = len(encoded)
            out[end : end + len(encoded)] = np.frombuffer(encoded, np.uint8)
            end += len(encoded)
        return sizes

    def _check(self, chunks: Block, out: Block) -> None:
        count, chunk_bytes = len(chunks), chunks[0].nbytes
        if not (chunks.flags.c_contiguous and out.flags.c_contiguous and out.nbytes >= count * self.room(chunk_bytes)):
            raise ValueError(f"the buffer has {out.nbytes} bytes, and {count} chunks of {chunk_bytes} may take more")


class BloscCompressor(Compressor):
    """Calls c-blosc without allocations. This matters for small chunks: with 8 KiB, it takes 0.32 s/GB, not 0.48."""

    def __init__(self, codec: Any, library: ctypes.CDLL, item_bytes: int) -> None:
        """Raises AttributeError if the library does not export the function."""
        super().__init__(codec)
        # blosc.h: int blosc_compress_ctx(int clevel, int doshuffle, size_t typesize, size_t nbytes, const void* src,
        # void* dest, size_t destsize, const char* compressor, size_t blocksize, int numinternalthreads)
        number, size, address = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
        self._call = library.blosc_compress_ctx
        self._call.restype = number
        self._call.argtypes = [number, number, size, size, address, address, size, ctypes.c_char_p, size, number]
        self._how = codec.clevel, codec.shuffle, item_bytes
        self._name = codec.cname.encode()

    def encode_into(self, chunks: Block, out: Block) -> Sizes:
        self._check(chunks, out)
        count, chunk_bytes = len(chunks), chunks[0].nbytes
        room = chunk_bytes + _BLOSC_OVERHEAD_BYTES
        source, target = _address(chunks), _address(out)
        call, how, name, sizes = self._call, self._how, self._name, []
        for start in range(source, source + count * chunk_bytes, chunk_bytes):
            size = call(*how, chunk_bytes, start, target, room, name, 0, 1)
            if size <= 0:
                raise RuntimeError(f"blosc could not compress a chunk of {chunk_bytes} bytes: error {size}")
            sizes.append(size)
            target += size
        return np.array(sizes, np.uint64)


def compressor(compression: str | None, dtype: str) -> Compressor | None:
    """The compressor for a dtype; None without compression."""
    parsed = Compression.parse(compression)
    if parsed is None:
        return None
    import numcodecs

    kind: Any = getattr(numcodecs, parsed.codec.numcodecs)
    if not parsed.codec.is_blosc:
        return Compressor(kind(parsed.level))
    # Blosc's own threads share a lock, so several chunks are compressed at once, each by one thread.
    numcodecs.blosc.use_threads = False
    shuffle = SHUFFLES.index(parsed.shuffle_of(ITEM_BYTES[dtype]))
    codec = kind(parsed.codec.inner, parsed.level, shuffle)
    try:
        return BloscCompressor(codec, ctypes.CDLL(numcodecs.blosc.__file__), ITEM_BYTES[dtype])
    except (AttributeError, OSError):  # a build of numcodecs that hides or links c-blosc in another way
        return Compressor(codec)


def _address(array: Block) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
