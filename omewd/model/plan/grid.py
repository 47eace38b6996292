"""Plans over arrays: the frame indexes of a write unit, and the places of many frames at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from omewd.model.plan.plan import Plan


def frame_indexes(plan: Plan, unit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The frame index at each place of a unit: an array of the unit's outer shape, in storage order."""
    first, shape, steps = plan.frame_grid(unit)
    return first + _offsets(shape, steps)


def unit_runs(plan: Plan, units: range) -> Iterator[tuple[range, np.ndarray[Any, np.dtype[np.int64]]]]:
    """Units in runs of equal shape, each with its frame indexes, (unit, …), as :func:`frame_indexes` gives them."""
    rest, blocks = np.arange(units.start, units.stop), []
    for count in reversed(plan.blocks):
        blocks.append(rest if count is None else rest % count)
        rest = rest // (count or 1)
    origins = [at * extent for at, extent in zip(reversed(blocks), plan.extents, strict=True)]
    first = sum((at * stride for at, stride in zip(origins, plan.strides, strict=True)), np.zeros(len(units), np.int64))
    differs = np.zeros(max(len(units) - 1, 0), bool)
    for at, extent, count in zip(origins, plan.extents, plan.counts, strict=True):
        if count is not None and count % extent:
            differs |= np.diff(np.minimum(extent, count - at)) != 0
    starts = [0, *(np.flatnonzero(differs) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], len(units)], strict=True):
        _, shape, steps = plan.frame_grid(units[start])
        along = (-1, *(1 for _ in shape))
        yield units[start:stop], first[start:stop].reshape(along) + _offsets(shape, steps)


@lru_cache(maxsize=64)  # the units of an acquisition share them, except ragged ones
def _offsets(shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    grid = np.zeros(shape, np.int64)
    for axis, step in enumerate(steps):
        along = [1] * len(shape)
        along[axis] = shape[axis]
        grid += (np.arange(shape[axis]) * step).reshape(along)
    grid.flags.writeable = False
    return grid


def places(plan: Plan, frames: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """The places of frames, by their indexes: (image numbers, indexes along each outer axis on disk).

    Does what :meth:`Plan.image` and :meth:`Plan.place` do, for many frames at once.
    """
    coordinates = [
        frames // stride if count is None or not axis else frames // stride % count
        for axis, (stride, count) in enumerate(zip(plan.strides, plan.counts, strict=True))
    ]
    if plan.source_axis is not None:
        coordinates[plan.source_axis] = np.full_like(frames, plan.element)
    images = np.zeros_like(frames) if plan.image_axis is None else coordinates[plan.image_axis]
    return images, [coordinates[axis] for axis in plan.order]
