"""Everything is killed, again and again, at random: not one frame that a camera's log has may be missing.

A short run by default; the long one: ``OMEWD_KILLS=400 python -m pytest tests/stress/test_kill_loop.py -s``, and
``OMEWD_SEED`` for another course of events.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from omewd.model.spec.backend import BACKENDS
from tests.support.acquisitions import check_acquisition
from tests.support.daemons import DaemonProcess, KeptDaemon
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

KILLS = int(os.environ.get("OMEWD_KILLS", "32"))
SEED = int(os.environ.get("OMEWD_SEED", "20261122"))
KILLS_A_STREAM = 8

# It goes on at the next frame index, whoever was before it, until the file "stop" is there.
CAMERA = """
import pathlib, sys, time, omewd
from tests.support.frames import make_frame
socket, log, stop = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
while True:
    try:
        producer = omewd.connect("cam", socket=socket)
        break
    except omewd.OmewdError as error:
        if error.code not in ("no_daemon", "unreachable", "producer_exists"):
            raise
        time.sleep(0.02)
with log.open("a", buffering=1) as lines:
    while not stop.exists():
        index = producer.append(make_frame(producer.next_index, producer.shape, str(producer.dtype)))
        lines.write(f"{index}\\n")
        time.sleep(0.001)
producer.close()
"""

CASES: list[tuple[str, dict[str, Any]]] = [
    (dims, {"backend": backend, "compression": compression, **more})
    for backend in BACKENDS
    for dims, more in (
        ("t:inf:1:4,y:32:16:2,x:32:16:2", {}),
        ("t:inf,y:32:16,x:32:16", {}),
        ("t:inf:2:3,p:3,y:32:16:2,x:32:16:2", {"levels": 2}),
    )
    for compression in (None, "blosc-zstd")
]


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def victims(chance: random.Random, daemon: DaemonProcess, camera: subprocess.Popen[bytes]) -> list[int]:
    """Whom to kill: the daemon, a writer, the camera, or all of them."""
    writers: list[int] = []
    with contextlib.suppress(Exception):  # it may just be starting
        writers = [writer["pid"] for writer in daemon.client.status()["writers"]]
    everyone = [daemon.process.pid, camera.pid, *writers]
    return chance.choice([[daemon.process.pid], [camera.pid], writers[:1], writers, everyone])


@pytest.mark.stress
@pytest.mark.timeout(60 + 10 * KILLS)
def test_no_published_frame_is_lost(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    killed = frames = streams = 0
    cases = CASES.copy()
    while killed < KILLS:
        if streams % len(cases) == 0:
            chance.shuffle(cases)
        dims, fields = cases[streams % len(cases)]
        folder = tmp_path / str(streams)
        killed += _stream(folder, chance, dims, fields)
        frames += len((folder / "log").read_text().split())
        streams += 1
    print(f"\n{killed} processes killed, {streams} streams, {frames} frames on the cameras' logs, none missing")


def _stream(folder: Path, chance: random.Random, dims: str, fields: dict[str, Any]) -> int:
    """Record one stream while things are killed; returns how many processes were."""
    spec = make_spec("cam", dims, ring_slots=64, on_producer_loss="wait", **fields)
    kept = KeptDaemon(folder, "--writers", "2", "--memory", "512MiB")
    log, stop = folder / "log", folder / "stop"

    def start_camera() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CAMERA, str(kept.now.socket), str(log), str(stop)])

    killed = 0
    camera = None
    try:
        kept.now.client.start_stream(spec)
        camera = start_camera()
        wait_for(lambda: log.exists() and log.stat().st_size > 0)
        while killed < KILLS_A_STREAM:
            time.sleep(chance.uniform(0.0, 0.5))
            chosen = victims(chance, kept.now, camera)
            for pid in chosen:
                kill(pid)
                killed += 1
            if camera.pid in chosen or camera.poll() is not None:
                camera.wait()
                camera = start_camera()
        time.sleep(0.2)
        stop.touch()
        assert camera.wait(60) == 0
    finally:
        if camera is not None:
            camera.kill()
            camera.wait()
        kept.end()
    published = [int(line) for line in log.read_text().split()]
    assert published == sorted(set(published))
    import json

    totals = json.loads((folder / "data/cam.ome.zarr/omewd/zarr.json").read_text())["attributes"]["omewd"]
    received = totals["received"]
    assert received > published[-1]
    # A camera that was killed may have published one more than it had the time to write down.
    assert received - len(published) <= killed
    frames = [make_frame(index, spec.frame_shape, spec.dtype) for index in range(received)]
    check_acquisition(folder / "data" / "cam.ome.zarr", spec, [frames])
    return killed
