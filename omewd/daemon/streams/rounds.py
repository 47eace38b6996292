"""Looks at all rings now and then: a doorbell may be lost, a producer may have none, and a camera may be silent."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from omewd.daemon.streams.producers import is_unattended
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams

log = structlog.get_logger("rounds")

# The most time that a lost doorbell costs, in general and while doorbells get lost or producers have none.
_SELDOM_NS = 1_000_000_000
_OFTEN_NS = 50_000_000


class Rounds:
    """A round reads three words of each ring. ``next_ns``: when the next one is due.

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
                else:
                    _tell_silence(stream, source, now_ns)
        self.next_ns = now_ns + (_OFTEN_NS if soon else _SELDOM_NS)


def _tell_silence(stream: Stream, source: Source, now_ns: int) -> None:
    """Put on the log that a camera has become silent, and that it sends frames again."""
    is_silent = source.is_silent(now_ns)
    if not source.silence.tell(is_silent=is_silent):
        return
    camera = {"stream": stream.name, "received": source.received, **({"source": source.name} if source.name else {})}
    if is_silent and source.newest_frame_ns is not None:
        log.warning(f"no frame for {(now_ns - source.newest_frame_ns) / 1e9:.1f} s", **camera)
    elif source.producer is not None and source.is_open:
        log.info("the camera sends frames again", **camera)
