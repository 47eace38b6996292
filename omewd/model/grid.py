"""The frame indexes of a write unit as an array."""

from __future__ import annotations

from typing import Any

import numpy as np

from omewd.model.plan import Plan


def frame_indexes(plan: Plan, unit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The frame index at each place of a unit; its shape is the unit's outer shape, in storage order."""
    first, shape, steps = plan.frame_grid(unit)
    grid = np.full(shape, first, np.int64)
    for axis, step in enumerate(steps):
        along = [1] * len(shape)
        along[axis] = shape[axis]
        grid += (np.arange(shape[axis]) * step).reshape(along)
    return grid
