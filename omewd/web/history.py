"""How fast each stream was over the last minutes, from consecutive statuses. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from omewd.protocol.status import DaemonStatus

# A point a second, which is how often a status comes; one in between is too soon for a rate.
POINTS = 300
_LEAST_S = 0.8


@dataclass(frozen=True)
class Point:
    """``at_s``: when, in seconds of a monotonic clock. ``frames_per_s``, ``bytes_per_s``: since the point before."""

    at_s: float
    frames_per_s: float
    bytes_per_s: float


class History:
    """The last :data:`POINTS` rates of a daemon's streams, by stream id, and how many of its writers have died."""

    def __init__(self) -> None:
        self._points: dict[int, deque[Point]] = {}
        self._last: dict[int, tuple[float, int]] = {}
        self._writers: set[int] = set()
        self._daemon = 0
        self.writer_deaths = 0

    def note(self, status: DaemonStatus, at_s: float) -> None:
        """Add a status. Streams that the daemon has forgotten are forgotten here, and those of an earlier daemon."""
        writers = {writer.pid for writer in status.writers if writer.pid and not writer.aside}
        if status.pid != self._daemon:
            self._daemon = status.pid
            self._points.clear()
            self._last.clear()
        elif not status.stopping:
            self.writer_deaths += len(self._writers - writers)
        self._writers = writers
        for stream in status.streams:
            arrived = stream.frames.received - stream.frames.gaps
            then_s, before = self._last.setdefault(stream.id, (at_s, arrived))
            if at_s - then_s >= _LEAST_S:
                self._last[stream.id] = at_s, arrived
                rate = max(arrived - before, 0) / (at_s - then_s)
                points = self._points.setdefault(stream.id, deque(maxlen=POINTS))
                points.append(Point(at_s, rate, rate * stream.frame_bytes))
        for gone in self._last.keys() - {stream.id for stream in status.streams}:
            del self._last[gone]
            self._points.pop(gone, None)

    def of(self, stream: int) -> tuple[Point, ...]:
        """The rates of a stream, oldest first."""
        return tuple(self._points.get(stream, ()))
