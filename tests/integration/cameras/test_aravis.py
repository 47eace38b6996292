"""GenICam cameras through Aravis, whose buffer queue is claimed slots of the ring: frames without a copy."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from omewd.dataset.verify import verify
from tests.support.daemons import DaemonProcess
from tests.support.datasets import ledger_rows, read_tensorstore, read_zarr

pytestmark = pytest.mark.timeout(180)

CAMERA = Path(__file__).with_name("aravis_camera.py")
SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")
FRAMES = 200


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process that has Aravis' bindings, and nothing else of the system's packages."""
    folder = tmp_path / "bindings"
    folder.mkdir()
    (folder / "gi").symlink_to(SYSTEM_PACKAGES / "gi")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    program = "import gi; gi.require_version('Aravis', '0.8'); from gi.repository import Aravis"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        pytest.skip(f"no Aravis for this Python (apt: gir1.2-aravis-0.8 python3-gi): {done.stderr.strip()[-200:]}")
    return environment


@pytest.fixture
def gige_camera(environment: dict[str, str]) -> Iterator[None]:
    """A GigE Vision camera on the loopback; it has the port of the protocol, so there can be only one."""
    try:
        camera = subprocess.Popen(
            ["arv-fake-gv-camera-0.8", "-i", "127.0.0.1"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("no arv-fake-gv-camera-0.8 (apt: aravis-tools)")
    try:
        time.sleep(0.5)  # it says nothing when it listens; one that can't have its port ends
        if camera.poll() is not None:
            pytest.skip(f"the camera did not start (exit status {camera.returncode})")
        yield
    finally:
        camera.kill()
        camera.wait()


def record(daemon: DaemonProcess, environment: dict[str, str], kind: str) -> None:
    """Every frame on disk is, bit for bit, what the camera had put into its slot."""
    done = subprocess.run(
        [sys.executable, str(CAMERA), str(daemon.socket), "gi", str(FRAMES), kind],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digests: list[str] = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(digests) == FRAMES
    assert len(set(digests)) > FRAMES // 2, "a camera whose frames are alike shows nothing"
    dataset = daemon.data / "gi.ome.zarr"
    for array in (read_tensorstore(dataset), read_zarr(dataset)):
        assert array.shape == (FRAMES, 256, 512)
        for index, digest in enumerate(digests):
            assert hashlib.sha256(array[index].tobytes()).hexdigest() == digest, f"frame {index} differs"
    assert verify(dataset).problems == []
    ids = {row["frame"]: row["metadata"]["frame_id"] for row in ledger_rows(dataset) if row is not None}
    assert sorted(ids) == list(range(FRAMES))
    assert len(set(ids.values())) == FRAMES


def test_a_camera_fills_slots_of_the_ring(omewd_daemon: DaemonProcess, environment: dict[str, str]) -> None:
    record(omewd_daemon, environment, "fake")


@pytest.mark.usefixtures("gige_camera")
def test_a_gige_camera_fills_slots_of_the_ring(omewd_daemon: DaemonProcess, environment: dict[str, str]) -> None:
    record(omewd_daemon, environment, "gv")
