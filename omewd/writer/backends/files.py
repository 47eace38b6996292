"""Taking encoded keys out of a scratch folder in memory, for libraries that only write files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from omewd.errors import OmewdError
from omewd.ngff.codecs import BLOSC_LEVELS, ZSTD_LEVEL
from omewd.writer.backends.base import Buffer, UnitArray

# Zarr v3 sharding codec: an inner chunk that is not stored has these in the index as offset and length.
_ABSENT = 2**64 - 1
_CHECKSUM_BYTES = 4


def zero_key(array: UnitArray) -> Buffer:
    """The key of pixels that are all zero, which some libraries leave out."""
    if array.sharded:
        return _index(np.full((array.chunks_per_key, 2), _ABSENT, "<u8"))
    zeros = np.zeros(array.key_shape, array.dtype)
    if array.compression is None:
        return zeros.tobytes()
    from numcodecs import Blosc, Zstd

    if array.compression == "zstd":
        codec: Any = Zstd(ZSTD_LEVEL)
    else:
        name = array.compression.removeprefix("blosc-")
        codec = Blosc(name, BLOSC_LEVELS[name], Blosc.SHUFFLE if zeros.itemsize > 1 else Blosc.NOSHUFFLE)
    encoded: bytes = codec.encode(zeros)
    return encoded


def take(path: Path) -> memoryview:
    """A file's bytes, mapped; the file is removed. Raises OmewdError ``backend_error`` without any."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OmewdError("backend_error", f"the backend made no key {path.name}") from error
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            raise OmewdError("backend_error", f"the backend made an empty key {path.name}")
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    finally:
        os.close(descriptor)
    path.unlink()
    return memoryview(mapped)


def inner_chunks(shard: memoryview, count: int) -> list[memoryview | None]:
    """A shard's ``count`` inner chunks in the order of its index, which is at its end; None for one not stored."""
    index = np.frombuffer(shard, "<u8", 2 * count, len(shard) - 16 * count - _CHECKSUM_BYTES).reshape(-1, 2)
    return [None if offset == _ABSENT else shard[offset : offset + length] for offset, length in index.tolist()]


def in_order(shard: memoryview, count: int) -> Iterator[Buffer]:
    """A shard with its ``count`` inner chunks in the order of its index, and nothing between them.

    Threads append them in the order in which they finish; this way the same frames make the same bytes.
    """
    index = np.full((count, 2), _ABSENT, "<u8")
    size = 0
    for number, chunk in enumerate(inner_chunks(shard, count)):
        if chunk is not None:
            index[number] = size, len(chunk)
            size += len(chunk)
            yield chunk
    yield _index(index)


def _index(entries: np.ndarray[Any, Any]) -> bytes:
    import google_crc32c

    index = entries.tobytes()
    checksum: int = google_crc32c.value(index)
    return index + checksum.to_bytes(_CHECKSUM_BYTES, "little")
