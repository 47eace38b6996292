"""Answers clients that watch streams: each request gets one answer, once something has changed for its client."""

from __future__ import annotations

from dataclasses import dataclass

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.datasets.watermarks import copied_below, sealed_below
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from omewd.protocol.messages import Message
from omewd.protocol.status import ErrorStatus
from omewd.protocol.watch import Watched, WatchedSource

# A client gets news this often at most, so that a fast camera makes no more work than a slow one. An answer takes
# 0.1 ms.
_EVERY_NS = 50_000_000


@dataclass(eq=False)
class _Watch:
    """A request that waits for news. ``known``: what its client knows. ``due_ns``: it is not looked at before that."""

    peer: Peer
    stream: Stream
    known: object
    due_ns: int


class Watches:
    """A connection has one pending request, so a client that does not read holds one answer at most."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._watches: dict[Peer, _Watch] = {}
        self._streams: dict[int, set[Peer]] = {}
        self._news: set[int] = set()
        self._late: set[Peer] = set()

    def ask(self, peer: Peer, stream: Stream, known: object, now_ns: int) -> Message | None:
        """The answer, if there are news already that may be told; else it comes later.

        Raises OmewdError ``busy`` for a connection that has such a request already.
        """
        if peer in self._watches:
            raise OmewdError("busy", "this connection already watches a stream", "Use another connection")
        if known is None or _is_over(stream):
            return watched(stream).to_json()
        self._watches[peer] = _Watch(peer, stream, known, now_ns + _EVERY_NS)
        self._streams.setdefault(stream.id, set()).add(peer)
        self._late.add(peer)
        return None

    def note(self, stream: Stream) -> None:
        """Something may have happened to a stream."""
        self.note_id(stream.id)

    def note_id(self, stream: int) -> None:
        """Something may have happened to the stream with this id."""
        if stream in self._streams:
            self._news.add(stream)

    def turned(self, now_ns: int) -> None:
        """Answer those for whom there are news."""
        if not self._news and not self._late:
            return
        peers = {peer for number in self._news for peer in self._streams.get(number, ())}
        due = {peer for peer in self._late if self._watches[peer].due_ns <= now_ns}
        self._news.clear()
        self._late -= due
        for peer in peers | due:
            watch = self._watches.get(peer)
            if watch is None:  # an answer to another client has dropped it
                continue
            if watch.due_ns > now_ns and not _is_over(watch.stream):
                self._late.add(peer)
                continue
            found = watched(watch.stream)
            if found.is_news(watch.known):
                self.forget(peer)
                self._server.reply(peer, found.to_json())
            else:  # what it wants to be told of may stay so for long
                watch.due_ns = now_ns + _EVERY_NS

    @property
    def next_ns(self) -> int | None:
        """When the next client is to be looked at; None for at no time."""
        return min((self._watches[peer].due_ns for peer in self._late), default=None)

    def forget(self, peer: Peer) -> None:
        """Forget the request of a client that is gone."""
        watch = self._watches.pop(peer, None)
        self._late.discard(peer)
        if watch is not None:
            others = self._streams[watch.stream.id]
            others.discard(peer)
            if not others:
                del self._streams[watch.stream.id]


def _is_over(stream: Stream) -> bool:
    """Whether there will be no more news: a failed stream is copied once it can't be resumed any more."""
    copy = stream.dataset.copy
    return stream.settled and (copy is None or copy.is_over or stream.error is not None)


def watched(stream: Stream) -> Watched:
    """A stream, for who watches it."""
    paused = stream.drive.paused
    is_over = stream.settled
    return Watched(
        id=stream.id,
        name=stream.name,
        state=stream.state.value,
        settled=is_over,
        paused=ErrorStatus.of(paused) if paused is not None and not is_over else None,
        failure=stream.failure.to_dict() if is_over and stream.failure is not None else None,
        sources=tuple(_source(stream, source) for source in stream.sources),
        copy=stream.dataset.copy.status() if stream.dataset.copy is not None else None,
    )


def _source(stream: Stream, source: Source) -> WatchedSource:
    below = source.safe_below, sealed_below(stream, source), copied_below(stream, source)
    return WatchedSource(source.name, source.received, *below)
