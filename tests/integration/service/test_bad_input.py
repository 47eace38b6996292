"""Bad input gets a clear error and harms nothing: a good stream goes on beside every case."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import omewd
from omewd.protocol.messages import MAX_PACKET_BYTES
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec


@pytest.fixture
def beside(omewd_daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """A daemon with a stream that must not notice what the test does."""
    spec = make_spec("good", "t:20:1:5,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("good") as producer:
        for index in range(10):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        yield omewd_daemon
        for index in range(10, 20):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(omewd_daemon.data / "good.ome.zarr", spec, 20)


def refused(daemon: DaemonProcess, code: str, name: str = "bad", dims: str = "t:5,y:16,x:16", **fields: Any) -> str:
    """Start a stream that must be refused with ``code``; returns the error's line."""
    with pytest.raises(omewd.OmewdError) as caught:
        daemon.client.start_stream({"name": name, "dimensions": _dimensions(dims), **fields})
    assert caught.value.code == code, str(caught.value)
    assert {s["name"] for s in daemon.client.status()["streams"]} == {"good"}
    return str(caught.value)


def _dimensions(dims: str) -> list[dict[str, Any]]:
    return [d.model_dump(mode="json") for d in omewd.parse_dims(dims)]


def test_row_27_frames_that_do_not_fit(beside: DaemonProcess) -> None:
    spec = make_spec("cam", "t:3,y:16,x:24")
    beside.client.start_stream(spec)
    with beside.connect("cam") as producer:
        for wrong in (
            np.zeros((24, 16), np.uint16),
            np.zeros((16, 24), np.uint8),
            np.zeros((16, 24), np.int16),
            np.zeros((1, 24, 16), np.uint16),
            np.zeros((16, 24), np.float64),
        ):
            with pytest.raises(omewd.OmewdError, match=r"takes frames of \(16, 24\) uint16") as caught:
                producer.append(wrong)
            assert caught.value.code == "bad_frame"
        with pytest.raises(omewd.OmewdError, match="JSON-able"):
            producer.append(make_frame(0, (16, 24), "uint16"), metadata={"a": object()})
        with pytest.raises(omewd.OmewdError, match="over the limit"):
            producer.append(make_frame(0, (16, 24), "uint16"), metadata={"a": "x" * 10_000})
        assert producer.next_index == 0
        for index in range(3):
            producer.append(make_frame(index, (16, 24), "uint16"))
        with pytest.raises(omewd.OmewdError, match="declared with 3 frames") as caught:
            producer.append(make_frame(3, (16, 24), "uint16"))
        assert caught.value.code == "too_many_frames"
    check_dataset(beside.data / "cam.ome.zarr", spec, 3)


def test_skipping_past_the_end_takes_nothing(beside: DaemonProcess) -> None:
    spec = make_spec("cam", "t:3,y:16,x:16")
    beside.client.start_stream(spec)
    with beside.connect("cam") as producer:
        with pytest.raises(omewd.OmewdError, match="declared with 3"):
            producer.skip(4)
        with pytest.raises(omewd.OmewdError, match="from 1"):
            producer.skip(0)
        producer.skip(3)
    check_dataset(beside.data / "cam.ome.zarr", spec, 3, {0, 1, 2})


