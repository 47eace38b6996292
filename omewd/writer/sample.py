"""A few pixels of a job's frames, straight out of the ring: what is told of their grey values."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from omewd.model.contrast import FRACTIONS, MOST_CHANNELS
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from omewd.writer.ring_reader import RingReader, UnitFrames

# Of a job, a frame each, at 15 µs; how many units may be looked at for channels that have none yet, at some 5 µs.
_CHANNELS = 3
_LOOKS = 8
# Along each axis of a frame. Odd steps do not keep in step with the pattern of a Bayer sensor.
_PIXELS = 24
_PLACES = np.array(FRACTIONS)

Array = np.ndarray[Any, Any]


def sketches(
    spec: StreamSpec, plan: Plan, ring: RingReader, units: Sequence[UnitFrames]
) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """(channel, values at the fractions of :mod:`omewd.model.contrast`) of some frames that are there."""
    axis = next((i for i, d in enumerate(spec.disk_dimensions[:-2]) if d.type == "channel"), None)
    found: dict[int, list[float]] = {}
    most = min(_CHANNELS, spec.disk_dimensions[axis].count or 1) if axis is not None else 1
    for frames in random.sample(units, min(_LOOKS, len(units))):
        if len(found) == most:
            break
        channel, of_channel = 0, frames.sequences
        if axis is not None:
            number = random.randrange(of_channel.shape[axis])
            channel, of_channel = plan.region(frames.unit)[axis][0] + number, of_channel.take(number, axis)
        there = of_channel[of_channel >= 0]
        if not there.size or channel in found or channel >= MOST_CHANNELS:
            continue
        values = sketch(ring.frame(int(there[random.randrange(there.size)])))
        if values is not None:
            found[channel] = values
    return tuple((channel, tuple(values)) for channel, values in found.items())


def sketch(frame: Array) -> list[float] | None:
    """Values of a frame at the fractions; None if none of those looked at is finite."""
    steps = [max(size // _PIXELS, 1) | 1 for size in frame.shape]
    y, x = (random.randrange(min(step, size)) for step, size in zip(steps, frame.shape, strict=True))
    pixels = np.sort(frame[y :: steps[0], x :: steps[1]], axis=None)
    if pixels.dtype.kind == "f":
        pixels = pixels[np.isfinite(pixels)]
    if not pixels.size:
        return None
    found: list[float] = pixels[np.rint(_PLACES * (pixels.size - 1)).astype(np.intp)].astype(np.float64).tolist()
    return found
