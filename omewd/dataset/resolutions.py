"""Computes a lower resolution of a write unit from the one before it, for verify and repair."""

from __future__ import annotations

from typing import Any

import numpy as np

from omewd.model.plan.levels import Level
from omewd.store.pyramid import halve

Array = np.ndarray[Any, Any]
Region = list[tuple[int, int]]  # (start, stop) along each outer axis


def region_before(part: Region, level: Level, shape_before: tuple[int, ...]) -> Region:
    """The region of the resolution before (with ``shape_before``) from which a part of a resolution is computed."""
    return [
        (2 * start, min(2 * stop, length)) if axis in level.halved else (start, stop)
        for axis, ((start, stop), length) in enumerate(zip(part, shape_before, strict=False))
    ]


def made_of(before: Any, part: Region, level: Level, method: str, present: Array, origin: Region) -> Array:
    """Compute the pixels of a part of a resolution from ``before``, the (tensorstore) array of the one before it.

    ``present``: which of the unit's frames that array has. ``origin``: the unit's region in it.
    Raises ValueError or OSError if the array can't be read.
    """
    region = region_before(part, level, before.shape)
    view = before[tuple(slice(a, b) for a, b in region)] if region else before
    there = present[tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(region, origin, strict=True))]
    return halve(np.asarray(view.read().result()), level.halved, method, there)[0]


def present_in(level: Level, method: str, present: Array) -> Array:
    """Which frames of a unit a resolution has, given those of the one before it."""
    outer = [axis for axis in level.halved if axis < present.ndim]
    smaller, kept = halve(np.zeros((*present.shape, 1, 1), np.uint8), outer, method, present)
    return np.ones(smaller.shape[:-2], bool) if kept is None else kept
