"""Routing and planning, held against every frame written out."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from omewd.errors import OmewdError
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.plan import Budget, Plan, choose_capacity
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from tests.unit.rings import Expected, is_even, plans


def plan_of(dims: str) -> Plan:
    return Plan.of(StreamSpec(name="s", dimensions=parse_dims(dims)))


@given(plans())
def test_each_frame_belongs_to_the_unit_that_covers_its_coordinate(plan: Plan) -> None:
    expected = Expected(plan)
    for unit in range(len(expected.blocks)):
        for frame in expected.frames_of(unit):
            assert plan.unit_of(frame) == unit


@given(plans())
def test_a_unit_starts_and_ends_with_its_first_and_last_frame(plan: Plan) -> None:
    expected = Expected(plan)
    for unit, block in enumerate(expected.blocks):
        assert plan.block(unit) == block
        assert plan.first_frame(unit) == min(expected.units[block])
        assert plan.last_frame(unit) == max(expected.units[block])
        assert math.prod(plan.size(unit)) == len(expected.units[block])


@given(plans())
def test_units_start_and_complete_in_the_order_of_their_numbers(plan: Plan) -> None:
    units = range(len(Expected(plan).blocks))
    firsts, lasts = [plan.first_frame(u) for u in units], [plan.last_frame(u) for u in units]
    assert firsts == sorted(set(firsts))
    assert lasts == sorted(set(lasts))


@given(plans())
def test_the_grid_of_a_unit_is_its_frames_in_storage_order(plan: Plan) -> None:
    expected = Expected(plan)
    for unit in range(len(expected.blocks)):
        grid = frame_indexes(plan, unit)
        assert grid.shape == plan.frame_grid(unit)[1]
        assert grid.tolist() == expected.grid(unit).tolist()


@given(plans())
def test_frames_and_units_lie_where_indexing_the_stored_array_finds_them(plan: Plan) -> None:
    expected = Expected(plan)
    for frame, coordinate in enumerate(expected.coordinates):
        assert plan.place(frame) == expected.stored(coordinate)
        extents = expected.stored(plan.extents)
        key = tuple(p // e for p, e in zip(plan.place(frame), extents, strict=True))
        assert plan.block_on_disk(plan.unit_of(frame)) == key


@given(plans(unbounded=False))
def test_totals_of_a_bounded_acquisition(plan: Plan) -> None:
    expected = Expected(plan)
    assert plan.frames_total == expected.frames
    assert plan.units_total == len(expected.blocks)


@given(plans(unbounded=True))
def test_an_unbounded_acquisition_has_no_totals(plan: Plan) -> None:
    assert plan.frames_total is None
    assert plan.units_total is None


@given(plans())
def test_the_outer_shape_is_the_bounding_box_of_the_frames(plan: Plan) -> None:
    expected = Expected(plan)
    for frames in range(1, expected.frames + 1):
        reached = zip(*expected.coordinates[:frames], strict=True)
        assert plan.outer_shape(frames) == tuple(max(axis) + 1 for axis in reached)


def test_without_frames_the_outer_shape_is_empty() -> None:
    for dims in ("t:4,c:3,y:4,x:4", "t:inf,c:3,y:4,x:4"):
        assert math.prod(plan_of(dims).outer_shape(0)) == 0


def completes(plan: Plan, frames: int, units: int, capacity: int) -> bool:
    """Whether all units get complete in a ring that frees what is below the first unit that is not done."""
    for unit in range(units):
        published = min(plan.first_frame(unit) + capacity, frames)
        if plan.last_frame(unit) >= published:
            return False
    return True


@given(plans())
def test_the_window_is_the_least_ring_in_which_every_unit_completes(plan: Plan) -> None:
    expected = Expected(plan)
    units = len(expected.blocks)
    assert completes(plan, expected.frames, units, plan.window_frames)
    assert not completes(plan, expected.frames, units, plan.window_frames - 1)


@given(plans(), st.integers(1, 3))
@example(plan_of("t:1:4,z:8:2,y:4,x:4"), 1)
def test_no_unit_wraps_in_a_ring_of_whole_groups(plan: Plan, groups: int) -> None:
    assume(is_even(plan))
    expected = Expected(plan)
    capacity = groups * plan.group_frames
    assert plan.window_frames <= plan.group_frames
    for frames in expected.units.values():
        assert len({frame // capacity for frame in frames}) == 1


@pytest.mark.parametrize(
    ("dims", "frames"),
    [
        ("t:100,y:4,x:4", 1),
        ("t:100:4:2,y:4,x:4", 8),
        ("t:2:16,c:3,y:4,x:4", 6),
        ("t:100,c:3:2,y:4,x:4", 2),
        ("t:1:4,z:8:2,y:4,x:4", 2),
        ("t:inf:4,c:3,y:4,x:4", 12),
    ],
)
def test_a_group_is_the_frames_of_units_that_are_open_together(dims: str, frames: int) -> None:
    assert plan_of(dims).group_frames == frames


def test_the_stored_order_is_time_channel_space() -> None:
    plan = plan_of("z:5:5,c:3,t:4:2,y:4,x:4")
    assert plan.order == (2, 1, 0)
    assert plan.place(1 + 4 * (2 + 3 * 4)) == (1, 2, 4)
    assert plan.block_on_disk(plan.unit_of(3 + 4 * 2)) == (1, 2, 0)


def test_a_single_image_is_one_frame_in_one_unit() -> None:
    plan = plan_of("y:4,x:4")
    assert (plan.frames_total, plan.units_total, plan.window_frames, plan.group_frames) == (1, 1, 1, 1)
    assert plan.frame_grid(0) == (0, (), ())
    assert plan.unit_of(0) == plan.first_frame(0) == plan.last_frame(0) == 0
    assert plan.outer_shape(1) == plan.place(0) == ()


# -- the ring's capacity ---------------------------------------------------------------------------

SLOT_BYTES = 5120


def capacity(plan: Plan, available: int, *, target: int = 0, writers: int = 2, wanted: int | None = None) -> int:
    """choose_capacity with memory counted in slots."""
    return choose_capacity(
        plan,
        SLOT_BYTES,
        Budget(available * SLOT_BYTES, 0),
        target_bytes=target * SLOT_BYTES,
        writers=writers,
        wanted_slots=wanted,
    )


@given(plans(), st.integers(-5, 400), st.integers(0, 300), st.integers(1, 4))
def test_a_ring_is_affordable_and_lets_units_complete(plan: Plan, available: int, target: int, writers: int) -> None:
    if available < plan.window_frames:
        with pytest.raises(OmewdError, match="daemon's budget"):
            capacity(plan, available, target=target, writers=writers)
        return
    slots = capacity(plan, available, target=target, writers=writers)
    assert plan.window_frames <= slots <= available
    assert slots % plan.group_frames == 0 or available < plan.group_frames
    if available >= (writers + 2) * plan.group_frames:
        assert slots >= min((writers + 2) * plan.group_frames, plan.frames_total or slots)
    if available >= 2 * plan.group_frames:
        assert slots >= min(2 * plan.group_frames, plan.frames_total or slots)
    if plan.frames_total is not None:
        assert slots < plan.frames_total + plan.group_frames


@given(plans(unbounded=True), st.integers(0, 300), st.integers(1, 4))
def test_with_enough_memory_each_writer_has_a_group_and_two_are_spare(plan: Plan, target: int, writers: int) -> None:
    slots = capacity(plan, 10**6, target=target, writers=writers)
    assert slots >= max((writers + 2) * plan.group_frames, target)
    assert slots < max((writers + 2) * plan.group_frames, target, 16) + plan.group_frames


@given(plans(), st.integers(-5, 400))
def test_the_memory_a_refusal_asks_for_is_enough(plan: Plan, available: int) -> None:
    with pytest.raises(OmewdError) as refusal:
        capacity(plan, min(available, plan.window_frames - 1))
    match = re.search(r"a ring of (\d+) slots of (\d+) bytes needs ([\d.]+) MiB", refusal.value.message)
    assert match is not None
    assert int(match[2]) == SLOT_BYTES
    assert float(match[3]) == pytest.approx(int(match[1]) * SLOT_BYTES / 2**20, abs=0.06)
    assert capacity(plan, int(match[1])) == plan.window_frames
    assert "--memory" in refusal.value.remedy


@given(plans())
def test_the_slots_a_refusal_asks_for_are_enough(plan: Plan) -> None:
    assume(plan.window_frames > 1)
    with pytest.raises(OmewdError, match="ring_slots") as refusal:
        capacity(plan, 10**6, wanted=plan.window_frames - 1)
    assert refusal.value.code == "bad_spec"
    match = re.search(r"at least `ring_slots=(\d+)`", refusal.value.remedy)
    assert match is not None
    assert capacity(plan, 10**6, wanted=int(match[1])) == int(match[1])


def test_a_wanted_capacity_is_taken_as_it_is() -> None:
    assert capacity(plan_of("t:100:4,y:4,x:4"), 1000, wanted=7) == 7


def test_a_wanted_capacity_beyond_the_budget_is_refused() -> None:
    with pytest.raises(OmewdError, match="`ring_slots=50` or fewer") as refusal:
        capacity(plan_of("t:100:4,y:4,x:4"), 50, wanted=51)
    assert refusal.value.code == "no_memory"
    assert capacity(plan_of("t:100:4,y:4,x:4"), 50, wanted=50) == 50


@given(plans(), st.integers(0, 400))
def test_units_with_and_units_complete_agree_with_counting(plan: Plan, frames: int) -> None:
    frames = min(frames, plan.frames_total if plan.frames_total is not None else frames)
    units = [plan.unit_of(frame) for frame in range(frames)]
    assert plan.units_with(frames) == len(set(units))
    whole = {u for u in set(units) if plan.last_frame(u) < frames}
    assert plan.units_complete(frames) == len(whole)


def test_counting_units_looks_at_no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it takes the same steps however long the stream is."""
    plan = Plan(counts=(None, 5, 3), extents=(4, 2, 1), order=(0, 1, 2))
    looked_at: list[int] = []
    for name in ("first_frame", "last_frame"):
        monkeypatch.setattr(Plan, name, lambda _self, unit: looked_at.append(unit))
    assert plan.units_complete(60_000_000) == plan.units_with(60_000_000) == 9_000_000
    assert looked_at == []
