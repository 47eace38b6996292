"""The frame indexes of a write unit as an array, and the places of many frames."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from omewd.model.plan.plan import Plan


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


def places(plan: Plan, frames: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """Where frames are stored, by their indexes: (image number of each, index of each along each outer axis on disk).

    :meth:`Plan.image` and :meth:`Plan.place` for many frames at once.
    """
    coordinates = [
        frames // stride if count is None or not axis else frames // stride % count
        for axis, (stride, count) in enumerate(zip(plan.strides, plan.counts, strict=True))
    ]
    if plan.source_axis is not None:
        coordinates[plan.source_axis] = np.full_like(frames, plan.source)
    images = np.zeros_like(frames) if plan.image_axis is None else coordinates[plan.image_axis]
    return images, [coordinates[axis] for axis in plan.order]
