"""A unit's frames out of the ring, held against frames put in place one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.model.plan.plan import Plan
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.jobs.frames import WriteUnits
from omewd.ring import pixels
from omewd.ring.layout import GAP_SKIPPED, STATE_OPEN
from omewd.store.scattered import ScatteredFrames
from omewd.writer.ring_reader import RingReader, UnitFrames
from tests.unit.rings import Ends, Expected, is_even, open_ring, plans

Array = np.ndarray[Any, Any]
FRAME_SHAPE = (2, 3)


def plan_of(dims: str) -> Plan:
    return Plan.of(StreamSpec(name="s", dimensions=parse_dims(dims)))


def reader_of(ends: Ends, plan: Plan) -> RingReader:
    return RingReader(ends.segment, plan)


def write_job(ends: Ends, plan: Plan, unit: int) -> WriteUnits:
    ends.daemon.poll()
    slots = ends.daemon.map
    return WriteUnits(
        stream=1,
        source=0,
        unit=unit,
        units=1,
        sequence=slots.released_below(plan.first_frame(unit)),
        sequence_end=slots.released_below(plan.last_frame(unit) + 1),
        frontier=ends.daemon.frontier,
    )


def locate_one(reader: RingReader, ends: Ends, plan: Plan, unit: int) -> UnitFrames:
    [frames] = reader.locate(write_job(ends, plan, unit))
    return frames


def block_of(reader: RingReader, frames: UnitFrames) -> Array:
    """The pixels of a single unit."""
    found = reader.block(frames)
    return found.gather() if isinstance(found, ScatteredFrames) else found[0]


def expected_block(plan: Plan, unit: int, present: set[int]) -> Array:
    """Frame n is all n + 1; zero where there is none."""
    grid = Expected(plan).grid(unit)
    block = np.zeros((*grid.shape, *FRAME_SHAPE), np.uint16)
    for place, frame in np.ndenumerate(grid):
        if frame in present:
            block[place] = frame + 1
    return block


def publish(ends: Ends) -> None:
    pixels.slots(ends.segment)[ends.producer.slot] = ends.producer.next_frame + 1
    ends.producer.publish(0, 0, b"")


@given(plans(max_frames=80), st.data(), st.integers(0, 7), st.integers(0, 5))
def test_every_unit_of_an_acquisition_with_gaps_is_what_was_published(
    plan: Plan, data: st.DataObject, spare: int, late: int
) -> None:
    expected = Expected(plan)
    skipped = data.draw(st.sets(st.integers(0, expected.frames - 1), max_size=expected.frames // 2))
    frames = max(0, expected.frames - late)
    present = {frame for frame in range(frames) if frame not in skipped}
    with open_ring(plan.window_frames + spare) as ends:
        reader = reader_of(ends, plan)
        for unit in range(len(expected.blocks)):
            while ends.producer.next_frame < min(plan.last_frame(unit) + 1, frames):
                if ends.producer.next_frame in skipped:
                    ends.producer.add_gap(1, GAP_SKIPPED)
                else:
                    publish(ends)
            found = locate_one(reader, ends, plan, unit)
            members = set(expected.frames_of(unit))
            assert found.frames.tolist() == [len(members & present)]
            assert found.grid[0].tolist() == expected.grid(unit).tolist()
            np.testing.assert_array_equal(block_of(reader, found), expected_block(plan, unit, present))
            del found
            ends.daemon.release_below(min(plan.first_frame(unit + 1), ends.daemon.frontier), durable=True)
            if plan.units_total == unit + 1:
                break
        del reader


@given(plans(max_frames=60), st.data())
def test_a_job_of_several_units_finds_what_one_at_a_time_finds(plan: Plan, data: st.DataObject) -> None:
    expected = Expected(plan)
    skipped = data.draw(st.sets(st.integers(0, expected.frames - 1), max_size=3))
    present = set(range(expected.frames)) - skipped
    with open_ring(expected.frames) as ends:
        for frame in range(expected.frames):
            if frame in present:
                publish(ends)
            else:
                ends.producer.add_gap(1, GAP_SKIPPED)
        ends.daemon.poll()
        reader, units = reader_of(ends, plan), len(expected.blocks)
        job = WriteUnits(1, 0, 0, units, 0, len(present), expected.frames)
        found = reader.locate(job)
        assert [unit for frames in found for unit in frames.units] == list(range(units))
        seen = []
        for frames in found:
            for run, pixels_of_run in reader.blocks(frames):
                blocks = [pixels_of_run.gather()] if isinstance(pixels_of_run, ScatteredFrames) else pixels_of_run
                for unit, grid, block in zip(run.units, run.grid, blocks, strict=True):
                    assert grid.tolist() == expected.grid(unit).tolist()
                    np.testing.assert_array_equal(block, expected_block(plan, unit, present))
                    seen.append(unit)
                del pixels_of_run, blocks, block
        assert seen == list(range(units))
        del reader


@given(plans(max_frames=80).filter(is_even), st.integers(1, 3))
def test_in_a_ring_of_whole_groups_no_full_unit_is_copied(plan: Plan, groups: int) -> None:
    expected = Expected(plan)
    with open_ring(groups * plan.group_frames) as ends:
        reader, slots = reader_of(ends, plan), pixels.slots(ends.segment)
        for unit in range(len(expected.blocks)):
            while ends.producer.next_frame <= plan.last_frame(unit):
                publish(ends)
            block = block_of(reader, locate_one(reader, ends, plan, unit))
            assert np.shares_memory(block, slots)
            assert not block.flags.writeable
            np.testing.assert_array_equal(block, expected_block(plan, unit, set(expected.frames_of(unit))))
            del block
            if plan.units_total == unit + 1:
                break
            ends.daemon.release_below(plan.first_frame(unit + 1), durable=True)
        del reader, slots


def test_a_unit_that_wraps_round_the_end_is_gathered() -> None:
    plan = plan_of("t:inf:3,y:2,x:3")
    with open_ring(4) as ends:
        reader = reader_of(ends, plan)
        for unit in range(5):
            for _ in range(3):
                publish(ends)
            block = block_of(reader, locate_one(reader, ends, plan, unit))
            assert block[:, 0, 0].tolist() == [3 * unit + 1, 3 * unit + 2, 3 * unit + 3]
            assert np.shares_memory(block, pixels.slots(ends.segment)) == (unit * 3 % 4 <= 1)
            ends.daemon.release_below(3 * unit + 3, durable=True)
        del reader, block


def test_a_gap_of_another_unit_between_the_frames_makes_no_difference() -> None:
    plan = plan_of("t:4:4,c:2,y:2,x:3")  # unit 0: frames 0 2 4 6, unit 1: frames 1 3 5 7
    with open_ring(8) as ends:
        for frame in range(8):
            if frame == 3:
                ends.producer.add_gap(1, GAP_SKIPPED)
            else:
                publish(ends)
        reader = reader_of(ends, plan)
        first, second = (locate_one(reader, ends, plan, unit) for unit in range(2))
        assert (first.frames.tolist(), second.frames.tolist()) == ([4], [3])
        assert block_of(reader, first)[..., 0, 0].tolist() == [[1], [3], [5], [7]]
        assert block_of(reader, second)[..., 0, 0].tolist() == [[2], [0], [6], [8]]
        del reader


def test_what_a_unit_left_in_the_buffer_does_not_show_in_the_next() -> None:
    plan = plan_of("t:inf:3,y:2,x:3")
    with open_ring(6) as ends:
        reader = reader_of(ends, plan)
        for frame in range(6):
            if frame in (1, 3):
                ends.producer.add_gap(1, GAP_SKIPPED)
            else:
                publish(ends)
        blocks = [block_of(reader, locate_one(reader, ends, plan, unit)).copy() for unit in range(2)]
        assert blocks[0][:, 0, 0].tolist() == [1, 0, 3]
        assert blocks[1][:, 0, 0].tolist() == [0, 5, 6]
        del reader


def test_a_unit_of_gaps_only_has_no_frames() -> None:
    plan = plan_of("t:inf:3,y:2,x:3")
    with open_ring(6) as ends:
        ends.producer.add_gap(4, GAP_SKIPPED)
        reader = reader_of(ends, plan)
        found = locate_one(reader, ends, plan, 0)
        assert found.frames.tolist() == [0]
        assert not list(found.with_frames())
        assert (found.sequences == -1).all()
        del reader


def test_a_single_image_is_a_view() -> None:
    plan = plan_of("y:2,x:3")
    with open_ring(1) as ends:
        publish(ends)
        reader = reader_of(ends, plan)
        block = block_of(reader, locate_one(reader, ends, plan, 0))
        assert block.tolist() == [[1, 1, 1], [1, 1, 1]]
        assert np.shares_memory(block, pixels.slots(ends.segment))
        del reader, block


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_pixels_come_through_bit_for_bit(dtype: str) -> None:
    plan = plan_of("t:2:2,y:2,x:3")
    with open_ring(2, dtype=dtype) as ends:
        frames = np.frombuffer(bytes(range(100, 100 + 12 * np.dtype(dtype).itemsize)), dtype).reshape(2, 2, 3)
        for frame in frames:
            pixels.slots(ends.segment)[ends.producer.slot] = frame
            ends.producer.publish(0, 0, b"")
        reader = reader_of(ends, plan)
        block = block_of(reader, locate_one(reader, ends, plan, 0))
        assert block.dtype == dtype
        assert block.tobytes() == frames.tobytes()
        del reader, block


def test_a_block_that_is_still_held_outlives_its_reader() -> None:
    plan = plan_of("t:2:2,y:2,x:3")
    with open_ring(2) as ends:
        publish(ends)
        publish(ends)
        reader = reader_of(ends, plan)
        block = block_of(reader, locate_one(reader, ends, plan, 0))
        del reader
        assert ends.producer.state == STATE_OPEN
    assert block[:, 0, 0].tolist() == [1, 2]
