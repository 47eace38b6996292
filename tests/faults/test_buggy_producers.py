"""Row 32: a camera's program that damages its own ring. Its stream fails and says why; the one beside it is perfect."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

import pytest

import omewd
from omewd.producer.producer import Producer
from omewd.ring import layout
from omewd.ring.layout import FRAME_INDEX, FRONTIER, GAP_KINDS, GAP_TABLE, METADATA_BYTES, PUBLISHED, SLOT_HEADERS
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec

Damage = Callable[[Producer], object]


def header_of(producer: Producer, sequence: int) -> int:
    geometry = producer._geometry
    return (SLOT_HEADERS + sequence % geometry.capacity * geometry.slot_header_stride) // 8


def store(producer: Producer, word: int, value: int) -> None:
    producer._segment.words[word] = value


def ring(producer: Producer) -> None:
    producer._link.ring()


def last_index_is(index: int) -> Damage:
    def damage(producer: Producer) -> None:
        published = producer._ring.published
        store(producer, header_of(producer, published) + FRAME_INDEX, index)
        store(producer, PUBLISHED, published + 1)

    return damage


def gap_kinds_go_back(producer: Producer) -> None:
    for number, first in enumerate((3000, 2000)):
        store(producer, GAP_TABLE + number * 2, first)
    store(producer, GAP_KINDS, 2)


def cut_and_made_longer(producer: Producer) -> None:
    os.ftruncate(producer._segment.fd, 0)
    os.ftruncate(producer._segment.fd, producer._geometry.total_bytes)


FATAL: dict[str, Damage] = {
    "index 2**64-1": last_index_is(2**64 - 1),
    "index 2**62": last_index_is(2**62),
    "index goes back": last_index_is(1),
    "frontier 2**64-1": lambda producer: store(producer, FRONTIER, 2**64 - 1),
    "frontier jumps by 2**39": lambda producer: store(producer, FRONTIER, 2**39),
    "published jumps": lambda producer: store(producer, PUBLISHED, 2**40),
    "published goes back": lambda producer: store(producer, PUBLISHED, 0),
    "gap kinds jump": lambda producer: store(producer, GAP_KINDS, 2**50),
    "gap kinds go back": gap_kinds_go_back,
    "cut to nothing": lambda producer: os.ftruncate(producer._segment.fd, 0),
    "cut to its header": lambda producer: os.ftruncate(producer._segment.fd, 8192),
    "cut, and made longer again": cut_and_made_longer,
}


@contextlib.contextmanager
def good_stream(daemon: DaemonProcess) -> Iterator[None]:
    """A stream of one camera that must not notice anything."""
    spec = make_spec("good", "t:60:1:5,y:16,x:16")
    daemon.client.start_stream(spec)
    with daemon.connect("good") as producer:
        for index in range(30):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        yield
        for index in range(30, 60):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(daemon.data / "good.ome.zarr", spec, 60)


@pytest.mark.parametrize("damage", FATAL.values(), ids=FATAL)
def test_row_32_a_damaged_ring_harms_its_own_stream_only(omewd_daemon: DaemonProcess, damage: Damage) -> None:
    pid = omewd_daemon.client.status()["pid"]
    with good_stream(omewd_daemon):
        spec = make_spec("bad", "t:inf:1:4,y:64,x:64", ring_slots=16)
        omewd_daemon.client.start_stream(spec)
        producer = omewd_daemon.connect("bad")
        for index in range(10):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        damage(producer)
        ring(producer)
        with pytest.raises(omewd.StreamFailedError):
            omewd_daemon.client.wait("bad", timeout=60)
        status = omewd_daemon.client.status("bad")
        assert status["error"]["code"] == "bad_ring"
        frames = status["frames"]
        assert frames["received"] == frames["written"] + frames["gaps"] + frames["lost"] + frames["in_flight"]
        producer._link.close()
    omewd_daemon.writer_pids()  # one that was just reading a ring that is cut short dies, and is replaced
    assert omewd_daemon.client.status()["pid"] == pid


def test_row_32_absurd_metadata_and_time_stamps_are_no_reason_to_stop(omewd_daemon: DaemonProcess) -> None:
    """What can't do harm is written as it is, within the bounds of its slot."""
    with good_stream(omewd_daemon):
        spec = make_spec("odd", "t:20:1:5,y:16,x:16")
        omewd_daemon.client.start_stream(spec)
        producer = omewd_daemon.connect("odd")
        for index in range(20):
            header = header_of(producer, index)
            with producer.claim() as slot:
                slot.array[:] = make_frame(index, spec.frame_shape, spec.dtype)
            for word in range(1, 5):  # too late for the one that is written just now, and in time for some
                store(producer, header + word, 2**64 - 1 - index)
            store(producer, header + METADATA_BYTES, 2**63)
        producer.close()
    check_dataset(omewd_daemon.data / "odd.ome.zarr", spec, 20)


def test_row_32_doorbells_made_to_block_and_filled(omewd_daemon: DaemonProcess) -> None:
    with good_stream(omewd_daemon):
        spec = make_spec("noisy", "t:40:1:5,y:16,x:16", ring_slots=5)
        omewd_daemon.client.start_stream(spec)
        producer = omewd_daemon.connect("noisy")
        bell = producer._link._bell
        flags = fcntl.fcntl(bell, fcntl.F_GETFL)
        fcntl.fcntl(bell, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        bell.settimeout(0.05)
        for index in range(40):
            with contextlib.suppress(TimeoutError):
                bell.send(b"!" * 100_000)
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            started = time.monotonic()
            omewd_daemon.client.status("noisy")
            assert time.monotonic() - started < 10
        producer.close()
    check_dataset(omewd_daemon.data / "noisy.ome.zarr", spec, 40)


def test_row_32_a_long_gap_is_on_record_at_once(omewd_daemon: DaemonProcess) -> None:
    """A camera that numbers its frames by a clock: 40 million indexes without a frame are one line of the ledger."""
    with good_stream(omewd_daemon):
        spec = make_spec("gappy", "t:inf:1:4,y:16,x:16", ring_slots=16)
        omewd_daemon.client.start_stream(spec)
        producer = omewd_daemon.connect("gappy")
        producer.append(make_frame(0, spec.frame_shape, spec.dtype))
        for _ in range(40):
            producer.skip(1_000_000)
        assert producer.append(make_frame(1, spec.frame_shape, spec.dtype)) == 40_000_001
        status = producer.close(timeout=60)
    assert status["frames"]["gaps"] == 40_000_000
    assert status["frames"]["written"] == 2
    assert (omewd_daemon.data / "gappy.ome.zarr/omewd/ledger.jsonl").stat().st_size < layout.GAP_TABLE_ENTRIES * 100
