"""What the tests share: frames that carry their index, a real daemon, and reading datasets back."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import omewd
from omewd.daemon.state.journal import instance_name
from omewd.dataset.ledger.ledger import FrameLines
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

Array = np.ndarray[Any, Any]

DIGITS = 4  # pixels that hold the index, two decimal digits each


def make_frame(index: int, shape: tuple[int, int], dtype: str) -> Array:
    """A frame that carries its index in its first pixels and a pattern of its own everywhere else."""
    pixels = (np.arange(shape[0] * shape[1], dtype=np.int64) * 7 + index * 13) % 101
    pixels[:DIGITS] = [(index // 100**k) % 100 for k in range(DIGITS)]
    return pixels.astype(dtype).reshape(shape)


def frame_index(frame: Array) -> int:
    return sum(int(d) * 100**k for k, d in enumerate(np.asarray(frame).flat[:DIGITS]))


def make_spec(name: str, dims: str, **fields: Any) -> StreamSpec:
    fields = {"output": f"{name}.ome.zarr", **fields}
    return StreamSpec(name=name, dimensions=omewd.parse_dims(dims), **fields)


@functools.cache
def _frame_lines(source: int | None) -> FrameLines:
    v = omewd.Dimension.model_validate({"name": "v", "coords": [0, 1, 2]})
    t, *frame = omewd.parse_dims("t:inf:2,y:4,x:5")
    dims, own = ((t, *frame), None) if source is None else ((t, v, *frame), "v")
    return FrameLines.of(StreamSpec(name="s", dimensions=dims, source_dimension=own), source or 0)


def frame_line(frame: int, wall_ns: int, monotonic_ns: int, metadata: bytes, source: int | None = None) -> str:
    """The ledger's line of a frame along t, of a single camera, or of one of three."""
    [line] = _frame_lines(source).make(np.array([frame]), [wall_ns], [monotonic_ns], [metadata])
    return line


def read_zarr(dataset: Path) -> Array:
    """The image array, whole, read by zarr-python."""
    import zarr

    array = zarr.open_array(str(dataset / "0"), mode="r")
    return np.asarray(array[...])


def read_tensorstore(dataset: Path) -> Array:
    """The image array, whole, read by tensorstore."""
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(dataset / "0")}}
    return np.asarray(tensorstore.open(spec, open=True).result().read().result())


def check_dataset(
    dataset: Path, spec: StreamSpec, frames: int, gaps: set[int] | None = None, *, validate: bool = True
) -> None:
    """Every frame index in [0, frames) is at its place, bit for bit, or is a gap and reads as zero."""
    from yaozarrs import validate_zarr_store

    gaps = gaps or set()
    plan = Plan.of(spec)
    shape = plan.outer_shape(frames)
    expected_shape = (*(shape[i] for i in plan.order), *spec.frame_shape)
    for array in (read_zarr(dataset), read_tensorstore(dataset)):
        assert array.shape == expected_shape
        assert array.dtype == spec.dtype
        for index in range(frames):
            stored = array[plan.place(index)]
            if index in gaps:
                assert not stored.any(), f"gap {index} is not empty"
            else:
                expected = make_frame(index, spec.frame_shape, spec.dtype)
                assert stored.tobytes() == expected.tobytes(), f"frame {index} is wrong (holds {frame_index(stored)})"
    if validate:
        validate_zarr_store(str(dataset))
    totals = json.loads((dataset / "omewd" / "zarr.json").read_text())["attributes"]["omewd"]
    assert totals["received"] == frames
    assert totals["gaps"] == len(gaps)
    assert totals["written"] == frames - len(gaps)
    assert not (dataset / "omewd" / "staging").exists()
    strays = [p for p in dataset.rglob("*") if p.is_file() and p.name.startswith((".", "unit"))]
    assert not strays


