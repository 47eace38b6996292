"""Whether something that was measured again and again stays flat: a straight line by least squares, and its error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

# The width of the interval, in standard errors: 99.7 % of a normal distribution.
_ERRORS = 3.0
_FEWEST = 8


@dataclass(frozen=True)
class Trend:
    """A straight line through samples. ``slope``: per unit of x. ``error``: its standard error. ``span``: of x."""

    slope: float
    error: float
    span: float

    @property
    def growth(self) -> float:
        """How much the line rises over the whole span."""
        return self.slope * self.span

    @property
    def growth_error(self) -> float:
        return self.error * self.span

    def is_flat(self, floor: float) -> bool:
        """Whether the samples rule out, by three standard errors, that the line rises by more than ``floor``.

        Too few or too noisy samples rule nothing out, so they are not flat.
        """
        return self.growth + _ERRORS * self.growth_error <= floor


def trend(x: Sequence[float], y: Sequence[float]) -> Trend:
    """The line of least squares.

    Samples of memory are not independent: a step stays. So the error is that of as many independent samples as the
    correlation r of neighbouring residuals leaves, n (1 - r) / (1 + r) (Santer et al. 2000, J. Geophys. Res. 105,
    7337, equation 6). Raises ValueError for fewer than eight samples or a single x.
    """
    n = len(x)
    if n < _FEWEST or n != len(y) or min(x) == max(x):
        raise ValueError(f"a trend needs at least {_FEWEST} samples at different x, not {n} and {len(y)}")
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    spread = math.fsum((a - mean_x) ** 2 for a in x)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    residuals = [b - mean_y - slope * (a - mean_x) for a, b in zip(x, y, strict=True)]
    squares = math.fsum(r * r for r in residuals)
    error = 0.0
    if squares > 0:
        neighbours = math.fsum(a * b for a, b in itertools.pairwise(residuals)) / squares
        correlation = min(max(neighbours, 0.0), 1.0)
        independent = max(n * (1 - correlation) / (1 + correlation), 3.0)
        error = math.sqrt(squares / (independent - 2) / spread)
    return Trend(slope, error, max(x) - min(x))
