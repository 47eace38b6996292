"""Keeps a copy from taking more of the network than it may."""

from __future__ import annotations

import threading


class Pace:
    """Bytes a second that several threads share; None: as many as there are. Time is passed in, in seconds."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._rate = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait_s(self, count_bytes: int, now: float) -> float:
        """Take the turn of that many bytes; returns how long to wait before they are sent."""
        if self._rate is None:
            return 0.0
        with self._lock:
            start = max(self._free_at, now)
            self._free_at = start + count_bytes / self._rate
            return start - now
