"""Runs a benchmark round by round. Each round times every column of a geometry, so a slow minute hits all alike."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from omewd.bench.ceilings.cores import Cores
from omewd.bench.ceilings.disk import DiskProbe
from omewd.bench.ceilings.memory import MemoryPeak, shared_bytes
from omewd.bench.pace import is_time_up
from omewd.bench.plan import OMEWD, Column, Geometry, Options, Outcome, Sample, Timed
from omewd.bench.run import processes
from omewd.bench.run.camera import Camera, feed
from omewd.bench.run.frames import POOL_BYTES
from omewd.bench.run.private_daemon import PrivateDaemon
from omewd.daemon.config import JOB_TIMEOUT_S, SLOWEST_DISK_BYTES_PER_S
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from omewd.model.waits import StageWaits
from omewd.protocol.status import StreamStatus

# Free space needed for a dataset: metadata and the filesystem's own needs come on top of the pixels.
_SPACE_FACTOR = 1.1
# ext4 does not reuse an inode for up to 300 s after its file was deleted (fs/ext4/ialloc.c, recently_deleted), and
# checks each of these inodes whenever it creates a file. After some hundred deleted files, creating one took four times
# the CPU. So datasets of many files are kept until everything is measured, or space is needed.
_FEW_FILES = 64
# As a share of the space that is free at the start; others write to the drive, too.
_KEPT_SHARE = 0.1

# What ends a run early.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watcher(Protocol):
    """Is told of every turn of every column, including warm-ups."""

    def begins(self, timed: Timed) -> None: ...

    def ended(self, timed: Timed, sample: Sample | None) -> None:
        """``sample``: None if the turn failed."""


class Bench:
    """What columns run on: a folder on the tested drive, camera processes, daemons. A context manager.

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
        self._cores = Cores()
        self._resources.callback(self._cores.close)
        self._pool_bytes = POOL_BYTES
        self._daemons: dict[tuple[int, str], PrivateDaemon] = {}
        self._cameras: dict[tuple[str, str, int], Camera] = {}
        self._kept: list[tuple[Path, int]] = []
        self._may_keep_bytes = int(shutil.disk_usage(self.folder).free * _KEPT_SHARE)
        self._last_iteration = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave processes or files.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
        try:
            for camera in self._cameras.values():
                camera.close()
            for daemon in self._daemons.values():
                daemon.close()
            self._resources.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, geometry: Geometry, columns: list[Column], watcher: Watcher) -> Outcome:
        """Time every column. If one fails, its error is recorded and the others go on.

        Each round starts one column later, so that no column always comes first.
        """
        timed = [Timed(column) for column in columns]
        outcome = Outcome(geometry, timed, cores=self._cores.count)
        # The frames of all cameras together take the memory of one camera's.
        self._pool_bytes = POOL_BYTES // max(column.cameras for column in columns)
        turns: list[Timed | None] = [None, *timed]  # None: the ceilings
        rounds = self.options.warmups + self.options.iterations
        began = time.monotonic()
        for number in range(rounds):
            kept = number >= self.options.warmups
            if outcome.iterations and is_time_up(time.monotonic() - began, number, self.options.time_limit_s):
                break
            if all(one.error is not None for one in timed):
                break
            first = number % len(turns)
            for turn in (*turns[first:], *turns[:first]):
                self._take_turn(outcome, turn, watcher, kept=kept)
            outcome.iterations += kept
        return outcome

    def _take_turn(self, outcome: Outcome, turn: Timed | None, watcher: Watcher, *, kept: bool) -> None:
        if turn is None:
            self._time_disk(outcome, kept=kept)
            self._time_cores(outcome, kept=kept)
        elif turn.error is None:
            watcher.begins(turn)
            sample = None
            try:
                sample = self.iterate(outcome.geometry, turn.column)
            except OmewdError as error:
                turn.error = error
                turn.samples.clear()
            else:
                if kept:
                    turn.samples.append(sample)
            watcher.ended(turn, sample)

    def _time_disk(self, outcome: Outcome, *, kept: bool) -> None:
        """Time plain writes, the best that the drive can do, in the same rounds as the columns."""
        if outcome.disk_error:
            return
        total_bytes = outcome.geometry.total_bytes
        try:
            self._free_space(total_bytes)
            _sync()
            seconds = self._disk.seconds(self.folder / "disk", total_bytes, sync=self.options.durability == "fsync")
        except (OSError, OmewdError) as error:
            outcome.disk_error = f"plain writes failed: {error}"
            return
        outcome.disk_direct = self._disk.direct
        if kept:
            outcome.disk_s.append(seconds)

    def _time_cores(self, outcome: Outcome, *, kept: bool) -> None:
        """Time copies of frames, and each codec on its own, the best that the cores can do."""
        if outcome.cores_error:
            return
        geometry = outcome.geometry
        compressions = dict.fromkeys(timed.column.compression for timed in outcome.timed)
        try:
            self._cores.prepare(
                shape=list(geometry.frame_shape),
                dtype=geometry.dtype,
                data=self.options.data,
                frames=geometry.frames,
                chunk=list(geometry.chunk_shape),
            )
            memcpy = self._cores.copy()
            codecs = {name: self._cores.compress(name) for name in compressions if name}
        except (OSError, OmewdError) as error:
            outcome.cores_error = f"copies and codecs could not be timed: {error}"
            return
        if kept:
            outcome.memcpy.append(memcpy)
            for name, rates in codecs.items():
                outcome.codecs.setdefault(name, []).append(rates)

    @property
    def roles(self) -> dict[int, str]:
        """The roles of the running processes, by process id."""
        roles = {camera.pid: "producer" for camera in self._cameras.values()}
        for daemon in self._daemons.values():
            roles |= processes.roles_of(daemon.client.daemon_status())
        return roles

    def iterate(self, geometry: Geometry, column: Column) -> Sample:
        """Run one iteration of one column: create the datasets, measure, remove them. Raises OmewdError if it fails."""
        spec = geometry.spec(column, self.options)
        try:
            self._free_space(geometry.volume_bytes(column))
            daemon = self._daemon(column) if column.kind == OMEWD else None
            cameras = self._cameras_of(geometry, column)
            with self._datasets() as folder:
                _sync()
                return self._measure(daemon, cameras, column, spec, folder)
        except (OmewdError, OSError) as error:
            self.end(column)
            _remove(self._iteration_folder)
            if isinstance(error, OmewdError):
                raise
            raise OmewdError("error", f"the processes could not be measured: {error}") from error

    def end(self, column: Column) -> None:
        """Close what a column has open, so that it does not disturb others."""
        if daemon := self._daemons.pop(_daemon_key(column), None):
            daemon.close()
        for key in _camera_keys(column):
            if camera := self._cameras.pop(key, None):
                camera.close()

    def _free_space(self, total_bytes: int) -> None:
        """Make space for the next datasets by removing kept ones; raises OmewdError ``disk_full``."""
        while (free := shutil.disk_usage(self.folder).free) < total_bytes * _SPACE_FACTOR and self._kept:
            _remove(self._kept.pop(0)[0])
        _require_space(self.folder.parent, free, total_bytes)

    @property
    def _iteration_folder(self) -> Path:
        return self.folder / str(self._last_iteration)

    @contextmanager
    def _datasets(self) -> Iterator[Path]:
        """A folder for datasets. After success it is removed, or kept for a while if it has many files."""
        self._last_iteration += 1
        path = self._iteration_folder
        path.mkdir()
        yield path
        sizes = [entry.stat().st_size for entry in path.rglob("*") if entry.is_file()]
        if len(sizes) <= _FEW_FILES:
            _remove(path)
            return
        self._kept.append((path, sum(sizes)))
        while sum(size for _, size in self._kept) > self._may_keep_bytes:
            _remove(self._kept.pop(0)[0])

    def _daemon(self, column: Column) -> PrivateDaemon:
        """The daemon of a column. Each backend has one, so that each library is alone in its processes."""
        key = _daemon_key(column)
        if key not in self._daemons:
            arguments = ["--writers", str(column.writers), "--memory", self.options.memory]
            self._daemons[key] = PrivateDaemon(self.folder, *arguments, environment=self._environment)
        return self._daemons[key]

    def _cameras_of(self, geometry: Geometry, column: Column) -> list[Camera]:
        """The column's camera processes, with their frames prepared."""
        wanted = {
            "shape": list(geometry.frame_shape),
            "dtype": geometry.dtype,
            "data": self.options.data,
            "frames": geometry.frames,
            "pool_bytes": self._pool_bytes,
        }
        for key in _camera_keys(column):
            if key not in self._cameras:
                self._cameras[key] = Camera(self._environment)
            if self._cameras[key].prepared.get("for") != wanted:
                self._cameras[key].prepare(**wanted)
        return [self._cameras[key] for key in _camera_keys(column)]

    def _measure(
        self, daemon: PrivateDaemon | None, cameras: list[Camera], column: Column, spec: StreamSpec, folder: Path
    ) -> Sample:
        options, frames = self.options, Plan.of(spec).frames_total or 0
        volume_bytes = len(cameras) * frames * spec.frame_bytes
        before = processes.roles_of(daemon.client.daemon_status()) if daemon else {}
        shared_before = shared_bytes()
        names = [f"{spec.name}{number}" for number in range(1, len(cameras) + 1)]
        create_s = connect_s = 0.0
        for camera, name in zip(cameras, names, strict=True):
            dataset = str(folder / f"{name}.ome.zarr")
            opened = camera.open(
                kind=column.kind,
                spec=spec.model_copy(update={"name": name, "output": dataset}).model_dump(mode="json"),
                folder=dataset,
                socket=str(daemon.socket) if daemon else "",
                metadata=options.frame_metadata,
            )
            create_s += opened["create_s"]
            connect_s += opened["connect_s"]
        if daemon and frames * spec.frame_bytes > daemon.client.stream_status(names[0]).ring.bytes:
            # A long run pays once for mapping the ring; a short one, which fits into it, pays while the clock runs.
            processes.wait_until_idle(before)
        pids = {**before, **dict.fromkeys((c.pid for c in cameras), "producer" if daemon else "process")}
        used = {pid: processes.cpu_seconds(pid) for pid in pids}
        appends = [str(self.folder / f"{name}.npy") for name in names]
        pace_s = frames / options.fps if options.fps else 0.0
        with MemoryPeak(list(pids), sum(c.prepared["own_bytes"] for c in cameras), shared_before) as memory:
            fed = feed(
                cameras,
                appends,
                JOB_TIMEOUT_S + pace_s + volume_bytes / SLOWEST_DISK_BYTES_PER_S,
                frames=frames,
                fps=options.fps,
                sync=options.durability == "fsync" and daemon is None,
                metadata=options.frame_metadata,
            )
        if daemon and processes.roles_of(daemon.client.daemon_status()) != before:
            raise OmewdError(
                "writer_died", "a writer process died and its work was done again, so the figures are not reliable"
            )
        cpu_s: dict[str, float] = {}
        for pid, role in pids.items():
            cpu_s[role] = cpu_s.get(role, 0.0) + processes.cpu_seconds(pid) - used[pid]
        waits = _longest([_waits(daemon.client.stream_status(name), frames) for name in names] if daemon else [])
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        if spec.compression is None and sum(files) < volume_bytes:
            raise OmewdError("incomplete", f"{sum(files)} of {volume_bytes} bytes were written")
        began_s = min(times["began_s"] for times in fed)
        done_s = max(times["done_s"] for times in fed)
        return Sample(
            create_s=create_s,
            connect_s=connect_s,
            write_s=done_s - began_s,
            close_s=done_s - max(times["appended_s"] for times in fed),
            closed_s=max(times["closed_s"] for times in fed) - began_s,
            cpu_s=cpu_s,
            peak_bytes=memory.bytes,
            stored_bytes=sum(files),
            files=len(files),
            appends_ns=[ns for path in appends for ns in np.load(path).tolist()],
            waits=waits,
        )


