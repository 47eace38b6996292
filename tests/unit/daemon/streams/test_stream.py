"""One stream's bookkeeping, with a real ring in anonymous memory and jobs that end in any order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.daemon.control.status import stream_status
from omewd.daemon.datasets.dataset import Phase
from omewd.daemon.jobs.of_stream import finalize_job
from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.model.contrast import FRACTIONS
from omewd.model.plan.plan import Plan
from omewd.protocol.jobs.frames import WriteUnits
from omewd.protocol.jobs.job import job_message
from omewd.protocol.messages import MAX_MESSAGE_BYTES, encode
from omewd.ring.layout import (
    GAP_SKIPPED,
    PUBLISHED,
    STATE_FAILED,
)
from tests.unit.cameras import KINDS, Camera, act, camera, camera_of, check_loss, steps
from tests.unit.rings import plans


@given(plans(), steps, st.integers(0, 20), st.sampled_from(["stop", "fail", "all"]))
def test_the_books_balance_at_every_moment(plan: Plan, history: list[tuple[str, int]], spare: int, end: str) -> None:
    with camera(plan, plan.window_frames + spare) as it:
        for step, number in history:
            if not it.stream.takes_frames and step not in ("take", "finish", "poll"):
                continue
            act(it, step, number)
            it.check()
        if end == "all" and plan.frames_total is not None:
            while it.stream.takes_frames:
                it.publish(10**6)
                it.poll()
                it.work()
                it.check()
            assert it.stream.received == plan.frames_total
        if end == "fail":
            it.stream.fail(OmewdError("disk_full", "no space"), 9)
            assert it.take() is None
            while it.out and spare % 2:
                it.finish()
            it.source.find_lost()
            check_loss(it)
        else:
            it.stream.stop("asked", 9)
            it.work()
            assert it.stream.received == len(it.fates)
            assert it.stream.drained
            assert it.stream.in_flight == 0
            assert it.stream.written == it.fates.count("frame")
            assert it.source.safe_below == it.ends.producer.durable == it.stream.received
            assert it.ends.daemon.released == it.ends.producer.published
        it.check()


@given(plans(), steps)
def test_a_unit_is_given_out_once_when_its_last_frame_is_there(plan: Plan, history: list[tuple[str, int]]) -> None:
    with camera(plan, plan.window_frames + 10) as it:
        units: list[int] = []
        for step, number in history:
            if not it.stream.takes_frames and step in ("publish", "skipped", "dropped"):
                continue
            if step != "take":
                act(it, step, number)
                continue
            due = it.source.next_unit
            ready = (plan.units_total is None or due < plan.units_total) and plan.last_frame(due) < it.stream.received
            job = it.take()
            assert (job is not None) == ready
            if job is not None:
                units += range(job.unit, job.unit + job.units)
                check_job(it, job)
        assert units == list(range(len(units)))


def check_job(it: Camera, job: WriteUnits) -> None:
    plan, fates, last = it.source.plan, it.fates, job.unit + job.units - 1
    first, stop = plan.first_frame(job.unit), min(plan.last_frame(last) + 1, it.stream.received)
    if job.gap_frames is None:
        assert job.units == 1
    else:
        of_units = [f for f in range(it.stream.received) if job.unit <= plan.unit_of(f) <= last]
        assert list(range(*job.gap_frames)) == of_units
        assert "frame" not in fates[first:stop]
    assert job.sequence == fates[:first].count("frame")
    assert job.sequence_end == fates[:stop].count("frame")
    assert job.frontier == it.stream.received
    for frame in range(first, stop):
        if fates[frame] != "frame":
            named = [kind for start, kind in job.gap_kinds if start <= frame]
            assert named[-1] == fates[frame]


@pytest.mark.parametrize("dims", ["t:inf,y:2,x:3", "t:inf:4,y:2,x:3", "t:inf:2,z:5:2,y:2,x:3", "t:inf,z:5:2,y:2,x:3"])
@pytest.mark.parametrize("end", ["frame", "stop"])
def test_the_longest_gap_takes_a_few_jobs(dims: str, end: str) -> None:
    """Not one for each write unit: a mistake in a camera's frame numbers would keep the stream at it for days."""
    with camera_of(dims) as it:
        it.ends.publish(3)
        it.ends.producer.add_gap(2**30 - 100, KINDS["skipped"])
        it.poll()
        if end == "frame":
            it.ends.publish(50)
            it.poll()
        it.stream.stop("asked", 9)
        jobs, units = 0, 0
        while job := it.take():
            jobs += 1
            assert job.unit == units
            units += job.units
            frames = 0 if job.gap_frames else job.sequence_end - job.sequence
            it.source.written_to_disk(job, frames if job.gap_frames is None else 0, stored_bytes=1)
        assert jobs < 70
        assert it.stream.drained
        assert it.stream.received == 2**30 - 97 + (50 if end == "frame" else 0)
        assert it.source.safe_below == it.stream.received


