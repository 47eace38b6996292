"""Clients that wait for a stream to end."""

from __future__ import annotations

import time
from collections.abc import Callable

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.control.status import stream_status
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError, stream_failed
from omewd.protocol.messages import Message

_MOST_WAITS = 256


class Waiters:
    """Answers each once: with the stream's status then, or why it failed."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._waiting: dict[int, list[tuple[Peer, int | None]]] = {}
        self._next: dict[int, list[tuple[Peer, Callable[[], Message]]]] = {}

    def add(self, peer: Peer, stream: Stream, number: int | None) -> None:
        """Answer once the stream has ended, at once if it has.

        With a source's ``number``: once all of that source is on disk, if others of the stream go on. Raises OmewdError
        ``busy`` for a client that waits for far too much at once.
        """
        self._check_room(peer)
        if stream.settled or self._has_left(stream, number):
            self._answer(peer, stream)
        else:
            self._waiting.setdefault(stream.id, []).append((peer, number))

    def _check_room(self, peer: Peer) -> None:
        ends = sum(waiter is peer for waiting in self._waiting.values() for waiter, _ in waiting)
        answers = sum(waiter is peer for waiting in self._next.values() for waiter, _ in waiting)
        if ends + answers >= _MOST_WAITS:
            raise OmewdError("busy", f"this connection waits for {_MOST_WAITS} streams already", "Use another one")

    @staticmethod
    def _has_left(stream: Stream, number: int | None) -> bool:
        return number is not None and stream.takes_frames and stream.sources[number].drained

    def tell(self, stream: Stream) -> None:
        """A stream has ended, or a source of it may have."""
        waiting = self._waiting.pop(stream.id, [])
        still = [] if stream.settled else [entry for entry in waiting if not self._has_left(stream, entry[1])]
        if still:
            self._waiting[stream.id] = still
        for peer, number in waiting:
            if (peer, number) not in still:
                self._answer(peer, stream)

    def then(self, peer: Peer, stream: Stream, answer: Callable[[], Message]) -> None:
        """Answer a client with what ``answer`` returns or raises, once the stream is settled.

        Raises OmewdError ``busy`` as :meth:`add` does.
        """
        self._check_room(peer)
        self._next.setdefault(stream.id, []).append((peer, answer))

    def settled(self, stream: Stream) -> None:
        """All that follows from a stream's end is done."""
        for peer, answer in self._next.pop(stream.id, []):
            try:
                self._server.reply(peer, answer())
            except OmewdError as error:
                self._server.reply_error(peer, error)

    def forget(self, peer: Peer) -> None:
        """A client is gone."""
        for number, answers in self._next.items():
            self._next[number] = [entry for entry in answers if entry[0] is not peer]
        for stream, waiting in self._waiting.items():
            self._waiting[stream] = [entry for entry in waiting if entry[0] is not peer]

    def _answer(self, peer: Peer, stream: Stream) -> None:
        if stream.error is not None:
            self._server.reply_error(peer, stream_failed(stream.error.message, stream.error.remedy))
        else:
            self._server.reply(peer, stream_status(stream, time.monotonic_ns()).to_json())
