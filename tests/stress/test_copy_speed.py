"""How fast copies are beside those of rclone, and how fast recording is beside a copy. Columns take turns.

A copier, and the server that it copies to, have the idle time of the cores only. A real server is on another machine.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

import omewd
from omewd.bench.benchmark import Bench
from omewd.bench.plan import OMEWD, Column, Geometry, Options, Sample
from omewd.bench.run.processes import cpu_seconds, own_bytes
from omewd.dataset.keys import files_in
from omewd.model.spec.spec import StreamSpec
from tests.support.copies import differences
from tests.support.daemons import daemon
from tests.support.frames import make_spec
from tests.support.s3 import BUCKET, KEY, SECRET, environment, rclone, s3_server
from tests.support.sink import sink

ROUNDS = int(os.environ.get("OMEWD_COPY_ROUNDS", "1"))
LARGE_SHARDS = int(os.environ.get("OMEWD_COPY_SHARDS", "2"))
SMALL_FILES = int(os.environ.get("OMEWD_COPY_SMALL_FILES", "50"))
RECORDED_FRAMES = int(os.environ.get("OMEWD_COPY_FRAMES", "32"))
SHAPES = {
    "shards of 64 MiB": f"t:{8 * LARGE_SHARDS}:1:8,y:2048,x:2048",
    "files of 64 KiB": f"t:{SMALL_FILES},y:128,x:256",
}


# The largest that a copier may get: what it has in flight, and Python with its libraries.
MOST_COPIER_BYTES = (256 << 20) + (128 << 20)


@dataclass
class Turn:
    """One copy. CPU seconds are those of the client and of the server; ``peak_bytes`` is the client's memory."""

    seconds: float
    client_s: float
    server_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Copied(Geometry):
    """A stream that is copied to ``url``, with at most ``limit`` bytes a second."""

    url: str = ""
    limit: float = 100e6

    def spec(self, column: Column, options: Options) -> StreamSpec:
        plain = super().spec(column, options)
        return plain.model_copy(update={"copy_to": self.url, "copy_limit": self.limit})


def record(folder: Path, dims: str) -> Path:
    """A dataset of random pixels."""
    spec = make_spec("cam", dims, backend="direct", durability="none")
    random = np.random.default_rng(1)
    with daemon(folder) as process:
        process.client.start_stream(spec)
        with process.connect("cam") as producer:
            for _ in range(spec.dimensions[0].count or 0):
                producer.append(random.integers(0, 1 << 16, spec.frame_shape, np.uint16))
        process.client.wait("cam")
    return folder / "data" / "cam.ome.zarr"


def commands(dataset: Path, port: int, to: str) -> dict[str, list[str]]:
    """What copies the dataset to a path in the bucket, by name."""
    store = f":s3,provider=Other,endpoint='http://127.0.0.1:{port}',access_key_id={KEY},secret_access_key={SECRET}"
    plain = [rclone(), "copy", "--config", "/dev/null", str(dataset), f"{store}:{BUCKET}/{to}"]
    many = ["--transfers", "16", "--checkers", "16", "--s3-upload-cutoff", "8M", "--s3-chunk-size", "8M"]
    return {
        "omewd copy": [sys.executable, "-m", "omewd", "copy", str(dataset), f"s3://{BUCKET}/{to}"],
        "rclone copy": plain,
        "rclone copy, 16 at once": [*plain, *many],
    }


def take_turn(command: list[str], port: int, server: int) -> Turn:
    before, began = cpu_seconds(server), time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak = max(peak, own_bytes(process.pid))
        time.sleep(0.01)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return Turn(seconds, used.ru_utime + used.ru_stime, cpu_seconds(server) - before, peak)