def test_a_long_gap_takes_a_few_jobs_also_from_the_middle_of_a_group_of_units_on() -> None:
    with camera_of("t:inf:3,c:2,y:2,x:3") as it:
        it.ends.publish(5)
        it.poll()
        first = it.take()
        assert first is not None
        assert (first.unit, first.units) == (0, 1)
        it.source.written_to_disk(first, 3, stored_bytes=1)
        it.ends.producer.add_gap(2**29, KINDS["skipped"])
        it.poll()
        it.stream.stop("asked", 9)
        jobs, units = 0, 1
        while job := it.take():
            jobs += 1
            assert job.unit == units
            units += job.units
            frames = 0 if job.gap_frames else 2
            it.source.written_to_disk(job, frames, stored_bytes=1)
        assert jobs < 5
        assert it.stream.drained
        assert it.source.safe_below == it.stream.received == 2**29 + 5


def test_a_jump_that_no_camera_makes_ends_the_stream() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.ends.publish(3)
        it.poll()
        it.ends.producer.add_gap(2**39, KINDS["skipped"])
        with pytest.raises(OmewdError) as error:
            it.poll()
        assert error.value.code == "bad_ring"


def test_the_last_declared_frame_starts_the_drain() -> None:
    with camera_of("t:3:2,y:2,x:3") as it:
        it.publish(3)
        it.poll()
        assert (it.stream.state, it.stream.ended_by) == (State.DRAINING, "all frames received")
        it.work()
        assert it.stream.drained


def test_a_gap_as_the_last_declared_frame_starts_the_drain_too() -> None:
    with camera_of("t:3,y:2,x:3") as it:
        it.publish(2)
        it.gap("dropped")
        it.poll()
        assert it.stream.state is State.DRAINING


def test_a_unit_that_is_complete_waits_for_no_other_frame() -> None:
    with camera_of("t:inf:4,y:2,x:3") as it:
        it.publish(3)
        it.poll()
        assert it.take() is None
        it.publish(1)
        it.poll()
        assert it.take() is not None
        assert it.take() is None


def test_an_early_stop_writes_the_units_that_have_begun() -> None:
    with camera_of("t:100:4,y:2,x:3") as it:
        it.publish(5)
        it.stream.stop("asked", 1)
        assert [job.unit for job in (it.take(), it.take()) if job] == [0, 1]
        assert it.take() is None
        drained = [it.stream.drained]
        it.work()
        assert [*drained, it.stream.drained] == [False, True]
        assert (it.stream.ended_by, it.stream.safe_below) == ("asked", (5,))


def test_a_stop_without_frames_is_drained_at_once() -> None:
    with camera_of("t:100:4,y:2,x:3") as it:
        it.stream.stop("asked", 1)
        assert it.stream.drained
        assert it.take() is None


def test_a_stop_takes_in_what_no_poll_has_seen() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.publish(2)
        it.gap("skipped", 3)
        it.stream.stop("asked", 1)
        assert (it.stream.received, it.source.gaps["skipped"]) == (5, 3)


def test_frames_after_a_stop_do_not_count() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.publish(2)
        it.stream.stop("asked", 1)
        it.ends.publish(3)
        it.poll()
        it.work()
        assert (it.stream.received, it.stream.written, it.stream.in_flight) == (2, 2, 0)


def test_the_doorbell_is_set_to_the_end_of_the_next_unit() -> None:
    with camera_of("t:inf:4,y:2,x:3") as it:
        it.publish(1)
        it.poll()
        assert not it.source.listen()
        wanted = []
        for _ in range(3):
            it.publish(1)
            wanted.append(it.ends.producer.wants_doorbell)
        assert wanted == [False, False, True]
        it.poll()
        it.take()
        it.source.listen()
        it.publish(3)
        assert not it.ends.producer.wants_doorbell


