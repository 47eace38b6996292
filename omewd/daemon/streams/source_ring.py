"""A source's ring as the daemon has it: the segment, the doorbell, the producer's connection."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

from omewd.daemon.control.server import Peer
from omewd.daemon.loop import Loop
from omewd.daemon.processes import shared_memory
from omewd.process.locks import is_locked, try_lock
from omewd.ring.layout import Geometry
from omewd.ring.segment import PRODUCER_BYTE, Segment

# All rings of a producer that was faster than the loop are one.
_RINGS_AT_ONCE = 4096


class Doorbell:
    """This end of a producer's doorbell. A socket: each end has flags of its own, so that nobody can make the daemon
    wait for it.
    """

    def __init__(self, loop: Loop, end: socket.socket) -> None:
        self._loop, self._end = loop, end
        self.is_up = True
        loop.watch(end.fileno(), self._rung)

    def _rung(self) -> None:
        """Take note of the producer's doorbell; the turn of the loop that follows does the rest."""
        try:
            if not self._end.recv(_RINGS_AT_ONCE, socket.MSG_DONTWAIT):
                self.take_down()  # the producer is gone
        except BlockingIOError:
            pass
        except ConnectionError:
            self.take_down()

    def ring(self) -> None:
        """Wake the producer."""
        if self.is_up:
            with contextlib.suppress(BlockingIOError, ConnectionError):  # it rings already; it is gone
                self._end.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def take_down(self) -> None:
        if self.is_up:
            self.is_up = False
            self._loop.forget(self._end.fileno())
            self._end.close()


@dataclass
class SourceRing:
    """``shared_memory``: the segment's name. ``bell``: None before there is a producer."""

    shared_memory: str
    descriptor: int
    allocated_bytes: int = 0
    segment: Segment | None = None
    producer: Peer | None = None
    bell: Doorbell | None = None

    # -- memory --------------------------------------------------------------------------------

    @classmethod
    def create(cls, name: str, geometry: Geometry) -> SourceRing:
        """A segment that has its size and no memory yet. Raises OmewdError, OSError."""
        return cls(name, shared_memory.create(name, geometry))

    @classmethod
    def reopen(cls, name: str) -> SourceRing:
        """A segment that another daemon has made. Raises FileNotFoundError, OmewdError ``bad_ring``."""
        descriptor = shared_memory.reopen(name)
        try:
            segment = Segment.open(os.dup(descriptor), owner=os.geteuid(), writable=True, guarded=True)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(name, descriptor, allocated_bytes=segment.geometry.total_bytes, segment=segment)

    @property
    def epoch(self) -> int | None:
        """Of which stream it says that it is; None before it has memory."""
        return None if self.segment is None else self.segment.geometry.epoch

    def resize(self, geometry: Geometry) -> None:
        """Take another size, before anything is allocated. Raises OSError."""
        os.ftruncate(self.descriptor, geometry.total_bytes)

    def allocate(self, geometry: Geometry) -> Segment | None:
        """Allocate a step of the memory; the mapped segment once all of it is there.

        Raises OmewdError ``no_shared_memory``.
        """
        self.allocated_bytes = shared_memory.allocate(self.descriptor, geometry, self.allocated_bytes)
        if self.allocated_bytes < geometry.total_bytes:
            return None
        self.segment = Segment(os.dup(self.descriptor), geometry, writable=True, guarded=True)
        return self.segment

    def close(self) -> None:
        """Let go of it; the segment stays."""
        if self.segment is not None:
            self.segment.close()
        self.take_bell_down()
        os.close(self.descriptor)

    def unlink(self) -> None:
        """Remove the segment."""
        shared_memory.unlink(self.shared_memory)

    def open_to_look(self) -> int:
        """A descriptor with which nothing can be written. Raises OSError."""
        return os.open(f"/dev/shm{self.shared_memory}", os.O_RDONLY | os.O_CLOEXEC)

    # -- its producer --------------------------------------------------------------------------

    def lock_for_producer(self) -> int | None:
        """A descriptor for the one producer: it carries the lock that says that it lives. None if there is one."""
        descriptor = shared_memory.reopen(self.shared_memory)
        if try_lock(descriptor, PRODUCER_BYTE):
            return descriptor
        os.close(descriptor)
        return None

    def take_producer(self, peer: Peer) -> None:
        """The producer talks to the daemon by this connection."""
        self.producer = peer

    def leave_producer(self) -> None:
        """The producer's connection is no more."""
        self.producer = None

    @property
    def producer_lives(self) -> bool:
        """Whether there is a producer, also one of before this daemon: it holds a lock on its ring."""
        return is_locked(self.descriptor, PRODUCER_BYTE)

    def hang_bell(self, loop: Loop) -> socket.socket:
        """Take a new doorbell in the place of the last producer's; returns the end that is for the new one."""
        self.take_bell_down()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.bell = Doorbell(loop, ours)
        return theirs

    def take_bell_down(self) -> None:
        if self.bell is not None:
            self.bell.take_down()

    def ring_producer(self) -> None:
        """Wake a producer that waits for room, or for the end."""
        if self.bell is not None:
            self.bell.ring()
