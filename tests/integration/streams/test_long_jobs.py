"""Jobs that take long do not stand before frames, and do not keep the daemon from ending."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import omewd
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

# A camera of the test keeps its pace beside the daemon.
pytestmark = pytest.mark.alone

IMAGES = 1000
# Frames a second, and slots: the ring lasts 1.6 s, a thousand images take more.
RATE, SLOTS = 25, 40


def asides(process: DaemonProcess) -> int:
    return sum(writer["aside"] for writer in process.client.status()["writers"])


class SteadyCamera:
    """Hands over frames at a steady rate until the block is left; its stream drops what does not fit."""

    def __init__(self, process: DaemonProcess) -> None:
        self.spec = make_spec("cam", "t:inf:1:4,y:64,x:64", ring_slots=SLOTS, backpressure="drop")
        process.client.start_stream(self.spec)
        self.producer = process.connect("cam")
        self.frames = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._ended.wait(max(0.0, begin + self.frames / RATE - time.monotonic())):
            self.producer.append(make_frame(self.frames, (64, 64), "uint16"))
            self.frames += 1

    def __enter__(self) -> SteadyCamera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def close(self) -> dict[str, Any]:
        return self.producer.close(timeout=60)


def test_a_stream_of_many_images_does_not_stand_before_frames(tmp_path: Path) -> None:
    """One writer; the other stream is made, gets a few frames, and is finalized meanwhile."""
    with daemon(tmp_path, "--writers", "1", "--memory", "512MiB") as process:
        camera = SteadyCamera(process)
        many = make_spec("many", f"p:{IMAGES},t:2,y:8,x:8", output="many.ome.zarr")
        with camera:
            began = time.monotonic()
            process.client.start_stream(many)
            made_s = time.monotonic() - began
            with process.connect("many") as producer:
                for index in range(4):
                    producer.append(make_frame(index, (8, 8), "uint16"))
            assert process.client.wait("many", timeout=120)["state"] == "DONE"
        final = camera.close()
        assert camera.frames > made_s * RATE / 2
        assert (final["state"], final["frames"]["dropped"]) == ("DONE", 0)
        check_dataset(process.data / camera.spec.output, camera.spec, camera.frames)
        wait_for(lambda: asides(process) == 0)  # it is only there while there is something to do


def test_a_dataset_that_is_swept_away_does_not_stand_before_frames(tmp_path: Path) -> None:
    with daemon(tmp_path, "--writers", "1", "--memory", "512MiB") as process:
        old = process.data / "new.ome.zarr"
        old.mkdir()
        (old / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
        for folder in range(60):
            (old / str(folder)).mkdir()
            for name in range(500):
                (old / str(folder) / str(name)).touch()
        camera = SteadyCamera(process)
        with camera:
            new = make_spec("new", "t:2,y:8,x:8", overwrite=True)
            process.client.start_stream(new)
            with process.connect("new") as producer:
                for index in range(2):
                    producer.append(make_frame(index, (8, 8), "uint16"))
            wait_for(lambda: asides(process) == 1, 30)
            wait_for(lambda: len(list(process.data.iterdir())) == 2, 60)
        final = camera.close()
        assert (final["state"], final["frames"]["dropped"]) == ("DONE", 0)
        check_dataset(process.data / camera.spec.output, camera.spec, camera.frames)
        wait_for(lambda: asides(process) == 0)


def test_a_writer_aside_that_dies_is_replaced(tmp_path: Path) -> None:
    import psutil

    with daemon(tmp_path, "--writers", "1", "--memory", "256MiB") as process:
        many = make_spec("many", f"p:{IMAGES},t:2,y:8,x:8", output="many.ome.zarr")
        started = threading.Thread(target=process.client.start_stream, args=(many,))
        started.start()
        pids = set()
        for _ in range(2):
            wait_for(
                lambda: any(
                    w["aside"] and w["jobs"] and w["pid"] not in pids for w in process.client.status()["writers"]
                ),
                60,
            )
            [pid] = [w["pid"] for w in process.client.status()["writers"] if w["aside"]]
            pids.add(pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        started.join(120)
        assert process.client.status("many")["state"] == "ACTIVE"
        process.client.stop_stream("many")
        assert process.client.wait("many", timeout=60)["state"] == "DONE"
        assert process.client.status("many")["retries"] == 2


@pytest.mark.parametrize("how", ["SIGTERM", "stop-stream"])
def test_a_stream_of_many_images_can_be_ended_while_it_starts(tmp_path: Path, how: str) -> None:
    process = DaemonProcess(tmp_path, "--writers", "1", "--memory", "512MiB")
    try:
        many = make_spec("many", "p:5000,t:2,y:8,x:8", output="many.ome.zarr")
        told: list[omewd.OmewdError] = []

        def start() -> None:
            try:
                omewd.Client(process.socket).start_stream(many)
            except omewd.OmewdError as error:
                told.append(error)

        starter = threading.Thread(target=start)
        starter.start()
        wait_for(lambda: any(process.data.glob(".many*/500")), 120)  # it is being made
        began = time.monotonic()
        if how == "SIGTERM":
            assert process.stop(timeout=30) == 0
        else:
            process.client.stop_stream("many")
        starter.join(30)
        took_s = time.monotonic() - began
        assert took_s < 5, took_s
        assert [error.code for error in told] == ["stopping" if how == "SIGTERM" else "stream_stopped"]
        if how == "SIGTERM":  # what was begun may be left to the next daemon to remove
            process = DaemonProcess(tmp_path, "--writers", "1", "--memory", "512MiB")
        wait_for(lambda: not list(process.data.iterdir()), 120)
        wait_for(lambda: not list((tmp_path / "state" / "streams").iterdir()))
        assert process.stop() == 0
    finally:
        process.kill()
