"""Every backend behind a real daemon: shards and plain chunks, an early stop, frames that never came."""

from __future__ import annotations

import pytest

from omewd.model.spec.backend import BACKENDS
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec

STREAMS = {
    "sharded": ("t:40:1:4,c:2,y:30:16:2,x:45:16:3", "blosc-lz4"),
    "plain": ("t:40:3,c:2,y:30:16,x:45:16", None),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_early_stop_and_gaps(omewd_daemon: DaemonProcess, backend: str) -> None:
    """The gaps are: the first frame, a whole unit of either stream, some of a unit, the last frames."""
    frames = 45
    gaps = {0, *range(8, 25), 31, 32, 43, 44}
    for name, (dims, compression) in STREAMS.items():
        spec = make_spec(name, dims, backend=backend, compression=compression)
        omewd_daemon.client.start_stream(spec)
        with omewd_daemon.connect(name) as producer:
            for index in range(frames):
                if index in gaps:
                    producer.skip()
                else:
                    assert producer.append(make_frame(index, spec.frame_shape, spec.dtype)) == index
        final = omewd_daemon.client.wait(name, timeout=20)
        assert final["state"] == "DONE"
        assert final["backend"] == backend
        check_dataset(omewd_daemon.data / f"{name}.ome.zarr", spec, frames, gaps)
    assert not list((omewd_daemon.data).rglob("staging"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_streams_at_the_same_time_share_the_writers(omewd_daemon: DaemonProcess, backend: str) -> None:
    specs = [
        make_spec(name, dims, backend=backend, compression=compression, dtype="uint8")
        for name, (dims, compression) in STREAMS.items()
    ]
    for spec in specs:
        omewd_daemon.client.start_stream(spec)
    producers = [omewd_daemon.connect(spec.name) for spec in specs]
    for index in range(80):
        for spec, producer in zip(specs, producers, strict=True):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    for spec, producer in zip(specs, producers, strict=True):
        producer.close()
        check_dataset(omewd_daemon.data / spec.output, spec, 80)
