"""Where frames waited, as the status tells it: each delay made on purpose shows in its stage."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from omewd.model.waits import STAGES
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec

DELAY_S = 0.4


def test_a_delay_shows_in_its_stage(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:12:1:4,y:16,x:16", ring_slots=4, backend="tensorstore")
    omewd_daemon.client.start_stream(spec)
    delay_ns = DELAY_S * 1e9
    with omewd_daemon.connect("cam") as producer:
        for index in range(4):
            producer.append(make_frame(index, (16, 16), "uint16"))
        while omewd_daemon.client.status("cam")["frames"]["written"] < 4:
            time.sleep(0.01)
        for index in range(4, 8):
            if index == 7:
                writers = omewd_daemon.writer_pids()
                time.sleep(DELAY_S)  # the first three of the unit wait for the fourth: ring
                for pid in writers:
                    os.kill(pid, signal.SIGSTOP)
            producer.append(make_frame(index, (16, 16), "uint16"))

        def wake() -> None:
            for pid in writers:
                os.kill(pid, signal.SIGCONT)

        timer = threading.Timer(DELAY_S, wake)  # the unit waits for a writer (dispatch), the camera for room
        timer.start()
        for index in range(8, 12):
            producer.append(make_frame(index, (16, 16), "uint16"))
        timer.join()
    waits = omewd_daemon.client.status("cam")["waits"]
    assert list(waits) == [stage for stage in STAGES if stage != "halve"]  # there is one resolution
    for stage in ("producer", "ring", "dispatch"):
        assert delay_ns * 0.8 < waits[stage]["max_ns"] < 10 * delay_ns, stage
    assert waits["producer"]["p50_ns"] == 0
    for stage in ("read", "encode", "write", "fsync", "rename"):
        assert 0 < waits[stage]["p50_ns"] < delay_ns, stage
        assert waits[stage]["p50_ns"] <= waits[stage]["p99_ns"] <= waits[stage]["max_ns"]
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 12)


@pytest.mark.parametrize(("backend", "absent"), [("tensorstore", {"fsync"}), ("direct", {"fsync", "rename"})])
def test_without_durability_there_is_no_fsync_stage(
    omewd_daemon: DaemonProcess, backend: str, absent: set[str]
) -> None:
    spec = make_spec("cam", "t:8:1:2,y:16,x:16", durability="none", backend=backend)
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        for index in range(8):
            producer.append(make_frame(index, (16, 16), "uint16"))
    waits = omewd_daemon.client.status("cam")["waits"]
    assert set(waits) == set(STAGES) - absent - {"halve"}


def test_making_smaller_resolutions_is_a_stage(omewd_daemon: DaemonProcess) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:8:1:2,y:16,x:16", levels=2))
    with omewd_daemon.connect("cam") as producer:
        for index in range(8):
            producer.append(make_frame(index, (16, 16), "uint16"))
    assert omewd_daemon.client.status("cam")["waits"]["halve"]["max_ns"] > 0
