"""The frame indexes of a write unit as an array."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from omewd.model.plan import Plan


def frame_indexes(plan: Plan, unit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The frame index at each place of a unit; its shape is the unit's outer shape, in storage order."""
    first, shape, steps = plan.frame_grid(unit)
    return first + _offsets(shape, steps)


@lru_cache(maxsize=64)  # all units of an acquisition have the same, but for the ragged ones
def _offsets(shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    grid = np.zeros(shape, np.int64)
    for axis, step in enumerate(steps):
        along = [1] * len(shape)
        along[axis] = shape[axis]
        grid += (np.arange(shape[axis]) * step).reshape(along)
    grid.flags.writeable = False
    return grid
