"""What a camera's program hands to a producer: numbers, metadata, frames, blocks and colour."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.errors import OmewdError, RingFullError, StreamFailedError, StreamStoppedError
from omewd.model.dtypes import MAX_FRAMES
from omewd.producer import values
from omewd.ring.layout import FRONTIER, GAP_SKIPPED
from tests.unit.producers import Array, Both, producer_on
from tests.unit.rings import open_ring


def frame(number: int, shape: tuple[int, ...] = (2, 3)) -> Array:
    return np.full(shape, number, np.uint16)


def block(*numbers: int) -> Array:
    return np.stack([frame(number) for number in numbers])


def colour(*numbers: int) -> Array:
    """(Y, X, S): each sample with a number of its own."""
    return np.stack([frame(number) for number in numbers], axis=-1)


def numbers_of(both: Both) -> list[int]:
    """What the visible frames hold; each must be the same all over."""
    frames = both.seen()
    assert all((each == each.flat[0]).all() for each in frames)
    return [int(each.flat[0]) for each in frames]


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [np.uint16(2), np.int64(2), np.uint8(2), 2], ids=lambda n: type(n).__name__)
def test_a_whole_number_of_any_kind_can_be_skipped(count: Any) -> None:
    with producer_on() as both:
        both.producer.skip(count)
        assert both.producer.append(frame(1)) == 2
        assert type(both.producer.next_index) is int
        assert both.gaps() == [(0, 2, "skipped")]


def test_a_numpy_integer_does_not_make_the_frame_counter_wrap() -> None:
    with producer_on(8) as both:
        both.producer.skip(np.uint16(2))  # type: ignore[arg-type]
        for number in range(66_000):
            assert both.producer.append(frame(number % 60_000)) == number + 2
            if number % 8 == 7:
                assert [index for index, _ in both.headers()] == list(range(number - 5, number + 3))
                assert numbers_of(both) == [each % 60_000 for each in range(number - 7, number + 1)]
                both.release()
        assert both.producer.next_index == 66_002


@pytest.mark.parametrize("count", [2.0, True, np.True_, -1, 0, 10**6 + 1, "2", None, np.float32(2), [1], 2**70])
def test_what_can_not_be_skipped_is_refused_and_the_next_call_works(count: Any) -> None:
    with producer_on() as both:
        with pytest.raises(OmewdError, match="whole number of frames from 1") as caught:
            both.producer.skip(count)
        assert caught.value.code == "bad_frame"
        assert "producer.skip(3)" in caught.value.remedy
        assert both.producer.append(frame(5)) == 0
        both.producer.skip(2)
        assert both.producer.append(frame(6)) == 3
        assert numbers_of(both) == [5, 6]


@pytest.mark.parametrize("count", [np.uint16(2), 2.0, True, -1, 0, MAX_FRAMES, "1"])
def test_the_ring_takes_only_plain_numbers_within_bounds(count: Any) -> None:
    with open_ring() as ends:
        ends.publish()
        with pytest.raises((TypeError, ValueError), match="gap"):
            ends.producer.add_gap(count, GAP_SKIPPED)
        with pytest.raises(ValueError, match="kind 9"):
            ends.producer.add_gap(1, 9)
        assert (ends.producer.next_frame, ends.segment.words[FRONTIER]) == (1, 1)
        assert ends.publish() == 1


def test_the_ring_takes_no_frame_past_the_last_index_and_no_metadata_past_its_slot() -> None:
    with open_ring() as ends:
        ends.producer.add_gap(MAX_FRAMES - 1, GAP_SKIPPED)
        too_long = b"1" * (ends.producer.geometry.metadata_max_bytes + 1)
        with pytest.raises(ValueError, match="fit into a slot"):
            ends.producer.publish(0, 0, too_long)
        assert ends.producer.publish(0, 0, b"") == MAX_FRAMES - 1
        with pytest.raises(ValueError, match="over the limit"):
            ends.producer.publish(0, 0, [b"", b""])
        assert ends.producer.published == 1


@pytest.mark.parametrize("timeout", ["5", True, float("nan"), [1], 1j])
def test_a_timeout_is_a_number(timeout: Any) -> None:
    with producer_on() as both:
        for call in (
            lambda: both.producer.append(frame(1), timeout=timeout),
            lambda: both.producer.append(block(1, 2), timeout=timeout),
            lambda: both.producer.claim(timeout=timeout),
            lambda: both.producer.close(timeout=timeout),
        ):
            with pytest.raises(OmewdError, match="number of seconds") as caught:
                call()
            assert caught.value.code == "bad_timeout"
        assert both.producer.append(frame(1), timeout=np.float32(1)) == 0  # type: ignore[arg-type]
        assert both.producer.next_index == 1


def test_a_timeout_without_end_and_one_below_zero() -> None:
    assert values.timeout_seconds(float("inf")) is None
    assert values.timeout_seconds(-1) == 0.0
    with producer_on(1) as both:
        both.producer.append(frame(1))
        with pytest.raises(RingFullError, match="stayed full for 0 s"):
            both.producer.append(frame(2), timeout=-1)


def test_a_source_is_a_name_or_a_number() -> None:
    assert values.source_of(np.int64(1)) == 1
    assert type(values.source_of(np.uint8(1))) is int
    for wrong in (1.0, True, [1]):
        with pytest.raises(OmewdError) as caught:
            omewd.connect("cam", source=wrong)  # type: ignore[arg-type]
        assert caught.value.code == "unknown_source"


def test_more_skipped_than_declared_says_what_does_not_fit() -> None:
    with producer_on(frames_total=4) as both:
        with pytest.raises(StreamStoppedError, match="declared with 4 frames and has 0: 100 more do not fit"):
            both.producer.skip(100)
        both.producer.append(block(1, 2, 3))
        with pytest.raises(StreamStoppedError, match="has 3: 2 more do not fit"):
            both.producer.append(block(4, 5))
        assert numbers_of(both) == [1, 2, 3]


# -- metadata --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [[1, 2], [], 0, "text", {1, 2}, np.arange(3), (("a", 1),)])
def test_a_frame_s_metadata_is_a_mapping(metadata: Any) -> None:
    with producer_on() as both:
        with pytest.raises(OmewdError, match="is a mapping, not a") as caught:
            both.producer.append(frame(1), metadata=metadata)
        assert (caught.value.code, "metadata={" in caught.value.remedy) == ("bad_metadata", True)
        slot = both.producer.claim()
        with pytest.raises(OmewdError, match="is a mapping, not a"):
            slot.metadata = metadata
        slot.give_back()
        assert both.seen() == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"delta_t": "1"},
        {"delta_t": True},
        {"delta_t": float("nan")},
        {"exposure_time": np.float32("inf")},
        {"position_x": np.complex64(1)},
        {"position_y": 10**400},
        {"a": np.float64("nan")},
        {"a": {1: Fraction(1, 2)}},
        {(1, 2): 3},
        {"a": 10**5000},
        {"a": b"bytes"},
    ],
)
def test_metadata_that_is_no_json_or_no_number_is_refused_with_a_remedy(metadata: Any) -> None:
    with producer_on() as both:
        with pytest.raises(OmewdError) as caught:
            both.producer.append(frame(1), metadata=metadata)
        assert caught.value.code == "bad_metadata"
        assert caught.value.remedy
        assert both.producer.append(frame(1), metadata={}) == 0
        assert both.headers() == [(0, b"")]


def test_numpy_s_numbers_and_mappings_that_are_no_dict_are_metadata() -> None:
    from types import MappingProxyType

    with producer_on() as both:
        both.producer.append(frame(1), metadata=MappingProxyType({"delta_t": np.float32(0.5), "n": np.arange(2)}))
        assert both.headers() == [(0, b'{"delta_t":0.5,"n":[0,1]}')]


# -- frames and blocks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        frame(1, (3, 2)),
        frame(1, (2, 2, 3, 1)),
        frame(1).astype(np.int16),
        block(1, 2).astype(float),
        np.empty((0, 3, 2), np.uint16),
        [[1], [1, 2]],
        "text",
        None,
        [],
    ],
    ids=repr,
)
def test_frames_that_do_not_fit(wrong: Any) -> None:
    with producer_on() as both:
        with pytest.raises(OmewdError) as caught:
            both.producer.append(wrong)
        assert caught.value.code == "bad_frame"
        assert caught.value.remedy
        assert both.producer.next_index == 0


def test_a_block_is_so_many_frames_in_one_call() -> None:
    with producer_on(8) as both:
        assert both.producer.append(frame(9)) == 0
        assert both.producer.append(block(*range(5))) == [1, 2, 3, 4, 5]
        assert both.producer.append(block(7)) == [6]
        assert both.producer.append(np.empty((0, 2, 3), np.uint16)) == []
        assert numbers_of(both) == [9, 0, 1, 2, 3, 4, 7]
        both.release()
        assert both.producer.append(np.asarray(list(block(10, 11)))) == [7, 8]  # over the end of the ring
        assert both.producer.append(block(12, 13).astype(">u2")) == [9, 10]
        assert numbers_of(both) == [10, 11, 12, 13]


def test_a_block_rings_the_doorbell_once() -> None:
    with producer_on(64) as both:
        both.producer.append(block(*range(50)))
        assert both.link.rings == 1
        assert numbers_of(both) == list(range(50))


def test_the_metadata_of_a_block_is_one_for_all_or_one_for_each() -> None:
    with producer_on(8) as both:
        both.producer.append(block(1, 2), metadata={"a": 1})
        both.producer.append(block(3, 4, 5), metadata=[{"a": 2}, None, {"a": 3}])
        texts = [b'{"a":1}', b'{"a":1}', b'{"a":2}', b"", b'{"a":3}']
        assert both.headers() == list(enumerate(texts))
        wrong: list[Any] = [[{"a": 1}], [{}, {}, {}], "ab", 3, iter([{}, {}]), [{}, 1], [{}, {"a": object()}]]
        for each in wrong:
            with pytest.raises(OmewdError) as caught:
                both.producer.append(block(6, 7), metadata=each)
            assert (caught.value.code, bool(caught.value.remedy)) == ("bad_metadata", True)
        assert both.producer.next_index == 5, "all metadata is checked before anything is published"


def test_a_block_larger_than_the_ring_goes_through_it() -> None:
    with producer_on(4) as both:
        got: list[int] = []

        def drain() -> None:
            got.extend(numbers_of(both))
            both.release()

        both.link.when_waiting = drain
        assert both.producer.append(block(*range(30))) == list(range(30))
        drain()
        assert got == list(range(30))


def test_a_block_that_a_full_ring_cuts_short() -> None:
    with producer_on(4, backpressure="drop") as both:
        assert both.producer.append(block(*range(6))) == [0, 1, 2, 3, None, None]
        assert both.gaps() == [(4, 2, "dropped")]
    with producer_on(4) as both:
        with pytest.raises(RingFullError, match=r"4 of the block's 6 frames were taken"):
            both.producer.append(block(*range(6)), timeout=0)
        assert both.producer.next_index == 4
    with producer_on(4, backpressure="fail") as both:
        with pytest.raises(RingFullError, match="6 frames came at once"):
            both.producer.append(block(*range(6)))
        assert both.producer.append(block(*range(3))) == [0, 1, 2]
        with pytest.raises(RingFullError, match="1 of them are free, but 2 frames"):
            both.producer.append(block(3, 4))
        assert numbers_of(both) == [0, 1, 2]


def test_a_block_in_a_stream_that_is_stopped_meanwhile() -> None:
    with producer_on(4) as both:
        both.link.when_waiting = lambda: both.daemon.stop()
        with pytest.raises(StreamStoppedError, match=r"4 of the block's 6 frames were taken"):
            both.producer.append(block(*range(6)))
        assert numbers_of(both) == [0, 1, 2, 3]


# -- colour ----------------------------------------------------------------------------------------


def test_a_colour_frame_is_its_planes_one_after_the_other() -> None:
    with producer_on(12, samples=3) as both:
        assert both.producer.append(colour(1, 2, 3), metadata={"a": 1}) == 0
        assert both.producer.append(colour(4, 5, 6)) == 3
        assert both.producer.append(np.stack([colour(7, 8, 9), colour(10, 11, 12)])) == [6, 9]
        assert numbers_of(both) == list(range(1, 13))
        assert [text for _, text in both.headers()] == [b'{"a":1}'] * 3 + [b""] * 9


def test_planes_of_a_stream_of_colour_go_in_one_by_one_or_as_a_block() -> None:
    with producer_on(12, samples=3) as both:
        assert both.producer.append(frame(1)) == 0
        assert both.producer.append(block(2, 3)) == [1, 2]
        with pytest.raises(OmewdError, match=r"of \(2, 3, 3\) in colour"):
            both.producer.append(frame(1, (2, 3, 4)))
        assert numbers_of(both) == [1, 2, 3]


def test_a_shape_that_can_be_both_is_colour_in_a_stream_of_colour_only() -> None:
    cube = np.arange(27, dtype=np.uint16).reshape(3, 3, 3)
    with producer_on(6, samples=3, frame_shape=(3, 3)) as both:
        assert both.producer.append(cube) == 0
        assert [each.tolist() for each in both.seen()] == [cube[..., s].tolist() for s in range(3)]
    with producer_on(6, frame_shape=(3, 3)) as both:
        assert both.producer.append(cube) == [0, 1, 2]
        assert [each.tolist() for each in both.seen()] == cube.tolist()


def test_a_colour_frame_is_dropped_as_a_whole_or_not_at_all() -> None:
    with producer_on(5, samples=3, backpressure="drop") as both:
        assert both.producer.append(np.stack([colour(1, 2, 3), colour(4, 5, 6)])) == [0, None]
        assert both.producer.append(colour(7, 8, 9)) is None
        assert both.gaps() == [(3, 6, "dropped")]
        both.release()
        assert both.producer.append(colour(10, 11, 12)) == 9
        assert numbers_of(both) == [10, 11, 12]
    with producer_on(5, samples=3, frames_total=5) as both:
        both.producer.append(colour(1, 2, 3))
        with pytest.raises(StreamStoppedError, match="has 3: 3 more do not fit"):
            both.producer.append(colour(4, 5, 6))
        assert numbers_of(both) == [1, 2, 3]


def test_a_ring_that_never_holds_a_colour_frame_is_said_at_once() -> None:
    with producer_on(2, samples=3) as both, pytest.raises(RingFullError, match="has 2 slots"):
        both.producer.append(colour(1, 2, 3))


# -- the end ---------------------------------------------------------------------------------------


def test_close_called_again_returns_what_it_did_first() -> None:
    with producer_on() as both:
        both.producer.append(frame(1))
        first = both.producer.close()
        assert first["state"] == "DONE"
        first["state"] = "changed by the caller"
        assert both.producer.close()["state"] == "DONE"
        assert both.link.requests == ["finish", "wait"]


def test_close_called_again_raises_what_it_did_first() -> None:
    with producer_on() as both:

        def fail(*_args: Any, **_fields: Any) -> dict[str, Any]:
            raise StreamFailedError.of(OmewdError("disk_error", "the disk is gone"), None)

        both.link.request = fail  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(StreamFailedError, match="the disk is gone"):
                both.producer.close()
