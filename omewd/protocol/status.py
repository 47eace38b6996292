"""The status of the daemon and its streams: ``omewd status --json`` and ``Client.status`` are these types as JSON.

Their version is :data:`omewd.protocol.versions.STATUS`. Reading is tolerant: unknown fields are ignored, missing ones
have their defaults. Frame counts are frames; frame indexes count from 0 in the order of acquisition, within a source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from omewd.errors import OmewdError
from omewd.model.record import Record
from omewd.model.waits import StageWaits
from omewd.protocol.versions import STATUS, Version

# (first frame index, count)
Run = tuple[int, int]


@dataclass(frozen=True)
class ErrorStatus(Record):
    """Why something failed or waits: an error's code (see :mod:`omewd.errors`), what happened, what to do."""

    code: str = "error"
    message: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: OmewdError) -> ErrorStatus:
        return cls(error.code, error.message, error.remedy)


@dataclass(frozen=True)
class FramesStatus(Record):
    """received = written + gaps + lost + in_flight, and gaps = skipped + dropped.

    ``declared`` None: the stream has no end. ``lost``: of a failed stream, frames that were received and are not in the
    dataset. ``durable``: of a source, all frame indexes below are safely on disk (0 with ``durability="none"``); of a
    stream the sum over its sources.
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


@dataclass(frozen=True)
class RingStatus(Record):
    """``used`` of ``slots`` hold frames that are not done; ``window``: slots that the storage order needs at least."""

    slots: int = 0
    used: int = 0
    bytes: int = 0
    window: int = 0


@dataclass(frozen=True)
class SourceStatus(Record):
    """One camera of a stream. ``source`` is its number, ``name`` is empty where it is the only one.

    ``open``: it takes frames; ``ended_by``: why it does not any more. ``lost``: the first runs of lost frames.
    ``producer``: the process id of the program that is attached.
    """

    source: int = 0
    name: str = ""
    open: bool = False
    frames: FramesStatus = FramesStatus()
    lost: tuple[Run, ...] = ()
    ring: RingStatus = RingStatus()
    producer: int | None = None
    ended_by: str = ""


@dataclass(frozen=True)
class Throughput(Record):
    """From the first frame until now, or until the stream's end. ``written_bytes`` are the pixels that were written,
    ``stored_bytes`` what they take on disk.
    """

    seconds: float = 0.0
    frames_per_s: float = 0.0
    bytes_per_s: int = 0
    written_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True)
class DiskStatus(Record):
    """The dataset's drive, None where no writer has said it yet. ``lasts_s``: until it is full at this stream's rate.

    ``io``: how bytes get there, "O_DIRECT" or "page cache".
    """

    free_bytes: int | None = None
    lasts_s: float | None = None
    io: str | None = None


@dataclass(frozen=True)
class StreamStatus(Record):
    """One stream.

    ``state``: STARTING, ACTIVE, DRAINING, FINALIZING, DONE or FAILED; ``settled``: nothing more happens to it.
    ``path``: the dataset. ``frame_shape``: (height, width); ``samples``: planes of a colour frame. ``backend_reason``:
    why it is not the first choice. ``lost``: the first runs of lost frames of all sources, in their order.
    ``kept_in_ring``: it has failed, and frames that are not on disk are still in its rings. ``ring``: its rings
    together. ``paused``: why no frames are written at the moment. ``waits`` by stage (see :mod:`omewd.model.waits`),
    ``recent_waits`` those of the last 5 to 10 seconds. ``retries``: jobs that had to be run again.
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
    retries: int = 0
    producer: int | None = None
    ended_by: str = ""
    error: ErrorStatus | None = None
    status_version: str = str(STATUS)


@dataclass(frozen=True)
class WriterStatus(Record):
    """One writer process. ``jobs``: how many it has; ``aside``: it is one more, for jobs that take long."""

    id: int = 0
    pid: int = 0
    ready: bool = False
    jobs: int = 0
    aside: bool = False


@dataclass(frozen=True)
class MemoryStatus(Record):
    """What the daemon may use, what its rings take, and what its writers may need beside them."""

    budget_bytes: int = 0
    ring_bytes: int = 0
    writer_bytes: int = 0


@dataclass(frozen=True)
class KeptRingStatus(Record):
    """Rings of a stream of an earlier daemon that could not be taken over. ``rings``: their paths in /dev/shm.

    ``reason``: why, in words; ``code``: the error's code.
    """

    name: str = ""
    rings: tuple[str, ...] = ()
    bytes: int = 0
    dataset: str | None = None
    reason: str = ""
    code: str = "error"


@dataclass(frozen=True)
class DaemonStatus(Record):
    """The daemon. ``version``: of omewd. ``backends``: why each can't be used here, None for one that can.

    ``streams``: those that are open, then the last ones that have ended, the latest first; ``streams_not_shown``: how
    many more there are.
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
    status_version: str = str(STATUS)


S = TypeVar("S", StreamStatus, DaemonStatus)


def read_status(kind: type[S], reply: object) -> S:
    """A status as the daemon sent it, which may be of another version of omewd; raises OmewdError ``other_version``."""
    told = reply.get("status_version") if isinstance(reply, dict) else None
    version = Version.parse(told)
    try:
        if version is not None and STATUS.reads(version):
            return kind.from_json(reply)
        reason = f"it is of version {told}, this omewd reads version {STATUS.major}"
    except ValueError as error:
        reason = str(error)
    raise OmewdError(
        "other_version",
        f"the daemon's status can't be read: {reason}",
        "Use the omewd that the daemon is of, or restart the daemon",
    )
