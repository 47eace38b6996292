"""The resolutions of an image. Each halves the one before along y and x, and along z where it can. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from omewd.model.spec.spec import StreamSpec


@dataclass(frozen=True)
class Level:
    """One resolution. Tuples are in the order of the axes on disk.

    ``factors``: how many elements of the full resolution make one of this level. ``chunk_shape`` and ``key_shape``
    describe its array. The grid of keys along the outer axes is the same at every level, so a write unit holds all
    that its keys need at any level. ``halved``: the axes that this level halves.
    """

    number: int
    factors: tuple[int, ...]
    frame_shape: tuple[int, int]
    chunk_shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    halved: tuple[int, ...] = ()

    def shape(self, full: tuple[int, ...]) -> tuple[int, ...]:
        """The shape at this level of an array with the shape ``full`` at the full resolution."""
        return tuple(-(-n // factor) for n, factor in zip(full, self.factors, strict=True))

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """The number of chunks in a key along each axis."""
        return tuple(k // c for k, c in zip(self.key_shape, self.chunk_shape, strict=True))


def levels_of(spec: StreamSpec) -> tuple[Level, ...]:
    """All resolutions of a stream's images, the full one first.

    The frame's axes are halved until they have one pixel. Another space axis is halved if a chunk's depth along it is
    even, or if one chunk spans it: only then does a write unit hold all planes that the mean needs. Chunks keep their
    size in pixels across the frame, unless the frame is smaller.
    """
    axes = len(spec.disk_order)
    dims = spec.disk_dimensions
    chunk, key = spec.stored(spec.chunk_shape), spec.stored(spec.key_shape)
    levels = [Level(0, (1,) * axes, spec.frame_shape, chunk, key)]
    for number in range(1, spec.levels):
        before = levels[-1]
        halved = []
        for axis, dim in enumerate(dims):
            if axis >= axes - 2:
                halves = before.frame_shape[axis - axes] > 1
            else:
                depth, count = before.chunk_shape[axis], dim.count
                whole = count is not None and -(-count // before.factors[axis]) <= depth
                halves = dim.type == "space" and depth > 1 and (depth % 2 == 0 or whole)
            if halves and dim.name != spec.source_dimension:
                halved.append(axis)
        factors = tuple(f * 2 if axis in halved else f for axis, f in enumerate(before.factors))
        height, width = (-(-n // 2) for n in before.frame_shape)
        chunk = tuple(
            -(-n // 2) if axis in halved and axis < axes - 2 else n for axis, n in enumerate(before.chunk_shape)
        )
        grid = list(before.grid)
        for axis, pixels in ((-2, height), (-1, width)):
            grid[axis] = min(grid[axis], -(-pixels // chunk[axis]))
        chunk = (*chunk[:-2], min(chunk[-2], height), min(chunk[-1], width))
        key = tuple(c * g for c, g in zip(chunk, grid, strict=True))
        levels.append(Level(number, factors, (height, width), chunk, key, tuple(halved)))
    return tuple(levels)
