"""The most memory that processes use together while something runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from omewd.bench.run import processes

_EVERY_S = 0.02


class MemoryPeak:
    """Looks at processes now and then during a block; :attr:`bytes` is the most they had together.

    Counted are their own memory (RssAnon) beyond ``base_bytes``, and by how much all of /dev/shm has grown since
    ``shared_before``, which is where rings and scratch files are.
    """

    def __init__(self, pids: Sequence[int], base_bytes: int, shared_before: int) -> None:
        self._pids, self._base_bytes, self._shared_before = pids, base_bytes, shared_before
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.bytes = 0

    def _look(self) -> None:
        own = sum(processes.own_bytes(pid) for pid in self._pids) - self._base_bytes
        self.bytes = max(self.bytes, own + max(0, shared_bytes() - self._shared_before))

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self._look()

    def __enter__(self) -> MemoryPeak:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def shared_bytes() -> int:
    """What is in /dev/shm, of everybody."""
    room = os.statvfs("/dev/shm")
    return (room.f_blocks - room.f_bfree) * room.f_frsize
