"""The rate of the last seconds, from statuses that follow each other. Pure."""

from __future__ import annotations

from collections import deque

from omewd.protocol.status import StreamStatus

_WINDOW_S = 5.0
# Of a slow camera the window holds so many frames, as far as that does not take ages.
_FRAMES, _LONGEST_WINDOW_S = 10, 60.0
# What is seen in less time than this says little.
_LEAST_S = 1.0


class RecentRates:
    """Frames and bytes a second of streams that have been looked at for a while."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[float, int]]] = {}

    def note(self, stream: StreamStatus, now_s: float) -> tuple[float, float] | None:
        """Take a stream's status in; returns its recent (frames, bytes) a second, None as long as that is not known."""
        frames = stream.frames
        arrived = frames.received - frames.gaps
        seen = self._seen.setdefault(stream.id, deque())
        seen.append((now_s, arrived))
        average = stream.throughput.frames_per_s
        window_s = min(max(_WINDOW_S, _FRAMES / average if average else 0.0), _LONGEST_WINDOW_S)
        while len(seen) > 2 and now_s - seen[1][0] >= window_s:
            seen.popleft()
        since_s, before = seen[0]
        if now_s - since_s < _LEAST_S:
            return None
        frames_per_s = max(arrived - before, 0) / (now_s - since_s)
        return frames_per_s, frames_per_s * stream.frame_bytes
