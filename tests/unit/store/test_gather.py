"""Cells gathered out of frames, held against cells that are cut out one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.store.encoders.gather import cells_view, gather
from omewd.store.scattered import ScatteredFrames

Array = np.ndarray[Any, Any]


def one_by_one(block: Array, rows: range, columns: range, shape: tuple[int, ...]) -> Array:
    expected: Array = np.zeros((len(rows), len(columns), *shape), block.dtype)
    height, width = shape[-2:]
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            part = block[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
            expected[i, j][tuple(slice(0, n) for n in part.shape)] = part
    return expected


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, range, range, tuple[int, ...]]:
    outer = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), max_size=2))
    cell, frame = [], []
    for size, cells, cut in (draw(st.tuples(*[st.integers(1, 4)] * 3)) for _ in "yx"):
        cell.append(size)
        frame.append(max(1, size * cells - min(cut, size) + 1))
    shape = (*(n + more for n, more in outer), *cell)
    block = np.arange(1, 1 + int(np.prod([n for n, _ in outer])) * frame[0] * frame[1], dtype=np.uint16)
    block = block.reshape(*(n for n, _ in outer), *frame)
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
    out = np.full((len(rows), len(columns), *shape), 9999, np.uint16)
    gather(block, rows, columns, out)
    assert np.array_equal(out, one_by_one(block, rows, columns, shape))

    planes: list[Array | None] = list(block.reshape(-1, *block.shape[-2:]))
    absent = data.draw(st.sets(st.integers(0, len(planes) - 1)))
    known = block.copy().reshape(-1, *block.shape[-2:])
    for number in absent:
        planes[number], known[number] = None, 0
    scattered = ScatteredFrames(planes, block.shape[:-2], block.reshape(-1, *block.shape[-2:])[0])
    out[...] = 9999
    gather(scattered, rows, columns, out)
    assert np.array_equal(out, one_by_one(known.reshape(block.shape), rows, columns, shape))


@given(cases())
def test_a_view_shows_whole_cells_only(case: tuple[Array, range, range, tuple[int, ...]]) -> None:
    block, rows, columns, shape = case
    view = cells_view(block, rows, columns, shape)
    height, width = shape[-2:]
    is_whole = (
        block.shape[:-2] == shape[:-2]
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
    view = cells_view(np.zeros((1, 8, 8), np.uint16), rows, columns, (1, 2, width))
    assert view is not None
    assert view.flags.c_contiguous == contiguous
