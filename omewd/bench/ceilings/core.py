"""A process that shows what one core can do: copy frames, or compress chunks, with nothing else in the way.

It takes these messages (see :mod:`omewd.bench.run.child`)::

    {"do": "prepare", "shape", "dtype", "data", "frames", "chunk"}        make the frames and cut them into chunks
    {"do": "copy"}                                                        copy frames for a while
    {"do": "compress", "compression"}                                     compress chunks for a while

The last two answer with GB of pixels a second, and with the CPU seconds that a GB takes, which says more on a machine
that is busy with something else.

Usage: python -m omewd.bench.ceilings.core CHANNEL
"""

from __future__ import annotations

import math
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from omewd.bench.run.child import serve
from omewd.bench.run.frames import Frames, make_pool
from omewd.protocol.messages import Message
from omewd.store.encoders.compress import compressor

# More than a core's own caches hold. A process has three times this: frames, chunks and where they are copied to.
_POOL_BYTES = 32 << 20
# What compressing takes at once.
_BATCH_BYTES = 1 << 20
# Long enough for some chunks of several MiB, short beside a round of the benchmark.
_MEASURE_S = 0.1


class Core:
    """Serves one benchmark."""

    def __init__(self) -> None:
        self._frames: Frames = np.empty((0, 0, 0))
        self._places: Frames = self._frames
        self._chunks: Frames = np.empty((0, 0, 0, 0))

    def handle(self, message: Message) -> Any:
        match message["do"]:
            case "prepare":
                shape = (message["shape"][0], message["shape"][1])
                self._frames = make_pool(
                    shape, message["dtype"], message["data"], message["frames"], pool_bytes=_POOL_BYTES
                )
                # As many places as fill the pool's size, so that like a slot of a ring the next one is in no cache.
                count = max(1, _POOL_BYTES // self._frames[0].nbytes)
                self._places = np.ones((count, *shape), self._frames.dtype)
                self._chunks = cut(self._frames, message["chunk"])
                return {}
            case "copy":
                return _measure(self._copy, len(self._places), self._frames[0].nbytes)
            case "compress":
                return self._compress(message["compression"])

    def _compress(self, compression: str) -> dict[str, float]:
        """Compress as many chunks with a call as the ``direct`` backend does with small ones."""
        codec = compressor(compression, str(self._chunks.dtype))
        assert codec is not None
        chunk_bytes = self._chunks[0].nbytes
        size = min(max(1, _BATCH_BYTES // chunk_bytes), len(self._chunks))
        out = np.ones(size * codec.room(chunk_bytes), np.uint8)
        batches = [self._chunks[first : first + size] for first in range(0, len(self._chunks) - size + 1, size)]
        return _measure(lambda number: codec.encode_into(batches[number], out), len(batches), size * chunk_bytes)

    def _copy(self, number: int) -> None:
        self._places[number] = self._frames[number % len(self._frames)]


def cut(frames: Frames, chunk: Sequence[int]) -> Frames:
    """Cut frames into whole chunks of the given shape (…, Y, X); frames come round again if there are few.

    Tiles at the edges that are not whole are left out. Returns the chunks, contiguous, as (chunk, depth, Y, X).
    """
    depth, height, width = math.prod(chunk[:-2]), chunk[-2], chunk[-1]
    blocks, down, across = max(1, len(frames) // depth), frames.shape[1] // height, frames.shape[2] // width
    whole = frames[np.arange(blocks * depth) % len(frames), : down * height, : across * width]
    tiles = whole.reshape(blocks, depth, down, height, across, width).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(tiles).reshape(-1, depth, height, width)


def _measure(step: Callable[[int], object], count: int, step_bytes: int) -> dict[str, float]:
    """Do ``step`` with 0, 1, … in turn for a while."""
    done = 0
    began, used = time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - began) < _MEASURE_S:
        step(done % count)
        done += 1
    gb = done * step_bytes / 1e9
    return {"gb_per_s": gb / spent, "cpu_s_per_gb": (time.process_time() - used) / gb}


def main() -> None:
    serve(socket.socket(fileno=int(sys.argv[1])), Core().handle)


if __name__ == "__main__":
    main()
