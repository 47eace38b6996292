"""Which settings are worth trying for a camera, and which of the tried ones is best. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from omewd.bench.plan import OMEWD, Column, Geometry
from omewd.model.dtypes import ITEM_BYTES
from omewd.model.spec.dimensions import Dimension

# Tiles that suit viewers. The whole frame is tried, too.
_TILES = (256, 512)
# Sizes of shards. Each smaller one costs a file and a sync; larger ones need a larger ring.
_SHARD_BYTES = (64 << 20, 256 << 20)
# Long enough for the ring and the writers to reach a steady state.
_TRIAL_BYTES = 512 << 20
_TRIAL_SHARDS = 4
# A setting should be this much faster than the camera, because disks have slow minutes.
COMFORTABLE = 1.5
# Stored sizes that differ by less count as equal.
_SAME_SIZE = 1.05


@dataclass(frozen=True)
class Candidate:
    """Settings to try. ``dims``: for start-stream, with the user's counts. ``trial``: a short acquisition."""

    dims: str
    trial: Geometry
    column: Column

    def start_stream(self, dtype: str, durability: str) -> str:
        """The command line that uses these settings."""
        line = f"omewd start-stream --dims {self.dims} --dtype {dtype} --backend {self.column.backend}"
        line += f" --compression {self.column.compression}" if self.column.compression else ""
        return line + (" --durability none" if durability == "none" else "")


@dataclass(frozen=True)
class Trial:
    """The result of one candidate: frames a second, and stored bytes and files a frame."""

    candidate: Candidate
    fps: float
    bytes_a_frame: float
    files_a_frame: float


def first_round(
    dimensions: Sequence[Dimension],
    dtype: str,
    backends: Sequence[str],
    compressions: Sequence[str | None],
    writers: int,
) -> list[Candidate]:
    """Every backend and compression, with one common shape."""
    shape = _shapes(dimensions, dtype)[0]
    columns = [Column(OMEWD, b, c, writers) for b, c in product(backends, compressions)]
    return [_candidate(dimensions, dtype, shape, column) for column in columns]


def second_round(dimensions: Sequence[Dimension], dtype: str, trials: Sequence[Trial]) -> list[Candidate]:
    """The other shapes, each with the fastest backend of every compression."""
    fastest: dict[str | None, Trial] = {}
    for trial in trials:
        compression = trial.candidate.column.compression
        if compression not in fastest or fastest[compression].fps < trial.fps:
            fastest[compression] = trial
    columns = [trial.candidate.column for trial in fastest.values()]
    return [_candidate(dimensions, dtype, shape, c) for shape, c in product(_shapes(dimensions, dtype)[1:], columns)]


def _shapes(dimensions: Sequence[Dimension], dtype: str) -> list[tuple[int, int | None]]:
    """Pairs of (tile, frames in a shard); tile 0 stands for the whole frame, None for no sharding."""
    height, width = (d.count or 1 for d in dimensions[-2:])
    frame_bytes = height * width * ITEM_BYTES[dtype]
    tiles = [tile for tile in _TILES if tile < max(height, width)] + [0]
    depths = dict.fromkeys(_power_of_two(size // frame_bytes) for size in _SHARD_BYTES)
    fastest = dimensions[-3].count if len(dimensions) > 2 else 1
    depths = dict.fromkeys(min(depth, fastest or depth) for depth in depths)
    sharded = [(tile, depth) for depth in depths for tile in tiles]
    # Whole frames are worth trying without shards; tiles would make too many files.
    return [*sharded, (0, None)]


def _power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)


def _candidate(dimensions: Sequence[Dimension], dtype: str, shape: tuple[int, int | None], column: Column) -> Candidate:
    tile, depth = shape
    cut: list[Dimension] = []
    for axis, d in enumerate(dimensions):
        if axis >= len(dimensions) - 2:
            count = d.count or 1
            chunk = min(tile or count, count)
            update = {"chunk_size": chunk, "shard_size_chunks": -(-count // chunk) if depth else None}
        else:
            is_fastest = axis == len(dimensions) - 3
            update = {"chunk_size": 1, "shard_size_chunks": (depth if is_fastest else 1) if depth else None}
        cut.append(d.model_copy(update=update))
    return Candidate(as_dims(cut), _trial(cut, dtype), column)


def _trial(dimensions: list[Dimension], dtype: str) -> Geometry:
    """The same acquisition, shortened to a few shards."""
    frame_bytes = math.prod(d.count or 1 for d in dimensions[-2:]) * ITEM_BYTES[dtype]
    depth = math.prod(d.shard_size_chunks or 1 for d in dimensions[:-2])
    wanted = max(_TRIAL_SHARDS * depth, _TRIAL_BYTES // frame_bytes)
    cut = list(dimensions)
    for axis in reversed(range(len(dimensions) - 2)):
        d = dimensions[axis]
        extent = d.shard_size_chunks or 1
        count = min(d.count or wanted, max(extent, wanted // extent * extent))
        cut[axis] = d.model_copy(update={"count": count})
        wanted = max(1, wanted // count)
    return Geometry(as_dims(cut), tuple(cut), dtype)


def as_dims(dimensions: Sequence[Dimension]) -> str:
    """Write dimensions in the grammar of ``--dims``."""
    parts = []
    for d in dimensions:
        numbers = [str(d.count or "inf"), str(d.chunk_size or ""), str(d.shard_size_chunks or "")]
        while not numbers[-1]:
            numbers.pop()
        parts.append(":".join([d.name, *numbers]))
    return ",".join(parts)


def best(trials: Sequence[Trial], fps: float) -> Trial:
    """The settings to recommend for a camera of this rate. ``trials`` must not be empty.

    Of the trials that are comfortably faster than the camera, this is the one with the smallest stored size, then the
    fewest files, then the highest rate. If none is fast enough, it is the fastest of all.
    """
    enough = [trial for trial in trials if trial.fps >= COMFORTABLE * fps]
    if not enough:
        return max(trials, key=lambda trial: trial.fps)
    least = min(trial.bytes_a_frame for trial in enough)
    small = [trial for trial in enough if trial.bytes_a_frame <= least * _SAME_SIZE]
    return min(small, key=lambda trial: (round(math.log2(trial.files_a_frame)), -trial.fps))