def check_space(folder: Path, geometry: Geometry, columns: list[Column]) -> None:
    """Raise OmewdError ``disk_full`` if the datasets of any column do not fit on the drive of a folder."""
    _require_space(folder, shutil.disk_usage(folder).free, max(geometry.dataset_bytes(column) for column in columns))


def _require_space(folder: Path, free_bytes: int, total_bytes: int) -> None:
    needed_bytes = total_bytes * _SPACE_FACTOR
    if free_bytes < needed_bytes:
        raise OmewdError(
            "disk_full",
            f"{needed_bytes / 1e9:.2f} GB are needed, but {free_bytes / 1e9:.2f} GB are free in {folder}",
            "Use fewer frames or cameras, or another --output-dir",
        )


def _daemon_key(column: Column) -> tuple[int, str]:
    return column.writers, column.backend


def _camera_keys(column: Column) -> list[tuple[str, str, int]]:
    """All columns of omewd share cameras; other columns have a process with their library in it."""
    backend = "" if column.kind == OMEWD else column.backend
    return [(column.kind, backend, number) for number in range(column.cameras)]


def _waits(status: StreamStatus, frames: int) -> dict[str, StageWaits]:
    """Where a stream's frames waited; raises OmewdError if a job had to be run again."""
    written, retries = status.frames.written, status.retries
    if written != frames:
        raise OmewdError("incomplete", f"{written} of {frames} frames were written")
    if retries:
        raise OmewdError("error", f"{retries} jobs failed and were run again, so the figures are not reliable")
    return status.waits


def _longest(of_cameras: list[dict[str, StageWaits]]) -> dict[str, StageWaits]:
    """The longest of each figure over all cameras."""
    longest: dict[str, StageWaits] = {}
    for waits in of_cameras:
        for stage, figures in waits.items():
            so_far = longest.get(stage, figures)
            longest[stage] = StageWaits(
                max(so_far.p50_ns, figures.p50_ns),
                max(so_far.p99_ns, figures.p99_ns),
                max(so_far.max_ns, figures.max_ns),
            )
    return longest


# Other programs clean up, so that a profiler of this process does not see it.


def _remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", "--", path], check=False)


def _sync() -> None:
    """Flush the page cache, so that earlier writes don't take time from the next measurement."""
    subprocess.run(["sync"], check=False)
