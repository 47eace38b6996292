"""A real daemon, a real producer: frames in, dataset out."""

from __future__ import annotations

import os

import numpy as np
import pytest

import omewd
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec


@pytest.mark.parametrize(
    "dims",
    [
        "y:33:16,x:47:16",
        "t:7,y:32:16,x:48:16",
        "t:10:1:4,y:32:16:2,x:48:16:3",
        "t:10:3:2,y:30:16,x:40:16",
        "t:5,c:3,z:4,y:16,x:24",
        "z:4:2,c:3,t:5:2:2,y:16,x:24",
        "t:6:2,c:2,z:5:2:2,y:16:8:2,x:24:8",
        "t:inf:1:4,y:16,x:16",
    ],
)
def test_every_frame_is_at_its_place(omewd_daemon: DaemonProcess, dims: str) -> None:
    spec = make_spec("cam", dims)
    status = omewd_daemon.client.start_stream(spec)
    assert status["state"] == "ACTIVE"
    frames = status["frames"]["declared"] or 11
    with omewd_daemon.connect("cam") as producer:
        for index in range(frames):
            assert producer.append(make_frame(index, spec.frame_shape, spec.dtype)) == index
    final = omewd_daemon.client.wait("cam", timeout=60)
    assert final["state"] == "DONE"
    assert final["frames"]["written"] == final["frames"]["durable"] == frames
    assert producer.durable == frames
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, frames)


def test_the_status_is_there_as_json_and_as_types(omewd_daemon: DaemonProcess) -> None:
    client = omewd_daemon.client
    client.start_stream(make_spec("cam", "t:4,y:16,x:16"))
    with omewd_daemon.connect("cam") as producer:
        producer.append(make_frame(0, (16, 16), "uint16"))
        assert client.stream_status("cam").sources[0].producer == os.getpid()
        producer.skip(3)
    stream = client.stream_status("cam")
    assert (stream.state, stream.frames.written, stream.frames.gaps) == ("DONE", 1, 3)
    assert stream.to_json() == {**client.status("cam"), "recent_waits": stream.to_json()["recent_waits"]}
    daemon = client.daemon_status()
    assert daemon.streams[0].frames == stream.frames
    assert set(daemon.to_json()) == set(client.status())


def test_claim_gives_the_shared_memory_itself(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:4,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        with pytest.raises(RuntimeError, match="camera"), producer.claim() as slot:
            slot.array[:] = 99
            raise RuntimeError("the camera failed")
        for index in range(4):
            with producer.claim() as slot:
                slot.array[:] = make_frame(index, spec.frame_shape, spec.dtype)
                slot.metadata = {"exposure_time": index}
            assert slot.index == index
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 4)


def test_skipped_frames_are_on_record(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:20:1:5,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    gaps = {0, 7, 8, 9, 10, 11, 12, 13, 14, 18, 19}
    with omewd_daemon.connect("cam") as producer:
        for index in range(20):
            if index in gaps:
                producer.skip()
            else:
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    final = omewd_daemon.client.wait("cam")
    assert final["frames"]["skipped"] == len(gaps)
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 20, gaps)


def test_row_29_early_stop_gives_the_true_shape(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:100:1:8,c:2,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        for index in range(26):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 26)


def test_frames_of_another_byte_order_or_layout_are_converted(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:3,y:16,x:24")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        frames = [make_frame(index, spec.frame_shape, spec.dtype) for index in range(3)]
        producer.append(frames[0].astype(">u2"))
        producer.append(np.asfortranarray(frames[1]))
        wide = np.zeros((16, 48), np.uint16)
        wide[:, ::2] = frames[2]
        producer.append(wide[:, ::2])
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 3)


def test_stop_stream_ends_the_producer(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    producer = omewd_daemon.connect("cam")
    for index in range(5):
        producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    omewd_daemon.client.stop_stream("cam")
    with pytest.raises(omewd.OmewdError) as caught:
        producer.append(make_frame(5, spec.frame_shape, spec.dtype))
    assert caught.value.code == "stream_stopped"
    producer.close()
    assert omewd_daemon.client.wait("cam")["ended_by"] == "stop-stream"
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 5)
