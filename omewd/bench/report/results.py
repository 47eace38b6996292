"""Computes figures from samples. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from omewd.bench.plan import OMEWD, Options, Outcome, Sample, Timed
from omewd.bench.report.ceilings import Share, codec_share, disk_share, memcpy_share, nearest
from omewd.bench.report.ceilings import to_dict as ceilings
from omewd.bench.report.figures import bandwidth, quantile_ns, summary, volume_gb, write_s


@dataclass(frozen=True)
class Metric:
    """One row of the table. ``of`` computes a column's value(s), None if it has none; ``show`` formats them."""

    key: str
    title: str
    unit: str
    of: Callable[[Timed, Outcome], Any]
    show: Callable[[Any], str]


def _over_samples(of: Callable[[Sample], float]) -> Callable[[Timed, Outcome], dict[str, float]]:
    return lambda timed, _: summary([of(sample) for sample in timed.samples])


def _cpu(*roles: str) -> Callable[[Timed, Outcome], float | None]:
    """The median CPU seconds per GB of pixels, added up over the roles."""

    def of(timed: Timed, outcome: Outcome) -> float | None:
        used = [sum(s.cpu_s[role] for role in roles) for s in timed.samples if all(r in s.cpu_s for r in roles)]
        return statistics.median(used) / volume_gb(timed, outcome) if used else None

    return of


def _fps(timed: Timed, outcome: Outcome) -> float:
    return timed.column.cameras * outcome.geometry.frames / write_s(timed)


def _fraction(of: Callable[[Timed, Outcome], Share | None]) -> Callable[[Timed, Outcome], float | None]:
    def fraction(timed: Timed, outcome: Outcome) -> float | None:
        share = of(timed, outcome)
        return share.fraction if share else None

    return fraction


def _median_s(of: Callable[[Sample], float]) -> Callable[[Timed, Outcome], float]:
    return lambda timed, _: statistics.median(of(sample) for sample in timed.samples)


def _connect_s(timed: Timed, outcome: Outcome) -> float | None:
    """None for libraries, which connect to nothing."""
    return _median_s(lambda s: s.connect_s)(timed, outcome) if timed.column.kind == OMEWD else None


def _unsynced_s(timed: Timed, _: Outcome) -> float | None:
    """The time without the fsync that the benchmark adds; None if it added none."""
    if all(sample.closed_s == sample.write_s for sample in timed.samples) or "process" not in timed.samples[0].cpu_s:
        return None
    return statistics.median(sample.closed_s for sample in timed.samples)


def total_s(sample: Sample) -> float:
    """All that an acquisition takes, as its program sees it."""
    return sample.create_s + sample.connect_s + sample.write_s


def _plus_minus(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['std']:.3f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.3f}"


def _median_bytes(of: Callable[[Sample], int]) -> Callable[[Timed, Outcome], float]:
    return lambda timed, _: statistics.median(of(sample) for sample in timed.samples)


