"""Real input: camera processes with pymmcore-plus and Micro-Manager's DemoCamera."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omewd.dataset.verify import verify
from tests.support.daemons import DaemonProcess
from tests.support.datasets import ledger_rows, read_tensorstore, read_zarr
from tests.support.pages import example
from tests.support.places import DOCS

pytestmark = [
    # The packages of the camera, not omewd's.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(180),
]

CAMERA = Path(__file__).with_name("micromanager_camera.py")


def start(
    daemon: DaemonProcess, name: str, frames: int, width: int, height: int, bits: int, mode: str
) -> subprocess.Popen[str]:
    numbers = [str(n) for n in (frames, width, height, bits)]
    command = [sys.executable, str(CAMERA), str(daemon.socket), name, *numbers, mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digests_of(camera: subprocess.Popen[str]) -> list[str]:
    output, errors = camera.communicate(timeout=120)
    assert camera.returncode == 0, errors
    digests: list[str] = json.loads(output.strip().splitlines()[-1])
    return digests


def check(dataset: Path, digests: list[str], shape: tuple[int, int], dtype: str) -> None:
    """Every frame on disk is, bit for bit, what the camera gave; also the frames' tags are there."""
    for array in (read_tensorstore(dataset), read_zarr(dataset)):
        assert array.shape == (len(digests), *shape)
        assert array.dtype == dtype
        for index, digest in enumerate(digests):
            assert hashlib.sha256(array[index].tobytes()).hexdigest() == digest, f"frame {index} differs"
    assert verify(dataset).problems == []
    tags = {row["frame"]: row["metadata"]["image_number"] for row in ledger_rows(dataset) if row is not None}
    assert tags == {index: index for index in range(len(digests))}


@pytest.mark.parametrize("mode", ["numbered", "fast"])
def test_200_frames_of_2048_by_2048(omewd_daemon: DaemonProcess, mode: str) -> None:
    digests = digests_of(start(omewd_daemon, "mm", 200, 2048, 2048, 16, mode))
    assert len(digests) == 200
    assert len(set(digests)) == (1 if mode == "fast" else 200)
    check(omewd_daemon.data / "mm.ome.zarr", digests, (2048, 2048), "uint16")


def test_two_cameras_and_a_writer_killed_in_the_middle(omewd_daemon: DaemonProcess) -> None:
    cameras = {
        "left": (start(omewd_daemon, "left", 60, 1024, 768, 16, "numbered"), (768, 1024), "uint16"),
        "right": (start(omewd_daemon, "right", 90, 700, 500, 8, "noise"), (500, 700), "uint8"),
    }
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        streams = {s["name"]: s["frames"] for s in omewd_daemon.client.status()["streams"]}
        if len(streams) == 2 and all(s["written"] > 0 for s in streams.values()):
            break
        time.sleep(0.01)
    omewd_daemon.kill_a_writer()
    for name, (camera, shape, dtype) in cameras.items():
        digests = digests_of(camera)
        assert len(set(digests)) == len(digests)
        check(omewd_daemon.data / f"{name}.ome.zarr", digests, shape, dtype)
    assert "writer died" in omewd_daemon.log()


def test_the_example_of_the_page(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """The guide's camera program, as it stands there; what its camera gives is noted beside it."""
    block = example(DOCS / "guide" / "micro-manager.md", "pymmcore-plus")
    note_frames = (
        "import hashlib, pymmcore_plus\n"
        "given = []\n"
        "class Noting(pymmcore_plus.CMMCorePlus):\n"
        "    def popNextImage(self):\n"
        "        frame = super().popNextImage()\n"
        "        given.append(hashlib.sha256(frame).hexdigest())\n"
        "        return frame\n"
        "pymmcore_plus.CMMCorePlus = Noting\n"
    )
    program = tmp_path / "example.py"
    program.write_text(f"{note_frames}{block}\nimport json\nprint(json.dumps(given))\n")
    camera = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    digests = digests_of(camera)
    array = read_tensorstore(omewd_daemon.data / "demo-camera.ome.zarr")
    assert len(set(digests)) == len(digests) == len(array)
    for index, digest in enumerate(digests):
        assert hashlib.sha256(array[index].tobytes()).hexdigest() == digest
    assert verify(omewd_daemon.data / "demo-camera.ome.zarr").problems == []
