"""The pixels of a write unit whose frames are not evenly spaced in the ring. They are gathered when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Plane = np.ndarray[Any, Any]


class ScatteredFrames:
    """Frames (Y, X) in C order of the outer axes, without a copy; None for absent frames, which read as zeros.

    It has as much of the interface of an array of shape (..., Y, X) as encoders need.
    """

    def __init__(self, planes: Sequence[Plane | None], outer: tuple[int, ...], like: Plane) -> None:
        """``outer``: the shape of the outer axes. ``like``: any frame, with the shape and dtype of all."""
        self._planes, self._like = planes, like
        self.shape = (*outer, *like.shape)
        self.dtype = like.dtype

    def __getitem__(self, index: tuple[Any, ...]) -> ScatteredFrames:
        """A part of every frame: ``[..., rows, columns]``."""
        ellipsis, rows, columns = index
        assert ellipsis is Ellipsis
        planes = [None if plane is None else plane[rows, columns] for plane in self._planes]
        return ScatteredFrames(planes, self.shape[:-2], self._like[rows, columns])

    def plane(self, place: tuple[int, ...]) -> Plane | None:
        """The frame at a place along the outer axes."""
        return self._planes[int(np.ravel_multi_index(place, self.shape[:-2])) if place else 0]

    def gather(self) -> Plane:
        """Copy everything into one array."""
        array = np.empty(self.shape, self.dtype)
        for target, plane in zip(array.reshape(-1, *self.shape[-2:]), self._planes, strict=True):
            target[...] = 0 if plane is None else plane
        return array


def planes_of(pixels: Plane | ScatteredFrames, shape: tuple[int, ...]) -> Iterator[Plane]:
    """The planes (Y, X), in C order, of pixels that are padded with zeros to a shape."""
    outer, across = shape[:-2], shape[-2:]
    zeros = None
    for place in np.ndindex(outer):
        plane = None
        if all(i < n for i, n in zip(place, pixels.shape, strict=False)):
            plane = pixels.plane(place) if isinstance(pixels, ScatteredFrames) else pixels[place]
        if plane is None:
            zeros = np.zeros(across, pixels.dtype) if zeros is None else zeros
            yield zeros
        elif plane.shape == across:
            yield plane
        else:
            padded = np.zeros(across, pixels.dtype)
            padded[: plane.shape[0], : plane.shape[1]] = plane
            yield padded
