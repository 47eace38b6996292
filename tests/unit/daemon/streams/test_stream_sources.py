"""A stream that several producers feed: each source for itself, and all of them together."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.daemon.control.status import stream_status
from omewd.daemon.jobs.of_stream import finalize_job
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.model.spec.outline import MAX_SOURCES
from omewd.protocol.jobs.job import job_message
from omewd.protocol.messages import MAX_MESSAGE_BYTES, encode
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import (
    PUBLISHED,
    STATE_FAILED,
    STATE_OPEN,
    STATE_STOPPED,
)
from tests.unit.cameras import Camera, act, camera_of, cameras, check_loss, spec_with_sources, stream_of
from tests.unit.rings import Ends, make_geometry


def check_sums(stream: Stream) -> None:
    """The stream's figures are its sources' together, and balance."""
    sources = stream.sources
    lost = sum(count for source in sources for _, count in source.lost)
    assert stream.received == sum(source.received for source in sources)
    assert stream.received == stream.written + stream.gaps + stream.in_flight + lost
    assert stream.safe_below == tuple(source.safe_below for source in sources)
    status = json.loads(json.dumps(stream_status(stream, 10).to_json()))
    frames = status["frames"]
    assert frames["received"] == frames["written"] + frames["gaps"] + frames["in_flight"] + frames["lost"]
    assert frames["gaps"] == frames["skipped"] + frames["dropped"] == stream.gaps
    for figure in ("received", "written", "gaps", "skipped", "dropped", "lost", "in_flight", "durable"):
        assert frames[figure] == sum(source["frames"][figure] for source in status["sources"])
    for figure in ("slots", "used", "bytes"):
        assert status["ring"][figure] == sum(source["ring"][figure] for source in status["sources"])


steps_of_sources = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["publish", "publish", "skipped", "dropped", "poll", "take", "finish", "stop"]),
        st.integers(1, 5),
    ),
    max_size=60,
)


@given(
    st.sampled_from(["t:6:2,v:3", "v:3,t:inf:3", "t:5:2,v:3,c:2"]),
    steps_of_sources,
    st.sampled_from(["stop", "fail"]),
    st.booleans(),
)
def test_the_books_of_several_sources_balance_at_every_moment(
    dims: str, history: list[tuple[int, str, int]], end: str, late: bool
) -> None:
    with cameras(f"{dims},y:2,x:3", "a", "b", "c") as its:
        stream = its[0].stream
        for number, step, count in history:
            it = its[number]
            if step == "stop":
                stream.stop("alone", 1, it.source)
                continue
            if not it.source.is_open and step in ("publish", "skipped", "dropped"):
                continue
            act(it, step, count)
            assert (stream.state is State.ACTIVE) == any(each.source.is_open for each in its)
            for each in its:
                each.check()
            check_sums(stream)
        if end == "stop":
            stream.stop("asked", 9)
            for it in its:
                assert not stream.drained or stream.received == stream.written + stream.gaps
                it.work()
            assert stream.drained
            assert (stream.in_flight, stream.received) == (0, sum(len(it.fates) for it in its))
        else:
            in_time = [it.source.drained for it in its]
            stream.fail(OmewdError("disk_full", "no space"), 9)
            while late and any(it.out for it in its):
                for it in its:
                    it.finish()
            stream.tell_loss()
            for it, was_drained in zip(its, in_time, strict=True):
                check_loss(it)
                assert not (was_drained and it.source.lost)
        check_sums(stream)


def test_a_source_ends_while_others_go_on() -> None:
    with cameras("t:4:2,v:3,y:2,x:3", "a", "b", "c") as its:
        stream = its[0].stream
        its[0].publish(4)
        its[1].publish(1)
        stream.poll(1)
        assert [source.is_open for source in stream.sources] == [False, True, True]
        assert (stream.state, stream.ended_by, stream.sources[0].ended_by) == (State.ACTIVE, "", "all frames received")
        assert [it.ends.producer.state for it in its] == [STATE_STOPPED, STATE_OPEN, STATE_OPEN]
        its[0].work()
        assert [source.drained for source in stream.sources] == [True, False, False]
        assert (stream.written, stream.safe_below) == (4, (4, 0, 0))
        its[1].publish(3)
        stream.poll(2)
        stream.stop("its producer was lost", 3, stream.sources[2])
        assert (stream.state, stream.ended_by) == (State.DRAINING, "all frames received, its producer was lost")
        drained = [stream.drained]
        its[1].work()
        assert [*drained, stream.drained] == [False, True]
        assert [t.received for t in finalize_job(stream).totals] == [4, 4, 0]


def test_a_stop_of_one_source_takes_in_what_it_has_and_leaves_the_others_alone() -> None:
    with cameras("t:inf:4,v:2,y:2,x:3", "a", "b") as its:
        stream = its[0].stream
        for it in its:
            it.publish(3)
        stream.stop("alone", 1, stream.sources[1])
        assert [source.received for source in stream.sources] == [0, 3]
        job = its[1].take()
        assert job is not None
        assert (job.source, job.unit, its[0].take()) == (1, 0, None)
        stream.stop("again", 2, stream.sources[1])
        its[0].publish(1)
        stream.poll(3)
        assert [source.received for source in stream.sources] == [4, 3]
        stream.stop("asked", 4)
        assert [source.ended_by for source in stream.sources] == ["asked", "alone"]
        assert stream.ended_by == "asked, alone"
        stream.stop("once more", 5)
        assert stream.ended_by == "asked, alone"


def test_a_reason_that_sources_share_is_told_once() -> None:
    with cameras("t:2,v:3,y:2,x:3", "a", "b", "c") as its:
        for it in its:
            it.publish(2)
        its[0].poll()
        assert (its[0].stream.state, its[0].stream.ended_by) == (State.DRAINING, "all frames received")


def test_each_source_gives_out_its_own_units() -> None:
    with cameras("t:6:2,v:2,y:2,x:3", "a", "b") as its:
        its[0].publish(4)
        its[1].publish(2)
        its[0].poll()
        jobs = [its[n].take() for n in (0, 1, 0, 1)]
        assert [job and (job.source, job.unit, job.sequence, job.sequence_end) for job in jobs] == [
            (0, 0, 0, 2),
            (1, 0, 0, 2),
            (0, 1, 2, 4),
            None,
        ]
        its[0].finish(1)
        its[1].finish()
        assert [it.ends.daemon.released for it in its] == [0, 2]
        assert its[0].stream.safe_below == (0, 2)


def test_a_failure_tells_the_losses_by_source() -> None:
    with cameras("t:20:2,v:3,y:2,x:3", "left", "right", "top") as its:
        stream = its[0].stream
        its[0].publish(5)
        its[1].publish(4)
        its[1].gap("skipped")
        its[1].publish(1)
        its[2].publish(2)
        stream.poll(1)
        for number, units in ((0, 2), (1, 1), (2, 1)):
            for _ in range(units):
                its[number].take()
                its[number].finish()
        assert stream_status(stream, 2).kept_in_ring is False
        stream.fail(OmewdError("disk_full", "no space", "Make room"), 3)
        for _ in range(2):  # also of one that has been told
            stream.tell_loss()
            assert stream.failure is not None
            told = "no space; 4 of 13 received frames are missing: left: 4; right: 2-3, 5"
            assert (stream.failure.message, stream.failure.remedy) == (told, "Make room")
            assert (stream.failure.cause, stream.failure.lost) == ("disk_full", ((4, 1), (2, 2), (5, 1)))
            third = its[2].source.name
            assert stream.failure.lost_by_source == {"left": ((4, 1),), "right": ((2, 2), (5, 1)), third: ()}
        assert (stream.gaps, stream.in_flight) == (1, 0)
        assert stream.failure is not None
        for it in its:
            assert (it.ends.producer.state, it.source.is_open) == (STATE_FAILED, False)
            assert it.ends.producer.failure is not None
            assert it.ends.producer.failure.error.to_dict() == stream.failure.to_dict()
        job = finalize_job(stream)
        assert job.failed
        assert [totals.lost for totals in job.totals] == [((4, 1),), ((2, 2), (5, 1)), ()]
        assert [totals.lost_frames for totals in job.totals] == [1, 3, 0]
        status = stream_status(stream, 4).to_json()
        assert status["lost"] == [[4, 1], [2, 2], [5, 1]]
        assert [source["lost"] for source in status["sources"]] == [[[4, 1]], [[2, 2], [5, 1]], []]
        assert (status["kept_in_ring"], status["frames"]["lost"]) == (True, 4)


def test_a_failure_without_a_loss_says_so() -> None:
    with cameras("t:20:2,v:2,y:2,x:3", "left", "right") as its:
        stream = its[0].stream
        for it in its:
            it.publish(2)
            it.poll()
            it.work()
        stream.fail(OmewdError("disk_full", "no space"), 3)
        stream.tell_loss()
        assert stream.failure is not None
        assert stream.failure.message == "no space; all 4 received frames are written"
        assert not stream.has_kept_frames


def test_a_source_without_a_name_is_not_named_and_many_losses_are_cut_short() -> None:
    with camera_of("t:inf,y:2,x:3") as it:
        for _ in range(12):
            it.gap("skipped")
            it.publish()
        it.stream.fail(OmewdError("disk_full", "no space"), 3)
        it.stream.tell_loss()
        assert it.stream.failure is not None
        runs = ", ".join(str(2 * n + 1) for n in range(10))
        assert it.stream.failure.message == f"no space; 12 of 24 received frames are missing: {runs}, …"


def test_a_ring_that_is_damaged_fails_all_sources_and_costs_the_others_nothing() -> None:
    with cameras("t:inf,v:2,y:2,x:3", "a", "b") as its:
        stream = its[0].stream
        for it in its:
            it.publish(2)
        its[0].poll()
        its[0].publish(1)
        its[1].ends.segment.words[PUBLISHED] = 10**6
        with pytest.raises(OmewdError, match="damaged"):
            its[0].poll()
        stream.fail(OmewdError("disk_full", "first reason"), 3)
        stream.tell_loss()
        assert [source.received for source in stream.sources] == [3, 2]
        assert [source.lost for source in stream.sources] == [((0, 3),), ((0, 2),)]
        assert [it.ends.producer.state for it in its] == [STATE_FAILED, STATE_FAILED]


def test_many_lost_runs_of_the_most_sources_still_fit_in_the_last_job() -> None:
    names = [f"camera{n:02}" for n in range(MAX_SOURCES)]
    spec = spec_with_sources(f"t:inf,v:{MAX_SOURCES},y:2,x:3", names)
    stream = stream_of(spec, make_geometry())
    for source in stream.sources:
        source.received = 2**40
        source.lost = tuple((2**40 - 2 * n, 1) for n in range(15_000))
    assert len(encode(job_message(1, finalize_job(stream)))) < MAX_MESSAGE_BYTES
    assert len(json.dumps({"ok": stream_status(stream, 1).to_json()})) < MAX_MESSAGE_BYTES


def test_the_status_of_a_stream_says_what_each_source_does() -> None:
    with cameras("t:4:2,v:2,y:2,x:3", "left", "right", capacity=8) as its:
        stream = its[0].stream
        its[0].publish(4)
        its[1].publish(1)
        its[1].gap("dropped")
        its[1].source.producer = 77
        stream.poll(5)
        its[0].take()
        its[0].finish()
        status = json.loads(json.dumps(stream_status(stream, 5 + 10**9).to_json()))
        told = [(source["source"], source["name"], source["open"]) for source in status["sources"]]
        assert told == [(0, "left", False), (1, "right", True)]
        assert [s["ended_by"] for s in status["sources"]] == ["all frames received", ""]
        assert (status["producer"], [s["producer"] for s in status["sources"]]) == (77, [None, 77])
        frames = status["frames"]
        assert (frames["declared"], frames["received"], frames["written"], frames["dropped"]) == (8, 6, 2, 1)
        assert (frames["in_flight"], frames["durable"]) == (3, 2)
        assert (status["ring"]["slots"], status["ring"]["used"]) == (16, 3)
        assert status["ring"]["bytes"] == stream.ring_bytes == 2 * its[0].ends.segment.geometry.total_bytes
        assert status["throughput"]["frames_per_s"] == 2
        assert status["throughput"]["stored_bytes"] == 10


def test_of_a_stream_without_an_end_none_is_declared() -> None:
    with cameras("t:inf,v:2,y:2,x:3", "a", "b") as its:
        assert stream_status(its[0].stream, 0).frames.declared is None


def test_another_backend_changes_the_units_of_all_sources() -> None:
    spec = spec_with_sources("t:8:2:2,v:2,y:2,x:3", ["a", "b"], backend="auto")
    stream = stream_of(spec, make_geometry())
    assert [(source.plan.units_total, source.shards) for source in stream.sources] == [(2, None), (2, None)]
    geometry = make_geometry(12, epoch=9)
    stream.placed("direct", "", geometry)
    assert [source.plan.units_total for source in stream.sources] == [4, 4]
    assert [source.shards and source.shards.units_total for source in stream.sources] == [2, 2]
    assert (stream.backend, stream.epoch, stream.ring_bytes) == ("direct", 9, 2 * geometry.total_bytes)
    assert not stream.has_rings


# -- several sources, taken over by another daemon -------------------------------------------------


def taken_over(its: list[Camera], now_ns: int = 50) -> list[Camera]:
    """The same rings with a daemon that knows nothing but them."""
    before = its[0].stream
    stream = stream_of(before.spec, its[0].ends.segment.geometry)
    rings = [DaemonRing(it.ends.segment) for it in its]
    for source, ring in zip(stream.sources, rings, strict=True):
        ring.resume()
        source.require_sound(ring)
    stream.resume(rings, now_ns)
    new = []
    for number, (old, ring) in enumerate(zip(its, rings, strict=True)):
        it = Camera(stream, Ends(old.ends.segment, old.ends.producer, ring), number)
        it.fates, it.durable_before = old.fates, old.durable_before
        it.done_units = set(range(it.source.done_below))
        new.append(it)
    return new


def test_a_stream_is_taken_over_with_each_source_where_it_was() -> None:
    with cameras("t:8:2,v:3,y:2,x:3", "a", "b", "c") as its:
        its[0].publish(8)
        its[1].publish(2)
        its[1].gap("dropped")
        its[1].publish(2)
        its[0].poll()
        for number, units in ((0, 1), (1, 2)):
            for _ in range(units):
                its[number].take()
                its[number].finish()
        its[0].take()  # given out, and not done
        its[2].publish(3)  # while there was no daemon
        new = taken_over(its)
        stream = new[0].stream
        assert (stream.state, stream.was_active, stream.settled) == (State.ACTIVE, True, False)
        assert [source.is_open for source in stream.sources] == [False, True, True]
        assert [source.received for source in stream.sources] == [8, 5, 3]
        assert [source.written for source in stream.sources] == [2, 3, 0]
        assert [source.next_unit for source in stream.sources] == [1, 2, 0]
        assert [source.stored_bytes for source in stream.sources] == [10, 20, 0]
        assert stream.safe_below == (2, 4, 0)
        assert stream.sources[0].ended_by == "all frames received"
        assert stream.sources[1].gaps == {"skipped": 0, "dropped": 1}
        for it in new:
            it.check()
        check_sums(stream)
        new[1].publish(3)
        stream.poll(60)
        stream.stop("asked", 61)
        for it in new:
            it.work()
            it.check()
        assert stream.drained
        assert (stream.received, stream.written, stream.gaps) == (8 + 8 + 3, 18, 1)
        assert stream.ended_by == "all frames received, asked"


def test_a_stream_whose_sources_have_all_been_stopped_is_drained_by_the_next_daemon() -> None:
    with cameras("t:inf:2,v:2,y:2,x:3", "a", "b") as its:
        for it in its:
            it.publish(3)
        its[0].stream.stop("asked", 1)
        new = taken_over(its)
        stream = new[0].stream
        assert (stream.state, stream.ended_by, stream.drained) == (State.DRAINING, "it was stopped", False)
        for it in new:
            it.work()
        assert stream.drained
        assert stream.written == 6


def test_a_failed_stream_is_taken_over_as_one() -> None:
    with cameras("t:inf:2,v:2,y:2,x:3", "a", "b") as its:
        its[1].publish(2)
        its[0].stream.fail(OmewdError("disk_full", "no space", "Make room"), 1)
        its[0].stream.tell_loss()
        stream = taken_over(its)[0].stream
        assert stream.state is State.FAILED
        stream.tell_loss()
        assert stream.failure is not None
        assert (stream.failure.cause, stream.failure.remedy) == ("disk_full", "Make room")
        assert stream.failure.message == "no space; 2 of 2 received frames are missing: b: 0-1"
        assert not stream.gives_jobs


def test_a_failed_stream_that_goes_on_writes_what_its_rings_kept() -> None:
    with cameras("t:inf:2,v:2,y:2,x:3", "a", "b") as its:
        stream = its[0].stream
        for it in its:
            it.publish(5)
            it.poll()
            it.take()
        its[1].finish()
        stream.fail(OmewdError("disk_full", "no space"), 1)
        stream.tell_loss()
        stream.settled, stream.ended_ns = True, 2
        assert stream.has_kept_frames
        rings = [it.ends.daemon for it in its]
        for ring in rings:
            ring.revive()
        stream.resume(rings, 3)
        assert (stream.state, stream.settled) == (State.DRAINING, False)
        assert stream_status(stream, 4).error is None
        assert [source.lost for source in stream.sources] == [(), ()]
        check_sums(stream)
        for it in its:
            it.out.clear()
            it.work()
        assert stream.drained
        assert (stream.written, stream.in_flight) == (10, 0)


def test_a_daemon_that_died_while_it_failed_a_stream_leaves_no_source_open() -> None:
    """The ring of one source says that the stream has failed, that of the other one not yet."""
    with cameras("t:inf:2,v:2,y:2,x:3", "a", "b") as its:
        its[0].ends.daemon.fail(OmewdError("disk_full", "no space"))
        its[1].publish(3)  # its producer has not been told
        new = taken_over(its)
        stream = new[0].stream
        assert stream.state is State.FAILED
        assert [source.is_open for source in stream.sources] == [False, False]
        stream.tell_loss()
        assert stream.received == 3
        assert stream.sources[1].lost == ((0, 3),)
