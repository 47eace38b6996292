"""The tools that all streams of a writer share: threads, buffers, cores and a clock."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omewd.model.plan.memory import BUFFER_BYTES, ENCODERS_AT_ONCE, OPEN_SHARDS, PIECES_AT_ONCE, SYNCS_AT_ONCE
from omewd.store.buffers import BufferPool, Buffers
from omewd.store.sinks.allowance import Allowance
from omewd.store.sinks.publish import FILES_LEFT_OPEN, SMALL_FILES_AT_ONCE
from omewd.store.stopwatch import Stopwatch


class Tools:
    """``cores``: how many may encode at once. ``scratch``: a folder in memory, which encoders may create.

    ``encoders``: threads that gather and compress, one for each core, into ``encoded`` buffers. ``pieces``: threads
    that write those, or whole frames, and mostly wait for the disk. ``files``: threads for small files, which wait for
    their syncs. ``left_open``: how many more small files may stay open meanwhile. ``open_shards``: how many shards may
    be open. ``syncs``: threads for all other syncs, which do not stand in line with the writes of the next job.
    ``buffers``: of whatever thread asks.
    """

    def __init__(self, cores: int = 1, scratch: Path = Path("/dev/shm/omewd")) -> None:
        self.cores, self.scratch = cores, scratch
        self.files = ThreadPoolExecutor(SMALL_FILES_AT_ONCE, thread_name_prefix="files")
        self.open_shards = Allowance(OPEN_SHARDS)
        self.left_open = threading.BoundedSemaphore(FILES_LEFT_OPEN)
        encoders = min(cores, ENCODERS_AT_ONCE)
        self.encoders = ThreadPoolExecutor(encoders, thread_name_prefix="encoders")
        self.pieces = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="pieces")
        self.encoded = BufferPool(encoders + PIECES_AT_ONCE, BUFFER_BYTES)
        self.buffers = Buffers()
        self.syncs = ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="syncs")
        self.clock = Stopwatch()

    def close(self) -> None:
        for pool in (self.files, self.encoders, self.pieces, self.syncs):
            pool.shutdown()
