"""What a full ring does to the producer. The writers are stopped, so that the ring surely fills."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import omewd
from omewd.errors import RingFullError
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec


@contextmanager
def stopped_writers(daemon: DaemonProcess) -> Iterator[None]:
    pids = daemon.writer_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        resume(pids)


def resume(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_block_waits_for_room(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:30,y:16,x:16", ring_slots=8)
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        with stopped_writers(omewd_daemon):
            for index in range(8):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            with pytest.raises(RingFullError):
                producer.append(make_frame(8, spec.frame_shape, spec.dtype), timeout=0.2)
            status = omewd_daemon.client.status("cam")
            assert status["ring"]["used"] == 8
            assert status["frames"]["in_flight"] == 8
            timer = threading.Timer(0.3, resume, [omewd_daemon.writer_pids()])
            timer.start()
            started = time.monotonic()
            producer.append(make_frame(8, spec.frame_shape, spec.dtype))
            assert time.monotonic() - started >= 0.25
            timer.join()
        for index in range(9, 30):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 30)


def test_drop_leaves_gaps_on_record(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:30:1:3,y:16,x:16", ring_slots=6, backpressure="drop")
    omewd_daemon.client.start_stream(spec)
    dropped = set()
    with omewd_daemon.connect("cam") as producer:
        with stopped_writers(omewd_daemon):
            for index in range(12):
                taken = producer.append(make_frame(index, spec.frame_shape, spec.dtype))
                assert taken in (index, None)
                if taken is None:
                    dropped.add(index)
            with producer.claim() as slot:
                slot.array[:] = 1
            assert slot.dropped
            assert slot.index is None
            dropped.add(12)
        assert dropped == set(range(6, 13))
        while omewd_daemon.client.status("cam")["ring"]["used"] > 0:
            time.sleep(0.01)
        for index in range(13, 30):
            while producer.append(make_frame(index, spec.frame_shape, spec.dtype)) is None:
                pytest.fail("dropped with room in the ring")
            time.sleep(0.02)
    final = omewd_daemon.client.wait("cam")
    assert final["frames"]["dropped"] == len(dropped)
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 30, dropped)
    ledger = (omewd_daemon.data / "cam.ome.zarr" / "omewd" / "ledger.jsonl").read_text()
    assert '"gap":"dropped"' in ledger
    assert '"gap":"skipped"' not in ledger


def test_fail_raises_and_takes_nothing(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:10,y:16,x:16", ring_slots=4, backpressure="fail")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        with stopped_writers(omewd_daemon):
            for index in range(4):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            with pytest.raises(RingFullError, match="4 frames wait"):
                producer.append(make_frame(4, spec.frame_shape, spec.dtype))
            assert producer.next_index == 4
        for index in range(4, 10):
            while True:
                try:
                    producer.append(make_frame(index, spec.frame_shape, spec.dtype))
                    break
                except omewd.OmewdError:
                    time.sleep(0.01)
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 10)
