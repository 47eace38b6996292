"""What the daemon holds for an open stream: memory, doorbells, clients."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omewd.daemon.control.server import Peer
from omewd.daemon.jobs.tasks import Owner
from omewd.daemon.loop import Loop
from omewd.daemon.streams.maintenance import Upkeep
from omewd.daemon.streams.stream import Stream
from omewd.process.locks import is_locked
from omewd.ring.segment import PRODUCER_BYTE, Segment

# All rings of a producer that was faster than the loop are one.
_RINGS_AT_ONCE = 4096


@dataclass
class HeldRing:
    """A source's ring, its doorbell and its producer. ``shared_memory``: the segment's name.

    ``bell``: this end of the doorbell that its producer has the other end of, None before there is one. A socket: each
    end has flags of its own, so that nobody can make the daemon wait for it.
    """

    shared_memory: str
    descriptor: int
    bell: socket.socket | None = None
    allocated_bytes: int = 0
    segment: Segment | None = None
    producer: Peer | None = None

    def hang_bell(self, loop: Loop) -> socket.socket:
        """Take a new doorbell in the place of the last producer's; returns the end that is for the new one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.take_bell_down(loop)
        self.bell = ours
        loop.watch(ours.fileno(), lambda: self._rung(loop))
        return theirs

    def take_bell_down(self, loop: Loop) -> None:
        if self.bell is not None:
            loop.forget(self.bell.fileno())
            self.bell.close()
            self.bell = None

    def _rung(self, loop: Loop) -> None:
        """Take note of the producer's doorbell; the turn of the loop that follows does the rest."""
        assert self.bell is not None
        try:
            if not self.bell.recv(_RINGS_AT_ONCE, socket.MSG_DONTWAIT):
                self.take_bell_down(loop)  # the producer is gone
        except BlockingIOError:
            pass
        except ConnectionError:
            self.take_bell_down(loop)

    def ring_producer(self) -> None:
        """Wake a producer that waits for room, or for the end."""
        if self.bell is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):  # it rings already; it is gone
                self.bell.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    @property
    def producer_lives(self) -> bool:
        """Whether there is a producer, also one of before this daemon: it holds a lock on its ring."""
        return is_locked(self.descriptor, PRODUCER_BYTE)

    def close(self) -> None:
        """Let go of it; the segment stays."""
        if self.segment is not None:
            self.segment.close()
        if self.bell is not None:
            self.bell.close()
        os.close(self.descriptor)


@dataclass
class Holding:
    """``rings``: one for each source of the stream, in their order.

    ``place``: where the dataset really is, symbolic links followed. ``leftovers``: it has replaced another one.
    ``auto_name``: the number in a name that the daemon chose, 0 if it did not. ``owner``: of the stream's jobs.
    """

    stream: Stream
    rings: list[HeldRing]
    request: Any = None
    auto_name: int = 0
    wants_memory: bool = False
    starter: Peer | None = None
    place: Path | None = None
    leftovers: bool = False
    upkeep: Upkeep = field(default_factory=Upkeep)
    owner: Owner = field(init=False)

    def ring_producers(self) -> None:
        for ring in self.rings:
            ring.ring_producer()
