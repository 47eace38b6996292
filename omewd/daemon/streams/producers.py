"""Producers: they attach to the ring of their source, reattach, or are lost."""

from __future__ import annotations

import os
import socket
from functools import partial

import structlog

from omewd.daemon.control.peer_process import in_words
from omewd.daemon.control.server import Peer
from omewd.daemon.loop import Loop
from omewd.daemon.streams.agenda import Agenda
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError

log = structlog.get_logger("streams")


class Producers:
    """Gives each source's ring to one producer at a time, with a doorbell. The caller closes the descriptors.

    Its methods change nothing if they raise an error, such as OSError for a lack of descriptors.
    """

    def __init__(self, loop: Loop, agenda: Agenda) -> None:
        self._loop, self._agenda = loop, agenda

    def attach(self, stream: Stream, source: Source, peer: Peer) -> tuple[int, socket.socket]:
        """A descriptor of a source's ring, which holds the producer's lock, and the producer's end of the doorbell.

        Raises OmewdError ``producer_exists``.
        """
        descriptor = stream.rings[source.number].lock_for_producer()
        if descriptor is None:
            of_source = f" for source {source.name!r}" if source.name else ""
            raise OmewdError(
                "producer_exists",
                f"stream {stream.name!r} already has a producer{of_source} ({in_words(source.producer)})",
                "Each source takes one producer: connect to another source, or start another stream",
            )
        try:
            bell = self._came(stream, source, peer)
        except OSError:  # left open, the descriptor would go on holding the producer's lock
            os.close(descriptor)
            raise
        log.info("producer attached", stream=stream.name, source=source.name, pid=peer.process)
        return descriptor, bell

    def reattach(self, stream: Stream, source: Source, peer: Peer) -> socket.socket:
        """A new doorbell for a producer that attached to an earlier daemon and has its ring already.

        Raises OmewdError ``producer_exists``.
        """
        before = stream.rings[source.number].producer
        if source.ring is None or source.ring.producer != peer.process:
            raise OmewdError("producer_exists", f"{in_words(peer.process)} is not the producer of this stream")
        bell = self._came(stream, source, peer)
        if (
            before is not None and before is not peer
        ):  # it has reconnected, but the end of its old connection is not handled yet
            before.detach()
        log.info("producer is back", stream=stream.name, source=source.name, pid=peer.process)
        return bell

    def _came(self, stream: Stream, source: Source, peer: Peer) -> socket.socket:
        ring = stream.rings[source.number]
        bell = ring.hang_bell(self._loop, partial(self._agenda.source, stream.id, source.number))
        self._agenda.source(stream.id, source.number)
        ring.take_producer(peer)
        source.producer_came(peer.process)
        peer.attach(stream.id, source.number)
        return bell


def lost(stream: Stream, source: Source) -> None:
    """Note that a producer has ended without closing its source."""
    log.warning(
        "producer lost: it ended without closing its stream",
        stream=stream.name,
        source=source.name,
        pid=source.producer,
    )
    stream.rings[source.number].leave_producer()
    source.producer_left()


def is_unattended(stream: Stream, source: Source) -> bool:
    """Whether a source has a producer that is not connected, so that it has no doorbell."""
    return (
        source.is_open
        and source.ring is not None
        and stream.rings[source.number].producer is None
        and source.producer is not None  # the word in the ring may be damaged
    )


def let_go(stream: Stream) -> None:
    """Release the producers of a stream that has ended: close their doorbells and free their connections."""
    for number, ring in enumerate(stream.rings):
        ring.take_bell_down()
        if ring.producer is not None and ring.producer.attached == (stream.id, number):
            ring.producer.detach()
