"""Looks at all rings now and then, because a doorbell may be lost, or its producer may have none."""

from __future__ import annotations

from collections.abc import Callable

from omewd.daemon.streams.producers import is_unattended
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams

# The most time that a lost doorbell costs, in general and while doorbells get lost or producers have none.
_SELDOM_NS = 1_000_000_000
_OFTEN_NS = 50_000_000


class Rounds:
    """A round reads two words of each ring. ``next_ns``: when the next one is due.

    ``lost(stream, source, now_ns)`` is called for a producer without a connection that has died.
    """

    def __init__(self, streams: Streams, lost: Callable[[Stream, Source, int], None]) -> None:
        self._streams, self._lost = streams, lost
        self.next_ns = 0

    def soon(self) -> None:
        """Make the next round in the next turn of the loop."""
        self.next_ns = 0

    def go(self, now_ns: int) -> None:
        """Make a round if one is due. The next one comes soon if a doorbell was lost, or if a producer has none."""
        if now_ns < self.next_ns:
            return
        soon = False
        for stream in list(self._streams.open.values()):
            for source in stream.sources if stream.takes_frames else ():
                if is_unattended(stream, source):
                    soon = True
                    if not stream.rings[source.number].producer_lives:
                        self._lost(stream, source, now_ns)
                if source.is_behind:
                    soon = True
                    self._streams.agenda.source(stream.id, source.number)
        self.next_ns = now_ns + (_OFTEN_NS if soon else _SELDOM_NS)
