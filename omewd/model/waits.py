"""Where frames wait on their way to disk: the stages, and a histogram of waits that is cheap to merge. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omewd.model.record import Record

# In the order in which a frame passes them. All but "report" are measured with the frame: by the time stamps in its
# slot and by the writer's clock.
STAGES = {
    "producer": "held by the camera, which waits for a free slot in the ring",
    "ring": "in the ring, until its write unit is complete",
    "dispatch": "in a complete write unit that no writer has started on",
    "read": "looked up in the ring, and gathered if its unit is not contiguous there",
    "halve": "downsampled for the lower resolutions",
    "encode": "in the backend",
    "write": "written to a temporary file",
    "fsync": "synced after the jobs before it: the file, its folders, and the ledger's lines",
    "rename": "renamed to its place in the dataset; folders are created here",
    "report": "on disk, but the daemon has not moved the cursors yet",
}

# Buckets grow by a factor of 2^(1/16), so a quantile read from one is within 2.2 % of the true one.
_BUCKETS_PER_OCTAVE = 16


def bucket_of(wait_ns: int) -> int:
    """The bucket of a wait; bucket 0 holds waits of no length."""
    return int(math.log2(wait_ns) * _BUCKETS_PER_OCTAVE) + 1 if wait_ns > 1 else 0


@cache
def _middle_ns(bucket: int) -> float:
    return 0.0 if bucket == 0 else 2 ** ((bucket - 0.5) / _BUCKETS_PER_OCTAVE)


@dataclass
class Histogram:
    """Counts of frames by the length of their wait. ``longest_ns`` is exact; quantiles are within 2.2 %."""

    counts: dict[int, int] = field(default_factory=dict)
    longest_ns: int = 0

    def add(self, wait_ns: int, frames: int) -> None:
        """Count ``frames`` frames that waited ``wait_ns``; a negative wait counts as none."""
        if frames:
            bucket = bucket_of(wait_ns)
            self.counts[bucket] = self.counts.get(bucket, 0) + frames
            self.longest_ns = max(self.longest_ns, wait_ns)

    def merge(self, other: Histogram) -> None:
        for bucket, frames in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + frames
        self.longest_ns = max(self.longest_ns, other.longest_ns)

    @property
    def frames(self) -> int:
        return sum(self.counts.values())

    def quantile_ns(self, fraction: float) -> int:
        """The wait that ``fraction`` of the frames did not exceed; 0 if there are no frames."""
        below, wanted = 0, fraction * self.frames
        for bucket in sorted(self.counts):
            below += self.counts[bucket]
            if below >= wanted:
                return min(round(_middle_ns(bucket)), self.longest_ns)
        return 0

    def pack(self) -> list[Any]:
        """The form used in messages: [longest_ns, [bucket, frames], …]."""
        return [self.longest_ns, *([bucket, frames] for bucket, frames in self.counts.items())]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Histogram:
        longest_ns, *counts = packed
        return cls(dict(counts), longest_ns)


Waits = dict[str, Histogram]


def merge(into: Waits, other: Waits) -> None:
    for stage, histogram in other.items():
        into.setdefault(stage, Histogram()).merge(histogram)


class RecentWaits:
    """The waits of a whole stream, and of about its last ten seconds."""

    _WINDOW_NS = 5_000_000_000

    def __init__(self) -> None:
        self.all: Waits = {}
        self._window: Waits = {}
        self._before: Waits = {}
        self._window_began_ns = 0
        self._totals: tuple[dict[str, StageWaits], dict[str, StageCounts]] | None = None

    def add(self, waits: Waits, now_ns: int) -> None:
        self._turn(now_ns)
        self._totals = None
        merge(self.all, waits)
        merge(self._window, waits)

    def totals(self) -> tuple[dict[str, StageWaits], dict[str, StageCounts]]:
        """Those of the whole stream in short, and as counts. Cheap to ask again, as for each ended stream."""
        if self._totals is None:
            counts = {stage: StageCounts.of(self.all[stage]) for stage in STAGES if stage in self.all}
            self._totals = summary(self.all), counts
        return self._totals

    def recent(self, now_ns: int) -> Waits:
        """The waits added during the last 5 to 10 seconds."""
        age_ns = now_ns - self._window_began_ns
        waits: Waits = {}
        if age_ns < self._WINDOW_NS:
            merge(waits, self._before)
        if age_ns < 2 * self._WINDOW_NS:
            merge(waits, self._window)
        return waits

    def _turn(self, now_ns: int) -> None:
        if now_ns - self._window_began_ns < self._WINDOW_NS:
            return
        fresh = now_ns - self._window_began_ns < 2 * self._WINDOW_NS
        self._before, self._window = (self._window if fresh else {}), {}
        self._window_began_ns = now_ns


@dataclass(frozen=True)
class StageWaits(Record):
    """How long frames waited in one stage: half of them no longer than ``p50_ns``, 99 % no longer than ``p99_ns``."""

    p50_ns: int = 0
    p99_ns: int = 0
    max_ns: int = 0


# 16 µs, 33 µs, … 69 s: more than any stage should take, in steps that a metric can have.
OCTAVES = range(14, 37)


@cache
def _octave(bucket: int) -> int:
    octave = (bucket - 1) // _BUCKETS_PER_OCTAVE + 1
    return min(max(octave - OCTAVES[0], 0), len(OCTAVES))


@dataclass(frozen=True)
class StageCounts(Record):
    """All waits of frames in one stage, coarsely. They only grow.

    ``counts``: how many were shorter than 2^14 ns, how many of the others than 2^15 ns, and so on up to 2^36 ns, and
    how many were no shorter. ``sum_ns``: of all, within 2.2 %.
    """

    counts: tuple[int, ...] = ()
    sum_ns: int = 0

    @classmethod
    def of(cls, waits: Histogram) -> StageCounts:
        counts, sum_ns = [0] * (len(OCTAVES) + 1), 0.0
        for bucket, frames in waits.counts.items():
            counts[_octave(bucket)] += frames
            sum_ns += frames * _middle_ns(bucket)
        return cls(tuple(counts), round(sum_ns))


def summary(waits: Waits) -> dict[str, StageWaits]:
    """The waits of each stage, in the order of the stages."""
    return {
        stage: StageWaits(
            waits[stage].quantile_ns(0.5),
            waits[stage].quantile_ns(0.99),
            waits[stage].longest_ns,
        )
        for stage in STAGES
        if stage in waits
    }


def histogram_of(waits_ns: Any) -> Histogram:
    """The histogram of a numpy array of waits; fast enough for a writer to count every frame."""
    import numpy as np

    waits_ns = np.clip(waits_ns, 1, 2**62)
    buckets = (np.log2(waits_ns) * _BUCKETS_PER_OCTAVE).astype(int) + (waits_ns > 1)
    found, counts = np.unique(buckets, return_counts=True)
    longest_ns = int(waits_ns.max(initial=0))
    return Histogram(dict(zip(found.tolist(), counts.tolist(), strict=True)), longest_ns if longest_ns > 1 else 0)