METRICS = (
    Metric("create_s", "create", "mean±std s", _over_samples(lambda s: s.create_s), _plus_minus),
    Metric("connect_s", "connect", "median s", _connect_s, _three),
    Metric("write_s", "write", "mean±std s", _over_samples(lambda s: s.write_s), _plus_minus),
    Metric("write_median_s", "write", "median s", lambda t, _: write_s(t), _three),
    Metric("close_s", "close, part of write", "median s", _median_s(lambda s: s.close_s), _three),
    Metric("unsynced_s", "write, before fsync", "median s", _unsynced_s, _three),
    Metric("total_s", "create, connect and write", "median s", _median_s(total_s), _three),
    Metric("fps", "throughput", "fps", _fps, lambda v: f"{v:,.1f}"),
    Metric("gb_per_s", "bandwidth", "GB/s", bandwidth, _three),
    Metric("nearest_ceiling", "nearest ceiling", "", nearest, str),
    Metric("disk_fraction", "fraction of the disk", "", _fraction(disk_share), _two),
    Metric("codec_fraction", "fraction of the codec, all cores", "", _fraction(codec_share), _two),
    Metric("memcpy_fraction", "fraction of memcpy", "", _fraction(memcpy_share), _two),
    Metric("append_p50_ns", "append p50", "ms", lambda t, _: quantile_ns(t, 0.5), _ms),
    Metric("append_p99_ns", "append p99", "ms", lambda t, _: quantile_ns(t, 0.99), _ms),
    Metric("append_max_ns", "append max", "ms", lambda t, _: quantile_ns(t, 1.0), _ms),
    Metric("cpu_producer_s_per_gb", "CPU producer", "s/GB", _cpu("producer"), _three),
    Metric("cpu_daemon_s_per_gb", "CPU daemon", "s/GB", _cpu("daemon"), _three),
    Metric("cpu_writers_s_per_gb", "CPU writers", "s/GB", _cpu("writers"), _three),
    Metric("cpu_process_s_per_gb", "CPU, one process", "s/GB", _cpu("process"), _three),
    Metric("peak_bytes", "peak memory", "MB", _median_bytes(lambda s: s.peak_bytes), lambda v: f"{v / 1e6:,.0f}"),
    Metric(
        "compression_ratio",
        "compression ratio",
        "",
        lambda t, o: o.geometry.volume_bytes(t.column) / statistics.median(s.stored_bytes for s in t.samples),
        _two,
    ),
    Metric("files", "files", "", _median_bytes(lambda s: s.files), lambda v: f"{v:,.0f}"),
)


def values(timed: Timed, outcome: Outcome) -> dict[str, Any]:
    """Every metric of a column by key; empty if the column failed."""
    return {metric.key: metric.of(timed, outcome) for metric in METRICS} if timed.samples else {}


def shown_metrics(outcome: Outcome) -> list[Metric]:
    """The metrics that at least one column has."""
    measured = [timed for timed in outcome.timed if timed.samples]
    shown = [metric for metric in METRICS if any(metric.of(timed, outcome) is not None for timed in measured)]
    return shown or list(METRICS[:6])


def labels(outcome: Outcome) -> list[str]:
    columns = [timed.column for timed in outcome.timed]
    return [column.label(columns) for column in columns]


def _base(value: Any) -> Any:
    return asdict(value) if isinstance(value, Share) else value


def to_dict(outcome: Outcome, options: Options) -> dict[str, Any]:
    """All figures of a geometry, including single samples (appends as quantiles), in base units.

    ``frames`` and ``total_bytes`` are for one camera; a column's figures are for all its cameras.
    """
    geometry = outcome.geometry
    columns = []
    for timed, label in zip(outcome.timed, labels(outcome), strict=True):
        columns.append(
            {
                "label": label,
                "kind": timed.column.kind,
                "backend": timed.column.backend,
                "compression": timed.column.compression,
                "writers": timed.column.writers or None,
                "cameras": timed.column.cameras,
                "levels": timed.column.levels,
                "error": timed.error.to_dict() if timed.error else None,
                **{key: _base(value) for key, value in values(timed, outcome).items()},
                "samples": [
                    {
                        "create_s": s.create_s,
                        "connect_s": s.connect_s,
                        "write_s": s.write_s,
                        "close_s": s.close_s,
                        "closed_s": s.closed_s,
                        "cpu_s": s.cpu_s,
                        "peak_bytes": s.peak_bytes,
                        "stored_bytes": s.stored_bytes,
                        "files": s.files,
                        "waits": {stage: waits.to_json() for stage, waits in s.waits.items()},
                    }
                    for s in timed.samples
                ],
            }
        )
    return {
        "dims": geometry.dims,
        "dtype": geometry.dtype,
        "frames": geometry.frames,
        "frame_shape": list(geometry.frame_shape),
        "total_bytes": geometry.total_bytes,
        "data": options.data,
        "durability": options.durability,
        "fps": options.fps or None,
        "frame_metadata": options.frame_metadata,
        "warmups": options.warmups,
        "iterations": options.iterations,
        "iterations_done": outcome.iterations,
        **ceilings(outcome),
        "columns": columns,
    }
