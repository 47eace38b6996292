"""The tools that all streams of a writer share: threads, buffers, cores and a clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omewd.model.plan.memory import PIECES_AT_ONCE, SYNCS_AT_ONCE
from omewd.store.aligned import Buffers
from omewd.store.sinks.publish import SMALL_FILES_AT_ONCE
from omewd.store.stopwatch import Stopwatch, TimedPool


class Tools:
    """``cores``: how many may encode at once. ``scratch``: a folder in memory, which encoders may create.

    ``files``: threads for small files, which mostly wait for the disk. ``pieces``: threads for large ones, which keep
    the disk busy. ``syncs``: threads for syncs, which do not stand in line with the writes of the next job.
    """

    def __init__(self, cores: int = 1, scratch: Path = Path("/dev/shm/omewd")) -> None:
        self.cores, self.scratch = cores, scratch
        self.clock = Stopwatch()
        self.files = TimedPool(self.clock, SMALL_FILES_AT_ONCE, "files")
        self.pieces = TimedPool(self.clock, PIECES_AT_ONCE, "pieces")
        self.syncs = ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="syncs")
        self.buffers = Buffers()

    def close(self) -> None:
        for pool in (self.files, self.pieces, self.syncs):
            pool.shutdown()
