"""What a benchmark times: geometries, and the columns of each one's table. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from omewd.errors import OmewdError
from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import AUTO, BACKENDS
from omewd.model.spec.dimensions import Dimension
from omewd.model.spec.spec import StreamSpec
from omewd.model.waits import StageWaits

OMEWD, IN_PROCESS, OME_WRITERS = "omewd", "in-process", "ome-writers"


@dataclass(frozen=True)
class Options:
    """Settings that all columns share.

    ``fps``: 0 to hand frames over as fast as they are taken. ``time_limit_s``: for one geometry; no round starts that
    would end later, but one is always measured. ``frame_metadata``: hand each frame over with metadata of its own.
    """

    dtype: str = "uint16"
    durability: str = "fsync"
    data: str = "random"
    fps: float = 0.0
    warmups: int = 1
    iterations: int = 10
    memory: str = "4GiB"
    time_limit_s: float | None = None
    frame_metadata: bool = False


@dataclass(frozen=True)
class Geometry:
    """One acquisition to time: its dimensions, slowest first."""

    dims: str
    dimensions: tuple[Dimension, ...]
    dtype: str

    def spec(self, column: Column, options: Options) -> StreamSpec:
        """The stream of a column; raises OmewdError ``bad_spec``."""
        fields: dict[str, Any] = {
            "name": "benchmark",
            "dimensions": [d.model_dump(mode="json") for d in self.dimensions],
            "dtype": self.dtype,
            "backend": column.backend,
            "compression": column.compression,
            "durability": options.durability,
            "on_disk_full": "fail",
            "levels": column.levels,
        }
        return StreamSpec.parse(fields)

    @property
    def frames(self) -> int:
        return Plan.of(self._any_spec).frames_total or 0

    @property
    def frame_shape(self) -> tuple[int, int]:
        return self._any_spec.frame_shape

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return self._any_spec.chunk_shape

    @property
    def frame_bytes(self) -> int:
        return self._any_spec.frame_bytes

    @property
    def total_bytes(self) -> int:
        """The pixels of one camera; see :meth:`volume_bytes`."""
        return self.frames * self.frame_bytes

    def volume_bytes(self, column: Column) -> int:
        """The pixels of all of a column's cameras, at full resolution."""
        return column.cameras * self.total_bytes

    def dataset_bytes(self, column: Column) -> int:
        """The disk space that a column may take; all lower resolutions together are a third of the full one."""
        return self.volume_bytes(column) * (4 if column.levels > 1 else 3) // 3

    @cached_property
    def _any_spec(self) -> StreamSpec:
        return self.spec(Column(OMEWD, "auto", None, 1), Options())

    def check_dimensions(self) -> None:
        """Raise OmewdError ``bad_spec`` if no stream can have these dimensions and pixels."""
        _ = self._any_spec

    def check(self) -> None:
        """Raise OmewdError ``bad_spec`` if this can't be timed."""
        if not self.frames:
            raise OmewdError(
                "bad_spec", f"a benchmark needs a number of frames, but {self.dims!r} is unbounded", "Give a count"
            )

    def conditions(self, options: Options) -> list[tuple[str, str]]:
        """The test conditions, as pairs of (name, value)."""
        spec = self._any_spec
        chunk_bytes = math.prod(spec.chunk_shape) * ITEM_BYTES[self.dtype]
        lines = [
            ("Total shape", str(tuple(d.count for d in self.dimensions))),
            ("Frame shape", str(self.frame_shape)),
            ("Number of frames", f"{self.frames:,}"),
            ("Data type", self.dtype),
            ("Chunk shape", str(spec.chunk_shape)),
        ]
        if spec.sharded:
            lines.append(("Shard shape (chunks/shard)", str(tuple(d.shard_size_chunks or 1 for d in self.dimensions))))
        lines += [
            ("MB per chunk", f"{chunk_bytes / 1e6:.3f}"),
            ("Total data", f"{self.total_bytes / 1e9:.3f} GB"),
            ("Pixels", {"random": "random (incompressible)", "camera": "camera-like, with shot noise"}[options.data]),
            ("Clock", _CLOCK[options.durability]),
        ]
        if options.fps:
            lines.append(("Camera", f"{options.fps:g} frames a second"))
        if options.frame_metadata:
            lines.append(("Metadata", "three numbers with each frame"))
        return lines


