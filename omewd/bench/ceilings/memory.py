"""Measures the most memory that processes use together while something runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from omewd.bench.run import processes

_EVERY_S = 0.02


class MemoryPeak:
    """Samples the memory of processes during a block; :attr:`bytes` is the most that they had together.

    It counts their own memory (RssAnon) beyond ``base_bytes``, and the growth of /dev/shm beyond ``shared_before``: it
    holds rings and scratch files.
    """

    def __init__(self, pids: Sequence[int], base_bytes: int, shared_before: int) -> None:
        self._pids, self._base_bytes, self._shared_before = pids, base_bytes, shared_before
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.bytes = 0

    def _measure(self) -> None:
        own = sum(processes.own_bytes(pid) for pid in self._pids) - self._base_bytes
        self.bytes = max(self.bytes, own + max(0, shared_bytes() - self._shared_before))

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self._measure()

    def __enter__(self) -> MemoryPeak:
        self._measure()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def shared_bytes() -> int:
    """The bytes in use in /dev/shm, by all processes."""
    room = os.statvfs("/dev/shm")
    return (room.f_blocks - room.f_bfree) * room.f_frsize