def test_the_producer_rings_for_the_first_frame_of_all() -> None:
    """From which rates are counted, even if its unit takes hours."""
    with camera_of("t:inf:4,y:2,x:3") as it:
        assert not it.source.listen()
        it.publish(1)
        assert it.ends.producer.wants_doorbell


def test_no_doorbell_while_units_wait_for_a_writer() -> None:
    with camera_of("t:inf:4,y:2,x:3") as it:
        it.publish(8)
        it.poll()
        it.source.listen()
        it.publish(8)
        assert not it.ends.producer.wants_doorbell
        it.poll()
        while it.take():
            pass
        it.publish(4)
        assert it.source.listen()  # it has not rung for these
        it.poll()


def test_more_frames_than_declared_are_a_damaged_ring() -> None:
    with camera_of("t:3,y:2,x:3") as it:
        it.ends.producer.add_gap(4, GAP_SKIPPED)
        with pytest.raises(OmewdError, match="4 frames in the ring, but 3 were declared"):
            it.poll()


@pytest.mark.parametrize("code", ["bad_ring", "disk_full"])
def test_a_damaged_ring_does_not_keep_a_stream_from_failing(code: str) -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.publish(2)
        it.poll()
        it.ends.segment.words[PUBLISHED] = 10**6
        it.stream.fail(OmewdError(code, "first reason"), 3)
        assert it.stream.state is State.FAILED
        assert it.ends.producer.state == STATE_FAILED
        failure = it.ends.producer.failure
        assert failure is not None
        assert (failure.reason.code, failure.reason.message) == (code, "first reason")
        it.source.find_lost()
        assert (it.source.lost, it.stream.in_flight) == (((0, 2),), 0)


def test_the_first_failure_is_the_one_that_is_told() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.stream.fail(OmewdError("disk_full", "first"), 1)
        it.stream.fail(OmewdError("bad_ring", "second"), 2)
        assert it.stream.error is not None
        assert it.stream.error.message == "first"


def test_a_stream_that_is_done_does_not_fail_any_more() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.stream.state = State.DONE
        it.stream.fail(OmewdError("disk_full", "late"), 1)
        assert it.stream.error is None


def test_units_done_out_of_order_free_slots_only_up_to_the_first_that_is_not() -> None:
    with camera_of("t:inf:2,y:2,x:3") as it:
        it.publish(6)
        it.poll()
        first, second, third = it.take(), it.take(), it.take()
        assert first
        assert second
        assert third
        assert not it.source.written_to_disk(third, 2, 0)
        assert not it.source.written_to_disk(second, 2, 0)
        assert it.ends.producer.durable == 0
        assert it.source.written_to_disk(first, 2, 0)
        assert (it.ends.producer.durable, it.ends.daemon.released) == (6, 6)


def test_small_units_go_out_as_a_writers_share_of_what_is_ready() -> None:
    with camera_of("t:inf:2,c:3,y:2,x:3", capacity=120) as it:
        it.writers = 2
        it.publish(6 * 10 + 5)
        it.poll()
        jobs = [it.take() for _ in range(6)]
        assert [(job.unit, job.units) for job in jobs if job] == [(0, 16), (16, 8), (24, 4), (28, 2), (30, 1), (31, 1)]
        it.finish()
        assert it.source.safe_below == it.ends.producer.durable == 31
        it.stream.stop("enough", 1)
        rest = [it.take() for _ in range(4)]
        assert [(job.unit, job.units) for job in rest if job] == [(32, 1)]
        while it.out:
            it.finish()
        assert it.stream.drained
        assert it.stream.in_flight == 0


def test_a_batch_has_a_limit_in_bytes() -> None:
    with camera_of("t:inf:2,y:1024,x:1024", capacity=40) as it:
        it.writers = 1
        it.publish(40)
        it.poll()
        sizes = [job.units for job in iter(it.take, None)]
        assert sizes == [8, 8, 4]


