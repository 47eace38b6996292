"""A mapped ring segment. A producer holds a lock on its byte PRODUCER_BYTE."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat

from omewd.errors import OmewdError
from omewd.ring.guard import GUARD
from omewd.ring.layout import PAGE, Geometry, require_x86_64

PRODUCER_BYTE = 0


class Segment:
    """A mapped segment. The mapping lives as long as this object and every view made from it.

    ``guarded``: if another process truncates it, accesses past its end read zeros (see :mod:`omewd.ring.guard`).
    """

    def __init__(self, fd: int, geometry: Geometry, *, writable: bool, guarded: bool = False) -> None:
        require_x86_64()
        self.geometry = geometry
        self.fd = fd
        self.is_closed = False
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        self.memory = mmap.mmap(fd, geometry.total_bytes, flags=mmap.MAP_SHARED, prot=protection)
        self._guard = GUARD.watch(self.memory) if guarded else None
        self.words = memoryview(self.memory).cast("Q")

    @property
    def is_whole(self) -> bool:
        """Whether the segment has not been truncated."""
        cut = self._guard is not None and GUARD.was_cut(self._guard)
        return not cut and os.fstat(self.fd).st_size == self.geometry.total_bytes

    @classmethod
    def open(cls, fd: int, *, owner: int, writable: bool, guarded: bool = False) -> Segment:
        """Check and map a descriptor that came from the daemon, which runs as user ``owner``.

        Takes over the descriptor. Raises OmewdError ``bad_ring``.
        """
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OmewdError("bad_ring", "the ring's descriptor is not shared memory")
            if info.st_uid != owner:
                raise OmewdError("bad_ring", f"the ring belongs to user {info.st_uid}, but the daemon is user {owner}")
            if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise OmewdError(
                    "bad_ring",
                    f"the ring is open to other users: its mode is {stat.S_IMODE(info.st_mode):o} instead of 600",
                )
            geometry = Geometry.unpack(os.pread(fd, PAGE, 0), info.st_size)
            return cls(fd, geometry, writable=writable, guarded=guarded)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Unmap if no view is left, and close the descriptor, which releases a lock held through it."""
        self.is_closed = True
        self.words.release()
        if self._guard is not None:
            GUARD.forget(self._guard)
        # Views that the user still holds keep the mapping; it goes with the last one.
        with contextlib.suppress(BufferError):
            self.memory.close()
        os.close(self.fd)
