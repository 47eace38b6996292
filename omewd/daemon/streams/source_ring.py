"""A source's ring in the daemon: the segment, the doorbell, the producer's connection."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from omewd.daemon.control.server import Peer
from omewd.daemon.loop import Loop
from omewd.daemon.processes import shared_memory
from omewd.process.locks import is_locked, try_lock
from omewd.protocol.descriptors import close_connection, receive_data
from omewd.ring.layout import Geometry
from omewd.ring.segment import PRODUCER_BYTE, Segment

# Rings of the doorbell that came since the last turn of the loop count as one.
_RINGS_AT_ONCE = 4096


class Doorbell:
    """The daemon's end of a producer's doorbell.

    It is a socket, because each end has its own flags: so no producer can make the daemon block. ``rung()`` is called
    when the producer rings, and when it is gone.
    """

    def __init__(self, loop: Loop, end: socket.socket, rung: Callable[[], None]) -> None:
        self._loop, self._end, self._tell = loop, end, rung
        self.is_up = True
        loop.watch(end.fileno(), self._rung)

    def _rung(self) -> None:
        """Empty the doorbell; the turn of the loop that follows does the rest."""
        self._tell()
        try:
            if not receive_data(self._end, _RINGS_AT_ONCE):
                self.take_down()  # the producer is gone
        except BlockingIOError:
            pass
        except ConnectionError:
            self.take_down()

    def ring(self) -> None:
        """Wake the producer."""
        if self.is_up:
            with contextlib.suppress(BlockingIOError, ConnectionError):  # it has enough rings; the producer is gone
                self._end.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def take_down(self) -> None:
        if self.is_up:
            self.is_up = False
            self._loop.forget(self._end.fileno())
            close_connection(self._end)


@dataclass
class SourceRing:
    """A source's ring. ``shared_memory``: the segment's name. ``bell``: None before there is a producer."""

    shared_memory: str
    descriptor: int
    allocated_bytes: int = 0
    segment: Segment | None = None
    producer: Peer | None = None
    bell: Doorbell | None = None

    # -- memory --------------------------------------------------------------------------------

    @classmethod
    def create(cls, name: str, geometry: Geometry) -> SourceRing:
        """Create a segment that has its size but no memory yet. Raises OmewdError, OSError."""
        return cls(name, shared_memory.create(name, geometry))

    @classmethod
    def reopen(cls, name: str) -> SourceRing:
        """Open a segment that another daemon created. Raises FileNotFoundError, OmewdError ``bad_ring``."""
        descriptor = shared_memory.reopen(name)
        try:
            segment = Segment.open(os.dup(descriptor), owner=os.geteuid(), writable=True, guarded=True)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(name, descriptor, allocated_bytes=segment.geometry.total_bytes, segment=segment)

    @property
    def epoch(self) -> int | None:
        """The epoch in the ring's header, which identifies its stream; None before it has memory."""
        return None if self.segment is None else self.segment.geometry.epoch

    def resize(self, geometry: Geometry) -> None:
        """Change the size, before anything is allocated. Raises OSError."""
        os.ftruncate(self.descriptor, geometry.total_bytes)

    def allocate(self, geometry: Geometry) -> Segment | None:
        """Allocate a step of the memory; returns the mapped segment once all of it is allocated, else None.

        Raises OmewdError ``no_shared_memory``.
        """
        self.allocated_bytes = shared_memory.allocate(self.descriptor, geometry, self.allocated_bytes)
        if self.allocated_bytes < geometry.total_bytes:
            return None
        self.segment = Segment(os.dup(self.descriptor), geometry, writable=True, guarded=True)
        return self.segment

    def close(self) -> None:
        """Close the ring. The segment stays."""
        self._unmap()
        os.close(self.descriptor)

    def remove(self) -> int:
        """Remove the segment, and close the ring but for the returned descriptor: its close may free the memory."""
        shared_memory.unlink(self.shared_memory)
        self._unmap()
        return self.descriptor

    def _unmap(self) -> None:
        if self.segment is not None:
            self.segment.close()
        self.take_bell_down()

    def open_to_look(self) -> int:
        """A read-only descriptor. Raises OSError."""
        return os.open(f"/dev/shm{self.shared_memory}", os.O_RDONLY | os.O_CLOEXEC)

    # -- producer ------------------------------------------------------------------------------

    def lock_for_producer(self) -> int | None:
        """A descriptor for the producer, which holds the lock that shows that it lives; None if there is a producer."""
        descriptor = shared_memory.reopen(self.shared_memory)
        if try_lock(descriptor, PRODUCER_BYTE):
            return descriptor
        os.close(descriptor)
        return None

    def take_producer(self, peer: Peer) -> None:
        """Set the producer's connection."""
        self.producer = peer

    def leave_producer(self) -> None:
        """Note that the producer's connection is closed."""
        self.producer = None

    @property
    def producer_lives(self) -> bool:
        """Whether a producer holds the lock on the ring, even one that attached to an earlier daemon."""
        return is_locked(self.descriptor, PRODUCER_BYTE)

    def hang_bell(self, loop: Loop, rung: Callable[[], None]) -> socket.socket:
        """Replace the doorbell; returns the new producer's end. Raises OSError, and leaves the old one then.

        ``rung()`` is called when the producer rings, and when it is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.take_bell_down()
        self.bell = Doorbell(loop, ours, rung)
        return theirs

    def take_bell_down(self) -> None:
        if self.bell is not None:
            self.bell.take_down()

    def ring_producer(self) -> None:
        """Wake a producer that waits for free slots or for the end."""
        if self.bell is not None:
            self.bell.ring()
