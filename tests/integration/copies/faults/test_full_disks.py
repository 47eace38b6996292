"""Drives that fill because copies lag: cameras go on while there is room, and then by the policy of their stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import omewd
from omewd.copier.verify import verify_copy
from omewd.dataset.verify import verify
from omewd.store.format.shard_table import STAGING
from tests.faults.support import abandon
from tests.support.copies import Lab, differences
from tests.support.daemons import DaemonProcess, daemon
from tests.support.disks import small_disk
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import environment

pytestmark = pytest.mark.root("mounts a small disk")

FRAMES = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


def options(disk: Path) -> tuple[str, ...]:
    return ("--data-root", str(disk), "--memory", "256MiB", "--writers", "1")


@pytest.fixture
def process(tmp_path: Path, lab: Lab, disk: Path) -> Iterator[DaemonProcess]:
    with daemon(tmp_path / "daemon", *options(disk), env=environment(lab.proxy.port)) as process:
        yield process


def start(process: DaemonProcess, lab: Lab, disk: Path, policy: str) -> omewd.StreamSpec:
    spec = make_spec(
        "cam",
        "t:inf:1:2,y:256,x:256",
        dtype="uint8",
        output=str(disk / "cam.ome.zarr"),
        ring_slots=8,
        backend="direct",
        levels=2,
        copy_to=lab.url,
        on_disk_full=policy,
    )
    process.client.start_stream(spec)
    return spec


@contextmanager
def taken(disk: Path, size: int = 4 << 20) -> Iterator[None]:
    """Take so many bytes of the disk for the block, or all that are left."""
    path = disk / f"taken-{size}"
    try:
        with path.open("wb", buffering=0) as file, suppress(OSError):
            while size > 0:
                size -= file.write(bytes(min(size, 4096)))
        yield
    finally:
        path.unlink()


def check(lab: Lab, dataset: Path, frames: int) -> list[str]:
    """The copy is the dataset, and the first frames are in both; returns what is wrong with both."""
    import zarr

    assert differences(dataset, lab.copy) == []
    array = np.asarray(zarr.open_array(str(lab.copy / "0"), mode="r")[:frames])
    assert len(array) == frames
    for index, frame in enumerate(array):
        assert np.array_equal(frame, make_frame(index, frame.shape, "uint8")), index
    problems = verify_copy(lab.url, deep=True).problems
    assert [problem for problem in verify(dataset).problems if problem not in problems] == []
    return problems


def test_row_33_the_disk_fills_because_copies_lag_and_the_camera_waits(
    process: DaemonProcess, lab: Lab, disk: Path
) -> None:
    """Copies go on when the store is back, though the disk is full; the camera goes on when there is room."""
    lab.proxy.faults = lambda *_: "403"
    spec = start(process, lab, disk, "wait")

    def append(timeout_s: float) -> None:
        index = producer.next_index
        producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=timeout_s)

    def problems() -> set[str]:
        return {each["code"] for each in json.loads(process.omewd("health", "--json").stdout)["problems"]}

    with process.connect("cam") as producer:
        with taken(disk, 2_500_000):
            for _ in range(6):
                append(60)
            wait_for(lambda: (process.client.status("cam")["copy"]["error"] or {}).get("code") == "store_refused")
            wait_for(lambda: process.client.stream_status("cam").disk.lasts_s is not None)
            told = " ".join(process.omewd("status", "cam").stdout.split())
            assert "at this rate" in told
            assert f"0 of 6 frames are in {lab.url}; the copy waits, and is tried again" in told
            assert problems() == {"disk_nearly_full", "store_refused"}
            while process.client.stream_status("cam").paused is None:
                with suppress(omewd.RingFullError):
                    append(0.2)
            assert process.client.stream_status("cam").state == "ACTIVE"
            assert problems() == {"disk_full", "store_refused"}
            assert producer.copied == 0
            with taken(disk):
                sealed = producer.durable // 2 * 2
                assert sealed > 6
                lab.proxy.faults = lambda *_: None
                wait_for(lambda: producer.copied == sealed)
            assert process.client.stream_status("cam").paused is not None
        while producer.next_index < FRAMES:
            append(60)
    assert process.client.wait("cam", 60, copied=True)["frames"]["copied"] == FRAMES
    assert check(lab, disk / "cam.ome.zarr", FRAMES) == []


def test_row_33_the_disk_fills_because_copies_lag_and_the_stream_fails(
    process: DaemonProcess, lab: Lab, disk: Path
) -> None:
    """What is on the disk is whole, and copied once the store is back and nothing is in the ring any more."""
    lab.proxy.faults = lambda *_: "cut"
    spec = start(process, lab, disk, "fail")
    with taken(disk, 2_500_000):
        producer = process.connect("cam")
        with pytest.raises(omewd.StreamFailedError, match="disk is full"):
            while True:
                producer.append(make_frame(producer.next_index, spec.frame_shape, spec.dtype))
        with pytest.raises(omewd.StreamFailedError):
            producer.close()
        durable = producer.durable
        assert durable > 6
    lab.proxy.faults = lambda *_: None
    process.client.stop_stream("cam")
    wait_for(lambda: process.client.status("cam")["copy"]["state"] == "complete", 60)
    incomplete, lost = check(lab, disk / "cam.ome.zarr", durable)
    assert "its state is 'failed'" in incomplete
    assert f"ledger: {durable}" in lost


def test_row_33_the_machine_restarts_while_the_disk_is_full(tmp_path: Path, lab: Lab, disk: Path) -> None:
    """The dataset is finalized, and copied, once there is room. Until then, the status of the copy says why not."""
    lab.proxy.faults = lambda *_: "403"
    process = DaemonProcess(tmp_path / "daemon", *options(disk))
    try:
        spec = start(process, lab, disk, "wait")
        producer = process.connect("cam")
        for index in range(6):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        # Sealing a shard gives back room that was taken in advance.
        wait_for(lambda: producer.durable == 6 and not any((disk / "cam.ome.zarr" / STAGING).iterdir()))
        process.restart_the_machine()
        abandon(producer)
        with taken(disk):
            process = DaemonProcess(tmp_path / "daemon", *options(disk))
            wait_for(lambda: "disk_full" in process.omewd("health", "--json").stdout)
            told = " ".join(process.omewd("status").stdout.split())
            assert "the copy waits, and is tried again: its dataset is not finalized yet: the disk is full" in told
        lab.proxy.faults = lambda *_: None
        assert process.client.wait("cam", 60, copied=True)["state"] == "complete"
        assert check(lab, disk / "cam.ome.zarr", 6) == []
        wait_for(lambda: not list((tmp_path / "daemon" / "state" / "streams").iterdir()))
        assert process.stop() == 0, process.log()
    finally:
        process.kill()
