"""What must not end, block or mislead the daemon."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import omewd
from omewd.protocol.messages import encode
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for


def test_two_names_of_one_place_do_not_meet(omewd_daemon: DaemonProcess) -> None:
    """A dataset that is being written is not overwritten through a symbolic link."""
    (omewd_daemon.data / "real").mkdir()
    (omewd_daemon.data / "alias").symlink_to("real")
    spec = make_spec("one", "t:16:1:4,y:16,x:16", output="real/x.ome.zarr")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("one") as producer:
        for index in range(8):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        with pytest.raises(omewd.OmewdError, match="is the dataset which the open stream 'one' writes") as caught:
            omewd_daemon.client.start_stream(make_spec("two", "y:4,x:4", output="alias/x.ome.zarr", overwrite=True))
        assert caught.value.code == "output_exists"
        for index in range(8, 16):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    check_dataset(omewd_daemon.data / "real" / "x.ome.zarr", spec, 16)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("reader", ["gone", "asleep"])
def test_a_log_that_nobody_reads_costs_nothing(tmp_path: Path, number: int, reader: str) -> None:
    """As in ``omewd serve 2>&1 | tee log`` and Ctrl-C: it drains all the same."""
    data = tmp_path / "data"
    data.mkdir()
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "omewd", "serve", "--socket", str(tmp_path / "s"), "--data-root", str(data)]
    command += ["--state-dir", str(tmp_path / "state"), "--memory", "512MiB", "--writers", "1"]
    process = subprocess.Popen(command, stderr=write_end)
    os.close(write_end)
    try:
        os.read(read_end, 100)  # "ready"
        client = omewd.Client(tmp_path / "s")
        spec = make_spec("cam", "t:inf:1:8,y:16,x:16")
        client.start_stream(spec)
        producer = omewd.connect("cam", socket=tmp_path / "s")
        for index in range(20):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        if reader == "gone":
            os.close(read_end)
        else:
            for _ in range(700):
                with pytest.raises(omewd.OmewdError, match="there is no stream"):
                    client.status("x" * 80)
        process.send_signal(number)
        assert process.wait(20) == 0
        assert producer.close()["state"] == "DONE"
        check_dataset(data / "cam.ome.zarr", spec, 20)
    finally:
        process.kill()
        process.wait()
        if reader == "asleep":
            os.close(read_end)


def test_a_long_skip_does_not_hold_up_the_others(omewd_daemon: DaemonProcess) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf:1:1000,y:8,x:8"))
    producer = omewd_daemon.connect("cam")
    producer.append(make_frame(0, (8, 8), "uint16"))
    producer.skip(1_000_000)
    started = time.monotonic()
    omewd_daemon.client.status()
    assert time.monotonic() - started < 20  # a job for each of its units would take minutes
    producer.append(make_frame(1, (8, 8), "uint16"))
    final = producer.close()
    assert final["frames"]["received"] == 1_000_002
    assert final["frames"]["skipped"] == 1_000_000


def test_a_start_that_is_stopped_leaves_no_dataset(omewd_daemon: DaemonProcess) -> None:
    """Whenever the stop comes: the place is free again, or the stream had started."""
    for attempt in range(20):
        request = {"op": "start_stream", "spec": make_spec(f"s{attempt}", "t:5,y:512,x:512").model_dump(mode="json")}
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(omewd_daemon.socket))
            connection.send(encode(request))
            time.sleep(attempt * 0.003)
            stopped = omewd_daemon.client.stop_stream(f"s{attempt}")
            connection.settimeout(20)
            reply = connection.recv(1 << 20)
        deadline = time.monotonic() + 30
        while omewd_daemon.shared_memory() and time.monotonic() < deadline:
            time.sleep(0.01)
        there = (omewd_daemon.data / f"s{attempt}.ome.zarr").exists()
        assert there == (b'"ok"' in reply), (stopped["state"], reply[:200])
    # What had been begun is renamed at once, and removed when nothing else is to do.
    wait_for(lambda: not [path for path in omewd_daemon.data.iterdir() if path.name.startswith(".")], 60)


def test_the_shape_of_an_unbounded_stream_grows_while_it_is_busy(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:32,x:32")
    omewd_daemon.client.start_stream(spec)
    stop = threading.Event()
    index = 0
    with omewd_daemon.connect("cam") as producer:
        import zarr

        deadline = time.monotonic() + 20
        grown = 0
        while not grown and time.monotonic() < deadline:
            for _ in range(200):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
                index += 1
            grown = zarr.open_array(str(omewd_daemon.data / "cam.ome.zarr" / "0"), mode="r").shape[0]
            assert grown <= producer.durable
        stop.set()
    assert grown > 0
    assert omewd_daemon.client.status("cam")["frames"]["written"] == index


def test_close_waits_for_its_own_stream(omewd_daemon: DaemonProcess) -> None:
    """Not for a later one of the same name."""
    first = make_spec("cam", "t:2,y:16,x:16", output="first.ome.zarr")
    omewd_daemon.client.start_stream(first)
    producer = omewd_daemon.connect("cam")
    for index in range(2):
        producer.append(make_frame(index, first.frame_shape, first.dtype))
    omewd_daemon.client.wait("cam", timeout=60)
    omewd_daemon.client.start_stream(make_spec("cam", "t:2,y:16,x:16", output="second.ome.zarr"))
    assert producer.close(timeout=60)["state"] in ("DONE", "")
    assert omewd_daemon.client.status("cam")["state"] == "ACTIVE"
    with pytest.raises(omewd.OmewdError, match="was not done"):
        omewd_daemon.client.wait("cam", timeout=0)


def test_many_streams_at_once_and_one_after_the_other(tmp_path: Path) -> None:
    """Descriptors of the daemon stay level; each stream is its own."""
    with daemon(tmp_path, "--writers", "2", "--memory", "1GiB") as process:
        client = process.client

        def descriptors() -> int:
            return len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))

        process.writer_pids()  # the daemon has all the descriptors that it needs for itself
        before = descriptors()
        specs = [make_spec(f"cam{n}", "t:6:1:2,y:16,x:16", ring_slots=4) for n in range(30)]
        for spec in specs:
            client.start_stream(spec)
        producers = [process.connect(spec.name) for spec in specs]
        for index in range(6):
            for producer, spec in zip(producers, specs, strict=True):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        for producer in producers:
            producer.close()
        for spec in specs:
            check_dataset(process.data / spec.output, spec, 6, validate=False)
        wait_for(lambda: descriptors() <= before + 1)
