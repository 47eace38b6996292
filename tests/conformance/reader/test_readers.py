"""What every reader must show, whoever wrote it: durable frames bit for bit, gaps as zeros, the rest as an error."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest

import omewd
from tests.conformance.reader.implementations import COMPLETE, LIVE
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

STREAMS: dict[str, dict[str, Any]] = {
    "shards": {"dims": "t:inf:1:50,y:16:8:2,x:24:8:2"},
    "compressed shards": {"dims": "t:inf:2:25,y:16:8:2,x:24:8:2", "compression": "blosc-lz4"},
    "chunks": {"dims": "t:inf:2,y:17:8,x:24"},
    "compressed chunks": {"dims": "t:inf:2,y:16,x:24", "compression": "zstd", "backend": "tensorstore"},
    "positions": {"dims": "p:3,t:4:2:2,z:9:2,y:17:8,x:24"},
}
FRAMES, GAPS = 106, {3, 4, 40, 41, 42, 43}


def record(producer: omewd.Producer, indexes: range) -> None:
    for index in indexes:
        if index in GAPS:
            producer.skip()
        else:
            producer.append(make_frame(index, producer.shape, "uint16"), metadata={"delta_t": index / 4})


def check(reader: Any, indexes: Iterable[int]) -> None:
    for index in indexes:
        pixels = reader.frame(index)
        if index in GAPS:
            assert not pixels.any(), index
        else:
            assert pixels.tobytes() == make_frame(index, pixels.shape, "uint16").tobytes(), index


def refusal_of(reader: Any, index: int) -> str:
    """The code of the error that a frame index is refused with; readers may have errors of their own."""
    with pytest.raises(Exception) as refusal:  # noqa: PT011
        reader.frame(index)
    return str(getattr(refusal.value, "code", repr(refusal.value)))


@pytest.mark.parametrize("stream", STREAMS)
def test_durable_frames_of_a_stream_that_is_recorded(omewd_daemon: DaemonProcess, stream: str) -> None:
    """Also in shards in progress, and after they have left the ring; a reader that is open goes on at the end."""
    fields = dict(STREAMS[stream])
    spec = make_spec("cam", fields.pop("dims"), ring_slots=60, **fields)
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        record(producer, range(FRAMES))
        if spec.dimensions[0].name == "t":
            wait_for(lambda: producer.durable >= 90)
        for name, open_reader in LIVE.items():
            with closing(open_reader(omewd_daemon.socket, "cam")) as reader:
                shows = getattr(reader, "shows", lambda _: True)
                shown = [index for index in range(producer.durable) if shows(index)]
                assert len(shown) > producer.durable * 0.6, name
                check(reader, shown)
                if producer.durable > 8:
                    assert reader.metadata(8) == {"delta_t": 2.0}, name
                assert refusal_of(reader, FRAMES + 1) in ("no_frame", "not_stored"), name


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", COMPLETE)
def test_all_frames_of_a_dataset_that_is_complete(omewd_daemon: DaemonProcess, stream: str, name: str) -> None:
    fields = dict(STREAMS[stream])
    spec = make_spec("cam", fields.pop("dims"), ring_slots=60, **fields)
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        record(producer, range(FRAMES))
    with closing(COMPLETE[name](omewd_daemon.socket, "cam")) as reader:
        check(reader, range(FRAMES))
        assert [reader.metadata(index) for index in (0, 3, 100)] == [{"delta_t": 0.0}, None, {"delta_t": 25.0}]


@pytest.mark.parametrize("name", LIVE)
def test_what_is_lost_is_not_black(omewd_daemon: DaemonProcess, name: str) -> None:
    spec = make_spec("cam", "t:8:1:4,y:16:8:2,x:16:8:2", compression="zstd")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        for index in range(8):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    shard = omewd_daemon.data / spec.output / "0" / "c" / "1" / "0" / "0"
    good = shard.read_bytes()
    with closing(LIVE[name](omewd_daemon.socket, "cam")) as reader:
        for bad in (b"", good[:-1] + bytes([good[-1] ^ 1])):
            shard.write_bytes(bad)
            assert refusal_of(reader, 5) == "not_stored"
        shard.unlink()
        assert refusal_of(reader, 5) == "not_stored"
        assert reader.frame(2).tobytes() == make_frame(2, (16, 16), "uint16").tobytes()
        shard.write_bytes(good)
        assert reader.frame(5).tobytes() == make_frame(5, (16, 16), "uint16").tobytes()
