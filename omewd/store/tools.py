"""What a writer stores with, for all its streams: threads, buffers, cores and a clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omewd.model.plan.memory import PIECES_AT_ONCE
from omewd.store.aligned import Buffers
from omewd.store.sinks.publish import SMALL_FILES_AT_ONCE
from omewd.store.stopwatch import Stopwatch


class Tools:
    """``cores``: how many may encode at once; ``scratch``: a folder in memory, which encoders may make.

    ``files``: threads for small files, which wait for the disk; ``pieces``: threads for large ones, which keep it busy.
    """

    def __init__(self, cores: int = 1, scratch: Path = Path("/dev/shm/omewd")) -> None:
        self.cores, self.scratch = cores, scratch
        self.files = ThreadPoolExecutor(SMALL_FILES_AT_ONCE, thread_name_prefix="files")
        self.pieces = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="pieces")
        self.buffers = Buffers()
        self.clock = Stopwatch()

    def close(self) -> None:
        self.files.shutdown()
        self.pieces.shutdown()