def test_row_26_outputs_that_may_not_be_written(beside: DaemonProcess, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for output in (str(outside / "x.ome.zarr"), "../outside/x.ome.zarr", "/etc/x", ".", "", "a/../../outside/x"):
        if output:
            assert "--data-root" in refused(beside, "outside_roots", output=output)
    (beside.data / "link").symlink_to(outside)
    refused(beside, "outside_roots", output="link/x.ome.zarr")
    (beside.data / "dataset-link").symlink_to(outside)
    refused(beside, "outside_roots", output="dataset-link", overwrite=True)
    assert not list(outside.iterdir())
    assert "overlaps" in refused(beside, "output_exists", output="good.ome.zarr/inside.ome.zarr")
    assert "which the open stream" in refused(beside, "output_exists", output="good.ome.zarr", overwrite=True)


def test_what_is_there_is_not_overwritten_by_mistake(beside: DaemonProcess) -> None:
    precious = beside.data / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("do not lose")
    assert "`overwrite=True`" in refused(beside, "output_exists", output="precious")
    assert "not a Zarr dataset" in refused(beside, "not_a_dataset", output="precious", overwrite=True)
    assert (precious / "thesis.txt").read_text() == "do not lose"
    (beside.data / "file").write_text("x")
    refused(beside, "not_a_dataset", output="file", overwrite=True)
    refused(beside, "disk_error", output="file/below.ome.zarr")


def test_overwrite_replaces_a_dataset(beside: DaemonProcess) -> None:
    for frames in (6, 3):
        spec = make_spec("cam", f"t:{frames},y:16,x:16", overwrite=True)
        beside.client.start_stream(spec)
        with beside.connect("cam") as producer:
            for index in range(frames):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        check_dataset(beside.data / "cam.ome.zarr", spec, frames)
    deadline = time.monotonic() + 30  # what was replaced is removed after the stream's end
    while any(p.name.startswith(".") for p in beside.data.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [p for p in beside.data.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dtype": "complex64"}, "dtype"),
        ({"dtype": "bool"}, "dtype"),
        ({"backend": "hdf5"}, "backend"),
        ({"compression": "gzip"}, "compression"),
        ({"backpressure": "panic"}, "backpressure"),
        ({"durability": "maybe"}, "durability"),
        ({"name": "../x"}, "name"),
        ({"name": "x" * 100}, "name"),
        ({"colour": "red"}, "colour"),
        ({"ring_slots": 0}, "ring_slots"),
        ({"dimensions": []}, "dimensions"),
        ({"dimensions": "t:1"}, "dimensions"),
        ({"dimensions": [{"name": "y", "count": 4}, {"name": "y", "count": 4}]}, "more than once"),
        ({"dimensions": [{"name": "y", "count": -4}, {"name": "x", "count": 4}]}, "count"),
        ({"output": "a\0b"}, "NUL"),
    ],
)
def test_specs_that_make_no_sense(beside: DaemonProcess, fields: dict[str, Any], says: str) -> None:
    request = {"name": "bad", "dimensions": _dimensions("t:5,y:16,x:16"), **fields}
    with pytest.raises(omewd.OmewdError) as caught:
        beside.client.start_stream(request)
    assert caught.value.code == "bad_spec"
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_backend_that_can_not(beside: DaemonProcess) -> None:
    assert "float16" in refused(beside, "backend_unusable", backend="acquire-zarr", dtype="float16")


def test_memory_that_does_not_fit(beside: DaemonProcess) -> None:
    text = refused(beside, "no_memory", dims="t:1000:1000,y:2048,x:2048")
    assert "MiB" in text
    assert "--memory" in text
    assert "1000 deep along t" in text
    assert "at most 239 along t" in text
    refused(beside, "no_memory", dims="t:1000,y:2048,x:2048", ring_slots=500)
    text = refused(beside, "bad_spec", dims="t:100:10,y:16,x:16", ring_slots=9)
    assert "at least `ring_slots=10`" in text
    beside.client.start_stream(make_spec("fits", "t:2:1:2,y:2048,x:2048"))
    beside.client.stop_stream("fits")
    beside.client.wait("fits")


def test_row_05_a_second_producer_is_refused(beside: DaemonProcess) -> None:
    with pytest.raises(omewd.OmewdError) as caught:
        beside.connect("good")
    assert caught.value.code == "producer_exists"
    assert str(os.getpid()) in str(caught.value)


def test_streams_that_are_not_there(beside: DaemonProcess) -> None:
    for call in (
        lambda: beside.connect("nobody"),
        lambda: beside.client.status("nobody"),
        lambda: beside.client.stop_stream("nobody"),
        lambda: beside.client.wait("nobody"),
    ):
        with pytest.raises(omewd.OmewdError, match="open: good") as caught:
            call()
        assert caught.value.code == "unknown_stream"
    refused_twice = {"name": "good", "dimensions": _dimensions("t:1,y:4,x:4"), "output": "other.ome.zarr"}
    with pytest.raises(omewd.OmewdError) as caught:
        beside.client.start_stream(refused_twice)
    assert caught.value.code == "stream_exists"


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(omewd.OmewdError, match="omewd serve") as caught:
        omewd.Client(tmp_path / "nothing.sock").status()
    assert caught.value.code == "no_daemon"
    with pytest.raises(omewd.OmewdError, match="omewd serve"):
        omewd.connect("cam", socket=tmp_path / "nothing.sock")


def raw_connection(daemon: DaemonProcess) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(str(daemon.socket))
    connection.settimeout(10)
    return connection


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"null",
        b'{"op":"nonsense"}',
        b'{"op":["status"]}',
        b'{"op":"status","name":{"a":[1]}}',
        b'{"op":"start_stream"}',
        b'{"op":"start_stream","spec":[1,2]}',
        b'{"op":"start_stream","spec":{"name":7,"dimensions":{"a":1}}}',
        b'{"op":"attach","name":null}',
        b'{"op":"stop_stream"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"op":"' + b"x" * (MAX_PACKET_BYTES + 10) + b'"}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_row_25_malformed_messages(beside: DaemonProcess, data: bytes) -> None:
    with raw_connection(beside) as connection:
        connection.send(data)
        reply = json.loads(connection.recv(1 << 20))
        assert reply["error"]["code"] in ("bad_message", "too_large", "bad_spec", "unknown_stream")
        connection.send(b'{"op":"status"}')  # the connection is still good
        assert json.loads(connection.recv(1 << 20))["ok"]["streams"]


def test_row_25_random_messages_and_clients_that_vanish(beside: DaemonProcess) -> None:
    chance = random.Random(1)
    for _ in range(200):
        with raw_connection(beside) as connection:
            for _ in range(chance.randrange(4)):
                connection.send(chance.randbytes(chance.randrange(1, 2000)))
    idle = [raw_connection(beside) for _ in range(50)]
    assert beside.client.status()["streams"]
    for connection in idle:
        connection.close()


def test_descriptors_sent_to_the_daemon_are_closed(beside: DaemonProcess) -> None:
    before = len(list(Path(f"/proc/{beside.process.pid}/fd").iterdir()))
    for _ in range(20):
        with raw_connection(beside) as connection, open(os.devnull) as null:
            socket.send_fds(connection, [b'{"op":"status"}'], [null.fileno()])
            connection.recv(1 << 20)
    beside.client.status()
    assert len(list(Path(f"/proc/{beside.process.pid}/fd").iterdir())) <= before + 1


@pytest.mark.root("becomes another user")
def test_row_26_another_user_is_refused(beside: DaemonProcess) -> None:
    """Neither by the socket's mode, nor, where the mode lets him, by who he is."""
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "try:\n"
        "    s.connect(sys.argv[1])\n"
        "    print(s.recv(4096).decode())\n"
        "except PermissionError: print('PermissionError')\n"
    )
    for folder in [beside.folder, *beside.folder.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o111)
    command = [sys.executable, "-I", "-c", program, str(beside.socket)]
    assert _run(command) == "PermissionError"
    beside.socket.chmod(0o666)
    assert "no_permission" in _run(command)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or done.stderr


