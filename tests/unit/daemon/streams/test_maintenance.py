"""What a dataset needs while frames come in: jobs that are due, one of a kind at a time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.daemon.datasets.maintenance import Maintenance
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.jobs.frames import GrowShape, SealShards
from tests.unit.cameras import dataset_at
from tests.unit.rings import make_geometry

SECOND = 10**9
SHARDS = "t:inf:1:4,v:3,y:2,x:3"  # a unit a frame, four to a shard


def stream_of(dims: str, backend: str = "direct", **fields: Any) -> Stream:
    own = "v" if "v:" in dims else None
    spec = StreamSpec(name="s", dimensions=parse_dims(dims), source_dimension=own, **fields)
    stream = Stream.of(1, spec, backend, make_geometry(), dataset_at("s.ome.zarr"), started_ns=0)
    stream.state = State.ACTIVE
    return stream


def have(stream: Stream, *frames: int) -> None:
    """So many frames of each source have been handed over, and are on disk as far as whole units go."""
    for source, count in zip(stream.sources, frames, strict=True):
        source.received = count
        source.done_below = source.plan.units_complete(count)


def due(maintenance: Maintenance, stream: Stream, now_ns: int = 0) -> list[tuple[str, int]]:
    stream.dataset.maintenance = maintenance
    jobs = stream.maintenance_due(now_ns, range(len(stream.sources)))
    return [("seal", job.source) if isinstance(job, SealShards) else ("grow", 0) for job in jobs]


def sealed(source: int) -> SealShards:
    return SealShards(1, source, 0)


GROWN = GrowShape(1, ())


def test_each_source_is_sealed_when_it_has_whole_shards() -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    have(stream, 3, 4, 9)
    assert due(maintenance, stream) == [("seal", 1), ("seal", 2)]
    assert (maintenance.sealing, maintenance.sealed) == ({1: 1, 2: 1}, {1: 1, 2: 2})
    assert due(maintenance, stream) == []
    have(stream, 4, 4, 12)
    assert due(maintenance, stream) == [("seal", 0)]  # of the last one a job is out
    assert [maintenance.sealed_until(source) for source in range(3)] == [0, 0, 0]
    maintenance.done(sealed(2), 0)
    assert maintenance.sealed_until(2) == 9
    assert due(maintenance, stream) == [("seal", 2)]
    maintenance.done(sealed(1), 0)
    assert due(maintenance, stream) == []  # it has got no further


def test_without_a_whole_shard_more_nothing_is_sealed() -> None:
    maintenance, stream = Maintenance(), stream_of("t:100:1:4,v:2,y:2,x:3")
    have(stream, 4, 0)
    assert due(maintenance, stream) == [("seal", 0)]
    maintenance.done(sealed(0), 0)
    for count in (4, 5, 6, 7):
        have(stream, count, 3)
        assert due(maintenance, stream) == []
    have(stream, 8, 3)
    assert due(maintenance, stream) == [("seal", 0)]


def test_a_source_that_has_ended_is_sealed_to_its_end_while_others_go_on() -> None:
    maintenance, stream = Maintenance(), stream_of("t:6:1:4,v:2,y:2,x:3")
    have(stream, 6, 1)
    stream.sources[0].is_open = False
    assert due(maintenance, stream) == [("seal", 0)]
    assert maintenance.sealed == {0: 2}  # the last one is short


@pytest.mark.parametrize(("dims", "backend"), [("t:8:2,v:2,y:2,x:3", "direct"), ("t:8:1:4,v:2,y:2,x:3", "tensorstore")])
def test_where_write_units_are_whole_keys_nothing_is_sealed(dims: str, backend: str) -> None:
    maintenance, stream = Maintenance(), stream_of(dims, backend)
    have(stream, 8, 8)
    assert due(maintenance, stream) == []


def test_the_shape_follows_the_frames_of_all_sources_at_a_distance() -> None:
    maintenance, stream = Maintenance(), stream_of("t:inf,v:2,y:2,x:3")
    assert due(maintenance, stream, 10 * SECOND) == []
    have(stream, 0, 1)
    assert due(maintenance, stream, 10 * SECOND) == [("grow", 0)]
    assert maintenance.grown_to == (0, 1)
    have(stream, 2, 5)
    assert due(maintenance, stream, 20 * SECOND) == []  # one is out
    maintenance.done(GROWN, 10 * SECOND)
    assert due(maintenance, stream, 20 * SECOND) == [("grow", 0)]
    assert maintenance.grown_to == stream.safe_below == (2, 5)
    maintenance.done(GROWN, 20 * SECOND)
    assert due(maintenance, stream, 30 * SECOND) == []  # nothing is new
    have(stream, 3, 5)
    assert due(maintenance, stream, 21 * SECOND) == []  # too soon
    assert due(maintenance, stream, 22 * SECOND) == [("grow", 0)]


def test_a_shape_that_is_known_does_not_grow() -> None:
    maintenance, stream = Maintenance(), stream_of("t:9,v:2,y:2,x:3")
    have(stream, 5, 5)
    assert due(maintenance, stream, 10 * SECOND) == []


def test_a_job_says_which_shards_the_jobs_before_it_have_sealed() -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)

    def seal() -> SealShards:
        stream.dataset.maintenance = maintenance
        [job] = stream.maintenance_due(0, range(3))
        assert isinstance(job, SealShards)
        return job

    have(stream, 5, 0, 0)
    first = seal()
    assert (first.since, first.below) == (0, 5)
    maintenance.done(first, 0)
    have(stream, 9, 0, 0)
    second = seal()
    assert (second.since, second.below) == (5, 9)
    maintenance.failed(second, 0)
    have(stream, 12, 0, 0)
    third = seal()  # what the second one left undone, too
    assert (third.since, third.below) == (5, 12)


def test_sealing_and_growing_do_not_wait_for_each_other() -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    have(stream, 4, 0, 0)
    assert due(maintenance, stream, 10 * SECOND) == [("seal", 0), ("grow", 0)]
    have(stream, 4, 4, 0)
    assert due(maintenance, stream, 20 * SECOND) == [("seal", 1)]
    maintenance.done(GROWN, 10 * SECOND)
    assert maintenance.sealing == {0: 1, 1: 1}
    assert due(maintenance, stream, 20 * SECOND) == [("grow", 0)]
    maintenance.done(sealed(1), 0)
    assert (maintenance.sealing, maintenance.growing) == ({0: 1, 1: 0}, True)


@pytest.mark.parametrize("state", [state for state in State if state not in (State.ACTIVE, State.DRAINING)])
def test_nothing_is_due_of_a_stream_that_takes_no_frames(state: State) -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    have(stream, 8, 8, 8)
    stream.state = state
    assert due(maintenance, stream, 10 * SECOND) == []


def test_nothing_is_due_while_the_disk_is_full_and_all_of_it_afterwards() -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    have(stream, 8, 4, 0)
    stream.drive.pause(OmewdError("disk_full", "no space"))
    assert due(maintenance, stream, 10 * SECOND) == []
    stream.drive.go_on()
    assert due(maintenance, stream, 10 * SECOND) == [("seal", 0), ("seal", 1), ("grow", 0)]


def test_a_stream_that_is_resumed_seals_what_was_left_when_it_failed() -> None:
    """Its jobs were dropped, and nobody has heard of their ends."""
    stream = stream_of(SHARDS)
    have(stream, 4 * 256, 0, 0)
    assert len(due(stream.dataset.maintenance, stream)) == 4
    assert due(stream.dataset.maintenance, stream) == []
    stream.dataset.reopened()
    assert len(due(stream.dataset.maintenance, stream)) == 4


def test_a_daemon_that_takes_over_seals_what_the_last_one_may_have_left() -> None:
    stream = stream_of(SHARDS)
    have(stream, 8, 3, 4)
    assert due(Maintenance(), stream) == [("seal", 0), ("seal", 2)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["frames", "many frames", "done", "failed", "due"]), st.integers(0, 6)
        ),
        max_size=60,
    )
)
def test_every_whole_shard_is_sealed_and_no_two_jobs_at_once_have_the_same_one(
    steps: list[tuple[int, str, int]],
) -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    frames, covered, out = [0, 0, 0], [0, 0, 0], list[SealShards]()

    def submit() -> None:
        for job in stream_jobs(maintenance, stream):
            assert isinstance(job, SealShards)
            units, others = units_of(job), [one for one in out if one.source == job.source]
            assert units.start <= covered[job.source] < units.stop <= stream.safe_below[job.source] // 4
            assert not any(set(units) & set(units_of(other)) for other in others)
            assert len(others) < 4
            covered[job.source] = units.stop
            out.append(job)

    for number, step, count in steps:
        match step:
            case "frames" | "many frames":
                frames[number] += count if step == "frames" else 1000 * count
                have(stream, *frames)
            case "done" | "failed" if own := [job for job in out if job.source == number]:
                job = own[count % len(own)]
                out.remove(job)
                (maintenance.done if step == "done" else maintenance.failed)(job, 0)
            case "due":
                submit()
    submit()
    while out:
        maintenance.done(out.pop(), 0)
        submit()
    assert covered == [count // 4 for count in frames]


def units_of(job: SealShards) -> range:
    return range(job.since // 4, job.below // 4)


def stream_jobs(maintenance: Maintenance, stream: Stream) -> list[GrowShape | SealShards]:
    stream.dataset.maintenance = maintenance
    return list(stream.maintenance_due(0, range(len(stream.sources))))


def test_many_shards_are_shared_by_several_jobs() -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    have(stream, 1203, 0, 0)  # 300 shards and three frames
    jobs = stream_jobs(maintenance, stream)
    assert [(job.since, job.below) for job in jobs if isinstance(job, SealShards)] == [
        (0, 300),
        (300, 600),
        (600, 900),
        (900, 1203),
    ]
    have(stream, 1600, 0, 0)
    assert stream_jobs(maintenance, stream) == []  # four are enough


def test_as_a_stream_ends_its_last_few_shards_are_left_to_the_end() -> None:
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    stream.state = State.DRAINING
    have(stream, 4 * 63, 0, 0)
    assert stream_jobs(maintenance, stream) == []
    have(stream, 4 * 64, 0, 0)
    assert stream_jobs(maintenance, stream) == [SealShards(1, 0, 256, 0)]


def test_of_jobs_at_once_a_failed_one_leaves_its_shards_to_the_end() -> None:
    """Otherwise the next one would seal the same shards as one that is running."""
    maintenance, stream = Maintenance(), stream_of(SHARDS)
    have(stream, 4 * 128, 0, 0)
    first, second = stream_jobs(maintenance, stream)
    maintenance.failed(first, 0)
    have(stream, 4 * 192, 0, 0)
    assert stream_jobs(maintenance, stream) == [SealShards(1, 0, 768, 512)]
    maintenance.done(second, 0)


def test_growing_that_takes_long_is_not_done_all_the_time() -> None:
    """Of many images: a writer has better things to do."""
    stream, maintenance = stream_of("t:inf,v:2,y:2,x:3"), Maintenance()
    have(stream, 5, 5)
    assert due(maintenance, stream, 10 * SECOND) == [("grow", 0)]
    maintenance.done(GROWN, 15 * SECOND)
    have(stream, 6, 5)
    assert due(maintenance, stream, 64 * SECOND) == []
    assert due(maintenance, stream, 65 * SECOND) == [("grow", 0)]
