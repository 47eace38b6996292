"""A smaller resolution of a write unit, made again from the one before it: for verify and repair."""

from __future__ import annotations

from typing import Any

import numpy as np

from omewd.model.plan.levels import Level
from omewd.store.pyramid import halve

Array = np.ndarray[Any, Any]
Region = list[tuple[int, int]]  # (start, stop) along each outer axis


def region_before(part: Region, level: Level, shape_before: tuple[int, ...]) -> Region:
    """What a part of a resolution is made of, in the one before, whose array has ``shape_before``."""
    return [
        (2 * start, min(2 * stop, length)) if axis in level.halved else (start, stop)
        for axis, ((start, stop), length) in enumerate(zip(part, shape_before, strict=False))
    ]


def made_of(before: Any, part: Region, level: Level, method: str, present: Array, origin: Region) -> Array:
    """The pixels of a part of a resolution, by ``before``, the (tensorstore) array of the one before.

    ``present``: which frames of the unit are there in that one; ``origin``: the unit's region in it.
    Raises ValueError or OSError if that can't be read.
    """
    region = region_before(part, level, before.shape)
    view = before[tuple(slice(a, b) for a, b in region)] if region else before
    there = present[tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(region, origin, strict=True))]
    return halve(np.asarray(view.read().result()), level.halved, method, there)[0]


def present_in(level: Level, method: str, present: Array) -> Array:
    """Which frames of a unit are there in a resolution, by those of the one before."""
    outer = [axis for axis in level.halved if axis < present.ndim]
    smaller, kept = halve(np.zeros((*present.shape, 1, 1), np.uint8), outer, method, present)
    return np.ones(smaller.shape[:-2], bool) if kept is None else kept