_CLOCK = {
    "fsync": "from the first append until everything is on disk, including fsync of every file and folder",
    "none": "from the first append until all files are written, without fsync",
}


@dataclass(frozen=True)
class Column:
    """One column of the table: who writes, with which backend and compression, and how many writers.

    ``cameras``: the number of concurrent cameras, each with its own dataset. ``levels``: the number of resolutions.
    """

    kind: str
    backend: str
    compression: str | None
    writers: int
    cameras: int = 1
    levels: int = 1

    def label(self, others: Sequence[Column]) -> str:
        """The column's name: what distinguishes it from the others."""
        text = self.backend if self.kind == OMEWD else f"{self.kind}: {self.backend}"
        if len({c.compression for c in others}) > 1:
            text += f" {self.compression or 'none'}"
        if self.kind == OMEWD and len({c.writers for c in others if c.kind == OMEWD}) > 1:
            text += f" ×{self.writers}"
        if len({c.cameras for c in others}) > 1:
            text += f" ×{self.cameras} camera{'s' if self.cameras > 1 else ''}"
        if len({c.levels for c in others}) > 1:
            text += f" {self.levels} level{'s' if self.levels > 1 else ''}"
        return text


def columns(
    backends: Sequence[str],
    compressions: Sequence[str | None],
    writers: Sequence[int],
    kinds: Sequence[str],
    cameras: Sequence[int] = (1,),
    levels: Sequence[int] = (1,),
    libraries: Sequence[str] = (),
) -> list[Column]:
    """Every combination. Kinds other than omewd have one column for each backend and compression, with one camera.

    They have no backend that is omewd's own. If no other is named, they are timed with all of ``libraries``, the other
    backends that are installed. Raises OmewdError ``usage`` if there is none.
    """
    made = [Column(OMEWD, b, c, *rest) for c, b, *rest in product(compressions, backends, writers, cameras, levels)]
    own = {AUTO, *(backend.name for backend in BACKENDS.values() if backend.is_own)}
    of_others = [b for b in backends if b not in own]
    of_others = of_others or list(libraries)
    if kinds and not of_others:
        raise OmewdError(
            "usage", f"{kinds[0]} needs a library that writes Zarr, and none is installed", "pip install tensorstore"
        )
    made += [Column(k, b, c, 0) for k, c, b in product(kinds, compressions, of_others)]
    return made


@dataclass
class Sample:
    """The measurements of one iteration, of all cameras together. Times are in seconds; CPU seconds are by role.

    ``create_s``, ``connect_s``: for all datasets, one after the other. ``close_s``: the part of ``write_s`` after the
    last append. ``closed_s``: until the library reported the end. ``write_s``:
    until everything was synced, too, if that was asked for. ``appends_ns``: one value for each frame. ``waits``: where
    frames waited, as in a stream's status; the longest over all cameras.
    """

    create_s: float
    connect_s: float
    write_s: float
    close_s: float
    closed_s: float
    cpu_s: dict[str, float]
    peak_bytes: int
    stored_bytes: int
    files: int
    appends_ns: list[int]
    waits: dict[str, StageWaits]


@dataclass
class Timed:
    """A column with its samples, or the error if it has none."""

    column: Column
    samples: list[Sample] = field(default_factory=list)
    error: OmewdError | None = None


@dataclass(frozen=True)
class Rates:
    """GB/s of pixels on one core, and on all of them together; and the CPU seconds that a GB takes on one."""

    one: float
    all: float
    cpu_s_per_gb: float


@dataclass
class Outcome:
    """The results of one geometry: its columns, and what disk, memory and codecs could do in the same run.

    ``iterations``: how many there were of each column that did not fail. Of each iteration: ``disk_s``, the seconds of
    plain writes of one camera's volume; ``memcpy``, the rates of copying frames; ``codecs``, by compression, the rates
    of compressing chunks. ``cores``: how many all of them are.
    """

    geometry: Geometry
    timed: list[Timed]
    disk_s: list[float] = field(default_factory=list)
    disk_direct: bool = True
    disk_error: str = ""
    cores: int = 1
    memcpy: list[Rates] = field(default_factory=list)
    codecs: dict[str, list[Rates]] = field(default_factory=dict)
    cores_error: str = ""
    iterations: int = 0
