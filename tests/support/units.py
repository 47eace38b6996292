"""Write units with their pixels, as a writer puts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from omewd.store.scattered import ScatteredFrames
from omewd.store.units import Units


def single(number: int, pixels: Any) -> Units:
    """One unit. ``pixels``: (…, Y, X), or scattered frames."""
    return Units(range(number, number + 1), pixels if isinstance(pixels, ScatteredFrames) else pixels[None])


def singly(units: Iterable[tuple[int, Any]]) -> list[Units]:
    """Units one by one, each with its number."""
    return [single(number, pixels) for number, pixels in units]


def in_runs(units: Iterable[tuple[int, Any]]) -> list[Units]:
    """Consecutive units of equal shape together."""
    runs: list[list[tuple[int, Any]]] = []
    for number, pixels in units:
        if runs and runs[-1][-1][0] + 1 == number and runs[-1][-1][1].shape == pixels.shape:
            runs[-1].append((number, pixels))
        else:
            runs.append([(number, pixels)])
    return [Units(range(run[0][0], run[-1][0] + 1), np.stack([pixels for _, pixels in run])) for run in runs]
