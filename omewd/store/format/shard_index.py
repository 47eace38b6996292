"""The index of a shard, which says where its inner chunks are.

Zarr v3 sharding codec ("sharding_indexed", ZEP 2), section "Binary shard format": offset and length of each inner
chunk, in C order, as little-endian u64; both are 2^64 - 1 for a chunk that is not stored. With our index_codecs, the
CRC-32C of that follows as little-endian u32. The index is at the end of the shard (index_location "end").
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from omewd.store.format.libraries import required

Entries = np.ndarray[Any, np.dtype[np.uint64]]

ABSENT = 2**64 - 1
ENTRY_BYTES = 16
_CHECKSUM_BYTES = 4


def index_bytes(entries: Entries) -> bytes:
    """The bytes of an index with ``entries``, an array of (offset, length) with shape (chunks, 2)."""
    google_crc32c = required("google_crc32c", "read and write shards")
    index = entries.astype("<u8", copy=False).tobytes()
    checksum: int = google_crc32c.value(index)
    return index + checksum.to_bytes(_CHECKSUM_BYTES, "little")


def index_size(chunks: int) -> int:
    """The size of the index of so many chunks, in bytes."""
    return ENTRY_BYTES * chunks + _CHECKSUM_BYTES


def entries_at_end(shard: memoryview, chunks: int) -> Entries:
    """The entries of a whole shard in memory, without a check."""
    return np.frombuffer(shard, "<u8", 2 * chunks, len(shard) - index_size(chunks)).reshape(-1, 2)


def read_entries(descriptor: int, chunks: int) -> Entries | None:
    """The entries of a shard in a file; None if it is torn, that is, the checksum or a chunk's place is wrong."""
    size, length = os.fstat(descriptor).st_size, index_size(chunks)
    index = os.pread(descriptor, length, size - length) if size >= length else b""
    if len(index) != length:
        return None
    entries = entries_at_end(memoryview(index), chunks)
    present = entries[:, 0] != ABSENT
    inside = (entries[present] <= size).all() and (entries[present].sum(axis=1) <= size - length).all()
    return entries if index == index_bytes(entries) and inside else None
