"""Claimed slots: several at once, made visible in the order of their claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.errors import OmewdError, RingFullError, StreamFailedError, StreamStoppedError
from omewd.producer.slot import Slot
from omewd.ring.ring import ProducerRing
from tests.unit.producers import Array, Both, producer_on


def frame(number: int, shape: tuple[int, ...] = (2, 3)) -> Array:
    return np.full(shape, number, np.uint16)


def claim(both: Both, number: int) -> Slot:
    """A claimed slot whose pixels are there, and which is not published."""
    slot = both.producer.claim()
    slot.array[:] = number
    slot.metadata = {"n": number}
    return slot


def visible(both: Both) -> list[tuple[int, int, bytes]]:
    """(frame index, what its pixels hold, metadata) of all that can be seen."""
    frames = both.seen()
    assert all((each == each.flat[0]).all() for each in frames)
    return [(index, int(each.flat[0]), text) for (index, text), each in zip(both.headers(), frames, strict=True)]


def expected(*numbers: int, first: int = 0) -> list[tuple[int, int, bytes]]:
    return [(first + place, number, b'{"n":%d}' % number) for place, number in enumerate(numbers)]


# -- one slot --------------------------------------------------------------------------------------


def test_a_block_publishes_its_slot_and_an_exception_gives_it_back() -> None:
    with producer_on() as both:
        with pytest.raises(RuntimeError, match="camera"), both.producer.claim() as slot:
            slot.array[:] = 99
            raise RuntimeError("the camera failed")
        assert (slot.index, visible(both)) == (None, [])
        with both.producer.claim() as slot:
            slot.array[:] = 5
            assert (slot.index, visible(both)) == (None, [])
        assert (slot.index, both.seen()[0].tolist()) == (0, frame(5).tolist())


def test_to_assign_a_frame_copies_it_into_the_slot() -> None:
    with producer_on() as both:
        both.producer.append(frame(1))  # what stale pixels would show
        given = frame(7)
        with both.producer.claim() as slot:
            slot.array = given
        given[:] = 8
        with both.producer.claim() as slot:
            slot.array = frame(3).astype(">u2")
            slot.array += 1
        with both.producer.claim() as slot:
            slot.array = frame(9)
        assert [int(each.flat[0]) for each in both.seen()] == [1, 7, 4, 9]


@pytest.mark.parametrize(
    "wrong", [frame(1, (3, 2)), frame(1, (1, 2, 3)), frame(1).astype(float), None, 7, "x"], ids=repr
)
def test_a_frame_that_does_not_fit_is_not_assigned(wrong: Any) -> None:
    with producer_on() as both:
        with pytest.raises(OmewdError) as caught, both.producer.claim() as slot:
            slot.array = wrong
        assert (caught.value.code, "slot.array[:] = frame" in caught.value.remedy) == ("bad_frame", True)
        assert visible(both) == []


def test_a_slot_that_was_published_or_given_back_can_not_be_filled_any_more() -> None:
    with producer_on() as both:
        published, returned = claim(both, 1), claim(both, 2)
        arrays = [published.array, returned.array]
        published.publish()
        returned.give_back()
        for slot, array in zip((published, returned), arrays, strict=True):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 9
            for call in (lambda s=slot: setattr(s, "array", frame(9)), slot.publish, slot.give_back):
                with pytest.raises(OmewdError, match="already published or given back") as caught:
                    call()
                assert caught.value.code == "bad_slot"
        assert visible(both) == expected(1)


def test_published_in_its_block_it_is_not_published_again() -> None:
    with producer_on() as both:
        with both.producer.claim() as slot:
            slot.array[:] = 1
            assert slot.publish() == 0
        with both.producer.claim() as slot:
            slot.give_back()
        with pytest.raises(RuntimeError), both.producer.claim() as slot:
            slot.array[:] = 2
            slot.publish()
            raise RuntimeError
        assert [int(each.flat[0]) for each in both.seen()] == [1, 2]


def test_metadata_that_is_refused_leaves_the_slot_claimed() -> None:
    with producer_on() as both:
        slot = claim(both, 1)
        slot.metadata = {"a": object()}
        with pytest.raises(OmewdError, match="JSON-able"):
            slot.publish()
        slot.metadata = {"n": 1}
        assert slot.publish() == 0
        with pytest.raises(OmewdError, match="JSON-able"), both.producer.claim() as slot:
            slot.metadata = {"a": object()}
        assert both.producer.append(frame(2), metadata={"n": 2}) == 1
        assert visible(both) == expected(1, 2)


def test_the_address_is_that_of_the_pixels_in_the_ring() -> None:
    import ctypes

    with producer_on() as both:
        slot = both.producer.claim()
        pixels = frame(7)
        assert slot.nbytes == pixels.nbytes
        ctypes.memmove(slot.address, pixels.tobytes(), slot.nbytes)
        slot.publish()
        assert both.seen()[0].tolist() == pixels.tolist()


# -- several ---------------------------------------------------------------------------------------


def test_slots_are_published_in_the_order_of_their_claims() -> None:
    with producer_on() as both:
        a, b, c = (claim(both, number) for number in (1, 2, 3))
        assert len({slot.address for slot in (a, b, c)}) == 3
        assert c.publish() is None
        assert b.publish() is None
        assert visible(both) == []
        assert a.publish() == 0
        assert [slot.index for slot in (a, b, c)] == [0, 1, 2]
        assert visible(both) == expected(1, 2, 3)


def test_those_after_one_that_is_given_back_move_down() -> None:
    with producer_on() as both:
        a, b, c = (claim(both, number) for number in (1, 2, 3))
        assert b.publish() is None
        a.give_back()
        assert (a.index, b.index, visible(both)) == (None, 0, expected(2))
        d = claim(both, 4)
        assert c.publish() == 1
        assert d.publish() == 2
        assert both.producer.append(frame(5), metadata={"n": 5}) == 3
        assert visible(both) == expected(2, 3, 4, 5)


def test_the_last_one_s_place_is_claimed_again() -> None:
    with producer_on(2) as both:
        a, b = claim(both, 1), claim(both, 2)
        b.give_back()
        c = claim(both, 3)
        assert c.address == b.address
        a.publish()
        c.publish()
        assert visible(both) == expected(1, 3)


def test_a_queue_that_never_drains_needs_no_more_than_twice_its_slots() -> None:
    """As a camera's program has one: each third buffer is incomplete and given back, and another one claimed."""
    with producer_on(8) as both:
        queue = [(claim(both, number), number) for number in range(4)]
        whole: list[int] = []
        for number in range(4, 60):
            slot, name = queue.pop(0)
            if name % 3 == 2:
                slot.give_back()
            else:
                assert slot.publish() == len(whole)
                whole.append(name)
                assert visible(both) == expected(name, first=len(whole) - 1)
                both.release()
            queue.append((claim(both, number), number))
        assert len(whole) > 30


