"""Runs a benchmark: every column of a geometry in turn, round by round, so that a slow minute hits all alike."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omewd.bench import processes
from omewd.bench.camera import Camera
from omewd.bench.disk import DiskProbe
from omewd.bench.plan import OMEWD, Column, Geometry, Options, Outcome, Sample, Timed
from omewd.bench.private_daemon import PrivateDaemon
from omewd.errors import OmewdError
from omewd.model.plan import Plan
from omewd.model.spec import StreamSpec

# Room for one dataset: metadata, and the disk's own needs, come on top of the pixels.
_ROOM = 1.1
# ext4 gives no inode out again for up to 300 s after its file was deleted (fs/ext4/ialloc.c, recently_deleted), and
# looks at each of them whenever a file is made: after some hundred deleted files, making one took four times
# the CPU. So datasets of many files are kept until all is measured, or room is needed.
_FEW_FILES = 64


class Bench:
    """What columns run on: a folder on the drive that is tested, camera processes, daemons. A context manager.

    ``environment``: variables for these processes.
    """

    def __init__(self, output_dir: Path, options: Options, environment: Mapping[str, str] | None = None) -> None:
        self.options = options
        self._environment = environment
        self._resources = ExitStack()
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="omewd-benchmark-", dir=output_dir))
        except OSError as error:
            raise OmewdError(
                "usage", f"{output_dir} can't be written to: {error.strerror}", "Choose another --output-dir"
            ) from error
        self._resources.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._disk = DiskProbe()
        self._resources.callback(self._disk.close)
        self._daemons: dict[tuple[int, str], PrivateDaemon] = {}
        self._cameras: dict[tuple[str, str], Camera] = {}
        self._kept: list[Path] = []
        self._last_dataset = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave processes or files
        try:
            self._resources.close()
        finally:
            signal.signal(signal.SIGINT, before)

    def run(
        self, geometry: Geometry, columns: list[Column], progress: Callable[[Timed, int], None] = lambda *_: None
    ) -> Outcome:
        """Time every column; one that fails has its reason, and the others go on.

        ``progress`` is told of each column after each of its iterations, warm-ups counted.
        """
        options = self.options
        self._check_room(geometry)
        timed = [Timed(column) for column in columns]
        outcome = Outcome(geometry, timed)
        for number in range(options.warmups + options.iterations):
            kept = number >= options.warmups
            self._time_disk(outcome, kept=kept)
            for one in timed:
                if one.error is None:
                    try:
                        sample = self.iterate(geometry, one.column)
                    except OmewdError as error:
                        one.error = error
                        one.samples.clear()
                    else:
                        if kept:
                            one.samples.append(sample)
                progress(one, number + 1)
        outcome.memcpy_ns = next((c.prepared["memcpy_ns"] for c in self._cameras.values()), 0)
        return outcome

    def _check_room(self, geometry: Geometry) -> None:
        free = shutil.disk_usage(self.folder).free
        needed = int(geometry.total_bytes * _ROOM)
        if needed > free:
            raise OmewdError(
                "disk_full",
                f"{geometry.dims!r} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in "
                f"{self.folder.parent}",
                "Choose fewer frames, or another --output-dir",
            )

    def _time_disk(self, outcome: Outcome, *, kept: bool) -> None:
        """What the drive takes at best, measured in the same round as the columns."""
        if outcome.disk_error:
            return
        _sync()
        try:
            seconds = self._disk.seconds(
                self.folder / "disk", outcome.geometry.total_bytes, sync=self.options.durability == "fsync"
            )
        except OSError as error:
            outcome.disk_error = f"plain writes failed: {error.strerror}"
            return
        outcome.disk_direct = self._disk.direct
        if kept:
            outcome.disk_s.append(seconds)

    @property
    def roles(self) -> dict[int, str]:
        """What the processes at work are, by process id."""
        roles = {camera.pid: "producer" for camera in self._cameras.values()}
        for daemon in self._daemons.values():
            roles |= processes_of(daemon)
        return roles

    def iterate(self, geometry: Geometry, column: Column) -> Sample:
        """One iteration of one column: make the dataset, measure, remove it. Raises OmewdError with what went wrong."""
        spec = geometry.spec(column, self.options)
        key = (column.writers, column.backend)
        try:
            daemon = self._daemon(key) if column.kind == OMEWD else None
            camera = self._camera(geometry, column)
            with self._dataset(geometry) as folder:
                _sync()
                return self._measure(daemon, camera, column, spec.model_copy(update={"output": str(folder)}), folder)
        except OSError as error:
            raise OmewdError("error", f"the processes could not be measured: {error}") from error
        except OmewdError:
            if column.kind == OMEWD and key in self._daemons:  # what it has open must not go on beside others
                self._daemons.pop(key).stop()
            raise

    @contextmanager
    def _dataset(self, geometry: Geometry) -> Iterator[Path]:
        """A place for a dataset, and room for it."""
        while self._kept and shutil.disk_usage(self.folder).free < geometry.total_bytes * _ROOM:
            _remove(self._kept.pop(0))
        self._last_dataset += 1
        path = self.folder / f"{self._last_dataset}.ome.zarr"
        try:
            yield path
        except BaseException:
            _remove(path)
            raise
        if sum(entry.is_file() for entry in path.rglob("*")) > _FEW_FILES:
            self._kept.append(path)
        else:
            _remove(path)

    def _daemon(self, key: tuple[int, str]) -> PrivateDaemon:
        """The daemon of a column: one for each backend, so that no library is in another one's memory."""
        if key not in self._daemons:
            arguments = ["--writers", str(key[0]), "--memory", self.options.memory]
            self._daemons[key] = self._resources.enter_context(
                PrivateDaemon(self.folder, *arguments, environment=self._environment)
            )
        return self._daemons[key]

    def _camera(self, geometry: Geometry, column: Column) -> Camera:
        """The process that hands frames over: one for all of omewd, else one with the library in it."""
        key = (OMEWD, "") if column.kind == OMEWD else (column.kind, column.backend)
        camera = self._cameras.get(key)
        if camera is None or not camera.is_alive:
            camera = self._cameras[key] = self._resources.enter_context(Camera(self._environment))
        wanted = {
            "shape": list(geometry.frame_shape),
            "dtype": geometry.dtype,
            "data": self.options.data,
            "frames": geometry.frames,
        }
        if camera.prepared.get("for") != wanted:
            camera.prepare(**wanted)
        return camera

    def _measure(
        self, daemon: PrivateDaemon | None, camera: Camera, column: Column, spec: StreamSpec, folder: Path
    ) -> Sample:
        frames = Plan.of(spec).frames_total or 0
        before = processes_of(daemon)
        for pid in (camera.pid, *before):
            processes.reset_peak(pid)
        base_bytes = processes.resident_bytes(camera.pid)
        opened = camera.open(
            kind=column.kind,
            spec=spec.model_dump(mode="json"),
            folder=str(folder),
            socket=str(daemon.socket) if daemon else "",
        )
        ring_bytes = daemon.client.status(spec.name)["ring"]["bytes"] if daemon else 0
        pids = {**before, camera.pid: "producer" if daemon else "process"}
        used = {pid: processes.cpu_seconds(pid) for pid in pids}
        appends = self.folder / "appends.npy"
        fed = camera.feed(
            frames=frames,
            fps=self.options.fps,
            sync=self.options.durability == "fsync" and daemon is None,
            appends=str(appends),
        )
        if processes_of(daemon) != before:
            raise OmewdError("writer_died", "a writer process died, and its work was done again: no figure to rely on")
        cpu_s: dict[str, float] = {}
        for pid, role in pids.items():
            cpu_s[role] = cpu_s.get(role, 0.0) + processes.cpu_seconds(pid) - used[pid]
        waits = {}
        if daemon is not None:
            status = daemon.client.status(spec.name)
            _check_whole(status, frames)
            waits = status["waits"]
            peak_bytes = ring_bytes + sum(max(0, processes.peak_bytes(pid) - ring_bytes) for pid in before)
        else:
            peak_bytes = processes.peak_bytes(camera.pid) - base_bytes
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        if spec.compression is None and sum(files) < frames * spec.frame_bytes:
            raise OmewdError("incomplete", f"{sum(files)} bytes were written of {frames * spec.frame_bytes}")
        return Sample(
            create_s=opened["create_s"],
            write_s=fed["write_s"],
            closed_s=fed["closed_s"],
            cpu_s=cpu_s,
            peak_bytes=peak_bytes,
            stored_bytes=sum(files),
            files=len(files),
            appends_ns=np.load(appends).tolist(),
            waits=waits,
        )


def processes_of(daemon: PrivateDaemon | None) -> dict[int, str]:
    """The daemon and its writers: role by process id."""
    if daemon is None:
        return {}
    return {daemon.pid: "daemon", **{writer["pid"]: "writers" for writer in daemon.client.status()["writers"]}}


def _check_whole(status: dict[str, Any], frames: int) -> None:
    written, retries = status["frames"]["written"], status["retries"]
    if written != frames:
        raise OmewdError("incomplete", f"{written} of {frames} frames were written")
    if retries:
        raise OmewdError("error", f"{retries} jobs failed and were run again: no figure to rely on")


# Clean-up is done by other programs: they are no part of what a profiler sees of this one.


def _remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", "--", path], check=False)


def _sync() -> None:
    """What others have left in the page cache must not be written in the time of the next."""
    subprocess.run(["sync"], check=False)
