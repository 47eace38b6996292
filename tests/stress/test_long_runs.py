"""Long runs: what the daemon and its writers take is flat, and each frame is where it has to be.

Short runs by default; the long ones:
``OMEWD_FRAMES=20000000 OMEWD_STREAMS=10000 python -m pytest tests/stress/test_long_runs.py -s``. The first needs 4 GB
of disk.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset, read_tensorstore
from tests.support.footprints import Footprint
from tests.support.frames import Array, make_frame, make_spec

FRAMES = int(os.environ.get("OMEWD_FRAMES", "400000"))
STREAMS = int(os.environ.get("OMEWD_STREAMS", "100"))
SAMPLES = 60

# 20 million frames, or 10,000 streams, take less than what an allocator may hold back. A short run hardly fits one
# warm-up of Python and its libraries.
MEMORY_FLOOR = 4 << 20
OTHERS_FLOOR = 4

SHAPE = (8, 8)
# An eighth of the frames comes one by one, with metadata: that is what most cameras do, and takes most of the time.
BLOCK = 4096
SINGLY = BLOCK // 8


def small_frames(first: int, count: int) -> Array:
    """Frames of 8 × 8 bytes that hold their index in eight bytes, and what follows from it in the others."""
    indexes = np.arange(first, first + count, dtype="<i8")
    pixels = np.empty((count, 64), np.uint8)
    pixels[:, :8] = indexes.view(np.uint8).reshape(count, 8)
    pixels[:, 8:] = (indexes[:, None] * 13 + np.arange(56)) % 11
    return pixels.reshape(count, *SHAPE)


@pytest.mark.alone
@pytest.mark.stress
@pytest.mark.timeout(120 + FRAMES // 5000)
def test_a_stream_of_very_many_frames(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", f"t:inf:{BLOCK}:64,y:8,x:8", dtype="uint8", compression="blosc-zstd", ring_slots=4 * BLOCK)
    omewd_daemon.client.start_stream(spec)
    footprint = Footprint(omewd_daemon, and_this_process=True)
    blocks = -(-FRAMES // BLOCK)
    with omewd_daemon.connect("cam") as producer:
        for number in range(blocks):
            frames = small_frames(number * BLOCK, BLOCK)
            for index, frame in enumerate(frames[:SINGLY]):
                producer.append(frame, metadata={"exposure_time": index / 8})
            producer.append(frames[SINGLY:])
            if number % max(blocks // SAMPLES, 1) == 0:
                footprint.sample(number * BLOCK)
    report = footprint.check_flat(memory_bytes=MEMORY_FLOOR, others=OTHERS_FLOOR)
    final = omewd_daemon.client.wait("cam")
    assert final["frames"]["written"] == final["frames"]["durable"] == blocks * BLOCK
    _check_small_frames(omewd_daemon.data / "cam.ome.zarr", blocks * BLOCK)
    print(f"\n{blocks * BLOCK:,} frames, each where it has to be; {report}")
    _check_nothing_left(omewd_daemon)


def _check_small_frames(dataset: Path, count: int) -> None:
    """A shard at a time."""
    import tensorstore

    spec: Any = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(dataset / "0")}}
    array = tensorstore.open(spec, open=True).result()
    assert array.shape == (count, *SHAPE)
    step = 64 * BLOCK
    for first in range(0, count, step):
        stop = min(first + step, count)
        assert np.array_equal(array[first:stop].read().result(), small_frames(first, stop - first)), first


@pytest.mark.alone
@pytest.mark.stress
@pytest.mark.timeout(120 + 2 * STREAMS)
def test_very_many_streams_one_after_another(omewd_daemon: DaemonProcess) -> None:
    footprint = Footprint(omewd_daemon, and_this_process=False)
    for number in range(STREAMS):
        frames = 1 + number % 7
        spec = make_spec(
            f"s{number}", "t:inf:1:3,y:16,x:16", ring_slots=8, compression=("blosc-zstd", None)[number % 2]
        )
        omewd_daemon.client.start_stream(spec)
        with omewd_daemon.connect(spec.name) as producer:
            for index in range(frames):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype), metadata={"number": number})
        dataset = omewd_daemon.data / f"{spec.name}.ome.zarr"
        if number % 100 == 0:
            check_dataset(dataset, spec, frames)
        stored = read_tensorstore(dataset)
        assert [frame.tobytes() for frame in stored] == [
            make_frame(index, spec.frame_shape, spec.dtype).tobytes() for index in range(frames)
        ]
        shutil.rmtree(dataset)
        if number % max(STREAMS // SAMPLES, 1) == 0:
            footprint.sample(number)
    print(f"\n{STREAMS:,} streams, each frame where it has to be")
    print(footprint.check_flat(memory_bytes=MEMORY_FLOOR, others=OTHERS_FLOOR))
    _check_nothing_left(omewd_daemon)


def _check_nothing_left(daemon: DaemonProcess) -> None:
    assert not daemon.shared_memory()
    assert not list((daemon.folder / "state" / "streams").iterdir())
