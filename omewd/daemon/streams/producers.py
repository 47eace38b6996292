"""Producers: a camera's program gets the ring of its source, comes back to it, or is gone."""

from __future__ import annotations

import socket

import structlog

from omewd.daemon.control.server import Peer
from omewd.daemon.loop import Loop
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError

log = structlog.get_logger("streams")


class Producers:
    """Gives each source's ring to one producer at a time, with a doorbell. The caller closes what it gets."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def attach(self, stream: Stream, source: Source, peer: Peer) -> tuple[int, socket.socket]:
        """A descriptor of a source's ring, with the lock that says that its producer lives, and the doorbell's end.

        Raises OmewdError ``producer_exists``.
        """
        descriptor = stream.rings[source.number].lock_for_producer()
        if descriptor is None:
            of_source = f" for source {source.name!r}" if source.name else ""
            raise OmewdError(
                "producer_exists",
                f"stream {stream.name!r} has a producer already{of_source} (process {source.producer_pid})",
                "A source takes one camera; connect to another source, or start another stream for another camera",
            )
        bell = self._came(stream, source, peer)
        log.info("producer attached", stream=stream.name, source=source.name, pid=peer.pid)
        return descriptor, bell

    def reattach(self, stream: Stream, source: Source, peer: Peer) -> socket.socket:
        """A new doorbell for a producer that has its ring already: it was there before the daemon was started again.

        Raises OmewdError ``producer_exists``.
        """
        before = stream.rings[source.number].producer
        if source.ring is None or source.ring.producer != peer.pid:
            raise OmewdError("producer_exists", f"process {peer.pid} is not the producer of this stream")
        if before is not None:  # it has hung up, and its new connection is heard before the end of the old one
            before.detach()
        bell = self._came(stream, source, peer)
        log.info("producer is back", stream=stream.name, source=source.name, pid=peer.pid)
        return bell

    def _came(self, stream: Stream, source: Source, peer: Peer) -> socket.socket:
        ring = stream.rings[source.number]
        ring.take_producer(peer)
        source.producer_came(peer.pid)
        peer.attach(stream.id, source.number)
        return ring.hang_bell(self._loop)


def lost(stream: Stream, source: Source) -> None:
    """The producer of a source has ended without closing it."""
    log.warning(
        "producer lost: it ended without closing its stream",
        stream=stream.name,
        source=source.name,
        pid=source.producer_pid,
    )
    stream.rings[source.number].leave_producer()
    source.producer_left()


def orphans(stream: Stream) -> list[Source]:
    """Sources whose producer was there before this daemon, and has died since."""
    return [
        source
        for source, ring in zip(stream.sources, stream.rings, strict=True)
        if source.is_open
        and source.ring is not None
        and ring.producer is None
        and source.ring.producer != 0
        and not ring.producer_lives
    ]


def let_go(stream: Stream) -> None:
    """The stream has ended: its producers have no more doorbells, and their connections are free for another one."""
    for number, ring in enumerate(stream.rings):
        ring.take_bell_down()
        if ring.producer is not None and ring.producer.attached == (stream.id, number):
            ring.producer.detach()
