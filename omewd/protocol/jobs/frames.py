"""Jobs for a stream's frames: writing units, sealing shards, and growing the shape."""

from __future__ import annotations

from dataclasses import dataclass

from omewd.errors import OmewdError
from omewd.model.contrast import FRACTIONS
from omewd.model.waits import Histogram
from omewd.protocol.jobs.job import MAINTAINER, WRITER, Needs, Opened, Result, StreamJob


@dataclass(frozen=True)
class Written(Result):
    """``frames``: how many were written. ``stored_bytes``: their size on disk.

    ``drive``: the dataset's device number. ``free_bytes``: left there, None if the filesystem does not tell.
    ``io``: how bytes are written ("O_DIRECT" or "page cache"). ``contrast``: pairs of a channel and a sketch (see
    :mod:`omewd.model.contrast`). ``waits``: by stage (see :mod:`omewd.model.waits`). ``done_ns``: the monotonic time of
    the answer.
    """

    frames: int
    stored_bytes: int
    drive: int
    free_bytes: int | None
    io: str
    contrast: tuple[tuple[int, tuple[float, ...]], ...]
    waits: dict[str, Histogram]
    done_ns: int

    def __post_init__(self) -> None:
        for _, sketch in self.contrast:
            if len(sketch) != len(FRACTIONS):
                raise OmewdError("bad_message", f"a sketch of grey values has {len(FRACTIONS)} numbers")


@dataclass(frozen=True)
class WriteUnits(StreamJob):
    """Store ``units`` units of ``source``, from ``unit`` on, from the slots [``sequence``, ``sequence_end``).

    Frame indexes below ``frontier`` that no slot holds are gaps. ``gap_kinds``: pairs of (first frame index, kind).
    ``gap_frames``: (first, stop) if the units hold only gaps; they are then all units with these frame indexes.
    """

    kind = "write_units"
    needs = Needs(WRITER, opened=Opened.RINGS, waits_for_space=True)
    result = Written

    source: int
    unit: int
    units: int
    sequence: int
    sequence_end: int
    frontier: int
    gap_kinds: tuple[tuple[int, str], ...] = ()
    gap_frames: tuple[int, int] | None = None

    @property
    def what(self) -> str:
        return f"write unit {self.unit}"


@dataclass(frozen=True)
class SealShards(StreamJob):
    """Seal the shards of ``source`` that only hold frame indexes below ``below``.

    Those that only hold frame indexes below ``since`` are sealed already.
    """

    kind = "seal_shards"
    needs = Needs(WRITER, opened=Opened.STREAM, waits_for_space=True)

    source: int
    below: int
    since: int = 0


@dataclass(frozen=True)
class GrowShape(StreamJob):
    """Grow the shape of unbounded arrays to the first ``frames`` frames of each source."""

    kind = "grow_shape"
    needs = Needs(WRITER, MAINTAINER, opened=Opened.STREAM, documents=True, waits_for_space=True)

    frames: tuple[int, ...]