def test_more_than_the_ring_holds_is_an_error_and_no_wait_without_end() -> None:
    for policy in ("block", "fail"):
        with producer_on(2, backpressure=policy) as both:
            a, b = claim(both, 1), claim(both, 2)
            with pytest.raises(RingFullError, match=r"has 2 slots, and 2 claimed ones leave no room") as caught:
                both.producer.claim()
            assert "ring_slots" in caught.value.remedy
            a.publish()
            b.publish()
            with pytest.raises(RingFullError):
                both.producer.claim(timeout=0)
            both.release()
            claim(both, 3).publish()
            assert visible(both) == expected(3, first=2)


def test_a_claim_waits_for_the_frames_before_it_to_be_written() -> None:
    with producer_on(3) as both:
        a, b = claim(both, 1), claim(both, 2)
        a.publish()
        claim(both, 3)
        both.link.when_waiting = both.release
        d = claim(both, 4)
        both.link.when_waiting = lambda: pytest.fail("waits with room in the ring")
        assert [b.publish(), d.publish()] == [1, None]


def test_what_a_full_ring_drops_keeps_its_turn() -> None:
    with producer_on(2, backpressure="drop") as both:
        a, b, c = (claim(both, number) for number in (1, 2, 3))
        assert [a.dropped, b.dropped, c.dropped] == [False, False, True]
        assert c.publish() is None
        assert both.gaps() == []
        a.publish()
        both.release()
        d = claim(both, 4)
        b.publish()
        d.publish()
        assert both.gaps() == [(2, 1, "dropped")]
        assert (b.index, c.index, d.index) == (1, None, 3)
        assert visible(both) == [(1, 2, b'{"n":2}'), (3, 4, b'{"n":4}')]


def test_nothing_else_goes_in_between() -> None:
    with producer_on() as both:
        slot = claim(both, 1)
        calls: list[Callable[[], object]] = [
            lambda: both.producer.append(frame(9)),
            lambda: both.producer.append(np.stack([frame(9)])),
            both.producer.skip,
        ]
        for call in calls:
            with pytest.raises(OmewdError, match="1 slot is claimed") as caught:
                call()
            assert caught.value.code == "bad_frame"
        slot.publish()
        assert both.producer.append(frame(2)) == 1


