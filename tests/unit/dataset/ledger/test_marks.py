"""Marks of frame indexes, held against one number an index."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.ledger import marks as module
from omewd.dataset.ledger.marks import Marks
from omewd.dataset.ledger.runs import RUN

FRAMES = 150
puts = st.lists(
    st.tuples(st.integers(0, FRAMES - 1), st.integers(1, 90), st.integers(1, 9), st.integers(0, 3)), max_size=25
)


def expected(puts: list[tuple[int, int, int, int]]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    marks = np.zeros(FRAMES + 90 * 9, np.uint8)
    for first, count, step, mark in puts:
        marks[first : first + (count - 1) * step + 1 : step] = mark
    return marks


def check(marks: Marks, by_index: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> None:
    everything = np.arange(len(by_index))
    assert marks.at(everything).tolist() == by_index.tolist()
    assert marks.at(everything[::-7].reshape(2, -1)[:, ::3]).tolist() == by_index[::-7].reshape(2, -1)[:, ::3].tolist()
    for stop in (0, 1, 7, 64, 100, len(by_index)):
        assert marks.counts(stop) == np.bincount(by_index[:stop], minlength=256).tolist()
        for wanted in ({0}, {1, 3}, {2}):
            for start in (0, 5, 64):
                numbers = [n for n in range(start, stop) if by_index[n] in wanted]
                runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
                found = list(marks.intervals(wanted, stop, start))
                assert found == [(run[0], run[-1] + 1) for run in runs]
        for mark in (1, 3):
            assert marks.last(mark, stop) == max(np.flatnonzero(by_index[:stop] == mark).tolist(), default=None)


@pytest.mark.parametrize("page", [1, 3, 16, 1 << 16])
@given(puts=puts)
def test_each_frame_has_the_mark_that_was_put_last(page: int, puts: list[tuple[int, int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE", page)
        patch.setattr(module, "_OPEN_PAGES", 2)
        marks = Marks()
        for put in puts:
            marks.put(*put)
        check(marks, expected(puts))


@pytest.mark.parametrize("page", [3, 16, 1 << 16])
@pytest.mark.parametrize("short", [1, 8, 64])
@given(puts=puts)
def test_runs_are_put_in_their_order(page: int, short: int, puts: list[tuple[int, int, int, int]]) -> None:
    runs = np.zeros(len(puts), RUN)
    for run, (first, count, step, _) in zip(runs, puts, strict=True):
        run["first"], run["count"], run["step"] = first, count, step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE", page)
        patch.setattr(module, "_SHORT_RUN", short)
        patch.setattr(module, "_AT_ONCE", 4 * short)
        patch.setattr(module, "_OPEN_PAGES", 2)
        marks = Marks()
        marks.put_runs(runs, np.array([mark for *_, mark in puts], np.uint8))
        check(marks, expected(puts))


def test_any_number_of_frames_that_are_alike_take_no_memory() -> None:
    marks = Marks()
    marks.put(5, 2**61, 1, 1)
    marks.put(2**40, 10, 3, 2)
    marks.put(2**60, 2**50, 1, 3)
    assert marks.counts(2**62)[:4] == [2**62 - 2**61, 2**61 - 10 - 2**50, 10, 2**50]
    assert list(marks.intervals({3})) == [(2**60, 2**60 + 2**50)]
    assert marks.last(2, 2**62) == 2**40 + 27
    assert len(marks._packed) + len(marks._open) < 10


def test_many_frames_without_an_order_take_less_than_a_byte_each() -> None:
    marks = Marks()
    rng = np.random.default_rng(0)
    for first in range(0, 400 * module.PAGE, module.PAGE):
        frames = np.flatnonzero(rng.random(module.PAGE) < 0.1) + first
        runs = np.zeros(len(frames), RUN)
        runs["first"], runs["count"], runs["step"] = frames, 1, 1
        marks.put_runs(runs, np.ones(len(frames), np.uint8))
    assert len(marks._open) <= module._OPEN_PAGES
    assert sum(map(len, marks._packed.values())) < 0.15 * len(marks._packed) * module.PAGE
