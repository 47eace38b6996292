"""Sketches the grey values of a job's frames, from a few pixels in the ring."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from omewd.model.contrast import FRACTIONS, MOST_CHANNELS
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from omewd.writer.ring_reader import RingReader, UnitFrames

# The most channels that a job sketches, one frame each, at 15 µs; and the most units that it looks at to find frames of
# channels without a sketch, at about 5 µs.
_CHANNELS = 3
_LOOKS = 8
# Along each axis of a frame. The steps are odd, so that they do not match the pattern of a Bayer sensor.
_PIXELS = 24
_PLACES = np.array(FRACTIONS)

Array = np.ndarray[Any, Any]


def sketches(
    spec: StreamSpec, plan: Plan, ring: RingReader, units: Sequence[UnitFrames]
) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Sketches of some frames of a job: (channel, quantiles at the fractions of :mod:`omewd.model.contrast`)."""
    axis = next((i for i, d in enumerate(spec.disk_dimensions[:-2]) if d.type == "channel"), None)
    found: dict[int, list[float]] = {}
    most = min(_CHANNELS, spec.disk_dimensions[axis].count or 1) if axis is not None else 1
    numbers = range(sum(len(frames.units) for frames in units))
    for number in random.sample(numbers, min(_LOOKS, len(numbers))):
        if len(found) == most:
            break
        unit, of_channel = _unit(units, number)
        channel = 0
        if axis is not None:
            place = random.randrange(of_channel.shape[axis])
            channel, of_channel = plan.region(unit)[axis][0] + place, of_channel.take(place, axis)
        there = of_channel[of_channel >= 0]
        if not there.size or channel in found or channel >= MOST_CHANNELS:
            continue
        values = sketch(ring.frame(int(there[random.randrange(there.size)])))
        if values is not None:
            found[channel] = values
    return tuple((channel, tuple(values)) for channel, values in found.items())


def _unit(units: Sequence[UnitFrames], number: int) -> tuple[int, Array]:
    """The n-th unit of several runs, with its sequences."""
    for frames in units:
        if number < len(frames.units):
            return frames.units[number], frames.sequences[number]
        number -= len(frames.units)
    raise IndexError(number)


def sketch(frame: Array) -> list[float] | None:
    """The quantiles of a sample of a frame's pixels at the fractions; None if none of them is finite."""
    steps = [max(size // _PIXELS, 1) | 1 for size in frame.shape]
    y, x = (random.randrange(min(step, size)) for step, size in zip(steps, frame.shape, strict=True))
    pixels = np.sort(frame[y :: steps[0], x :: steps[1]], axis=None)
    if pixels.dtype.kind == "f":
        pixels = pixels[np.isfinite(pixels)]
    if not pixels.size:
        return None
    found: list[float] = pixels[np.rint(_PLACES * (pixels.size - 1)).astype(np.intp)].astype(np.float64).tolist()
    return found
