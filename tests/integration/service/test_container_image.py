"""The image of packaging/container, built and run as its pages say.

$OMEWD_CONTAINER_BASE names the image that it is built on, which podman must have or be able to get: one with Python
3.11 or later, venv, and what pip needs to reach a package index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterable, Iterator
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


def logs(name: str) -> str:
    return subprocess.run(["podman", "logs", name], capture_output=True, text=True, check=False).stderr


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    name = f"localhost/omewd-test:{uuid.uuid4().hex[:8]}"
    file = "packaging/container/Containerfile"
    podman(
        "build",
        "--layers=false",
        "--network=host",
        f"--build-arg=BASE={BASE}",
        "-t",
        name,
        "-f",
        file,
        ".",
        timeout_s=800,
    )
    yield name
    podman("image", "rm", "--force", name)


class Pod:
    """Containers of an image that share folders, as docs/operations/containers.md says, and nothing else."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image, self.data, self._socket = image, folder / "data", folder / "socket"
        self._folders = {folder / "socket": "/run/omewd", folder / "state": "/var/lib/omewd", self.data: "/data"}
        for outside in self._folders:
            outside.mkdir()
            os.chown(outside, UID, UID)

    def run(self, *arguments: str, folders: Iterable[Path]) -> str:
        confined = [
            "--network=none",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--read-only",
            "--tmpfs=/tmp",
        ]
        return podman(
            "run", *confined, *(f"--volume={folder}:{self._folders[folder]}" for folder in folders), *arguments
        )

    @contextlib.contextmanager
    def daemon(self, *, killed: bool = False) -> Iterator[str]:
        """A daemon that is up, and ends as it should. ``killed``: the caller kills it."""
        (self._socket / "omewd.sock").unlink(missing_ok=True)
        options = ["--detach", "--ipc=host", self.image, "serve", "--memory", "1GiB"]
        name = self.run(*options, folders=self._folders).strip()
        try:
            wait_for((self._socket / "omewd.sock").exists, 60)
            yield name
            if not killed:
                podman("stop", "--time=60", name)
                assert podman("inspect", "--format={{.State.ExitCode}}", name).strip() == "0", logs(name)
        finally:
            podman("rm", "--force", name)

    def camera(self, *arguments: str) -> str:
        return self.run(*arguments, folders=[self._socket])

    def check(self, name: str, frames: int) -> None:
        dataset = self.data / f"{name}.ome.zarr"
        assert verify(dataset).problems == []
        pixels = read_zarr(dataset)
        assert len(pixels) == frames
        assert pixels.any(axis=(1, 2)).all()
        assert {path.stat().st_uid for path in dataset.rglob("*")} == {UID}


@pytest.fixture
def pod(image: str, tmp_path: Path) -> Pod:
    return Pod(image, tmp_path)


START = ("start-stream", "demo", "--dims", "t:200:1:16,y:256:64:4,x:256:64:4")
FEED = ("-m", "omewd.cli.service.demo_camera", "demo", "/run/omewd/omewd.sock", "200")


def test_a_daemon_and_a_camera(pod: Pod) -> None:
    with pod.daemon():
        pod.camera("--rm", pod.image, *START)
        pod.camera("--rm", "--entrypoint=/opt/omewd/bin/python3", pod.image, *FEED, "0")
    pod.check("demo", 200)


def test_a_camera_goes_on_while_the_daemons_container_is_replaced(pod: Pod) -> None:
    with pod.daemon(killed=True) as first:
        pod.camera("--rm", pod.image, *START)
        camera = pod.camera("--detach", "--entrypoint=/opt/omewd/bin/python3", pod.image, *FEED, "40").strip()
        try:
            ledger = pod.data / "demo.ome.zarr" / "omewd" / "ledger.jsonl"
            wait_for(lambda: ledger.exists() and ledger.stat().st_size > 0, 60)  # it has handed frames over
            podman("kill", "--signal=KILL", first)
            with pod.daemon():
                assert podman("wait", camera).strip() == "0", logs(camera)
        finally:
            podman("rm", "--force", camera)
    pod.check("demo", 200)
