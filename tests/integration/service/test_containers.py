"""The daemon and cameras in containers of their own, as docs/operations/containers.md has it.

A container is made of what matters here: namespaces of its own for processes, mounts, IPC and the network, and a
/dev/shm of its own, of the size that container engines give one. Files are the machine's, as if all of it were shared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import omewd
from omewd.daemon.control.peer_process import UNSEEN
from omewd.dataset.verify import verify
from tests.support.daemons import DaemonProcess
from tests.support.datasets import read_zarr
from tests.support.frames import make_spec
from tests.support.processes import wait_for

_NAMESPACES = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child", "--mount-proc")
_OWN_SHM = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
_SHARED_SHM = 'mount --bind "$SHM" /dev/shm && exec "$@"'

# Frames that are full of their index, handed over slowly enough for a daemon to be killed meanwhile.
_CAMERA = """
import sys, time
import numpy as np
import omewd
name, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with omewd.connect(name) as producer:
    for index in range(count):
        producer.append(np.full((256, 256), index, np.uint16))
        print(index, flush=True)
        time.sleep(pause)
"""


def _can_make_containers() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*_NAMESPACES, "sh", "-c", _OWN_SHM, "sh", "true"], capture_output=True, check=False)
    return tried.returncode == 0


pytestmark = [
    pytest.mark.root("makes namespaces"),
    pytest.mark.skipif(os.getuid() == 0 and not _can_make_containers(), reason="namespaces can't be made here"),
]


def container(shm: Path | None = None) -> tuple[str, ...]:
    """What runs a command as the first process of a container, whose /dev/shm is its own, or the folder ``shm``."""
    if shm is None:
        return (*_NAMESPACES, "sh", "-c", _OWN_SHM, "sh")
    return ("env", f"SHM={shm}", *_NAMESPACES, "sh", "-c", _SHARED_SHM, "sh")


def first_process(of: subprocess.Popen[bytes]) -> int:
    """The process in a container that is process 1 there; ``of`` has made the container."""
    wait_for(lambda: bool(psutil.Process(of.pid).children()))
    return int(psutil.Process(of.pid).children()[0].pid)


@contextlib.contextmanager
def daemon_in_container(folder: Path, shm: Path | None = None) -> Iterator[DaemonProcess]:
    """A daemon that its engine stops as engines do, with SIGTERM for process 1; it must stop cleanly."""
    process = DaemonProcess(folder, "--memory", "1GiB", "--writers", "1", prefix=container(shm))
    try:
        yield process
        if process.process.poll() is None:
            process.let_go()
            os.kill(first_process(process.process), signal.SIGTERM)
            assert process.process.wait(60) == 0, process.log()
    finally:
        process.kill()


@contextlib.contextmanager
def camera_in_container(daemon: DaemonProcess, name: str, count: int, pause: float) -> Iterator[subprocess.Popen[str]]:
    """A camera in a container that shares only the folder of the daemon's socket with the daemon."""
    camera = subprocess.Popen(
        [*container(), sys.executable, "-c", _CAMERA, name, str(count), str(pause)],
        env={**os.environ, "OMEWD_SOCKET": str(daemon.socket)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield camera
    finally:
        camera.kill()
        camera.communicate()


def check(daemon: DaemonProcess, name: str, count: int) -> None:
    dataset = daemon.data / f"{name}.ome.zarr"
    pixels = read_zarr(dataset)
    assert pixels.shape == (count, 256, 256)
    assert (pixels == np.arange(count, dtype=np.uint16)[:, None, None]).all()
    assert verify(dataset).problems == []


def test_rings_get_to_a_camera_that_shares_the_socket_alone(tmp_path: Path) -> None:
    with daemon_in_container(tmp_path) as daemon:
        assert daemon.shared_memory() == set()  # its rings are in a /dev/shm that nobody else sees
        daemon.client.start_stream(make_spec("cam", "t:inf,y:256,x:256", ring_slots=50))
        with camera_in_container(daemon, "cam", 200, 0.001) as camera:
            assert camera.stdout
            camera.stdout.readline()
            [source] = daemon.client.stream_status("cam").sources
            assert source.producer is not None
            assert source.producer >= UNSEEN  # connected; its process is not seen from here
            _, errors = camera.communicate(timeout=60)
        assert (camera.returncode, errors) == (0, "")
        daemon.client.wait("cam", timeout=60)
    check(daemon, "cam", 200)


def test_a_camera_that_is_killed_with_its_container_ends_its_stream(tmp_path: Path) -> None:
    with daemon_in_container(tmp_path) as daemon:
        daemon.client.start_stream(make_spec("cam", "t:inf,y:256,x:256", ring_slots=50))
        with camera_in_container(daemon, "cam", 10_000, 0.01) as camera:
            assert camera.stdout
            last = max(int(camera.stdout.readline()) for _ in range(30))
        daemon.client.wait("cam", timeout=60)
    written = read_zarr(daemon.data / "cam.ome.zarr")
    assert len(written) > last
    assert (written == np.arange(len(written), dtype=np.uint16)[:, None, None]).all()


def test_a_ring_larger_than_the_containers_shared_memory_is_refused(tmp_path: Path) -> None:
    with daemon_in_container(tmp_path) as daemon:
        with pytest.raises(
            omewd.OmewdError, match=r"does not fit into shared memory: 64\.0 MiB are free in /dev/shm"
        ) as error:
            daemon.client.start_stream(make_spec("cam", "t:inf,y:2048,x:2048"))
        assert error.value.code == "no_shared_memory"
        assert "enlarge /dev/shm" in error.value.remedy


def test_the_demo_makes_do_with_the_shared_memory_there_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [*container(), sys.executable, "-m", "omewd", "demo", "--frames", "50", "--fps", "0"],  # 100 MiB of frames
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ring of 16 slots" in done.stdout
    assert "all is well" in done.stdout


def test_rings_outlive_the_container_in_the_hosts_shared_memory(tmp_path: Path) -> None:
    """The daemon's container is killed with all that is in it; the camera goes on, and so does the next container."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="omewd-host-") as shm:
        with daemon_in_container(tmp_path, Path(shm)) as first:
            first.client.start_stream(make_spec("cam", "t:inf,y:256,x:256", ring_slots=100))
            with camera_in_container(first, "cam", 150, 0.01) as camera:
                assert camera.stdout
                for _ in range(30):
                    camera.stdout.readline()
                os.kill(first_process(first.process), signal.SIGKILL)
                first.process.wait(30)
                with daemon_in_container(tmp_path, Path(shm)) as second:
                    _, errors = camera.communicate(timeout=60)
                    assert (camera.returncode, errors) == (0, "")
                    second.client.wait("cam", timeout=60)
        check(first, "cam", 150)
        assert not any(Path(shm).iterdir())


def test_a_camera_that_ended_while_there_was_no_daemon_is_noticed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="omewd-host-") as shm:
        with daemon_in_container(tmp_path, Path(shm)) as first:
            first.client.start_stream(make_spec("cam", "t:inf,y:256,x:256", ring_slots=1000))
            with camera_in_container(first, "cam", 10_000, 0.01) as camera:
                assert camera.stdout
                for _ in range(30):
                    last = int(camera.stdout.readline())
                os.kill(first_process(first.process), signal.SIGKILL)
                first.process.wait(30)
            with daemon_in_container(tmp_path, Path(shm)) as second:
                second.client.wait("cam", timeout=60)
        assert len(read_zarr(first.data / "cam.ome.zarr")) > last


def test_rings_end_with_a_container_that_has_its_own_shared_memory(tmp_path: Path) -> None:
    """The dataset is finalized to what was on disk, and the camera is told."""
    with daemon_in_container(tmp_path) as first:
        first.client.start_stream(make_spec("cam", "t:inf,y:256,x:256", ring_slots=50))
        with camera_in_container(first, "cam", 10_000, 0.01) as camera:
            assert camera.stdout
            for _ in range(30):
                camera.stdout.readline()
            os.kill(first_process(first.process), signal.SIGKILL)
            first.process.wait(30)
            with daemon_in_container(tmp_path):
                _, errors = camera.communicate(timeout=90)
    assert camera.returncode == 1
    assert "the daemon was restarted and does not go on with stream 'cam'" in errors
    written = read_zarr(first.data / "cam.ome.zarr")
    assert (written == np.arange(len(written), dtype=np.uint16)[:, None, None]).all()
    assert verify(first.data / "cam.ome.zarr").problems == []
