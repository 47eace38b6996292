"""The figures that others are made of: times, volumes, bandwidths. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from omewd.bench.plan import Outcome, Timed


def summary(values: Sequence[float]) -> dict[str, float]:
    """The mean, the population standard deviation (numpy's default), the minimum, the maximum and the median."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.pstdev(values),
        "min": min(values),
        "max": max(values),
        "median": statistics.median(values),
    }


def write_s(timed: Timed) -> float:
    """The median write time of an iteration."""
    return statistics.median(sample.write_s for sample in timed.samples)


def volume_gb(timed: Timed, outcome: Outcome) -> float:
    """GB of uncompressed pixels in one iteration, from all cameras."""
    return outcome.geometry.volume_bytes(timed.column) / 1e9


def bandwidth(timed: Timed, outcome: Outcome) -> float:
    """GB/s of uncompressed pixels, by the median time."""
    return volume_gb(timed, outcome) / write_s(timed)


def disk_bandwidth(outcome: Outcome) -> float | None:
    """GB/s of plain writes, by the median time; None if they could not be measured."""
    return outcome.geometry.total_bytes / 1e9 / statistics.median(outcome.disk_s) if outcome.disk_s else None


def quantile_ns(timed: Timed, fraction: float) -> int:
    """The nearest-rank quantile over all appends of all iterations."""
    appends = sorted(ns for sample in timed.samples for ns in sample.appends_ns)
    return appends[min(len(appends) - 1, max(0, -int(-fraction * len(appends) // 1) - 1))]
