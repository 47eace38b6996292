"""Measures what the disk can take: plain, aligned writes that bypass the page cache."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# On the disks measured, all blocks from 4 to 16 MiB and depths from 1 to 8 were equally fast within their noise.
_BLOCK_BYTES = 8 << 20
_DEPTH = 4


class DiskProbe:
    """Writes a volume as fast as the drive takes it, from page-aligned buffers that are touched beforehand."""

    def __init__(self) -> None:
        self._buffers = [mmap.mmap(-1, _BLOCK_BYTES) for _ in range(_DEPTH)]
        noise = os.urandom(1 << 20) * (_BLOCK_BYTES >> 20)
        for buffer in self._buffers:
            buffer[:] = noise
        self.direct = True

    def seconds(self, path: Path, total_bytes: int, *, sync: bool) -> float:
        """Write ``total_bytes`` (rounded up to pages) to a new file, remove it, and return the time of the writes.

        ``sync``: include an fdatasync. Uses O_DIRECT if the filesystem has it; see :attr:`direct`. Raises OSError.
        """
        pages = -(-total_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        descriptor = self._open(path)
        try:
            offsets = itertools.count(0, _BLOCK_BYTES)
            lock = threading.Lock()
            given_up = threading.Event()

            def write(buffer: mmap.mmap) -> None:
                while not given_up.is_set():
                    with lock:
                        offset = next(offsets)
                    if offset >= pages:
                        return
                    block = memoryview(buffer)[: pages - offset]
                    while block:
                        count = os.pwrite(descriptor, block, offset)
                        block, offset = block[count:], offset + count

            with ThreadPoolExecutor(_DEPTH) as pool:
                try:
                    began = time.perf_counter()
                    list(pool.map(write, self._buffers))
                    if sync:
                        os.fdatasync(descriptor)
                    return time.perf_counter() - began
                finally:
                    given_up.set()
        finally:
            os.close(descriptor)
            path.unlink()

    def _open(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        if self.direct:
            try:
                return os.open(path, flags | os.O_DIRECT, 0o600)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                path.unlink(missing_ok=True)  # some filesystems create the file before they refuse
                self.direct = False
        return os.open(path, flags, 0o600)

    def close(self) -> None:
        for buffer in self._buffers:
            buffer.close()
