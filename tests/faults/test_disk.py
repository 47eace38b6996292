"""Errors of the disk, made by strace at a system call and by a loop device that runs out. Rows 19 to 21."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import omewd
from omewd.model.spec import StreamSpec
from tests.support import DaemonProcess, check_dataset, daemon, make_frame, make_spec

OPTIONS = ("--writers", "2", "--memory", "512MiB")
DIMS = "t:24:1:4,y:16:8:2,x:16:8:2"

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def traced(*options: str) -> tuple[str, ...]:
    """Run the daemon under strace; -D makes the daemon our child, not the tracer."""
    return ("strace", "-D", "-f", "-qq", "-o", "/dev/null", *options)


def record(process: DaemonProcess, spec: StreamSpec, frames: int = 24) -> None:
    process.client.start_stream(spec)
    with process.connect("cam") as producer:
        for index in range(frames):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))


@needs_strace
@pytest.mark.parametrize(
    ("calls", "passing"),
    [("fdatasync", n) for n in (5, 6, 7)] + [("fsync", n) for n in (12, 13, 15)] + [("rename", n) for n in (8, 9)],
)
def test_rows_19_and_20_an_error_that_passes_costs_nothing(tmp_path: Path, calls: str, passing: int) -> None:
    """Once in each writer: the unit is written again from the ring, and never counted before."""
    prefix = traced("-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO:when={passing}")
    spec = make_spec("cam", DIMS)
    with daemon(tmp_path, *OPTIONS, prefix=prefix) as process:
        record(process, spec)
        assert process.client.status("cam")["state"] == "DONE"
        check_dataset(process.data / "cam.ome.zarr", spec, 24)


@needs_strace
@pytest.mark.parametrize("call", ["write", "openat"])
def test_row_20_an_error_of_one_file_is_tried_again(tmp_path: Path, call: str) -> None:
    staged = tmp_path / "data/cam.ome.zarr/omewd/staging/unit2/0/0"
    prefix = traced("-P", str(staged), "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when=1")
    spec = make_spec("cam", DIMS)
    with daemon(tmp_path, *OPTIONS, prefix=prefix) as process:
        record(process, spec)
        assert process.client.status("cam")["retries"] >= 1
        assert "Input/output error" in process.log()
        check_dataset(process.data / "cam.ome.zarr", spec, 24)


@needs_strace
@pytest.mark.parametrize("call", ["write", "openat"])
def test_row_20_an_error_that_stays_fails_the_stream_and_harms_nothing_else(tmp_path: Path, call: str) -> None:
    staged = tmp_path / "data/cam.ome.zarr/omewd/staging/unit2/0/0"
    prefix = traced("-P", str(staged), "-e", f"trace={call}", "-e", f"inject={call}:error=EIO")
    spec, other = make_spec("cam", DIMS), make_spec("other", DIMS)
    with daemon(tmp_path, *OPTIONS, prefix=prefix) as process:
        process.client.start_stream(other)
        beside = process.connect("other")
        process.client.start_stream(spec)
        producer = process.connect("cam")
        with pytest.raises(omewd.OmewdError, match="frames are missing"):
            for index in range(24):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            producer.close()
        with contextlib.suppress(omewd.OmewdError):
            producer.close()
        with beside:
            for index in range(24):
                beside.append(make_frame(index, other.frame_shape, other.dtype))
        status = process.client.status("cam")
        assert (status["state"], status["error"]["code"]) == ("FAILED", "disk_error")
        assert any(first <= 8 < first + count for first, count in status["lost"])
        assert status["frames"]["received"] == status["frames"]["written"] + status["frames"]["lost"]
        check_dataset(process.data / "other.ome.zarr", other, 24)


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
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a loop device takes root and mkfs.ext4")
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


def test_row_19_a_disk_that_can_not_keep_what_it_took(tmp_path: Path, failing_disk: Path) -> None:
    """Never counted as durable; the stream fails with the reason, and what is durable reads back."""
    options = ("--data-root", str(failing_disk), "--writers", "1", "--memory", "512MiB")
    with daemon(tmp_path / "d", *options) as process:
        output = str(failing_disk / "cam.ome.zarr")
        spec = make_spec("cam", "t:60:1:2,y:512:256,x:512:256", output=output, on_disk_full="fail")
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
