"""What a writer may take of the machine: its cores, and the memory that the daemon counts on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from omewd.daemon.processes.roles import ALLOCATOR
from omewd.model.spec.backend import BACKENDS
from tests.support.places import REPOSITORY

# Threads that run at a time, on average, when a writer may use one core; with two: 1.7 to 1.9, 1.5, 2.1, 2.4.
# zarr-python copies chunks in its event loop beside the one thread that encodes; acquire-zarr has a pool of
# two at least and a thread that feeds it.
THREADS = {"direct": 1.5, "tensorstore": 1.3, "zarrs-python": 1.25, "zarr-python": 1.85, "acquire-zarr": 3.1}
# The interpreter's own, such as modules that are imported late.
SLACK_BYTES = 16 << 20

# Encodes and stores units out of shared memory as a writer does, and tells what that took: cores to encode them,
# memory to store them.
_WRITER = """
import json, mmap, sys, threading, time
from pathlib import Path
import numpy as np
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.store.encoders.base import Patchwork, UnitArray, by_unit
from omewd.store.sinks.base import committed
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools
from omewd.store.units import Units, UnitStore
from tests.support.frames import make_spec

backend, compression, threads = BACKENDS[sys.argv[1]], sys.argv[2] or None, int(sys.argv[3])
scratch, folder = map(Path, sys.argv[4:])
spec = make_spec("cam", "t:8:1:8,y:1024:256:4,x:2048:256:8", compression=compression, durability="none")
array = UnitArray.of(spec)
block = np.frombuffer(mmap.mmap(-1, array.key_bytes), spec.dtype).reshape(array.shape)
for frame in block:
    frame[:] = np.random.default_rng(0).integers(90, 130, frame.shape, np.uint16)

def held_bytes():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    files = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    return int(status["RssAnon"].split()[0]) * 1024 + files

def runnable_threads():
    # Also those that wait for a core, so that a busy machine does not hide them; not the one that looks.
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(threading.get_native_id())]
    return sum(")" in stat and stat.rsplit(")", 1)[1].split()[0] == "R" for stat in map(read_stat, tasks))

def read_stat(task):
    try:
        return (task / "stat").read_text()
    except OSError:  # it has ended
        return ""

def watch():
    while not done.wait(0.002):
        if count := runnable_threads():
            running.append(count)
        try:
            held.append(held_bytes())
        except OSError:  # a file went while it was looked at
            pass

tools = Tools(threads, scratch)
(folder / "staging").mkdir()
store = UnitStore(spec, backend, Publisher(folder, folder / "staging", durable=False), tools, "unit")
store.open_encoders()
depth = Plan.of(spec, backend.encodes).extents[0]
blocks = block.reshape(-1, depth, *block.shape[1:])
units = [Units(range(len(blocks)), blocks)]
[encoder] = store.open_encoders()
buffers = threading.local()
def copy(cell):
    taken = buffers.__dict__.setdefault("taken", bytearray(1 << 20))
    for piece in cell.pieces:
        view = memoryview(np.ascontiguousarray(piece)).cast("B")
        for start in range(0, len(view), len(taken)):
            part = view[start : start + len(taken)]
            taken[: len(part)] = part

def encode():
    lasts = isinstance(encoder.encode(blocks[0]), Patchwork)
    run = tools.pieces.map if lasts and compression else map  # several threads may consume a patchwork
    list(run(lambda part: [copy(cell) for _, cells in by_unit(0, encoder.encode(part)) for cell in cells], blocks))

at_rest, held, running, done, peaks = held_bytes(), [], [], threading.Event(), []
watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(16):
    encode()
cores = sum(running) / max(len(running), 1)
held.clear()
for _ in range(4):
    for _ in range(4):
        committed(store.put(0, units), tools.syncs)
    peaks.append(max(held) - at_rest)
    held.clear()
done.set()
watcher.join()
store.close()
tools.close()
print(json.dumps({"threads": cores, "peaks": peaks, "unit": array.key_bytes}))
"""


@pytest.mark.alone
@pytest.mark.parametrize("compression", ["", "blosc-zstd"], ids=["raw", "compressed"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_core_and_a_bounded_memory(tmp_path: Path, backend: str, compression: str) -> None:
    """``THREADS``, and what the daemon counts on beside the gathered unit; no growth from unit to unit."""
    caps = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "BLOSC_NTHREADS"), "1")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="conformance-") as scratch:
        ran = subprocess.run(
            [sys.executable, "-c", _WRITER, backend, compression, "1", scratch, str(tmp_path)],
            env={**os.environ, **ALLOCATOR, **caps},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert not list(Path(scratch).iterdir()), "scratch files are left"
    assert ran.returncode == 0, ran.stderr
    took = json.loads(ran.stdout)
    assert took["threads"] < THREADS[backend]
    assert max(took["peaks"]) <= (BACKENDS[backend].copies - 1) * took["unit"] + SLACK_BYTES
    assert took["peaks"][-1] <= took["peaks"][0] + took["unit"], "it grows"
