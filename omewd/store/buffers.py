"""Page-aligned memory that threads use again and again: the first touch of a page costs more than copying it."""

from __future__ import annotations

import mmap
import threading
from collections import deque
from typing import Any

import numpy as np

Buffer = np.ndarray[Any, np.dtype[np.uint8]]


class Buffers:
    """Page-aligned buffers, one for each thread. A thread's next call overwrites its buffer."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, size: int) -> Buffer:
        """A buffer of at least ``size`` bytes."""
        buffer: Buffer | None = getattr(self._local, "buffer", None)
        if buffer is None or buffer.size < size:
            buffer = self._local.buffer = page_aligned(size)
        return buffer


class BufferPool:
    """At most ``count`` page-aligned buffers of at least ``size`` bytes, which are given on from thread to thread."""

    def __init__(self, count: int, size: int) -> None:
        self._size = _whole_pages(size)
        self._free = threading.Semaphore(count)
        self._kept: deque[Buffer] = deque()

    def take(self, size: int) -> Buffer:
        """A buffer of at least ``size`` bytes, as soon as one is free. It must be given back."""
        self._free.acquire()
        try:
            if size > self._size:
                return page_aligned(size)
            try:
                return self._kept.pop()
            except IndexError:
                return page_aligned(self._size)
        except BaseException:
            self._free.release()
            raise

    def give_back(self, buffer: Buffer) -> None:
        if buffer.size == self._size:
            self._kept.append(buffer)
        self._free.release()


def page_aligned(size: int) -> Buffer:
    return np.frombuffer(mmap.mmap(-1, _whole_pages(size)), np.uint8)


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
