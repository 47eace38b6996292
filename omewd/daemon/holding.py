"""What the daemon holds for an open stream: memory, doorbells, clients."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omewd.control.messages import close_all
from omewd.daemon.server import Peer
from omewd.daemon.stream import Stream
from omewd.daemon.upkeep import Upkeep
from omewd.ring.segment import PRODUCER_BYTE, Segment, is_locked


@dataclass
class HeldRing:
    """A source's ring, its two doorbells and its producer. ``shared_memory``: the segment's name."""

    shared_memory: str
    descriptor: int
    to_daemon: int
    to_producer: int
    allocated_bytes: int = 0
    segment: Segment | None = None
    producer: Peer | None = None

    def ring_producer(self) -> None:
        """Wake a producer that waits for room, or for the end."""
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.eventfd_write(self.to_producer, 1)

    def hush(self) -> None:
        """Take note of the producer's doorbell."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.to_daemon)

    @property
    def producer_lives(self) -> bool:
        """Whether there is a producer, also one of before this daemon: it holds a lock on its ring."""
        return is_locked(self.descriptor, PRODUCER_BYTE)

    def close(self) -> None:
        """Let go of it; the segment stays."""
        if self.segment is not None:
            self.segment.close()
        close_all([self.descriptor, self.to_daemon, self.to_producer])


@dataclass
class Holding:
    """``rings``: one for each source of the stream, in their order.

    ``place``: where the dataset really is, symbolic links followed. ``leftovers``: it has replaced another one.
    ``auto_name``: the number in a name that the daemon chose, 0 if it did not.
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

    def ring_producers(self) -> None:
        for ring in self.rings:
            ring.ring_producer()


def doorbells() -> tuple[int, int]:
    """Two new doorbells: to the daemon, and to the producer."""
    flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
    to_daemon = os.eventfd(0, flags)
    try:
        return to_daemon, os.eventfd(0, flags)
    except OSError:
        os.close(to_daemon)
        raise
