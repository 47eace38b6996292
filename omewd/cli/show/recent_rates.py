"""The rate of the last seconds, from consecutive statuses. Pure."""

from __future__ import annotations

from collections import deque

from omewd.protocol.status import StreamStatus

_WINDOW_S = 5.0
# For a slow camera, the window grows to hold this many frames, within a limit.
_WINDOW_FRAMES, _LONGEST_WINDOW_S = 10, 60.0
# A shorter window says little.
_SHORTEST_WINDOW_S = 1.0


class RecentRates:
    """The recent frames and bytes a second of streams."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[float, int]]] = {}

    def note(self, stream: StreamStatus, now_s: float) -> tuple[float, float] | None:
        """Add a stream's status; returns its recent (frames, bytes) a second, None until that is known."""
        frames = stream.frames
        arrived = frames.received - frames.gaps
        seen = self._seen.setdefault(stream.id, deque())
        seen.append((now_s, arrived))
        average = stream.throughput.frames_per_s
        window_s = min(max(_WINDOW_S, _WINDOW_FRAMES / average if average else 0.0), _LONGEST_WINDOW_S)
        while len(seen) > 2 and now_s - seen[1][0] >= window_s:
            seen.popleft()
        since_s, before = seen[0]
        if now_s - since_s < _SHORTEST_WINDOW_S:
            return None
        frames_per_s = max(arrived - before, 0) / (now_s - since_s)
        return frames_per_s, frames_per_s * stream.frame_bytes
