"""Cells gathered out of frames, held against cells that are cut out one by one."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.store.encoders.gather import cells_view, gather
from omewd.store.scattered import ScatteredFrames

Array = np.ndarray[Any, Any]


def one_by_one(block: Array, rows: range, columns: range, shape: tuple[int, ...]) -> Array:
    expected: Array = np.zeros((len(block), len(rows), len(columns), *shape), block.dtype)
    height, width = shape[-2:]
    for unit, (i, row), (j, column) in product(range(len(block)), enumerate(rows), enumerate(columns)):
        part = block[unit, ..., row * height : (row + 1) * height, column * width : (column + 1) * width]
        expected[unit, i, j][tuple(slice(0, n) for n in part.shape)] = part
    return expected


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, range, range, tuple[int, ...]]:
    outer = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), max_size=2))
    cell, frame = [], []
    for size, cells, cut in (draw(st.tuples(*[st.integers(1, 4)] * 3)) for _ in "yx"):
        cell.append(size)
        frame.append(max(1, size * cells - min(cut, size) + 1))
    shape = (*(n + more for n, more in outer), *cell)
    whole = (draw(st.integers(1, 3)), *(n for n, _ in outer), *frame)
    block = np.arange(1, 1 + math.prod(whole), dtype=np.uint16).reshape(whole)
    ranges = []
    for n, size in zip(frame, cell, strict=True):
        count = -(-n // size)
        start = draw(st.integers(0, count - 1))
        ranges.append(range(start, draw(st.integers(start + 1, count))))
    return block, ranges[0], ranges[1], shape


@given(cases(), st.data())
def test_cells_are_gathered_with_zeros_beyond_the_end(
    case: tuple[Array, range, range, tuple[int, ...]], data: st.DataObject
) -> None:
    block, rows, columns, shape = case
    out = np.full((len(block), len(rows), len(columns), *shape), 9999, np.uint16)
    gather(block, rows, columns, out)
    assert np.array_equal(out, one_by_one(block, rows, columns, shape))

    unit = block[:1]
    frames = unit.reshape(-1, *unit.shape[-2:])
    planes: list[Array | None] = list(frames)
    known = frames.copy()
    for number in data.draw(st.sets(st.integers(0, len(planes) - 1))):
        planes[number], known[number] = None, 0
    out = np.full((1, *out.shape[1:]), 9999, np.uint16)
    gather(ScatteredFrames(planes, unit.shape[1:-2], frames[0]), rows, columns, out)
    assert np.array_equal(out, one_by_one(known.reshape(unit.shape), rows, columns, shape))


@given(cases())
def test_a_view_shows_whole_cells_only(case: tuple[Array, range, range, tuple[int, ...]]) -> None:
    block, rows, columns, shape = case
    view = cells_view(block, rows, columns, shape)
    height, width = shape[-2:]
    is_whole = (
        block.shape[1:-2] == shape[:-2]
        and rows.stop * height <= block.shape[-2]
        and columns.stop * width <= block.shape[-1]
    )
    assert (view is not None) == is_whole
    if view is not None:
        assert np.shares_memory(view, block)
        assert np.array_equal(view, one_by_one(block, rows, columns, shape))


@pytest.mark.parametrize(
    ("rows", "columns", "contiguous"),
    [(range(4), range(1), True), (range(1, 3), range(1), True), (range(1), range(2), False)],
)
def test_bands_of_a_frame_are_contiguous(rows: range, columns: range, contiguous: bool) -> None:
    width = 8 // len(columns)
    view = cells_view(np.zeros((1, 1, 8, 8), np.uint16), rows, columns, (1, 2, width))
    assert view is not None
    assert view.flags.c_contiguous == contiguous