def test_what_is_done_beyond_a_unit_that_failed_is_not_lost() -> None:
    with camera_of("t:inf:2,c:2,y:2,x:3") as it:
        it.publish(8)
        it.poll()
        for _ in range(4):
            it.take()
        for place in (0, 1, 1):  # units 0, 2 and 3
            it.finish(place)
        it.stream.fail(OmewdError("disk_full", "no space"), 1)
        it.source.find_lost()
        assert it.done_units == {0, 2, 3}
        assert it.source.lost == ((1, 1), (3, 1))
        check_loss(it)


def test_without_fsync_slots_are_freed_and_nothing_is_called_durable() -> None:
    with camera_of("t:inf:2,y:2,x:3", durability="none") as it:
        it.publish(2)
        it.poll()
        it.work()
        assert (it.ends.daemon.released, it.ends.producer.durable) == (2, 0)
        assert stream_status(it.stream, 0).frames.durable == 0


def test_a_starting_stream_gives_no_jobs_and_takes_no_frames() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.stream.state = State.STARTING
        it.publish(2)
        it.poll()
        assert (it.take(), it.stream.received) == (None, 0)
        it.source.ring = None
        it.stream.stop("asked", 1)
        assert stream_status(it.stream, 0).ring.used == 0


def test_each_kind_of_gap_of_a_unit_is_named_however_many_gaps_there_are() -> None:
    with camera_of("t:4000:4000,y:2,x:3", capacity=4000) as it:
        for kind in ("skipped", "dropped"):
            for _ in range(600):
                it.gap(kind)
                it.publish()
        it.stream.stop("asked", 1)
        job = it.take()
        assert job is not None
        check_job(it, job)


def test_many_lost_runs_still_fit_in_the_last_job() -> None:
    with camera_of("t:inf,y:2,x:3", capacity=20_000) as it:
        for _ in range(15_000):
            it.ends.producer.add_gap(1, GAP_SKIPPED)
            it.ends.producer.publish(0, 0, b"")
        it.stream.fail(OmewdError("disk_full", "no space"), 1)
        it.source.find_lost()
        assert it.stream.in_flight == 0
        assert len(encode(job_message(1, finalize_job(it.stream)))) < MAX_MESSAGE_BYTES


def test_a_status_is_json_and_its_figures_agree() -> None:
    with camera_of("t:inf:2,c:2,y:2,x:3") as it:
        it.publish(5)
        it.gap("dropped", 2)
        it.poll()
        it.take()
        it.finish()
        status = json.loads(json.dumps(stream_status(it.stream, 5 + 10**9).to_json()))
        frames = status["frames"]
        assert frames["received"] == frames["written"] + frames["gaps"] + frames["in_flight"] + frames["lost"] == 7
        assert frames["gaps"] == frames["skipped"] + frames["dropped"] == 2
        assert status["throughput"]["frames_per_s"] == frames["written"] == 2
        assert status["ring"]["used"] == it.ends.producer.published - it.ends.daemon.released


def test_the_contrast_is_put_into_the_dataset_once_when_all_channels_have_come() -> None:
    sketch = (5.0,) * len(FRACTIONS)
    with camera_of("t:inf,c:2,y:2,x:3") as it:
        it.stream.contrast.found.add([(0, sketch)])
        assert it.stream.take_contrast(2 * 10**9) is None
        it.stream.contrast.found.add([(1, sketch)])
        assert it.stream.take_contrast(10**9 - 1) is None
        windows = it.stream.take_contrast(10**9)
        assert windows is not None
        assert [channel for channel, *_ in windows] == [0, 1]
        assert it.stream.take_contrast(2 * 10**9) is None


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
def test_no_contrast_is_put_into_a_dataset_that_gets_its_last_metadata(state: State) -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.stream.contrast.found.add([(0, (5.0,) * len(FRACTIONS))])
        it.stream.state = state
        assert it.stream.take_contrast(10**10) is None


def test_a_dataset_knows_what_its_stream_does_with_it() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        it.stream.state = State.STARTING
        dataset, seen = it.stream.dataset, []
        for event in (
            lambda: it.stream.start.made(),
            lambda: it.stream.start.noted(),
            lambda: it.stream.stop("asked", 1),
            lambda: it.stream.idle(2),
            it.stream.settle,
            lambda: it.stream.fail(OmewdError("disk_full", "late"), 3),
        ):
            event()
            seen.append(dataset.phase)
        assert seen == [Phase.MAKING, Phase.WRITING, Phase.WRITING, Phase.ENDING, Phase.AT_REST, Phase.AT_REST]