def test_row_14_a_second_daemon_leaves_the_first_alone(beside: DaemonProcess) -> None:
    for options in (
        ["--socket", str(beside.folder / "other.sock"), "--state-dir", str(beside.folder / "state")],
        ["--socket", str(beside.socket), "--state-dir", str(beside.folder / "state2")],
    ):
        command = [sys.executable, "-m", "omewd", "serve", "--data-root", str(beside.data), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 3
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("omewd: a daemon")


def test_a_heap_of_dimensions_is_refused_at_once(omewd_daemon: DaemonProcess) -> None:
    with pytest.raises(omewd.OmewdError, match="over the limit") as refusal:
        omewd_daemon.client.start_stream({"name": "cam", "dimensions": [{}] * 1_000_000})
    assert refusal.value.code == "bad_spec"


@pytest.mark.parametrize(
    ("dims", "says"),
    [
        ([{"name": "p", "count": 2**31}], "2147483648 positions are over the limit"),
        ([{"name": "p", "coords": ["x"] * 600_000}], "bytes of coords and plate are over the limit"),
        ([{"name": "p", "coords": [{"name": f"p{i}", "x_coord": 1.0} for i in range(30_000)]}], "over the limit"),
        ([{"name": "c", "coords": ["x"] * 150_000}], "over the limit of 100000 values"),
        ([{"name": "p", "coords": [f"p{i}" for i in range(9_999)] + [""]}], "at least 1 character"),
    ],
    ids=["count", "bytes", "positions", "values", "the last"],
)
def test_one_request_harms_nobody(beside: DaemonProcess, dims: list[dict[str, Any]], says: str) -> None:
    """What is far too much, or wrong at its very end, costs the daemon neither time nor memory."""
    before = psutil.Process(beside.process.pid).memory_info().rss
    with pytest.raises(omewd.OmewdError, match=says) as refusal:
        beside.client.start_stream({"name": "bad", "dimensions": [*dims, *_dimensions("y:16,x:16")]})
    assert refusal.value.code in ("bad_spec", "too_large")
    assert psutil.Process(beside.process.pid).memory_info().rss - before < 40 << 20
    assert [stream["name"] for stream in beside.client.status()["streams"]] == ["good"]


def test_an_output_that_is_there_is_not_written_elsewhere(omewd_daemon: DaemonProcess) -> None:
    (omewd_daemon.data / "run.ome.zarr").mkdir()
    dims = [d.model_dump(mode="json") for d in omewd.parse_dims("t:2,y:8,x:8")]
    with pytest.raises(omewd.OmewdError, match="already there"):
        omewd_daemon.client.start_stream({"output": "run.ome.zarr", "dimensions": dims})
    assert [path.name for path in omewd_daemon.data.iterdir()] == ["run.ome.zarr"]
