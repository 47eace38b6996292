"""Both ends of a ring, in one process, over anonymous memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.errors import Loss, OmewdError, RingFullError
from omewd.ring import layout, pixels
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import (
    DOORBELL_AT,
    FINAL_PUBLISHED,
    FRONTIER,
    GAP_DROPPED,
    GAP_KINDS,
    GAP_SKIPPED,
    GAP_TABLE_ENTRIES,
    PUBLISHED,
    STATE_FAILED,
    STATE_OPEN,
    STATE_STOPPED,
    UNSET,
)
from omewd.ring.ring import ProducerRing
from tests.unit.rings import open_ring

Gap = tuple[int, int, str]


def gaps(ring: DaemonRing) -> list[Gap]:
    return list(ring.gaps(0, ring.frontier))


# -- publish, poll, release ------------------------------------------------------------------------


def test_a_published_frame_is_seen_with_all_that_belongs_to_it() -> None:
    with open_ring() as ends:
        pixels.slots(ends.segment)[0] = [[1, 2, 3], [4, 5, 6]]
        assert ends.producer.publish(monotonic_ns=10, wall_ns=20, metadata=b'{"a":1}') == 0
        ends.daemon.poll()
        assert (ends.daemon.frontier, ends.daemon.map.published) == (1, 1)
        assert pixels.header(ends.segment, 0) == (0, 10, 20, b'{"a":1}')
        assert pixels.slots(ends.segment)[0].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert pixels.slots(ends.segment)[1].sum() == 0


def test_the_time_of_the_newest_frame_is_known_once_it_was_taken_in() -> None:
    with open_ring(3) as ends:
        seen = [ends.daemon.newest_frame_ns]
        for monotonic_ns in (10, 2**64 - 1, 30, 40):
            ends.producer.publish(monotonic_ns=monotonic_ns, wall_ns=20, metadata=b"")
            ends.daemon.poll()
            seen.append(ends.daemon.newest_frame_ns)
            ends.daemon.release_below(ends.daemon.frontier, durable=True)
        assert seen == [None, 10, 2**64 - 1, 30, 40]


def test_without_metadata_a_reused_slot_has_none() -> None:
    with open_ring(1) as ends:
        ends.publish(metadata=b'{"a":1}')
        ends.daemon.poll()
        ends.daemon.release_below(1, durable=True)
        ends.publish()
        assert pixels.header(ends.segment, 1) == (1, 11, 22, b"")


def test_the_ring_is_full_at_its_capacity_and_has_room_when_released() -> None:
    with open_ring(3) as ends:
        rooms = []
        ends.publish(3)
        rooms.append(ends.producer.free() > 0)
        ends.daemon.poll()
        rooms.append(ends.producer.free() > 0)
        assert ends.daemon.release_below(1, durable=True)
        rooms.append(ends.producer.free() > 0)
        ends.publish()
        rooms.append(ends.producer.free() > 0)
        assert rooms == [False, False, True, False]


def test_frames_keep_their_slots_and_pixels_over_many_laps() -> None:
    with open_ring(3) as ends:
        for frame in range(20):
            assert ends.publish() == frame
            ends.daemon.poll()
            assert pixels.header(ends.segment, frame)[0] == frame
            assert (pixels.slots(ends.segment)[frame % 3] == frame).all()
            ends.daemon.release_below(max(0, frame - 1), durable=True)
        assert ends.daemon.released == 18


def test_releasing_counts_slots_not_frames() -> None:
    with open_ring(4) as ends:
        ends.publish(2)
        ends.producer.add_gap(5, GAP_SKIPPED)
        ends.publish(2)
        ends.daemon.poll()
        ends.daemon.release_below(7, durable=True)
        assert (ends.daemon.released, ends.daemon.durable) == (2, 7)
        ends.daemon.release_below(8, durable=True)
        assert (ends.daemon.released, ends.daemon.durable) == (3, 8)


def test_a_release_without_durability_leaves_durable_alone() -> None:
    with open_ring() as ends:
        ends.publish(2)
        ends.daemon.poll()
        assert ends.daemon.release_below(2, durable=False)
        assert (ends.daemon.released, ends.producer.durable) == (2, 0)


def test_releasing_nothing_more_says_so() -> None:
    with open_ring() as ends:
        ends.publish(2)
        ends.daemon.poll()
        assert ends.daemon.release_below(1, durable=True)
        assert not ends.daemon.release_below(1, durable=True)


def test_metadata_at_the_limit_stays_in_its_slot() -> None:
    with open_ring(2) as ends:
        limit = ends.producer.geometry.metadata_max_bytes
        first, second = b"1" * limit, b"2" * limit
        ends.publish(metadata=first)
        ends.publish(metadata=second)
        assert pixels.header(ends.segment, 0) == (0, 11, 22, first)
        assert pixels.header(ends.segment, 1) == (1, 11, 22, second)
        assert (pixels.slots(ends.segment)[0] == 0).all()


def test_a_damaged_metadata_length_does_not_reach_over_the_slot() -> None:
    with open_ring(2) as ends:
        ends.publish(metadata=b"x")
        ends.segment.words[layout.SLOT_HEADERS // 8 + layout.METADATA_BYTES] = 2**40
        assert len(pixels.header(ends.segment, 0)[3]) == ends.producer.geometry.metadata_max_bytes


@pytest.mark.parametrize("published", [0, 1, 6, 2**63])
def test_a_damaged_cursor_is_an_error(published: int) -> None:
    with open_ring(3) as ends:
        ends.publish(2)
        ends.daemon.poll()
        ends.segment.words[PUBLISHED] = published
        with pytest.raises(OmewdError, match="cursors are damaged") as error:
            ends.daemon.poll()
        assert error.value.code == "bad_ring"


def test_damaged_gap_kinds_are_an_error_and_no_endless_loop() -> None:
    for number in (GAP_TABLE_ENTRIES + 1, 2**62):
        with open_ring() as ends:
            ends.segment.words[GAP_KINDS] = number
            with pytest.raises(OmewdError, match="gap kinds are damaged"):
                ends.daemon.poll()


def test_the_doorbell_is_wanted_once_the_frontier_gets_there() -> None:
    with open_ring(8) as ends:
        ends.daemon.ring_at(3)
        wanted = []
        for _ in range(3):
            ends.publish()
            wanted.append(ends.producer.wants_doorbell)
        ends.daemon.ring_at(6)
        for _ in range(2):
            ends.producer.add_gap(2, GAP_SKIPPED)
            wanted.append(ends.producer.wants_doorbell)
        assert wanted == [False, False, True, False, True]


def test_a_new_ring_asks_for_the_doorbell_at_once() -> None:
    with open_ring() as ends:
        assert ends.producer.wants_doorbell
        assert ends.segment.words[DOORBELL_AT] == 0


def test_a_waiting_producer_is_seen() -> None:
    with open_ring() as ends:
        seen = [ends.daemon.producer_waits]
        for waits in (True, False):
            ends.producer.wait_for_room(waits)
            seen.append(ends.daemon.producer_waits)
        assert seen == [False, True, False]


# -- gaps ------------------------------------------------------------------------------------------


def test_gaps_at_the_end_count_as_soon_as_they_are_made() -> None:
    with open_ring() as ends:
        ends.producer.add_gap(2, GAP_SKIPPED)
        ends.daemon.poll()
        assert gaps(ends.daemon) == [(0, 2, "skipped")]
        ends.publish()
        ends.producer.add_gap(1, GAP_DROPPED)
        ends.daemon.poll()
        assert ends.daemon.frontier == 4
        assert gaps(ends.daemon) == [(0, 2, "skipped"), (3, 1, "dropped")]


def test_kinds_of_gaps_that_touch_are_told_apart() -> None:
    with open_ring() as ends:
        for kind, count in ((GAP_SKIPPED, 2), (GAP_DROPPED, 1), (GAP_DROPPED, 2), (GAP_SKIPPED, 1)):
            ends.producer.add_gap(count, kind)
        ends.daemon.poll()
        assert gaps(ends.daemon) == [(0, 2, "skipped"), (2, 3, "dropped"), (5, 1, "skipped")]


ring_steps = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 4)),
    st.tuples(st.just("skipped"), st.integers(1, 3)),
    st.tuples(st.just("dropped"), st.integers(1, 3)),
    st.tuples(st.just("poll"), st.just(0)),
    st.tuples(st.just("release"), st.integers(0, 5)),
    st.tuples(st.just("new producer"), st.just(0)),
)


@given(st.lists(ring_steps, max_size=60), st.integers(1, 6))
def test_each_frame_index_is_a_frame_or_a_gap_of_its_kind(history: list[tuple[str, int]], capacity: int) -> None:
    fates: list[str] = []
    released_frames = 0
    with open_ring(capacity) as ends:
        for step, number in history:
            if step == "publish":
                room = capacity - (ends.producer.published - ends.daemon.released)
                assert (ends.producer.free() > 0) == (room > 0)
                ends.publish(min(number, room))
                fates += ["frame"] * min(number, room)
            elif step in ("skipped", "dropped"):
                ends.producer.add_gap(number, GAP_SKIPPED if step == "skipped" else GAP_DROPPED)
                fates += [step] * number
            elif step == "new producer":
                ends.producer.release()
                ends.producer = ProducerRing(ends.segment)
            else:
                ends.daemon.poll()
                if step == "release":
                    released_frames = min(max(released_frames, ends.daemon.frontier - number), ends.daemon.frontier)
                    ends.daemon.release_below(released_frames, durable=True)
                    assert ends.daemon.released == fates[:released_frames].count("frame")
                assert ends.daemon.frontier == len(fates)
                check_gaps(ends.daemon, fates, released_frames)
        assert ends.producer.next_frame == len(fates)


def check_gaps(ring: DaemonRing, fates: list[str], start: int) -> None:
    told = {first + i: kind for first, count, kind in ring.gaps(start, ring.frontier) for i in range(count)}
    assert told == {frame: fate for frame, fate in enumerate(fates) if frame >= start and fate != "frame"}


def test_alternating_kinds_are_all_told_if_the_daemon_reads_in_time() -> None:
    with open_ring() as ends:
        for number in range(5 * GAP_TABLE_ENTRIES):
            ends.producer.add_gap(1, GAP_DROPPED if number % 2 else GAP_SKIPPED)
            if number % 200 == 0:
                ends.daemon.poll()
        ends.daemon.poll()
        kinds = [kind for _, _, kind in gaps(ends.daemon)]
        assert kinds == ["skipped", "dropped"] * (5 * GAP_TABLE_ENTRIES // 2)


def test_unread_kinds_keep_the_last_label_and_the_indexes_stay_exact() -> None:
    with open_ring() as ends:
        for number in range(GAP_TABLE_ENTRIES + 40):
            ends.producer.add_gap(1, GAP_DROPPED if number % 2 else GAP_SKIPPED)
        ends.daemon.poll()
        runs = gaps(ends.daemon)
        assert sum(count for _, count, _ in runs) == GAP_TABLE_ENTRIES + 40
        assert runs[: GAP_TABLE_ENTRIES - 1] == [
            (n, 1, "dropped" if n % 2 else "skipped") for n in range(GAP_TABLE_ENTRIES - 1)
        ]
        assert runs[-1] == (GAP_TABLE_ENTRIES - 1, 41, "dropped")
        # Once the daemon has read, labels are right again.
        ends.producer.add_gap(1, GAP_SKIPPED)
        ends.producer.add_gap(1, GAP_DROPPED)
        ends.daemon.poll()
        assert gaps(ends.daemon)[-2:] == [
            (GAP_TABLE_ENTRIES + 40, 1, "skipped"),
            (GAP_TABLE_ENTRIES + 41, 1, "dropped"),
        ]


def test_read_kinds_of_released_frames_take_no_memory() -> None:
    with open_ring(2) as ends:
        for number in range(1000):
            ends.producer.add_gap(1, GAP_DROPPED if number % 2 else GAP_SKIPPED)
            ends.publish()
            ends.daemon.poll()
            ends.daemon.release_below(ends.daemon.frontier, durable=True)
        assert len(ends.daemon._kinds) <= 2


# -- the order of stores and reads -----------------------------------------------------------------


class Recorder:
    """The words of a segment, with a note of which are stored and read, in which order."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self.stored: list[int] = []
        self.read: list[int] = []

    def __getitem__(self, place: int) -> int:
        self.read.append(place)
        word: int = self._words[place]
        return word

    def __setitem__(self, place: int, value: int) -> None:
        self.stored.append(place)
        self._words[place] = value


