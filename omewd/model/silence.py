"""When the silence of a camera is unusual: by the rate that is expected, or by the one so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# With an expected rate, so many frames must be missing, and at least this long.
_EXPECTED_FRAMES = 5
_EXPECTED_LEAST_NS = 1_000_000_000
# By the rate so far. Acquisitions with pauses, such as time lapses of stacks, repeat their pauses.
_FRAMES_BEFORE = 10
_USUAL_INTERVALS = 10
_USUAL_PAUSES = 2
_USUAL_LEAST_NS = 3_000_000_000


@dataclass
class Silence:
    """The arrivals of one camera. ``longest_ns``: the longest pause between two looks with new frames.

    ``told``: whether its silence is on the log.
    """

    first_ns: int | None = None
    last_ns: int = 0
    frames: int = 0
    longest_ns: int = 0
    told: bool = False

    def note(self, frames: int, now_ns: int) -> None:
        """Note that frames have come. The first ones only say when it began."""
        if self.first_ns is None:
            self.first_ns = self.last_ns = now_ns
            return
        self.longest_ns = max(self.longest_ns, now_ns - self.last_ns)
        self.last_ns = now_ns
        self.frames += frames

    def limit_ns(self, expect_fps: float | None) -> int | None:
        """A longer silence is unusual; None: nothing is known yet."""
        if expect_fps is not None:
            return max(int(_EXPECTED_FRAMES * 1e9 / expect_fps), _EXPECTED_LEAST_NS)
        if self.first_ns is None or self.frames < _FRAMES_BEFORE:
            return None
        interval_ns = (self.last_ns - self.first_ns) // self.frames
        return max(_USUAL_INTERVALS * interval_ns, _USUAL_PAUSES * self.longest_ns, _USUAL_LEAST_NS)

    def tell(self, *, is_silent: bool) -> bool:
        """Note whether it is silent now; returns whether that is new."""
        changed, self.told = is_silent != self.told, is_silent
        return changed
