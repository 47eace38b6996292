"""``omewd demo``: what it prints, and what it leaves: a dataset for any reader, and steps that can be taken."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omewd.cli.service.next_steps import next_steps
from omewd.dataset.verify import verify
from tests.support.acquisitions import check_metadata
from tests.support.daemons import DaemonProcess
from tests.support.datasets import read_tensorstore, read_zarr
from tests.support.shared_memory import shared_memory_names


def typed(steps: str) -> list[str]:
    """What a reader of the next steps is to type."""
    return [line.removeprefix("    ") for line in steps.splitlines() if line.startswith("    ")]


def shell(line: str, folder: Path, socket: Path | None = None) -> str:
    done = subprocess.run(
        shlex.split(line),
        cwd=folder,
        env={**os.environ, **({"OMEWD_SOCKET": str(socket)} if socket else {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.alone
def test_demo(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"  # a name that a shell must be told of
    folder.mkdir()
    before = shared_memory_names("omewd-")
    done = subprocess.run(
        [sys.executable, "-m", "omewd", "demo", "--frames", "20", "--size", "128", "--fps", "0"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "demo: DONE, 20 frames written" in done.stdout
    assert "all is well" in done.stdout
    assert not shared_memory_names("omewd-") - before

    dataset = folder / "omewd-demo.ome.zarr"
    pixels = read_zarr(dataset)
    assert pixels.shape == (20, 128, 128)
    assert pixels.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(pixels, read_tensorstore(dataset))
    check_metadata(dataset)
    [channel] = json.loads((dataset / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]
    assert 0 <= channel["window"]["start"] < channel["window"]["end"] <= pixels.max()

    _, look, ledger, check, *_ = typed(done.stdout.partition("What next?")[2])
    assert str(pixels[-1, 0, 0]) in shell(look, tmp_path)
    assert "20" in shell(ledger, tmp_path)
    assert shell(check, tmp_path)


def test_the_steps_to_an_own_camera(omewd_daemon: DaemonProcess) -> None:
    _, _, _, _, serve, start, *program = typed(next_steps(Path("/d.ome.zarr"), "t:2:1:16,y:64,x:64", 64))
    assert serve.endswith("omewd serve")
    shell(start, omewd_daemon.data, omewd_daemon.socket)
    source = "\n".join(["import numpy as np", "frame = np.full((64, 64), 7, np.uint16)", *program])
    shell(shlex.join([sys.executable, "-c", source]), omewd_daemon.data, omewd_daemon.socket)
    assert verify(omewd_daemon.data / "cam0.ome.zarr").problems == []
    assert (read_zarr(omewd_daemon.data / "cam0.ome.zarr") == 7).all()