def test_a_slot_is_stored_before_published_and_published_before_the_frontier() -> None:
    with open_ring() as ends:
        recorder = Recorder(ends.segment.words)
        ends.producer._words = recorder  # type: ignore[assignment]
        ends.producer.publish(1, 2, b"{}")
        header = layout.SLOT_HEADERS // 8
        assert sorted(recorder.stored[:-2]) == [header + n for n in range(5)]
        assert recorder.stored[-2:] == [PUBLISHED, FRONTIER]


def test_a_gap_s_kind_is_in_the_table_before_it_counts_and_the_gap_is_last() -> None:
    with open_ring() as ends:
        recorder = Recorder(ends.segment.words)
        ends.producer._words = recorder  # type: ignore[assignment]
        ends.producer.add_gap(2, GAP_DROPPED)
        assert sorted(recorder.stored[:-2]) == [layout.GAP_TABLE, layout.GAP_TABLE + 1]
        assert recorder.stored[-2:] == [GAP_KINDS, FRONTIER]


def test_the_frontier_is_read_before_published_and_the_kinds_after() -> None:
    """Read the other way round, a frame published in between would be below the frontier and in no slot: a gap."""
    with open_ring() as ends:
        ends.publish()
        ends.producer.add_gap(1, GAP_DROPPED)
        recorder = Recorder(ends.segment.words)
        ends.daemon._words = recorder  # type: ignore[assignment]
        ends.daemon.poll()
        order = [place for place in recorder.read if place in (FRONTIER, PUBLISHED, GAP_KINDS)]
        assert order[:3] == [FRONTIER, PUBLISHED, GAP_KINDS]
        assert set(order[3:]) <= {GAP_KINDS}


