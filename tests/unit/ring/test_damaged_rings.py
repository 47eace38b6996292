"""What the program at the other end of a ring can do to it: the daemon ends that stream, and nothing else happens."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.daemon.control.status import stream_status
from omewd.daemon.loop import Loop
from omewd.daemon.streams.source_ring import SourceRing
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.ring import layout
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.guard import GUARD
from omewd.ring.layout import (
    FRAME_INDEX,
    FRONTIER,
    GAP_KINDS,
    GAP_TABLE,
    PUBLISHED,
    RELEASED,
    SLOT_HEADERS,
    STATE,
    STATE_DONE,
    STATE_OPEN,
)
from omewd.ring.progress import Progress, write_progress
from omewd.ring.segment import Segment
from tests.unit.cameras import Camera, camera_of, dataset_at
from tests.unit.rings import anonymous_memory, make_geometry, open_ring

CAPACITY = 8
HEADER_WORDS = make_geometry(CAPACITY).slot_header_stride // 8
numbers = st.one_of(
    st.sampled_from([0, 1, 2**31, 2**39, 2**62, 2**62 + 1, 2**63, 2**64 - 1]),
    st.integers(0, 40),
    st.integers(0, 2**64 - 1),
)
words = st.one_of(
    st.integers(PUBLISHED, PUBLISHED + 3),
    st.integers(RELEASED, RELEASED + 48),
    st.integers(GAP_TABLE, GAP_TABLE + 20),
    st.builds(
        lambda slot, word: SLOT_HEADERS // 8 + slot * HEADER_WORDS + word,
        st.integers(0, CAPACITY - 1),
        st.integers(0, 5),
    ),
)


def drive(it: Camera) -> None:
    """All that the daemon does with a stream, whatever is in its ring."""
    stream, source = it.stream, it.source
    try:
        stream.poll(1)
        source.listen()
        for _ in range(50):
            job = it.take()
            if job is None:
                break
            source.written_to_disk(job, 0, 1)
        stream_status(stream, 2)
    except OmewdError as error:
        stream.fail(error, 3)
        stream.tell_loss()
        stream_status(stream, 4)


@given(
    st.lists(st.tuples(words, numbers), min_size=1, max_size=6),
    st.integers(0, 12),
    st.sampled_from(["t:inf,y:2,x:3", "t:inf:3,y:2,x:3", "t:100:2,z:3:2,y:2,x:3"]),
)
def test_any_damage_ends_in_an_error_or_in_nothing(damage: list[tuple[int, int]], frames: int, dims: str) -> None:
    with camera_of(dims, capacity=CAPACITY) as it:
        for number, (word, value) in enumerate(damage):
            with contextlib.suppress(AssertionError):  # the producer's end is damaged, too
                it.ends.publish(min(frames, 2))
            it.ends.segment.words[word] = value
            drive(it)
            if number % 2:
                it.ends.producer.add_gap(1, layout.GAP_SKIPPED) if it.ends.producer.next_frame < 2**60 else None
        with contextlib.suppress(OmewdError):
            it.stream.stop("asked", 5)
        drive(it)
        # Another daemon may take it over.
        with contextlib.suppress(OmewdError):
            DaemonRing(it.ends.segment).resume()


@pytest.mark.parametrize("index", [2**64 - 1, 2**63, 2**62, 2**39])
def test_a_damaged_frame_index_is_an_error(index: int) -> None:
    with open_ring(CAPACITY) as ends:
        ends.publish(3)
        ends.daemon.poll()
        ends.publish(3)
        header = SLOT_HEADERS // 8 + 4 * HEADER_WORDS
        ends.segment.words[header + FRAME_INDEX] = index
        with pytest.raises(OmewdError) as error:
            ends.segment.words[SLOT_HEADERS // 8 + 5 * HEADER_WORDS + FRAME_INDEX] = 7
            ends.daemon.poll()
        assert error.value.code == "bad_ring"
        assert ends.daemon.frontier == 3


def test_the_daemon_does_not_believe_its_own_cursors_in_the_segment() -> None:
    with open_ring(CAPACITY) as ends:
        ends.publish(CAPACITY)
        ends.daemon.poll()
        ends.daemon.release_below(2, durable=True)
        ends.segment.words[RELEASED] = 2**40  # as if there were room for ever
        ends.segment.words[layout.FINAL_PUBLISHED] = 1
        ends.segment.words[layout.GAP_KINDS_READ] = 2**50
        ends.segment.words[PUBLISHED] = CAPACITY + 3
        with pytest.raises(OmewdError, match="released 2"):
            ends.daemon.poll()
        ends.segment.words[PUBLISHED] = CAPACITY
        ends.daemon.stop()
        assert ends.segment.words[layout.FINAL_PUBLISHED] == CAPACITY


def test_gap_kinds_that_go_back_are_an_error_and_are_not_collected() -> None:
    with open_ring(CAPACITY) as ends:
        for turn, first in enumerate((50, 100, 50)):
            ends.segment.words[GAP_TABLE + turn * 2] = first
        ends.segment.words[GAP_KINDS] = 2
        ends.daemon.poll()
        ends.segment.words[GAP_KINDS] = 3
        with pytest.raises(OmewdError, match="gap kinds are damaged"):
            ends.daemon.poll()


@pytest.mark.parametrize("left", [0, 100, 4096, 8192])
def test_a_segment_that_is_cut_short_is_an_error(left: int) -> None:
    geometry = make_geometry(CAPACITY)
    segment = Segment(anonymous_memory(geometry.total_bytes), geometry, writable=True, guarded=True)
    try:
        daemon = DaemonRing(segment)
        daemon.format()
        spec = StreamSpec(name="s", dimensions=parse_dims("t:inf,y:2,x:3"))
        stream = Stream.of(1, spec, "direct", geometry, dataset_at("s"), started_ns=0)
        [source] = stream.sources
        source.ring = daemon
        os.ftruncate(segment.fd, left)
        with pytest.raises(OmewdError, match="cut short") as error:
            daemon.poll()
        stream.fail(error.value, 1)
        stream.tell_loss()
        told = stream_status(stream, 2).error
        assert told is not None
        assert told.code == "bad_ring"
        assert not segment.is_whole
    finally:
        segment.close()


def test_a_look_past_the_end_finds_zeros_and_is_noted() -> None:
    """In the very moment after the size was checked."""
    geometry = make_geometry(CAPACITY)
    segment = Segment(anonymous_memory(geometry.total_bytes), geometry, writable=True, guarded=True)
    other = Segment(anonymous_memory(geometry.total_bytes), geometry, writable=True, guarded=True)
    try:
        segment.words[FRONTIER], other.words[FRONTIER] = 5, 6
        os.ftruncate(segment.fd, 0)
        assert segment.words[FRONTIER] == 0
        segment.words[FRONTIER] = 7
        assert segment.words[FRONTIER] == 7
        os.ftruncate(segment.fd, geometry.total_bytes)  # as large as before, and not what it was
        assert (segment.is_whole, other.is_whole) == (False, True)
        assert other.words[FRONTIER] == 6
    finally:
        segment.close()
        other.close()
    assert not GUARD._sizes


# -- doorbells -------------------------------------------------------------------------------------


def is_up(ring: SourceRing) -> bool:
    return ring.bell is not None and ring.bell.is_up


def test_a_doorbell_that_is_full_or_made_to_block_costs_the_daemon_nothing() -> None:
    loop, ring = Loop(), SourceRing("/none", os.open(os.devnull, os.O_RDONLY))
    with ring.hang_bell(loop, lambda: None) as theirs:
        theirs.setblocking(True)
        for _ in range(100_000):  # nobody reads them
            ring.ring_producer()
        theirs.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                theirs.send(b"!" * 4096)
        for _ in range(1000):
            loop.wait(0)
        assert is_up(ring)
        theirs.send(b"!", socket.MSG_DONTWAIT)
    for _ in range(3):  # it has hung up
        loop.wait(0)
    ring.ring_producer()
    assert not is_up(ring)
    ring.close()
    loop.close()


def test_a_new_producer_gets_a_doorbell_of_its_own() -> None:
    loop, ring = Loop(), SourceRing("/none", os.open(os.devnull, os.O_RDONLY))
    with ring.hang_bell(loop, lambda: None) as first, ring.hang_bell(loop, lambda: None) as second:
        ring.ring_producer()
        assert second.recv(10) == b"!"
        assert first.recv(10) == b""
        second.close()
        loop.wait(1)
        assert not is_up(ring)
    ring.close()
    loop.close()


# -- what the next daemon finds --------------------------------------------------------------------


@pytest.mark.parametrize(
    "progress",
    [
        Progress(units=1, frames=3, released=2),
        Progress(units=1, frames=3, released=2, skipped=2**64 - 1),
        Progress(units=0, frames=0, released=0, stored_bytes=2**63),
        Progress(units=2**62, frames=3, released=3),
        Progress(units=2**64 - 1, frames=3, released=3),
        Progress(units=2, frames=3, released=3),
        Progress(units=0, frames=3, released=3),
    ],
    ids=str,
)
def test_a_record_of_progress_that_makes_no_sense_is_refused_at_once(progress: Progress) -> None:
    """Counting its units one by one would take a daemon for ever."""
    with camera_of("t:inf:3,y:2,x:3", capacity=CAPACITY) as it:
        it.publish(5)
        it.poll()
        it.work()
        write_progress(it.ends.segment.words, progress, 0)
        write_progress(it.ends.segment.words, progress, 1)
        ring = DaemonRing(it.ends.segment)
        with pytest.raises(OmewdError, match="record of progress is damaged") as error:
            ring.resume()
            it.source.require_sound(ring)
        assert error.value.code == "bad_ring"


def test_a_ring_is_only_complete_if_the_daemon_says_so() -> None:
    """Otherwise the next one would throw its frames away."""
    with camera_of("t:inf:3,y:2,x:3", capacity=CAPACITY) as it:
        it.publish(7)
        it.poll()
        assert not DaemonRing(it.ends.segment).is_complete
        it.ends.segment.words[STATE] = STATE_DONE
        with pytest.raises(OmewdError, match="the dataset is complete, with 0 of"):
            _ = DaemonRing(it.ends.segment).is_complete
        it.ends.segment.words[STATE] = STATE_OPEN
        it.stream.stop("asked", 5)
        it.work()
        it.source.finish()
        assert DaemonRing(it.ends.segment).is_complete


def test_a_producer_that_adds_kinds_of_gaps_for_ever_keeps_no_daemon() -> None:
    """A program can add entries faster than a daemon reads the cursor."""

    class Running(list[int]):
        def __getitem__(self, word: Any) -> Any:
            if word == GAP_KINDS:
                self[GAP_KINDS] = super().__getitem__(word) + 300
            return super().__getitem__(word)

    with camera_of("t:inf:3,y:2,x:3", capacity=CAPACITY) as it:
        ring = DaemonRing(it.ends.segment)
        ring._words = Running(it.ends.segment.words)  # type: ignore[assignment]
        with pytest.raises(OmewdError, match="gap kinds are damaged"):
            ring.resume()


def test_kinds_of_gaps_that_change_nothing_take_no_memory() -> None:
    with camera_of("t:inf:3,y:2,x:3", capacity=CAPACITY) as it:
        words, ring = it.ends.segment.words, it.ends.daemon
        for number in range(10 * layout.GAP_TABLE_ENTRIES):
            entry = GAP_TABLE + number % layout.GAP_TABLE_ENTRIES * 2
            words[entry], words[entry + 1] = number // 512, 1 + number % 2
            words[GAP_KINDS] = number + 1
            if number % 100 == 0:
                ring.poll()
        assert len(ring._kinds) < 12


@pytest.mark.timeout(60)
def test_very_many_changes_of_kind_take_no_time_each() -> None:
    """All in one unit, so that they are counted again when it is written. One by one, they would take minutes."""
    changes = 60_000
    with camera_of(f"t:inf:{changes},y:2,x:3", capacity=CAPACITY) as it:
        for number in range(changes):
            it.gap(("skipped", "dropped")[number % 2])
            if number % 200 == 0:
                it.poll()
        it.poll()
        assert len(it.ends.daemon._kinds) == changes
        it.ends.daemon.release_below(changes, durable=True, units=1)
        assert (it.ends.daemon.progress.skipped, it.ends.daemon.progress.dropped) == (changes // 2, changes // 2)
        assert len(it.ends.daemon._kinds) == 1


def test_a_final_cursor_of_an_open_ring_is_refused_by_the_next_daemon() -> None:
    """It would take no more frames, and a producer would wait for ever."""
    with open_ring() as ends:
        ends.publish(2)
        ends.segment.words[layout.FINAL_PUBLISHED] = 1
        with pytest.raises(OmewdError) as error:
            DaemonRing(ends.segment).resume()
        assert error.value.code == "bad_ring"
