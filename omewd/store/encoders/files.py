"""Reads encoded keys from a scratch folder in memory, for libraries that only write files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omewd.errors import OmewdError
from omewd.store.encoders.base import Buffer, UnitArray
from omewd.store.encoders.compress import compressor
from omewd.store.format.shard_index import ABSENT, entries_at_end, index_bytes


def zero_key(array: UnitArray) -> Buffer:
    """The bytes of a key whose pixels are all zero, which some libraries don't write."""
    if array.sharded:
        return index_bytes(np.full((array.chunks_per_key, 2), ABSENT, np.uint64))
    zeros = np.zeros(array.key_shape, array.dtype)
    packer = compressor(array.compression, array.dtype)
    return zeros.tobytes() if packer is None else packer.encode(zeros)


def take(path: Path) -> memoryview:
    """Map a file and remove it; returns its bytes. Raises OmewdError ``backend_error`` if it is missing or empty."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OmewdError("backend_error", f"the backend did not write the key {path.name}") from error
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            raise OmewdError("backend_error", f"the backend wrote an empty key {path.name}")
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    finally:
        os.close(descriptor)
    path.unlink()
    return memoryview(mapped)


def inner_chunks(shard: memoryview, count: int) -> list[memoryview | None]:
    """A shard's ``count`` inner chunks, in the order of its index; None for a chunk that is not stored."""
    entries = entries_at_end(shard, count).tolist()
    return [None if offset == ABSENT else shard[offset : offset + length] for offset, length in entries]


def in_order(shard: memoryview, count: int) -> Iterator[Buffer]:
    """A shard whose ``count`` inner chunks are in the order of its index, without gaps.

    The library's threads append chunks in the order in which they finish. Reordered, the same frames make the same
    bytes.
    """
    entries = np.full((count, 2), ABSENT, np.uint64)
    size = 0
    for number, chunk in enumerate(inner_chunks(shard, count)):
        if chunk is not None:
            entries[number] = size, len(chunk)
            size += len(chunk)
            yield chunk
    yield index_bytes(entries)
