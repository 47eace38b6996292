"""The image of packaging/container, built and run as its pages say.

$OMEWD_CONTAINER_BASE names the image that it is built on, which podman must have or be able to get: one with Python
3.11 or later, venv, and what pip needs to reach a package index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from omewd.dataset.verify import verify
from tests.support.datasets import read_zarr
from tests.support.places import REPOSITORY
from tests.support.processes import wait_for

BASE = os.environ.get("OMEWD_CONTAINER_BASE")

pytestmark = [
    pytest.mark.root("runs podman with folders of another user"),
    pytest.mark.skipif(BASE is None, reason="OMEWD_CONTAINER_BASE names no image"),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
    pytest.mark.timeout(900),
]
UID = 1000


def podman(*arguments: str, timeout_s: float = 120) -> str:
    done = subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    name = f"localhost/omewd-test:{uuid.uuid4().hex[:8]}"
    file = "packaging/container/Containerfile"
    podman("build", "--network=host", f"--build-arg=BASE={BASE}", "-t", name, "-f", file, ".", timeout_s=800)
    yield name
    podman("image", "rm", "--force", name)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("socket", "state", "data")}
    for folder in found.values():
        folder.mkdir()
        os.chown(folder, UID, UID)
    return found


def test_a_daemon_and_a_camera(image: str, folders: dict[str, Path]) -> None:
    socket = f"{folders['socket']}:/run/omewd"
    mounts = [socket, f"{folders['state']}:/var/lib/omewd", f"{folders['data']}:/data"]
    confined = ["--network=none", "--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--tmpfs=/tmp"]
    volumes = [f"--volume={mount}" for mount in mounts]
    daemon = podman("run", "--detach", "--ipc=host", *confined, *volumes, image, "serve", "--memory", "1GiB").strip()
    try:
        wait_for(lambda: (folders["socket"] / "omewd.sock").exists(), 60)
        in_camera = ["run", "--rm", *confined, f"--volume={socket}"]
        dims = "t:100:1:16,y:256:64:4,x:256:64:4"
        podman(*in_camera, image, "start-stream", "demo", "--dims", dims)
        feed = ["-m", "omewd.cli.service.demo_camera", "demo", "/run/omewd/omewd.sock", "100", "0"]
        podman(*in_camera, "--entrypoint=/opt/omewd/bin/python3", image, *feed)
        podman("stop", "--time=60", daemon)
        assert podman("inspect", "--format={{.State.ExitCode}}", daemon).strip() == "0"
    finally:
        log = podman("logs", daemon)
        podman("rm", "--force", daemon)
    dataset = folders["data"] / "demo.ome.zarr"
    assert verify(dataset).problems == [], log
    assert read_zarr(dataset).any(axis=(1, 2)).all()
    assert {path.stat().st_uid for path in dataset.rglob("*")} == {UID}