@pytest.mark.alone
@pytest.mark.stress
@pytest.mark.parametrize("what", SHAPES)
def test_omewd_copy_beside_rclone_copy(tmp_path: Path, what: str) -> None:
    dataset = record(tmp_path / "daemon", SHAPES[what])
    gigabytes = sum((dataset / path).stat().st_size for path in files_in(str(dataset))) / 1e9
    turns: dict[str, list[Turn]] = {}
    with s3_server(tmp_path / "server") as (port, server):
        for number in range(ROUNDS):
            names = list(commands(dataset, port, ""))
            for name in (*names[number % len(names) :], *names[: number % len(names)]):
                shutil.rmtree(dataset / "omewd" / "copies", ignore_errors=True)
                to = f"{number}-{names.index(name)}"  # the server remembers what was there
                turns.setdefault(name, []).append(take_turn(commands(dataset, port, to)[name], port, server))
                assert differences(dataset, tmp_path / "server" / BUCKET / to) == []
                shutil.rmtree(tmp_path / "server" / BUCKET / to)
    print(f"\n{what}: {gigabytes:.2f} GB, medians of {ROUNDS}")
    for name, of in turns.items():
        seconds, client_s, server_s = (
            statistics.median(getattr(turn, each) for turn in of) for each in ("seconds", "client_s", "server_s")
        )
        peak = max(turn.peak_bytes for turn in of) / 1e6
        print(
            f"{name:25} {gigabytes / seconds:.3f} GB/s ({seconds:.2f} s), CPU s/GB: client {client_s / gigabytes:.2f}, "
            f"server {server_s / gigabytes:.2f}; peak of the client {peak:.0f} MB"
        )


class Copiers:
    """The copiers of this process's daemons, watched while they live: the memory of the largest, and their CPU time."""

    def __init__(self) -> None:
        self.peak_bytes, self._cpu_s = 0, dict[int, float]()
        self._ended = threading.Event()

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        found: list[int] = []
        while not self._ended.wait(0.02):
            found = found or self._find()
            for pid in found:
                with suppress(OSError):
                    self._cpu_s[pid] = cpu_seconds(pid)
                    self.peak_bytes = max(self.peak_bytes, own_bytes(pid))

    def _find(self) -> list[int]:
        found = []
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                found += [child.pid] if "omewd.copier" in child.cmdline() else []
        return found


@pytest.mark.alone
@pytest.mark.stress
def test_recording_beside_a_copy(tmp_path: Path) -> None:
    """In turn: alone, and with a copy to a store that takes 100 MB/s."""
    dims = f"t:{RECORDED_FRAMES}:1:8,y:2048,x:2048"
    geometry = Geometry(dims, tuple(omewd.parse_dims(dims)), "uint16")
    column = Column(OMEWD, "direct", None, 2)
    gigabytes = geometry.frames * geometry.frame_bytes / 1e9
    samples: dict[str, list[Sample]] = {"alone": [], "beside a copy": []}
    copiers_s, peak_bytes = [], 0
    with sink() as (port, server), Bench(tmp_path, Options(), environment(port)) as bench:
        os.sched_setscheduler(server, os.SCHED_IDLE, os.sched_param(0))
        for number in range(ROUNDS + 1):  # the first one warms up
            for name in sorted(samples, reverse=number % 2 == 1):
                copiers = Copiers()
                with copiers.watched():
                    which = geometry if name == "alone" else _copied(geometry, f"s3://{BUCKET}/{number}")
                    sample = bench.iterate(which, column)
                bench.end(column)  # and the copy with it
                if number:
                    samples[name].append(sample)
                if number and name != "alone":
                    copiers_s.append(copiers.cpu_s)
                peak_bytes = max(peak_bytes, copiers.peak_bytes)
    rates = {name: [gigabytes / sample.write_s for sample in of] for name, of in samples.items()}
    ratio = statistics.median(b / a for a, b in zip(rates["alone"], rates["beside a copy"], strict=True))
    print(f"\n{gigabytes:.2f} GB, medians of {ROUNDS}: beside a copy {ratio:.2f} of the rate alone")
    for name, of in rates.items():
        print(f"{name:15} {statistics.median(of):.3f} GB/s of {', '.join(f'{rate:.2f}' for rate in of)}")
    print(f"the copier: {statistics.median(copiers_s):.2f} CPU s, at most {peak_bytes / 1e6:.0f} MB")
    assert 0 < peak_bytes < MOST_COPIER_BYTES


def _copied(geometry: Geometry, url: str) -> Copied:
    return Copied(geometry.dims, geometry.dimensions, geometry.dtype, url=url)
