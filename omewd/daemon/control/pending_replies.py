"""Replies that come later: to clients that start a stream, wait for its end, or ask what is known after this turn."""

from __future__ import annotations

import time
from collections.abc import Callable

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.control.status import stream_status
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from omewd.protocol.messages import Message

_MOST_WAITS = 256


class PendingReplies:
    """Answers each once."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._starters: dict[int, Peer] = {}
        self._waiting: dict[int, list[tuple[Peer, int | None]]] = {}
        self._next: dict[int, list[tuple[Peer, Callable[[], Message]]]] = {}
        self._this_turn: list[tuple[Peer, Callable[[], Message]]] = []

    # -- starting ------------------------------------------------------------------------------

    def when_started(self, peer: Peer, stream: Stream) -> None:
        """Answer once the stream takes frames, or can't."""
        self._starters[stream.id] = peer

    def take_starter(self, stream: Stream) -> Peer | None:
        """Whoever waits for the start of a stream; they are not answered then."""
        return self._starters.pop(stream.id, None)

    def started(self, stream: Stream) -> None:
        """A stream has started, or can't."""
        peer = self.take_starter(stream)
        if peer is None:
            return
        if stream.error is not None:
            self._server.reply_error(peer, stream.error)
        else:
            self._server.reply(peer, stream_status(stream, time.monotonic_ns()).to_json())

    def refuse(self, peer: Peer, error: OmewdError) -> None:
        """Answer at once that it can't be."""
        self._server.reply_error(peer, error)

    # -- ending --------------------------------------------------------------------------------

    def when_ended(self, peer: Peer, stream: Stream, number: int | None) -> None:
        """Answer once the stream has ended, at once if it has: with its status then, or why it failed.

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

    def _answer(self, peer: Peer, stream: Stream) -> None:
        if stream.failure is not None:
            self._server.reply_error(peer, stream.failure)
        else:
            self._server.reply(peer, stream_status(stream, time.monotonic_ns()).to_json())

    def when_settled(self, peer: Peer, stream: Stream, answer: Callable[[], Message]) -> None:
        """Answer with what ``answer`` returns or raises, once the stream is settled.

        Raises OmewdError ``busy`` as :meth:`when_ended` does.
        """
        self._check_room(peer)
        self._next.setdefault(stream.id, []).append((peer, answer))

    def settled(self, stream: Stream) -> None:
        """All that follows from a stream's end is done."""
        for peer, answer in self._next.pop(stream.id, []):
            self._server.answer(peer, answer, op="resume_stream")

    # -- in this turn --------------------------------------------------------------------------

    def after_this_turn(self, peer: Peer, answer: Callable[[], Message]) -> None:
        """Answer with what ``answer`` returns or raises, once this turn of the loop has looked at every stream."""
        self._this_turn.append((peer, answer))

    def turned(self) -> None:
        """Every stream has been looked at."""
        if self._this_turn:
            answers, self._this_turn = self._this_turn, []
            for peer, answer in answers:
                self._server.answer(peer, answer, op="status")

    def forget(self, peer: Peer) -> None:
        """A client is gone."""
        for number, answers in self._next.items():
            self._next[number] = [entry for entry in answers if entry[0] is not peer]
        for stream, waiting in self._waiting.items():
            self._waiting[stream] = [entry for entry in waiting if entry[0] is not peer]