def test_a_failure_is_whole_before_it_shows() -> None:
    with open_ring() as ends:
        recorder = Recorder(ends.segment.words)
        ends.daemon._words = recorder  # type: ignore[assignment]
        ends.daemon.fail(OmewdError("disk_full", "no space"))
        length = layout.FAILURE // 8
        assert recorder.stored == [length, length, layout.STATE, layout.FINAL_FRONTIER, FINAL_PUBLISHED]


# -- a producer that dies between two stores -------------------------------------------------------


def test_a_producer_goes_on_after_one_that_stored_published_only() -> None:
    with open_ring() as ends:
        ends.publish(2)
        ends.segment.words[FRONTIER] = 1  # died before this store of the second frame
        successor = ProducerRing(ends.segment)
        assert (successor.next_frame, successor.published) == (2, 2)
        ends.daemon.poll()
        assert ends.daemon.frontier == 2
        assert successor.publish(0, 0, b"") == 2
        successor.release()
        ends.daemon.poll()
        assert (ends.daemon.frontier, gaps(ends.daemon)) == (3, [])


def test_a_producer_uses_the_slot_again_of_one_that_died_before_publishing() -> None:
    with open_ring() as ends:
        ends.publish(2)
        header = layout.SLOT_HEADERS // 8 + 2 * ends.producer.geometry.slot_header_stride // 8
        ends.segment.words[header + layout.FRAME_INDEX] = 2
        successor = ProducerRing(ends.segment)
        assert (successor.next_frame, successor.slot) == (2, 2)
        successor.release()
        ends.daemon.poll()
        assert ends.daemon.frontier == 2


