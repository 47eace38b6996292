"""Gathers cells of frames into one contiguous array, in as few copies as numpy allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omewd.store.encoders.base import Block, Pixels
from omewd.store.scattered import ScatteredFrames


def cells_view(pixels: Block, rows: range, columns: range, shape: tuple[int, ...]) -> Block | None:
    """Cells of units as a view (unit, row, column, *shape); None if one of them is smaller than ``shape``.

    ``pixels``: (unit, …, Y, X). ``rows``, ``columns``: of the cells across the frame. ``shape``: of a cell.
    """
    height, width = shape[-2:]
    if (
        pixels.shape[1:-2] != shape[:-2]
        or rows.stop * height > pixels.shape[-2]
        or columns.stop * width > pixels.shape[-1]
    ):
        return None
    part = pixels[..., rows.start * height : rows.stop * height, columns.start * width : columns.stop * width]
    return _apart(part, len(rows), len(columns))


def gather(pixels: Pixels, rows: range, columns: range, out: Block) -> None:
    """Copy cells into ``out``, with zeros where a frame is absent or has ended.

    ``pixels``: (unit, …, Y, X), or the scattered frames of one unit. ``out``: (unit, row, column, *shape of a cell).
    """
    if isinstance(pixels, ScatteredFrames):
        if pixels.shape[:-2] != out.shape[3:-2]:
            out[...] = 0
        for place in np.ndindex(pixels.shape[:-2]):
            target, plane = out[(slice(None), slice(None), slice(None), *place)], pixels.plane(place)
            if plane is None:
                target[...] = 0
            else:
                gather(plane[None], rows, columns, target)
        return
    shape = out.shape[3:]
    whole = cells_view(pixels, rows, columns, shape)
    if whole is not None:
        out[...] = whole
        return
    out[...] = 0
    outer = tuple(slice(0, n) for n in pixels.shape[1:-2])
    for down, y, height in _spans(rows, shape[-2], pixels.shape[-2]):
        for right, x, width in _spans(columns, shape[-1], pixels.shape[-1]):
            cells = _apart(pixels[..., y, x], down.stop - down.start, right.stop - right.start)
            out[(slice(None), down, right, *outer, slice(0, height), slice(0, width))] = cells


def _apart(pixels: Block, rows: int, columns: int) -> Block:
    """Units of equal cells as (unit, row, column, …, y, x)."""
    *outer, height, width = pixels.shape
    if rows == columns == 1:
        return pixels[:, None, None]
    split = pixels.reshape(*outer, rows, height // rows, columns, width // columns)
    return np.moveaxis(split, (-4, -2), (1, 2))


def _spans(cells: range, size: int, length: int) -> Iterator[tuple[slice, slice, int]]:
    """Groups of equal cells along an axis, as (cells from the first one, pixels, pixels of each cell): whole ones, and
    one that the end of the frame cuts.
    """
    whole = min(cells.stop, length // size)
    if whole > cells.start:
        yield slice(0, whole - cells.start), slice(cells.start * size, whole * size), size
    if whole < cells.stop:
        yield slice(whole - cells.start, whole - cells.start + 1), slice(whole * size, length), length - whole * size
