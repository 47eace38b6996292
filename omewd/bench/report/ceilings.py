"""What the disk, memory and codecs could do at most, and how much of that each column reached. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from omewd.bench.plan import Outcome, Rates, Timed
from omewd.bench.report.figures import bandwidth, disk_bandwidth, volume_gb


@dataclass(frozen=True)
class Share:
    """A ceiling in GB/s of pixels, and the part of it that a column reached. ``name``: disk, codec or memcpy."""

    name: str
    cores: int
    gb_per_s: float
    fraction: float

    def __str__(self) -> str:
        where = {"codec": f" on {_cores(self.cores)}"}.get(self.name, "")
        return f"{self.fraction:.2f} of {'' if self.name == 'memcpy' else 'the '}{self.name}{where}"


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"


def median_rates(rates: Sequence[Rates]) -> Rates | None:
    """The median rates; None if none were measured."""
    if not rates:
        return None
    return Rates(
        statistics.median(r.one for r in rates),
        statistics.median(r.all for r in rates),
        statistics.median(r.cpu_s_per_gb for r in rates),
    )


def memcpy_ns(outcome: Outcome) -> float | None:
    """The nanoseconds of copying a frame on one core; None if that could not be measured."""
    rates = median_rates(outcome.memcpy)
    return outcome.geometry.frame_bytes / rates.one if rates else None


def disk_share(timed: Timed, outcome: Outcome) -> Share | None:
    """The disk's ceiling is for the bytes that the column stores, which are fewer with compression."""
    disk = disk_bandwidth(outcome)
    if not disk:
        return None
    stored_gb = statistics.median(sample.stored_bytes for sample in timed.samples) / 1e9
    return _share("disk", 1, disk * volume_gb(timed, outcome) / stored_gb, timed, outcome)


def codec_share(timed: Timed, outcome: Outcome) -> Share | None:
    """All cores compress; what lower resolutions add is compressed, too. None without compression."""
    rates = median_rates(outcome.codecs.get(timed.column.compression or "", ()))
    if rates is None:
        return None
    added = outcome.geometry.dataset_bytes(timed.column) / outcome.geometry.volume_bytes(timed.column)
    return _share("codec", outcome.cores, rates.all / added, timed, outcome)


def memcpy_share(timed: Timed, outcome: Outcome) -> Share | None:
    """Each camera copies its frames on one core, and all together no faster than the memory is."""
    rates = median_rates(outcome.memcpy)
    if rates is None:
        return None
    return _share("memcpy", 1, max(rates.one, min(timed.column.cameras * rates.one, rates.all)), timed, outcome)


def nearest(timed: Timed, outcome: Outcome) -> Share | None:
    """The lowest ceiling, which a column meets first."""
    shares = [of(timed, outcome) for of in (disk_share, codec_share, memcpy_share)]
    return min((share for share in shares if share), key=lambda share: share.gb_per_s, default=None)


def _share(name: str, cores: int, gb_per_s: float, timed: Timed, outcome: Outcome) -> Share:
    return Share(name, cores, gb_per_s, bandwidth(timed, outcome) / gb_per_s)


def references(outcome: Outcome) -> list[tuple[str, str]]:
    """The ceilings as test conditions: pairs of (name, value)."""
    disk = disk_bandwidth(outcome)
    how = "aligned O_DIRECT writes" if outcome.disk_direct else "plain writes (without O_DIRECT)"
    lines = []
    if disk is not None:
        several = any(timed.column.cameras > 1 for timed in outcome.timed)
        volume = "volume of one camera" if several else "same volume"
        lines.append(("Disk", f"{disk:.3f} GB/s with {how} of the {volume}, in the same run"))
    elif outcome.disk_error:
        lines.append(("Disk", outcome.disk_error))
    if outcome.cores_error:
        lines.append(("Cores", outcome.cores_error))
    if rates := median_rates(outcome.memcpy):
        took = f"{(memcpy_ns(outcome) or 0.0) / 1e6:.3f} ms a frame"
        lines.append(("memcpy", f"{_both(rates, outcome.cores)} into memory that is not cached; {took}"))
    for name, measured in outcome.codecs.items():
        if rates := median_rates(measured):
            lines.append((f"{name} alone", f"{_both(rates, outcome.cores)} with these chunks"))
    return lines


def _both(rates: Rates, cores: int) -> str:
    all_cores = f", {rates.all:.2f} on {cores}" if cores > 1 else ""
    return f"{rates.one:.2f} GB/s on one core{all_cores}, {rates.cpu_s_per_gb:.3f} CPU s/GB,"


def to_dict(outcome: Outcome) -> dict[str, object]:
    """The ceilings in base units, with all single measurements in GB/s."""

    def document(measured: Sequence[Rates]) -> dict[str, object]:
        rates = median_rates(measured)
        return {
            "one_core_gb_per_s": rates.one if rates else None,
            "all_cores_gb_per_s": rates.all if rates else None,
            "cpu_s_per_gb": rates.cpu_s_per_gb if rates else None,
            "samples_gb_per_s": [[r.one, r.all] for r in measured],
        }

    return {
        "disk": {
            "gb_per_s": disk_bandwidth(outcome),
            "samples_s": outcome.disk_s,
            "direct": outcome.disk_direct,
            "error": outcome.disk_error or None,
        },
        "cores": outcome.cores,
        "cores_error": outcome.cores_error or None,
        "memcpy": document(outcome.memcpy),
        "memcpy_ns": memcpy_ns(outcome),
        "codecs": {name: document(measured) for name, measured in outcome.codecs.items()},
    }