def test_a_producer_goes_on_after_one_that_died_in_the_middle_of_a_gap() -> None:
    with open_ring() as ends:
        ends.publish()
        ends.producer.add_gap(2, GAP_DROPPED)
        ends.segment.words[FRONTIER] = 1  # the kind is in the table, the gap was never made
        successor = ProducerRing(ends.segment)
        assert successor.next_frame == 1
        successor.add_gap(1, GAP_SKIPPED)
        successor.add_gap(1, GAP_DROPPED)
        successor.release()
        ends.daemon.poll()
        assert gaps(ends.daemon) == [(1, 1, "skipped"), (2, 1, "dropped")]


# -- the end ---------------------------------------------------------------------------------------


def test_what_is_published_before_a_stop_counts_and_nothing_after() -> None:
    with open_ring(8) as ends:
        ends.publish(2)
        ends.daemon.stop()
        assert ends.producer.state == STATE_STOPPED
        assert ends.producer.final_published == 2
        ends.publish()
        ends.producer.add_gap(4, GAP_SKIPPED)
        ends.daemon.poll()
        assert (ends.daemon.frontier, ends.daemon.map.published) == (2, 2)
        assert ends.producer.final_published == 2


def test_a_gap_before_a_stop_counts() -> None:
    with open_ring() as ends:
        ends.publish()
        ends.producer.add_gap(3, GAP_SKIPPED)
        ends.daemon.stop()
        assert ends.daemon.frontier == 4


