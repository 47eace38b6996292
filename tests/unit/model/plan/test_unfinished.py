"""Frames in unfinished units, against looking at each frame."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.model.plan.plan import Plan
from omewd.model.plan.unfinished import frames_before, runs_of_unfinished
from tests.unit.rings import plans

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=5)


@given(plans(), st.integers(0, 150), st.integers(0, 40))
def test_the_frames_of_a_unit_are_counted(plan: Plan, frame: int, unit: int) -> None:
    if plan.units_total is not None:
        frame, unit = min(frame, plan.frames_total or 0), unit % plan.units_total
    assert frames_before(plan, unit, frame) == sum(plan.unit_of(each) == unit for each in range(frame))


@given(plans(), st.lists(st.booleans(), max_size=150), ranges)
def test_runs_are_those_of_the_frames_one_by_one(plan: Plan, is_there: list[bool], done: list[tuple[int, int]]) -> None:
    frames = [n for n, there in enumerate(is_there[: plan.frames_total]) if there]
    finished = [(first, first + count) for first, count in done]
    units = {unit for first, end in finished for unit in range(first, end)}
    runs: list[list[int]] = []
    for frame in frames:
        if plan.unit_of(frame) not in units:
            if runs and sum(runs[-1]) == frame:
                runs[-1][1] += 1
            else:
                runs.append([frame, 1])
    pieces = [(frame, frame + 1) for frame in frames]
    assert [list(run) for run in runs_of_unfinished(plan, pieces, finished)] == runs


@pytest.mark.parametrize(
    ("plan", "finished"),
    [
        (Plan((None,), (1,), (0,)), [(0, 8_000_001), (9_000_000, 9_000_100)]),
        (Plan((None, 100), (80_000, 1), (0, 1)), [(0, 100), (140, 150), (400, 500)]),
        (Plan((None, 2), (4_000_000, 1), (0, 1)), [(1, 2)]),
    ],
)
def test_eight_million_frames_take_a_few_looks(
    plan: Plan, finished: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    unit_of = Plan.unit_of

    def look(self: Plan, frame: int) -> int:
        looks.append(frame)
        return unit_of(self, frame)

    monkeypatch.setattr(Plan, "unit_of", look)
    runs = list(itertools.islice(runs_of_unfinished(plan, [(8_000_000, 16_000_000)], finished), 1000))
    assert runs
    assert len(looks) < 200_000
