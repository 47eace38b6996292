"""Requests about a source's ring: producers attach, reattach and finish; others view it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from omewd.daemon.control.server import ControlServer, Handler, Peer
from omewd.daemon.control.source_names import source_of
from omewd.daemon.control.status import brief_status, stream_status
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.producers import Producers
from omewd.daemon.streams.rounds import Rounds
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.protocol.messages import Message


class RingRequests:
    def __init__(
        self, streams: Streams, producers: Producers, lifecycle: Lifecycle, server: ControlServer, rounds: Rounds
    ) -> None:
        self._streams, self._producers = streams, producers
        self._lifecycle, self._server, self._rounds = lifecycle, server, rounds

    @property
    def operations(self) -> Mapping[str, Handler]:
        return {
            "attach": self._attach,
            "reattach": self._reattach,
            "view": self._view,
            "finish": self._finish,
        }

    def _attach(self, peer: Peer, message: Message) -> None:
        stream = self._streams.named(message.get("name"))
        source = source_of(stream, message.get("source"))
        if peer.attached is not None:
            raise OmewdError("producer_exists", "this connection already belongs to a producer")
        if not self._streams.is_open(stream) or stream.state is not State.ACTIVE or not source.is_open:
            ended_by = source.ended_by or stream.ended_by
            raise OmewdError(
                "stream_stopped",
                f"stream {stream.name!r} takes no frames{f' of {source.name!r}' if source.name else ''}: "
                f"it is {stream.state.value}" + (f" ({ended_by})" if ended_by else ""),
                "Start a new stream",
            )
        descriptor, bell = self._producers.attach(stream, source, peer)
        try:
            with bell:
                self._server.reply(peer, _reply(message, stream, source), (descriptor, bell.fileno()))
        finally:
            os.close(descriptor)

    def _reattach(self, peer: Peer, message: Message) -> None:
        """Let a producer go on with the ring that it has. It only needs a new doorbell."""
        stream = self._streams.named(message.get("name"), message.get("id"))
        source = source_of(stream, message.get("source"))
        if not self._streams.is_open(stream) or stream.epoch != message.get("epoch"):
            raise OmewdError("stream_stopped", f"stream {stream.name!r} has ended, or another one has its name now")
        with self._producers.reattach(stream, source, peer) as bell:
            self._server.reply(peer, _reply(message, stream, source), (bell.fileno(),))

    def _view(self, peer: Peer, message: Message) -> None:
        """Give any client read-only access to the ring, and the place of the dataset."""
        stream = self._streams.named(message.get("name"))
        source = source_of(stream, message.get("source"))
        if stream.state is State.STARTING:
            raise OmewdError("no_frame", f"stream {stream.name!r} is still starting", "Try again")
        reply = {
            **stream_status(stream, time.monotonic_ns()).to_json(),
            "source": source.number,
            "epoch": stream.epoch,
            "spec": stream.fields,
        }
        if not self._streams.is_open(stream) or source.ring is None:
            self._server.reply(peer, reply, attachment=stream.details)
            return
        descriptor = stream.rings[source.number].open_to_look()
        try:
            self._server.reply(peer, reply, (descriptor,), attachment=stream.details)
        finally:
            os.close(descriptor)

    def _finish(self, peer: Peer, message: Message) -> Message:
        found = self._source_of(peer)
        peer.detach()
        if found is None:
            return {}
        stream, source = found
        self._lifecycle.stop(stream, "the producer closed the stream", time.monotonic_ns(), source)
        return _reply(message, stream, source)

    def peer_gone(self, peer: Peer) -> None:
        """Handle the end of a connection. If it was a producer's, its process may be gone, too."""
        found = self._source_of(peer)
        if found is None:
            return
        stream, source = found
        ring = stream.rings[source.number]
        peer.detach()
        ring.leave_producer()
        if not ring.producer_lives:  # otherwise it has only disconnected, and will reconnect
            self._lifecycle.producer_lost(stream, source, time.monotonic_ns())
        else:
            self._rounds.soon()

    def _source_of(self, peer: Peer) -> tuple[Stream, Source] | None:
        """The open stream and the source that a client is the producer of; None if it is not a producer."""
        if peer.attached is None:
            return None
        number, source = peer.attached
        stream = self._streams.open.get(number)
        return None if stream is None else (stream, stream.sources[source])


def _reply(message: Message, stream: Stream, source: Source) -> Message:
    """What a producer gets: the stream's whole status, or, if it asks for that, only what it needs."""
    if message.get("brief"):
        return brief_status(stream, source)
    return {**stream_status(stream, time.monotonic_ns()).to_json(), "source": source.number}