@pytest.mark.parametrize("moment", ["before the last look", "after the last look"])
def test_a_frame_that_meets_a_stop_is_counted_or_known_not_to_be(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ring(8) as ends:
        ends.publish(2)
        poll = ends.daemon.poll

        def meet() -> None:
            assert ends.producer.state == STATE_STOPPED, "the state must be stored before the cursors are read"
            if moment == "before the last look":
                ends.publish()
                poll()
            else:
                poll()
                ends.publish()

        monkeypatch.setattr(ends.daemon, "poll", meet)
        ends.daemon.stop()
        assert ends.producer.state != STATE_OPEN  # so the producer asks:
        counted = ends.producer.final_published > 2
        assert counted == (ends.daemon.map.published == 3) == (moment == "before the last look")


def test_a_second_stop_changes_nothing() -> None:
    with open_ring() as ends:
        ends.publish()
        ends.daemon.stop()
        ends.publish()
        ends.daemon.stop()
        assert ends.producer.final_published == 1


def test_a_damaged_ring_can_still_be_failed() -> None:
    with open_ring() as ends:
        ends.segment.words[PUBLISHED] = 99
        with pytest.raises(OmewdError, match="damaged"):
            ends.daemon.stop()
        ends.daemon.fail(OmewdError("bad_ring", "damaged"))
        assert ends.producer.state == STATE_FAILED
        assert ends.segment.words[FINAL_PUBLISHED] != UNSET


def test_a_failure_leaves_its_reason_for_the_producer() -> None:
    with open_ring() as ends:
        ends.publish()
        ends.daemon.fail(OmewdError("disk_full", "the disk is full: µ-drive", "Free space"))
        assert ends.producer.state == STATE_FAILED
        assert ends.producer.final_published == 1
        failure = ends.producer.failure
        assert failure is not None
        error = failure.error
        assert (error.code, error.cause, error.loss, error.lost) == ("stream_failed", "disk_full", None, ())
        assert (error.message, error.remedy) == ("the disk is full: µ-drive", "Free space")


def test_a_stream_that_fails_is_never_seen_as_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera's program takes a stop for the end that somebody wanted."""
    with open_ring() as ends:
        ends.publish()
        seen: list[tuple[int, str]] = []

        def poll(ring: DaemonRing) -> None:
            failure = ends.producer.failure
            seen.append((ring.state, "" if failure is None else failure.error.message))

        monkeypatch.setattr(DaemonRing, "poll", poll)
        ends.daemon.fail(OmewdError("disk_full", "no space"))
        assert seen == [(STATE_FAILED, "no space")]


def test_a_daemon_that_died_while_it_failed_a_ring_leaves_it_failed() -> None:
    with open_ring() as ends:
        ends.publish(2)
        ends.segment.words[layout.STATE] = STATE_FAILED  # died before it stored the final cursors
        successor = DaemonRing(ends.segment)
        successor.resume()
        assert (ends.producer.state, ends.producer.final_published) == (STATE_FAILED, 2)


def test_a_failure_after_a_stop_keeps_what_was_counted() -> None:
    with open_ring() as ends:
        ends.publish()
        ends.daemon.stop()
        ends.publish()
        ends.daemon.fail(OmewdError("disk_full", "no space"))
        assert ends.producer.final_published == 1


def test_a_later_failure_replaces_the_first() -> None:
    with open_ring() as ends:
        ends.daemon.fail(OmewdError("disk_full", "no space"))
        loss = Loss(9, 3, (("left", ((3, 2), (7, 1))), ("right", ())))
        ends.daemon.fail(OmewdError("disk_full", "no space"), loss)
        failure = ends.producer.failure
        assert failure is not None
        assert (failure.reason.code, failure.reason.message, failure.loss) == ("disk_full", "no space", loss)
        error = failure.error
        assert error.message == "no space; 3 of 9 received frames are missing: left: 3-4, 7"
        assert (error.cause, error.lost) == ("disk_full", ((3, 2), (7, 1)))
        assert error.lost_by_source == {"left": ((3, 2), (7, 1)), "right": ()}


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("x" * 5000, ""),
        ("x" * 5000, "do " * 500),
        ("é" * 3000, "ü" * 3000),
        ("", "\N{MICROSCOPE}" * 3000),
        ("short", "ü" * 400),
    ],
)
def test_a_long_failure_is_cut_to_what_fits(message: str, remedy: str) -> None:
    with open_ring() as ends:
        ends.daemon.fail(RingFullError("ring_full", message, remedy))
        failure = ends.producer.failure
        assert failure is not None
        assert isinstance(failure.reason, RingFullError)
        assert failure.reason.message[:5] == message[:5]
        assert bytes(ends.segment.memory[4096:8192]) == bytes(4096), "the table behind it is untouched"


