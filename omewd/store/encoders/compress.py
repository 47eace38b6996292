"""Compressing chunks with numcodecs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.spec.compression import SHUFFLES, Compression
from omewd.store.encoders.base import Block


def compressor(compression: str | None, dtype: str) -> Callable[[Block], bytes] | None:
    """What compresses a contiguous chunk, in the calling thread and without the GIL; None without compression."""
    parsed = Compression.parse(compression)
    if parsed is None:
        return None
    import numcodecs

    kind: Any = getattr(numcodecs, parsed.codec.numcodecs)

    if parsed.codec.is_blosc:
        # Blosc's own threads share a lock: chunks are compressed several at once, each by one thread.
        numcodecs.blosc.use_threads = False
        shuffle = SHUFFLES.index(parsed.shuffle_of(ITEM_BYTES[dtype]))
        codec = kind(parsed.codec.inner, parsed.level, shuffle)
    else:
        codec = kind(parsed.level)
    compress: Callable[[Block], bytes] = codec.encode
    return compress
