"""Clients that wait for a stream to end."""

from __future__ import annotations

import time

from omewd.daemon.server import ControlServer, Peer
from omewd.daemon.stream import Stream
from omewd.errors import stream_failed


class Waiters:
    """Answers each once: with the stream's last status, or why it failed."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._waiting: dict[int, list[Peer]] = {}

    def add(self, peer: Peer, stream: Stream) -> None:
        """Answer once the stream has ended, at once if it has."""
        if stream.settled:
            self._answer(peer, stream)
        else:
            self._waiting.setdefault(stream.id, []).append(peer)

    def tell(self, stream: Stream) -> None:
        """A stream has ended."""
        for peer in self._waiting.pop(stream.id, []):
            self._answer(peer, stream)

    def forget(self, peer: Peer) -> None:
        """A client is gone."""
        for stream, waiting in self._waiting.items():
            self._waiting[stream] = [other for other in waiting if other is not peer]

    def _answer(self, peer: Peer, stream: Stream) -> None:
        if stream.error is not None:
            self._server.reply_error(peer, stream_failed(stream.error.message, stream.error.remedy))
        else:
            self._server.reply(peer, stream.status(time.monotonic_ns()))