@pytest.mark.parametrize("sources", [1, 2, 64])
def test_of_many_lost_runs_the_ring_has_the_first(sources: int) -> None:
    names = ["" if sources == 1 else f"{'camera' * 8}{number}" for number in range(sources)]
    runs = tuple((2**40 + 2 * n, 1) for n in range(1000))
    with open_ring() as ends:
        ends.daemon.fail(OmewdError("disk_full", "no space"), Loss(10**9, 10**6, tuple((name, runs) for name in names)))
        failure = ends.producer.failure
        assert failure is not None
        assert failure.loss is not None
        assert (failure.loss.received, failure.loss.frames) == (10**9, 10**6)
        assert 4 <= len(failure.error.lost) <= 1000
        assert failure.error.lost == runs[: len(failure.error.lost)]
        assert failure.error.message.endswith("…")
        assert failure.reason.message == "no space"
        assert bytes(ends.segment.memory[4096:8192]) == bytes(4096), "the table behind it is untouched"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("lost", [0, 1, 1000])
def test_long_names_of_sources_leave_room_for_the_reason(lost: int) -> None:
    names = ["\N{MICROSCOPE}" * 250 + str(number) for number in range(64)]
    runs = tuple((2 * n, 1) for n in range(lost))
    reason = OmewdError("disk_full", "no space on the drive", "free some")
    with open_ring() as ends:
        ends.daemon.fail(reason, Loss(10**9, lost * 64, tuple((name, runs) for name in names)))
        failure = ends.producer.failure
        assert failure is not None
        assert failure.loss is not None
        assert (failure.loss.received, failure.loss.frames) == (10**9, lost * 64)
        assert failure.reason.to_dict() == reason.to_dict()
        assert bytes(ends.segment.memory[4096:8192]) == bytes(4096), "the table behind it is untouched"


def test_a_new_ring_is_open_and_has_no_failure() -> None:
    with open_ring() as ends:
        assert (ends.producer.state, ends.producer.failure) == (STATE_OPEN, None)


def test_a_failure_that_is_half_written_is_none_yet() -> None:
    with open_ring() as ends:
        ends.daemon.fail(OmewdError("disk_full", "no space"))
        start = layout.FAILURE + 8
        ends.segment.memory[start : start + 20] = b'{"code":: "bad_rin",'
        assert ends.producer.failure is None


@pytest.mark.parametrize("text", [b"\xff", b"[" * 2000, b"[1]"])
def test_a_failure_that_is_damaged_is_none(text: bytes) -> None:
    with open_ring() as ends:
        ends.daemon.fail(OmewdError("disk_full", "no space"))
        start = layout.FAILURE + 8
        ends.segment.memory[start : start + len(text)] = text
        ends.segment.words[layout.FAILURE // 8] = len(text)
        assert ends.producer.failure is None
        assert ends.daemon.failure is None