def test_claims_count_among_the_frames_declared() -> None:
    with producer_on(frames_total=2) as both:
        a, b = claim(both, 1), claim(both, 2)
        with pytest.raises(StreamStoppedError, match="declared with 2 frames and has 0 and 2 claimed"):
            both.producer.claim()
        b.give_back()
        c = claim(both, 3)
        a.publish()
        assert c.publish() == 1


def test_after_a_crash_nothing_that_was_claimed_is_visible() -> None:
    with producer_on() as both:
        claim(both, 1).publish()
        claim(both, 2)
        claim(both, 3).publish()
        assert visible(both) == expected(1)
        successor = ProducerRing(both.segment)
        assert (successor.published, successor.next_frame) == (1, 1)
        successor.release()


# -- the end ---------------------------------------------------------------------------------------


def test_close_gives_back_what_was_not_published_and_no_other() -> None:
    with producer_on() as both:
        a, b, c = (claim(both, number) for number in (1, 2, 3))
        b.publish()
        both.producer.close()
        assert [slot.index for slot in (a, b, c)] == [None, 0, None]
        assert visible(both) == expected(2)
        a.array.sum()  # still mapped
        for slot in (a, c):
            with pytest.raises(OmewdError, match="already published or given back"):
                slot.publish()
        with pytest.raises(StreamStoppedError, match="is closed"):
            both.producer.claim()


def test_slots_of_a_stream_that_was_stopped_are_not_taken() -> None:
    with producer_on() as both:
        a, b = claim(both, 1), claim(both, 2)
        a.publish()
        both.daemon.stop()
        with pytest.raises(StreamStoppedError, match="this frame was not taken"):
            b.publish()
        assert (a.index, b.index) == (0, None)
        with pytest.raises(StreamStoppedError):
            both.producer.claim()
        assert visible(both) == expected(1)


def test_of_slots_that_come_together_those_before_the_stop_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is stopped after the second of three became visible."""
    with producer_on() as both:
        a, b, c = (claim(both, number) for number in (1, 2, 3))
        b.publish()
        c.publish()

        def stop(name: str) -> None:
            if name == "producer: published" and both.producer.next_index == 2:
                both.daemon.stop()

        monkeypatch.setattr("omewd.producer.handover.point", stop)
        with pytest.raises(StreamStoppedError, match="1 of 3 frames were not taken"):
            a.publish()
        assert [slot.index for slot in (a, b, c)] == [0, 1, None]
        assert visible(both) == expected(1, 2)


def test_slots_of_a_stream_that_failed_say_why() -> None:
    with producer_on() as both:
        slots = [claim(both, number) for number in (1, 2)]
        both.daemon.fail(OmewdError("disk_error", "the disk is gone"))
        for slot in slots:
            with pytest.raises(StreamFailedError, match="the disk is gone"):
                slot.publish()
            assert slot.index is None
        with pytest.raises(StreamFailedError, match="the disk is gone"):
            both.producer.claim()


# -- any order -------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["claim", "claim", "publish", "publish", "give back", "release"]), st.integers(0, 9)),
    max_size=60,
)


@given(steps, st.integers(1, 5))
def test_frames_are_what_was_published_in_the_order_of_claims(history: list[tuple[str, int]], capacity: int) -> None:
    with producer_on(capacity) as both:
        slots: list[tuple[Slot, int]] = []  # those that the caller can still do something with
        order: list[int] = []
        ready: set[int] = set()
        gone: set[int] = set()
        read: list[tuple[int, int, bytes]] = []

        def drain() -> None:
            read.extend(visible(both))
            both.release()

        both.link.when_waiting = drain
        for step, number in history:
            if step == "claim":
                try:
                    slots.append((claim(both, len(order)), len(order)))
                    order.append(len(order))
                except RingFullError:
                    assert slots, "full with nothing claimed"
            elif step == "release":
                drain()
            elif slots:
                slot, name = slots.pop(number % len(slots))
                if step == "publish":
                    slot.publish()
                    ready.add(name)
                else:
                    slot.give_back()
                    gone.add(name)
            kept = [name for name in order if name not in gone]
            waits = next((place for place, name in enumerate(kept) if name not in ready), len(kept))
            assert read + visible(both) == expected(*kept[:waits])
        for slot, name in slots:
            slot.publish()
            ready.add(name)
        assert read + visible(both) == expected(*(name for name in order if name in ready))
