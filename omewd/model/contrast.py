"""Which range of grey values a viewer should show, found from sketches of the frames of each channel. Pure.

A sketch is the quantiles of a sample of a frame's pixels at :data:`FRACTIONS`. Between two quantiles, the share of
pixels below a value is assumed to rise linearly. The share over all frames is the mean over the sketches.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Dense at both ends, where the window is taken.
FRACTIONS = (
    *(0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
    *(0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0),
)
_LOW, _HIGH = 0.01, 0.999
_MAX_SKETCHES = 64
MOST_CHANNELS = 64

Sketch = Sequence[float]
# (channel, start, end, lowest value, highest value)
Window = tuple[int, float, float, float, float]


@dataclass
class _Channel:
    """Keeps every ``stride``-th sketch of the ``seen`` ones."""

    sketches: list[Sketch] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, sketch: Sketch) -> None:
        if self.seen % self.stride == 0:
            self.sketches.append(sketch)
        self.seen += 1
        if len(self.sketches) == _MAX_SKETCHES:
            del self.sketches[1::2]
            self.stride *= 2


class Contrast:
    """The sketches of a stream, by channel. Memory is bounded, however many are added."""

    def __init__(self) -> None:
        self._channels: dict[int, _Channel] = {}

    def add(self, sketches: Sequence[tuple[int, Sketch]]) -> None:
        """Add (channel, sketch) pairs as writers report them."""
        for channel, sketch in sketches:
            if channel in self._channels or len(self._channels) < MOST_CHANNELS:
                self._channels.setdefault(channel, _Channel()).add(sketch)

    def __len__(self) -> int:
        """The number of channels that have frames."""
        return len(self._channels)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Each channel's window, from its 1st to its 99.9th percentile; start and end may be equal."""
        found = []
        for number, channel in sorted(self._channels.items()):
            sketches = channel.sketches
            low, high = (quantile(sketches, fraction) for fraction in (_LOW, _HIGH))
            found.append((number, low, high, min(s[0] for s in sketches), max(s[-1] for s in sketches)))
        return tuple(found)


def quantile(sketches: Sequence[Sketch], fraction: float) -> float:
    """The value with ``fraction`` of the pixels of all frames below it."""
    values = sorted({value for sketch in sketches for value in sketch})
    at = bisect_left(values, fraction, key=lambda value: _share(sketches, value, bisect_right))
    at = min(at, len(values) - 1)
    if at == 0:
        return values[0]
    before, here = values[at - 1], values[at]
    share = _share(sketches, before, bisect_right)
    rise = _share(sketches, here, bisect_left) - share
    if share + rise <= fraction or rise <= 0:  # the share jumps here: many pixels have this value
        return here
    part = max(fraction - share, 0.0) / rise
    return before * (1 - part) + here * part  # the difference of two float64 may be infinite


def _share(sketches: Sequence[Sketch], value: float, bisect: Any) -> float:
    """The mean share of pixels up to a value, including it (``bisect_right``) or excluding it (``bisect_left``)."""
    return sum(_share_of(sketch, value, bisect(sketch, value)) for sketch in sketches) / len(sketches)


def _share_of(sketch: Sketch, value: float, after: int) -> float:
    """One sketch's share of pixels up to ``value``; ``after`` of the sketch's quantiles are at or before it."""
    if after == 0:
        return 0.0
    if after == len(sketch):
        return 1.0
    part = _part(sketch[after - 1], value, sketch[after])
    return FRACTIONS[after - 1] + part * (FRACTIONS[after] - FRACTIONS[after - 1])


def _part(low: float, value: float, high: float) -> float:
    """Where a value is between two others, from 0 to 1."""
    if not high > low:
        return 0.0
    if math.isinf(high - low):
        low, value, high = low / 2, value / 2, high / 2
    return (value - low) / (high - low)
