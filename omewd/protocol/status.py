"""The status of the daemon and its streams. ``omewd status --json`` and ``Client.status`` return these types as JSON.

Their version is :data:`omewd.protocol.versions.STATUS`. Reading is tolerant: unknown fields are ignored, and missing
ones get their defaults. Frame indexes count from 0 in acquisition order, separately for each source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from omewd.errors import OmewdError
from omewd.model.record import Record
from omewd.model.waits import StageCounts, StageWaits
from omewd.protocol.versions import STATUS, Version

# (first frame index, count)
Run = tuple[int, int]


@dataclass(frozen=True)
class ErrorStatus(Record):
    """Why something failed or waits: the error's code (see :mod:`omewd.errors`), what happened, the remedy."""

    code: str = "error"
    message: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: OmewdError) -> ErrorStatus:
        return cls(error.code, error.message, error.remedy)


@dataclass(frozen=True)
class FramesStatus(Record):
    """Counts of frames: received = written + gaps + lost + in_flight, and gaps = skipped + dropped.

    ``declared``: None if the stream is unbounded. ``lost``: frames of a failed stream that were received but are not in
    the dataset. ``durable``: for a source, all frame indexes below it are safely on disk (0 with
    ``durability="none"``); for a stream, the sum over its sources. ``copied``: likewise, of those in the copy's store.
    """

    declared: int | None = None
    received: int = 0
    written: int = 0
    gaps: int = 0
    skipped: int = 0
    dropped: int = 0
    lost: int = 0
    in_flight: int = 0
    durable: int = 0
    copied: int = 0


@dataclass(frozen=True)
class CopyStatus(Record):
    """The copy of a stream's dataset. ``name``: the stream's. ``path``: the dataset.

    ``state``: "copying", also while there is nothing to copy yet; "waiting" after an ``error``, until it is tried
    again; "complete"; or "failed" for good. ``files``, ``bytes``: what this daemon has copied. ``missing``: where other
    daemons have some of the sources, those that were not copied yet when this copy was complete. ``evicts``: whether
    files go from the dataset once they are confirmed. ``evicted_bytes``: those that this daemon has removed.
    """

    name: str = ""
    path: str = ""
    url: str = ""
    state: str = ""
    files: int = 0
    bytes: int = 0
    missing: tuple[str, ...] = ()
    evicts: bool = False
    evicted_bytes: int = 0
    error: ErrorStatus | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("complete", "failed")

    @property
    def frees_space(self) -> bool:
        """Whether the drive gets space back while the stream goes on."""
        return self.evicts and self.error is None


@dataclass(frozen=True)
class RingStatus(Record):
    """``used``: slots with frames that are not stored yet. ``window``: the fewest slots for the storage order."""

    slots: int = 0
    used: int = 0
    bytes: int = 0
    window: int = 0


@dataclass(frozen=True)
class SourceStatus(Record):
    """One source of a stream. ``source``: its number. ``name``: empty if it is the only one.

    ``open``: whether it takes frames. ``ended_by``: why it no longer does. ``lost``: the first runs of lost frames.
    ``producer``: the process id of the attached producer; from 2^62 on, a process in a PID namespace that the daemon
    can't see. ``silent_s``: the time since the newest frame, None before the first one and once the source takes no
    more. ``is_silent``: its camera is there, had begun, and has sent nothing for an unusual time, by the rate that it
    was to have, or had so far.
    """

    source: int = 0
    name: str = ""
    open: bool = False
    frames: FramesStatus = FramesStatus()
    lost: tuple[Run, ...] = ()
    ring: RingStatus = RingStatus()
    producer: int | None = None
    ended_by: str = ""
    silent_s: float | None = None
    is_silent: bool = False


@dataclass(frozen=True)
class Throughput(Record):
    """The throughput from the first frame until now, or until the stream's end.

    ``written_bytes``: the pixels that were written. ``stored_bytes``: their size on disk.
    """

    seconds: float = 0.0
    frames_per_s: float = 0.0
    bytes_per_s: int = 0
    written_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True)
class DiskStatus(Record):
    """The dataset's drive. Fields are None until a writer has reported them.

    ``lasts_s``: the time until the drive is full, at the average rates of all streams that write to it; None if the
    copy frees space. ``io``: how bytes are written, "O_DIRECT" or "page cache". ``needs_bytes``: what the rest of the
    acquisition takes there, without compression; None if the stream is unbounded. ``warning``: why the acquisition may
    not fit, as it was when the stream was opened.
    """

    free_bytes: int | None = None
    lasts_s: float | None = None
    io: str | None = None
    needs_bytes: int | None = None
    warning: ErrorStatus | None = None


