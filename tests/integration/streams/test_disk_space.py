"""Streams that do not fit on their disk: refused, or opened with a warning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import omewd
from tests.support.daemons import DaemonProcess, daemon
from tests.support.disks import small_disk
from tests.support.frames import make_frame
from tests.support.processes import wait_for

pytestmark = pytest.mark.root("mounts a small disk")

OPTIONS = ("--writers", "1", "--memory", "256MiB")


@pytest.fixture(name="process")
def _process(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon whose first data root is not the small disk."""
    with small_disk(tmp_path / "disk", "4m") as disk, daemon(tmp_path, "--data-root", str(disk), *OPTIONS) as process:
        yield process


def start(process: DaemonProcess, name: str, dims: str, **fields: object) -> omewd.StreamStatus:
    output = str(process.folder / "disk" / f"{name}.ome.zarr")
    process.client.start_stream({"name": name, "output": output, "dims": dims, "dtype": "uint8", **fields})
    return process.client.stream_status(name)


def test_what_can_not_fit_is_refused_and_leaves_nothing(process: DaemonProcess) -> None:
    with pytest.raises(omewd.OmewdError, match=r"takes 6\.55 MB on disk, but 4\.\d\d MB are free") as refusal:
        start(process, "cam", "t:100,y:256,x:256")
    assert refusal.value.code == "no_disk_space"
    assert list((process.folder / "disk").iterdir()) == []
    wait_for(lambda: not process.shared_memory())
    options = ["start-stream", "cam", "--dims", "t:100,y:256,x:256", "--dtype", "uint8", "--output"]
    refused = process.omewd(*options, str(process.folder / "disk/cam.ome.zarr"))
    assert refused.returncode == 1
    assert "--on-disk-full wait" in refused.stderr
    opened = process.omewd(*options, str(process.folder / "disk/cam.ome.zarr"), "--on-disk-full", "wait")
    assert opened.returncode == 0, opened.stderr
    assert "takes   up to 6.55 MB; 4." in opened.stdout
    assert opened.stderr.startswith("omewd: warning: the acquisition takes 6.55 MB")
    assert opened.stderr.count("\n") == 1
    assert "the rest takes 6.55 MB" in process.omewd("status", "cam").stdout
    [problem] = json.loads(process.omewd("health", "--json").stdout)["problems"]
    assert (problem["stream"], problem["code"]) == ("cam", "disk_nearly_full")


def test_what_others_are_still_to_write_counts_and_falls(process: DaemonProcess) -> None:
    first = start(process, "first", "t:32,y:256,x:256")
    assert (first.disk.needs_bytes, first.disk.warning) == (32 * 65536, None)
    with pytest.raises(omewd.OmewdError, match=r"other open streams are still to write 2\.10 MB there"):
        start(process, "second", "t:32,y:256,x:256")
    assert start(process, "elsewhere", "t:inf,y:256,x:256").disk.needs_bytes is None
    process.client.stop_stream("elsewhere")
    with process.connect("first") as producer:
        for index in range(4):
            producer.append(make_frame(index, (256, 256), "uint8"))
    process.client.wait("first", timeout=60)
    second = start(process, "second", "t:32,y:256,x:256")
    assert (second.disk.needs_bytes, second.disk.warning) == (32 * 65536, None)
    process.client.stop_stream("second")


def test_what_compression_may_make_fit_is_warned_of(process: DaemonProcess) -> None:
    status = start(process, "cam", "t:100,y:256,x:256", compression="zstd")
    assert status.disk.warning is not None
    assert "takes up to 6.55 MB, before compression, on disk" in status.disk.warning.message
    process.client.stop_stream("cam")
