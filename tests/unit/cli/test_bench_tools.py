"""The small tools of the benchmark: its frames, its measurements of disk, memory and processes, its cameras."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omewd.bench.ceilings.disk import DiskProbe
from omewd.bench.ceilings.memory import MemoryPeak, shared_bytes
from omewd.bench.plan import (
    IN_PROCESS,
    Column,
    Options,
)
from omewd.bench.profile import name_processes, sampled_functions
from omewd.bench.run import processes
from omewd.bench.run.camera import Camera, feed
from omewd.bench.run.frames import make_pool
from omewd.errors import OmewdError
from tests.support.processes import wait_for
from tests.unit.cli.outcomes import geometry


@pytest.mark.parametrize("data", ["random", "camera"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_frames_differ_and_compress_as_they_should(data: str, dtype: str) -> None:
    from numcodecs import Blosc

    pool = make_pool((256, 256), dtype, data, 5)
    assert (pool.shape, pool.dtype) == ((5, 256, 256), dtype)
    assert len({frame.tobytes() for frame in pool}) == 5
    assert np.isfinite(pool).all()
    codec = Blosc("zstd", 1, Blosc.SHUFFLE)
    ratio = pool.nbytes / sum(len(codec.encode(np.ascontiguousarray(frame))) for frame in pool)
    if data == "camera":
        assert ratio > (1.05 if dtype.startswith("float") else 1.2)
    elif not dtype.startswith("float"):
        assert ratio < 1.01


def test_frames_of_any_number_take_bounded_memory() -> None:
    assert len(make_pool((8, 8), "uint8", "random", 100, pool_bytes=640)) == 10
    assert len(make_pool((8, 8), "uint8", "random", 10**9)) <= 2048
    assert make_pool((4096, 4096), "uint16", "random", 10**6).nbytes <= 256 << 20
    assert len(make_pool((8, 8), "uint8", "camera", 1)) == 1


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", [1, 4096, 4097, (8 << 20) + 1, 50_000_000])
def test_the_disk_probe_writes_the_volume_and_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool
) -> None:
    real_open, real_write, written = os.open, os.pwrite, []

    def refuse_direct(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT and not direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode)

    def short_write(descriptor: int, data: Any, offset: int) -> int:
        count = real_write(descriptor, data[: 1 << 22], offset)
        written.append((offset, count))
        return count

    monkeypatch.setattr(os, "open", refuse_direct)
    monkeypatch.setattr(os, "pwrite", short_write)
    probe = DiskProbe()
    assert probe.seconds(tmp_path / "f", size, sync=True) > 0
    assert probe.direct is direct
    end = 0
    for offset, count in sorted(written):  # no gap and no overlap
        assert offset == end
        end += count
    assert size <= end < size + 4096
    assert not list(tmp_path.iterdir())
    probe.close()


def test_the_disk_probe_leaves_nothing_on_a_full_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        DiskProbe().seconds(tmp_path / "f", 5000, sync=True)
    assert not list(tmp_path.iterdir())


def test_cpu_time_and_memory_of_another_process() -> None:
    code = "x = bytearray(80_000_000); print(flush=True); input(); del x; print(flush=True); input()\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        shared_before = shared_bytes()
        with MemoryPeak([process.pid], 10_000_000, shared_before) as memory:
            assert processes.own_bytes(process.pid) > 80_000_000
            with tempfile.TemporaryFile(dir="/dev/shm") as shared:
                shared.write(bytes(30_000_000))
                shared.flush()
                wait_for(lambda: memory.bytes > 100_000_000)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            assert processes.own_bytes(process.pid) < 80_000_000
        assert 100_000_000 < memory.bytes < 125_000_000
        before, began = processes.cpu_seconds(process.pid), time.monotonic()
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_for(lambda: processes.cpu_seconds(process.pid) - before > 0.02)
        assert processes.cpu_seconds(process.pid) - before < time.monotonic() - began + 0.02  # the clock's ticks
        process.kill()
    with pytest.raises(OSError, match="Invalid argument"):
        processes.cpu_seconds(process.pid)


def test_a_process_is_idle_when_it_has_done_its_work() -> None:
    program = "import time\nwhile time.process_time() < 0.5: pass\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        processes.wait_until_idle([process.pid])
        assert processes.cpu_seconds(process.pid) >= 0.45
        process.kill()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        processes.wait_until_idle([process.pid], timeout_s=0.2)
        process.kill()


def test_a_camera_that_dies_or_hangs_is_told_while_others_are_at_it(tmp_path: Path) -> None:
    spec = geometry("t:1000,y:8:4,x:8:4").spec(Column(IN_PROCESS, "zarr-python", None, 0), Options())
    cameras = [Camera(), Camera()]
    try:
        for number, camera in enumerate(cameras):
            camera.prepare(shape=[8, 8], dtype="uint16", data="random", frames=4, pool_bytes=1000)
            folder = str(tmp_path / f"{number}.ome.zarr")
            document = spec.model_dump(mode="json")
            camera.open(kind=IN_PROCESS, spec=document, folder=folder, socket="", metadata=False)
        settings: dict[str, Any] = {"frames": 1000, "fps": 1000 / 60, "sync": False, "metadata": False}
        os.kill(cameras[1].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(OmewdError, match="ended with SIGKILL"):
            feed(cameras, [str(tmp_path / "0.npy"), str(tmp_path / "1.npy")], 60, **settings)
        assert time.monotonic() - began < 30  # the other one takes 60 s
        with pytest.raises(OmewdError, match="the camera process hangs: no answer to feed"):
            feed(cameras[:1], [str(tmp_path / "0.npy")], 0.2, **settings)
    finally:
        for camera in cameras:
            camera.close()


def test_processes_get_names_in_the_place_of_command_lines(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    stack = 'process 1:"a b";process 7:"python -m omewd.writer --x";'
    raw.write_text(
        f"{stack}run (w.py:3);write (p.py:5) 4\n{stack}run (w.py:3);write (p.py:9) 2\n{stack}run (w.py:3) 1\n"
    )
    assert sampled_functions(raw, {1: "daemon", 7: "writers"}) == {"writer 7": [(6, "write (p.py)"), (1, "run (w.py)")]}
    svg = tmp_path / "f.svg"
    svg.write_text(
        "<title>process 7:&quot;python -m omewd.writer&quot; (6 samples)</title><text>process 7:&quot;pyt..</text>"
    )
    name_processes(svg, {7: "writers"})
    assert svg.read_text() == "<title>writer 7 (6 samples)</title><text>writer 7</text>"
    speedscope = tmp_path / "s.json"
    speedscope.write_text(json.dumps({"profiles": [{"name": 'Process 7 Thread 8 "MainThread"'}]}))
    name_processes(speedscope, {7: "writers"})
    assert json.loads(speedscope.read_text())["profiles"][0]["name"] == 'writer 7 Thread 8 "MainThread"'