@dataclass(frozen=True)
class StreamStatus(Record):
    """One stream.

    ``state``: STARTING, ACTIVE, DRAINING, FINALIZING, DONE or FAILED. ``settled``: nothing more will happen to it.
    ``path``: the dataset. ``frame_shape``: (height, width). ``samples``: the planes of a colour frame.
    ``backend_reason``: why the backend is not the first choice. ``lost``: the first runs of lost frames, in the order
    of the sources. ``kept_in_ring``: the stream has failed, and its rings still hold frames that are not on disk.
    ``ring``: the sum over its rings. ``paused``: why no frames are being written. ``waits``: by stage (see
    :mod:`omewd.model.waits`). ``recent_waits``: those of the last 5 to 10 seconds. ``wait_counts``: how many frames
    waited how long in each stage, since the start. ``retries``: how many jobs had to be run again. ``acknowledged``:
    somebody has stopped it since it failed, and so knows. ``expect_fps``: the frames a second that each camera was to
    have. ``copy``: None if it wants none.
    """

    id: int = 0
    name: str = ""
    state: str = ""
    settled: bool = False
    path: str = ""
    dtype: str = ""
    frame_shape: tuple[int, ...] = ()
    frame_bytes: int = 0
    samples: int = 1
    images: int = 1
    levels: int = 1
    backend: str = ""
    backend_reason: str = ""
    compression: str | None = None
    backpressure: str = ""
    expect_fps: float | None = None
    durability: str = "fsync"
    frames: FramesStatus = FramesStatus()
    lost: tuple[Run, ...] = ()
    kept_in_ring: bool = False
    ring: RingStatus = RingStatus()
    sources: tuple[SourceStatus, ...] = ()
    throughput: Throughput = Throughput()
    paused: ErrorStatus | None = None
    disk: DiskStatus = DiskStatus()
    waits: dict[str, StageWaits] = field(default_factory=dict)
    recent_waits: dict[str, StageWaits] = field(default_factory=dict)
    wait_counts: dict[str, StageCounts] = field(default_factory=dict)
    retries: int = 0
    producer: int | None = None
    ended_by: str = ""
    error: ErrorStatus | None = None
    acknowledged: bool = False
    copy: CopyStatus | None = None
    status_version: str = str(STATUS)


@dataclass(frozen=True)
class WriterStatus(Record):
    """One writer process. ``jobs``: how many it has. ``aside``: whether it is an extra writer for long jobs."""

    id: int = 0
    pid: int = 0
    ready: bool = False
    jobs: int = 0
    aside: bool = False


@dataclass(frozen=True)
class MemoryStatus(Record):
    """The daemon's memory budget, what its rings take of it, and what its writers may need in addition."""

    budget_bytes: int = 0
    ring_bytes: int = 0
    writer_bytes: int = 0


@dataclass(frozen=True)
class KeptRingStatus(Record):
    """Rings of an earlier daemon's stream that could not be taken over. ``rings``: their paths in /dev/shm.

    ``reason``: why, as text. ``code``: the error's code.
    """

    name: str = ""
    rings: tuple[str, ...] = ()
    bytes: int = 0
    dataset: str | None = None
    reason: str = ""
    code: str = "error"


@dataclass(frozen=True)
class DaemonStatus(Record):
    """The daemon. ``version``: omewd's. ``backends``: for each one, why it can't be used here, or None if it can.

    ``streams``: the open ones, then the last ended ones, latest first. ``streams_not_shown``: how many more there are.
    ``copies``: those that are not over, then the last ones that are, also of earlier daemons' streams; the first 100 of
    them. ``copiers``: the processes that copy.
    """

    version: str = ""
    pid: int = 0
    uptime_s: float = 0.0
    stopping: bool = False
    data_roots: tuple[str, ...] = ()
    memory: MemoryStatus = MemoryStatus()
    backends: dict[str, str | None] = field(default_factory=dict)
    writers: tuple[WriterStatus, ...] = ()
    kept_rings: tuple[KeptRingStatus, ...] = ()
    streams: tuple[StreamStatus, ...] = ()
    streams_not_shown: int = 0
    copies: tuple[CopyStatus, ...] = ()
    copiers: tuple[WriterStatus, ...] = ()
    status_version: str = str(STATUS)


S = TypeVar("S", StreamStatus, DaemonStatus)


def read_status(kind: type[S], reply: object) -> S:
    """Read a status from the daemon, which may have another version; raises OmewdError ``other_version``."""
    told = reply.get("status_version") if isinstance(reply, dict) else None
    version = Version.parse(told)
    try:
        if version is not None and STATUS.reads(version):
            return kind.from_json(reply)
        reason = f"it has version {told}, and this omewd reads version {STATUS.major}"
    except ValueError as error:
        reason = str(error)
    raise OmewdError(
        "other_version",
        f"the daemon's status can't be read: {reason}",
        "Use the daemon's version of omewd, or restart the daemon",
    )
