"""How fast ``omewd copy`` is beside ``rclone copy``: the same files, the same server, in turn."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from omewd.bench.run.processes import cpu_seconds
from omewd.dataset.keys import files_in
from tests.support.copies import differences
from tests.support.daemons import daemon
from tests.support.frames import make_spec
from tests.support.s3 import BUCKET, KEY, SECRET, environment, rclone, s3_server

ROUNDS = int(os.environ.get("OMEWD_COPY_ROUNDS", "1"))
LARGE_SHARDS = int(os.environ.get("OMEWD_COPY_SHARDS", "2"))
SMALL_FILES = int(os.environ.get("OMEWD_COPY_SMALL_FILES", "50"))
SHAPES = {
    "shards of 64 MiB": f"t:{8 * LARGE_SHARDS}:1:8,y:2048,x:2048",
    "files of 64 KiB": f"t:{SMALL_FILES},y:128,x:256",
}


@dataclass
class Turn:
    """One copy. CPU seconds are those of the client and of the server; ``peak_bytes`` is the client's memory."""

    seconds: float
    client_s: float
    server_s: float
    peak_bytes: int


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
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    seconds = time.monotonic() - began
    return Turn(seconds, used.ru_utime + used.ru_stime, cpu_seconds(server) - before, used.ru_maxrss * 1024)


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
