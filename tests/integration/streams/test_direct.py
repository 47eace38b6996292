"""The direct backend behind a real daemon: shards longer than the ring, its fallback, what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import omewd
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.places import REPOSITORY
from tests.support.processes import wait_for

# Writers look at the disk, and find it on another machine.
_ON_NFS = """
import omewd.store.filesystem
omewd.store.filesystem.network_filesystem = lambda folder, mounts=None: "nfs4"
"""


@pytest.mark.parametrize("compression", [None, "blosc-zstd"])
@pytest.mark.parametrize("frames", [1000, 800], ids=["ragged", "whole"])
def test_shards_of_any_length_go_through_a_small_ring(
    omewd_daemon: DaemonProcess, frames: int, compression: str | None
) -> None:
    spec = make_spec("cam", "t:inf:1:400,y:16:8:2,x:24:8:3", ring_slots=64, compression=compression)
    assert omewd_daemon.client.start_stream(spec)["ring"]["slots"] == 64
    dataset = omewd_daemon.data / "cam.ome.zarr"
    with omewd_daemon.connect("cam") as producer:
        for index in range(frames):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            if index == 470:  # a shard that is complete is in place while the next one is written
                wait_for((dataset / "0/c/0/0/0").exists)
    check_dataset(dataset, spec, frames)
    status = omewd_daemon.client.status("cam")
    assert status["backend"] == "direct"
    assert status["disk"]["io"] in ("O_DIRECT", "page cache")
    assert status["disk"]["io"] in omewd_daemon.omewd("status", "cam").stdout


def test_frames_of_several_shards_interleave(omewd_daemon: DaemonProcess) -> None:
    """A shard is not complete until the outermost dimension has gone round; gaps, an early stop."""
    spec = make_spec("cam", "z:4:1:2,c:2,t:9:2:2,y:17:8:2,x:24:8:2", compression="zstd")
    omewd_daemon.client.start_stream(spec)
    gaps = {3, 4, *range(20, 38)}
    with omewd_daemon.connect("cam") as producer:
        for index in range(61):
            if index in gaps:
                producer.skip()
            else:
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 61, gaps)


def test_a_failed_stream_goes_on_in_shards_that_were_sealed(tmp_path: Path) -> None:
    """Its staging folder is in the way; somebody repairs it, so that the shard is sealed; then it is resumed."""
    spec = make_spec("cam", "t:12:1:8,y:16:8:2,x:16:8:2")
    with daemon(tmp_path, "--writers", "2", "--memory", "512MiB") as process:
        process.client.start_stream(spec)
        producer = process.connect("cam")
        for index in range(3):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        wait_for(lambda: producer.durable == 3)
        dataset = process.data / "cam.ome.zarr"
        hidden = dataset / "omewd/hidden"
        (dataset / "omewd/staging").rename(hidden)
        (dataset / "omewd/staging").touch()
        for index in range(3, 12):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        with pytest.raises(omewd.OmewdError, match="frames are missing: 3-11"):
            producer.close()
        (dataset / "omewd/staging").unlink()
        hidden.rename(dataset / "omewd/staging")
        assert process.omewd("repair", "cam.ome.zarr").returncode == 0  # three frames are all that it can know of
        assert (dataset / "0/c/0/0/0").exists()
        assert process.omewd("resume-stream", "cam").returncode == 0
        check_dataset(dataset, spec, 12)


@pytest.fixture
def on_nfs(tmp_path: Path) -> Iterator[DaemonProcess]:
    (tmp_path / "sitecustomize.py").write_text(_ON_NFS)
    process = DaemonProcess(
        tmp_path, "--writers", "2", "--memory", "256MiB", env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    )
    try:
        yield process
        assert process.stop() == 0
    finally:
        process.kill()


def test_auto_takes_another_backend_on_a_network_filesystem(on_nfs: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf:1:32,y:16:8:2,x:16:8:2", ring_slots=40)
    status = on_nfs.client.start_stream(spec)
    assert status["backend"] == "tensorstore"
    assert "nfs4" in status["backend_reason"]
    assert status["ring"]["window"] == 32
    assert "nfs4" in on_nfs.omewd("status", "cam").stdout
    with on_nfs.connect("cam") as producer:
        for index in range(70):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(on_nfs.data / "cam.ome.zarr", spec, 70)
    summary = json.loads((on_nfs.data / "cam.ome.zarr/omewd/zarr.json").read_text())["attributes"]["omewd"]
    assert summary["stream"]["backend"] == "auto"
    assert summary["made_by"] == {"backend": "tensorstore", "omewd": omewd.__version__}


def test_a_ring_that_only_the_other_backend_needs_is_refused(on_nfs: DaemonProcess) -> None:
    for fields, code in (
        ({"dims": "t:inf:1:32,y:16,x:16", "ring_slots": 31}, "bad_spec"),
        ({"dims": "t:inf:1:1000,y:1024,x:1024"}, "no_memory"),
        ({"dims": "t:4,y:16,x:16", "backend": "direct"}, "backend_unusable"),
    ):
        with pytest.raises(omewd.OmewdError) as caught:
            on_nfs.client.start_stream(make_spec("cam", **fields))
        assert caught.value.code == code
    assert on_nfs.client.status()["memory"]["ring_bytes"] == 0
    assert not on_nfs.shared_memory()
    assert not list(on_nfs.data.iterdir())
