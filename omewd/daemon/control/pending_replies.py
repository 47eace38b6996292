"""Pending replies to clients that start a stream, wait for its end, or ask for a status after this turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.control.status import stream_status
from omewd.daemon.control.watches import Watches
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from omewd.protocol.messages import Message

_MOST_WAITS = 256


@dataclass(frozen=True, eq=False)
class _Waiter:
    """A client that waits for the end of a stream, or of one source. ``brief``: it wants no other source's status."""

    peer: Peer
    source: Source | None
    brief: bool

    def has_left(self, stream: Stream) -> bool:
        """Whether its source is on disk while others go on."""
        return self.source is not None and stream.takes_frames and self.source.drained


class PendingReplies:
    """Sends each pending reply once."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self.watches = Watches(server)
        self._starters: dict[int, Peer] = {}
        self._waiting: dict[int, list[_Waiter]] = {}
        self._next: dict[int, list[tuple[Peer, Callable[[], Message]]]] = {}
        self._this_turn: list[tuple[Peer, Callable[[], Message]]] = []

    # -- starting ------------------------------------------------------------------------------

    def when_started(self, peer: Peer, stream: Stream) -> None:
        """Reply once the stream takes frames or has failed to start."""
        self._starters[stream.id] = peer

    def take_starter(self, stream: Stream) -> Peer | None:
        """Remove and return the client that waits for the start of a stream, without a reply."""
        return self._starters.pop(stream.id, None)

    def started(self, stream: Stream) -> None:
        """Reply to the client that waits for the start: the stream has started or failed."""
        peer = self.take_starter(stream)
        if peer is None:
            return
        if stream.error is not None:
            self._server.reply_error(peer, stream.error)
        else:
            self._server.reply(peer, stream_status(stream, time.monotonic_ns()).to_json())

    def result(self, peer: Peer, result: Message | OmewdError) -> None:
        """Reply with a result or an error, at once."""
        if isinstance(result, OmewdError):
            self._server.reply_error(peer, result)
        else:
            self._server.reply(peer, result)

    # -- ending --------------------------------------------------------------------------------

    def when_ended(self, peer: Peer, stream: Stream, source: Source | None, *, brief: bool = False) -> None:
        """Reply with the stream's status or its error once the stream has ended, or at once if it has.

        With a ``source``, reply already when all frames of this source are on disk while others go on. A ``brief``
        reply lists no other source. Raises OmewdError ``busy`` for a client with too many pending replies.
        """
        self._check_room(peer)
        waiter = _Waiter(peer, source, brief)
        if stream.settled or waiter.has_left(stream):
            self._answer(waiter, stream)
        else:
            self._waiting.setdefault(stream.id, []).append(waiter)

    def _check_room(self, peer: Peer) -> None:
        ends = sum(waiter.peer is peer for waiting in self._waiting.values() for waiter in waiting)
        answers = sum(waiter is peer for waiting in self._next.values() for waiter, _ in waiting)
        if ends + answers >= _MOST_WAITS:
            raise OmewdError(
                "busy", f"this connection already waits for {_MOST_WAITS} streams", "Use another connection"
            )

    def tell(self, stream: Stream) -> None:
        """Send the replies that are due: something has happened to a stream, and it, or a source, may have ended."""
        self.watches.note(stream)
        waiting = self._waiting.pop(stream.id, [])
        still = [] if stream.settled else [waiter for waiter in waiting if not waiter.has_left(stream)]
        if still:
            self._waiting[stream.id] = still
        for waiter in waiting:
            if waiter not in still:
                self._answer(waiter, stream)

    def _answer(self, waiter: _Waiter, stream: Stream) -> None:
        if stream.failure is not None:
            self._server.reply_error(waiter.peer, stream.failure)
        else:
            only = waiter.source if waiter.brief else None
            self._server.reply(waiter.peer, stream_status(stream, time.monotonic_ns(), only).to_json())

    def when_settled(self, peer: Peer, stream: Stream, answer: Callable[[], Message]) -> None:
        """Reply with what ``answer`` returns or raises, once the stream is settled.

        Raises OmewdError ``busy`` for a client with too many pending replies.
        """
        self._check_room(peer)
        self._next.setdefault(stream.id, []).append((peer, answer))

    def settled(self, stream: Stream) -> None:
        """Send the replies that are due once everything after a stream's end is done."""
        for peer, answer in self._next.pop(stream.id, []):
            self._server.answer(peer, answer, op="resume_stream")

    # -- in this turn --------------------------------------------------------------------------

    def after_this_turn(self, peer: Peer, answer: Callable[[], Message]) -> None:
        """Reply with what ``answer`` returns or raises, once this turn of the loop has stepped the streams."""
        self._this_turn.append((peer, answer))

    def turned(self) -> None:
        """Send the replies that are due once the streams have been stepped."""
        if self._this_turn:
            answers, self._this_turn = self._this_turn, []
            for peer, answer in answers:
                self._server.answer(peer, answer, op="status")

    def forget(self, peer: Peer) -> None:
        """Forget the pending replies of a client that is gone."""
        self.watches.forget(peer)
        for number, answers in self._next.items():
            self._next[number] = [entry for entry in answers if entry[0] is not peer]
        for stream, waiting in self._waiting.items():
            self._waiting[stream] = [waiter for waiter in waiting if waiter.peer is not peer]
