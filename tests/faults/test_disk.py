"""Errors of the disk, made by strace at a system call and by a loop device that runs out. Rows 19 to 21."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import omewd
from omewd.model.spec.spec import StreamSpec
from tests.faults.support import OPTIONS, contents, needs_strace, traced
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

# Units of 2 MiB: each is a job of its own, written by the writer's own thread.
DIMS = "t:48:1:4,y:512:256:2,x:512:256:2"


def record(process: DaemonProcess, spec: StreamSpec, frames: int = 48) -> None:
    process.client.start_stream(spec)
    with process.connect("cam") as producer:
        for index in range(frames):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))


@needs_strace
@pytest.mark.parametrize(("call", "passing"), [("fdatasync", 6), ("fdatasync", 7), ("rename", 6), ("rename", 7)])
def test_rows_19_and_20_an_error_that_passes_costs_nothing(tmp_path: Path, call: str, passing: int) -> None:
    """Once in each thread: the unit is written again from the ring, and never counted before."""
    prefix = traced("-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={passing}")
    spec = make_spec("cam", DIMS, backend="tensorstore")
    with daemon(tmp_path, *OPTIONS, prefix=prefix) as process:
        record(process, spec)
        status = process.client.status("cam")
        assert status["state"] == "DONE"
        assert status["retries"] >= 1
        check_dataset(process.data / "cam.ome.zarr", spec, 48)


@needs_strace
@pytest.mark.parametrize("passing", [7, 8, 9], ids=["chunks", "table", "ledger"])
@pytest.mark.parametrize("compression", [None, "blosc-lz4"])
def test_row_19_an_error_of_a_shard_in_progress_costs_nothing(
    tmp_path: Path, passing: int, compression: str | None
) -> None:
    """The thread that syncs has done four for the metadata and two for the first job; here the second job's fail."""
    prefix = traced("-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={passing}")
    spec = make_spec("cam", "t:48:1:48,y:128:64:2,x:128:64:2", ring_slots=8, compression=compression)
    with daemon(tmp_path, "--writers", "1", "--memory", "512MiB", prefix=prefix) as process:
        record(process, spec)
        assert process.client.status("cam")["retries"] == 1
        assert "Input/output error" in process.log()
        check_dataset(process.data / "cam.ome.zarr", spec, 48)


@needs_strace
def test_row_19_what_was_never_synced_is_never_durable(tmp_path: Path) -> None:
    """From the sixth fdatasync of a writer on, all fail: the frames until then are durable, and no more."""
    prefix = traced("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=6+")
    spec = make_spec("cam", "t:100:1:2,y:16,x:16")
    with daemon(tmp_path, *OPTIONS, prefix=prefix) as process:
        process.client.start_stream(spec)
        producer = process.connect("cam")
        with pytest.raises(omewd.OmewdError, match="Input/output error"):
            for index in range(100):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            producer.close()
        frames = process.client.status("cam")["frames"]
        assert producer.durable == frames["durable"]
        assert frames["durable"] <= frames["written"]
        assert frames["received"] == frames["written"] + frames["lost"]
        with contextlib.suppress(omewd.OmewdError):  # once it has been closed this does nothing
            producer.close()


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[Path]:
    """ext4 of 24 MiB on a loop device, over a sparse file in a tmpfs of 6 MiB: the filesystem thinks it has room."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    small, disk = tmp_path / "small", tmp_path / "disk"
    small.mkdir()
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small], check=True)
    try:
        with (small / "image").open("wb") as image:
            image.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", small / "image"], check=True)
        mounted = subprocess.run(["mount", "-o", "loop", small / "image", disk], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no loop device here: {mounted.stderr.decode().strip()}")
        try:
            yield disk
        finally:
            subprocess.run(["umount", disk], check=True)
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.root("mounts a disk of its own")
def test_row_19_a_disk_that_can_not_keep_what_it_took(tmp_path: Path, failing_disk: Path) -> None:
    """Never counted as durable; the stream fails with the reason, and what is durable reads back."""
    options = ("--data-root", str(failing_disk), "--writers", "1", "--memory", "512MiB")
    with daemon(tmp_path / "d", *options) as process:
        output = str(failing_disk / "cam.ome.zarr")
        spec = make_spec("cam", "t:inf:1:2,y:512:256,x:512:256", output=output, on_disk_full="fail")
        process.client.start_stream(spec)
        producer = process.connect("cam")
        with pytest.raises(omewd.OmewdError, match="frames are missing"):
            for index in range(60):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            producer.close()
        frames = process.client.status("cam")["frames"]
        assert 0 < frames["written"] < 60
        assert frames["durable"] <= frames["written"]
        with contextlib.suppress(omewd.OmewdError):  # once it has been closed this does nothing
            producer.close()


@needs_strace
def test_rows_19_and_20_a_dataset_whose_name_can_not_be_synced_is_taken_back(tmp_path: Path) -> None:
    """It is in its place already, and the one that it replaces is aside."""
    spec = make_spec("cam", "t:8:1:4,y:16,x:16", overwrite=True)
    with daemon(tmp_path, *OPTIONS) as first:
        record(first, spec, 8)
        before = contents(first.data)
    prefix = traced("-P", str(first.data), "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1")
    with daemon(tmp_path, "--writers", "1", "--memory", "512MiB", prefix=prefix) as process:
        with pytest.raises(omewd.OmewdError, match="Input/output error"):
            process.client.start_stream(spec)
        wait_for(lambda: contents(process.data) == before)
        wait_for(lambda: not list((tmp_path / "state/streams").iterdir()))