class DaemonProcess:
    """A real ``omewd serve`` with its own socket, state and data root under one folder."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        env: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        wait: bool = True,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "omewd.sock"
        self.log_path = folder / "daemon.log"
        self.client = omewd.Client(self.socket)
        command = [*prefix, sys.executable, "-m", "omewd", "serve"]
        command += ["--socket", str(self.socket), "--log-format", "json"]
        command += ["--data-root", str(self.data), "--state-dir", str(folder / "state"), *options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, **(env or {})})
        self.instance = instance_name(folder / "state")
        started_instances.add(self.instance)
        if wait:
            self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"omewd serve exited with {self.process.returncode}: {self.log()}")
            try:
                self.client.status()
            except omewd.OmewdError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"omewd serve was not ready in 30 s: {self.log()}")

    def shared_memory(self) -> set[str]:
        """The ring segments that this daemon has."""
        names = shared_memory_names(self.instance)
        return {name for name in names if (Path("/dev/shm") / name).is_file()}

    def log(self) -> str:
        return self.log_path.read_text()

    def connect(self, name: str) -> omewd.Producer:
        return omewd.connect(name, socket=self.socket)

    def writer_pids(self) -> list[int]:
        """The writers of frames, once all are ready."""
        while True:
            writers = [writer for writer in self.client.status()["writers"] if not writer["aside"]]
            if all(writer["ready"] for writer in writers):
                return [writer["pid"] for writer in writers]
            time.sleep(0.01)

    def kill_a_writer(self) -> int:
        """SIGKILL for a writer that lives; returns its pid."""
        while True:
            pid = self.writer_pids()[0]
            with contextlib.suppress(ProcessLookupError):  # killed before, and not noticed yet
                os.kill(pid, signal.SIGKILL)
                return pid

    def omewd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an ``omewd`` command against this daemon."""
        return subprocess.run(
            [sys.executable, "-m", "omewd", *arguments],
            env={**os.environ, "OMEWD_SOCKET": str(self.socket)},
            cwd=self.data,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def let_go(self) -> None:
        """Let go of the rings of streams that have failed, which the daemon keeps until it is told."""
        with contextlib.suppress(omewd.OmewdError):  # a test may have ended the daemon
            for stream in self.client.status()["streams"]:
                if stream["kept_in_ring"]:
                    self.client.stop_stream(stream["name"])

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)


class KeptDaemon:
    """A daemon that is started again whenever it dies, as systemd does; ``env`` is for the first one only."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self._folder, self._options = folder, options
        self.now = DaemonProcess(folder, *options, env=env)
        self.starts = 1
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(0.01):
            if self.now.process.poll() is not None:
                self.starts += 1
                self.now = DaemonProcess(self._folder, *self._options, wait=False)

    def ask(self, request: Callable[[], Any], timeout_s: float = 20) -> Any:
        """Ask the daemon until one is there to answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return request()
            except omewd.OmewdError as error:
                if error.code not in ("unreachable", "no_daemon") or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def end(self) -> None:
        """No more restarts; the daemon must stop cleanly."""
        self._ended.set()
        self._thread.join()
        try:
            if self.now.process.poll() is not None:  # it died last of all
                self.now = DaemonProcess(self._folder, *self._options)
            self.now._wait_until_ready()
            assert self.now.stop() == 0, self.now.log()
        finally:
            self.now.kill()


@contextlib.contextmanager
def daemon(
    folder: Path, *options: str, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[DaemonProcess]:
    """Run a daemon for the block; it must stop cleanly."""
    process = DaemonProcess(folder, *options, env=env, prefix=prefix)
    try:
        yield process
        process.let_go()
        assert process.stop() == 0, process.log()
    finally:
        process.kill()


# The names by which the shared memory of this test run's daemons is known: others may run beside it.
started_instances: set[str] = set()


def shared_memory_names(*instances: str) -> set[str]:
    """What is in /dev/shm of these daemons."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(instances)}


def in_shared_memory() -> set[str]:
    """All that any omewd has in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("omewd-")}


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own, such as a camera."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Look until a condition holds; as long as a loaded machine may take."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
