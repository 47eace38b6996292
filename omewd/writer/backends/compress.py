"""Compressing chunks with numcodecs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omewd.model.dtypes import ITEM_BYTES
from omewd.ngff.codecs import BLOSC_LEVELS, ZSTD_LEVEL
from omewd.writer.backends.base import Block


def compressor(compression: str | None, dtype: str) -> Callable[[Block], bytes] | None:
    """What compresses a contiguous chunk, in the calling thread and without the GIL; None without compression."""
    if compression is None:
        return None
    from numcodecs import Blosc, Zstd, blosc

    if compression == "zstd":
        codec: Any = Zstd(ZSTD_LEVEL)
    else:
        # Blosc's own threads share a lock: chunks are compressed several at once, each by one thread.
        blosc.use_threads = False
        name = compression.removeprefix("blosc-")
        codec = Blosc(name, BLOSC_LEVELS[name], Blosc.SHUFFLE if ITEM_BYTES[dtype] > 1 else Blosc.NOSHUFFLE)
    compress: Callable[[Block], bytes] = codec.encode
    return compress
