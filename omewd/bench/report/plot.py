"""Plots a benchmark: each column's share of the disk's bandwidth, its append times, and its CPU time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omewd.bench.plan import OMEWD, Options, Outcome, Timed
from omewd.bench.report.ceilings import memcpy_ns
from omewd.bench.report.figures import disk_bandwidth, volume_gb
from omewd.bench.report.results import labels, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _OTHERS, _DISK, _TEXT, _FAINT = "#0b7a75", "#b8b2a7", "#d1495b", "#2b2d42", "#8d99ae"
_PARTS = {
    "cpu_producer_s_per_gb": "#edae49",
    "cpu_daemon_s_per_gb": "#7d5ba6",
    "cpu_writers_s_per_gb": "#0b7a75",
    "cpu_process_s_per_gb": "#b8b2a7",
}


def draw(outcomes: list[Outcome], options: Options, path: Path) -> None:
    """Draw all geometries to a PNG file, one in each row."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = len(outcomes)
    most = max(len(outcome.timed) for outcome in outcomes)
    plt.rcParams.update({"font.size": 9, "text.color": _TEXT, "axes.labelcolor": _TEXT, "axes.edgecolor": _FAINT})
    figure, axes = plt.subplots(
        rows,
        3,
        figsize=(13, rows * (1.5 + 0.42 * most)),
        squeeze=False,
        width_ratios=(5, 3.2, 3.2),
        layout="constrained",
    )
    for number, outcome in enumerate(outcomes):
        bandwidth, latency, cpu = axes[number]
        names = labels(outcome)
        _draw_bandwidth(bandwidth, outcome, names, options)
        _draw_appends(latency, outcome)
        _draw_cpu(cpu, outcome)
        for axis in axes[number]:
            axis.set_ylim(len(names) - 0.4, -0.6)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x", color="#e8e8e8", zorder=0)
        for axis in (latency, cpu):
            axis.set_yticks([])
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _colour(timed: Timed) -> str:
    return _OURS if timed.column.kind == OMEWD else _OTHERS


def _halo() -> dict[str, Any]:
    """Keeps text legible where it crosses a line."""
    from matplotlib.patheffects import withStroke

    return {"path_effects": [withStroke(linewidth=3, foreground="white")]}


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=9, color=_TEXT)


def _draw_bandwidth(axis: Any, outcome: Outcome, names: list[str], options: Options) -> None:
    """Draw the median as a bar, each iteration as a dot, and the disk as a line."""
    disk = disk_bandwidth(outcome)
    total_gb = outcome.geometry.total_bytes / 1e9
    for row, timed in enumerate(outcome.timed):
        figures = values(timed, outcome)
        if not figures:
            axis.text(0, row, f" {timed.error.code if timed.error else 'failed'}", va="center", color=_DISK)
            continue
        median = figures["gb_per_s"]
        axis.barh(row, median, 0.62, color=_colour(timed), zorder=2)
        singles = [volume_gb(timed, outcome) / sample.write_s for sample in timed.samples]
        axis.scatter(singles, [row] * len(singles), s=9, color=_TEXT, alpha=0.55, zorder=3, linewidths=0)
        ceiling = figures["nearest_ceiling"]
        text = f"  {median:.2f}" + (f"  ({ceiling})" if ceiling else "")
        axis.text(max(median, *singles), row, text, va="center", fontsize=8.5, color=_TEXT, zorder=4, **_halo())
    if disk:
        axis.axvline(disk, color=_DISK, lw=1.4, ls="--", zorder=1)
        axis.text(disk, -0.58, f" the disk, {disk:.2f} ", color=_DISK, fontsize=8, va="bottom", ha="center")
        axis.set_xlim(0, max(axis.get_xlim()[1], disk) * 1.28)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("GB/s, " + ("including fsync" if options.durability == "fsync" else "without fsync"))
    shape = f"{outcome.geometry.dims}   {total_gb:.2f} GB {outcome.geometry.dtype}, {options.data} pixels\n"
    _title(axis, shape)


def _draw_appends(axis: Any, outcome: Outcome) -> None:
    """Draw p50 to p99 as a bar on a log scale, the maximum as a mark, and the memcpy of a frame as a line."""
    for row, timed in enumerate(outcome.timed):
        figures = values(timed, outcome)
        if not figures:
            continue
        p50, p99, longest = (figures[f"append_{which}_ns"] / 1e6 for which in ("p50", "p99", "max"))
        axis.barh(row, p99 - p50, 0.3, left=p50, color=_colour(timed), zorder=2)
        axis.scatter([p50], [row], s=26, color=_colour(timed), zorder=3)
        axis.scatter([longest], [row], s=22, marker="|", color=_TEXT, zorder=3)
    if copied_ns := memcpy_ns(outcome):
        axis.axvline(copied_ns / 1e6, color=_DISK, lw=1.2, ls="--", zorder=1)
    axis.set_xscale("log")
    axis.use_sticky_edges = False
    axis.margins(x=0.08)
    axis.set_xlabel("ms, log scale; dashed: memcpy of a frame")
    _title(axis, "append: p50 ●▬ p99, longest |\n")


def _draw_cpu(axis: Any, outcome: Outcome) -> None:
    """Draw the CPU seconds for each GB, by process."""
    seen: dict[str, Any] = {}
    for row, timed in enumerate(outcome.timed):
        left = 0.0
        for key, colour in _PARTS.items():
            seconds = values(timed, outcome).get(key)
            if seconds:
                seen.setdefault(key, axis.barh(row, seconds, 0.5, left=left, color=colour, zorder=2))
                left += seconds
    names = {key: key.removeprefix("cpu_").removesuffix("_s_per_gb").replace("process", "one process") for key in seen}
    if seen:
        axis.legend(
            seen.values(), names.values(), fontsize=7.5, frameon=False, ncols=len(seen), loc="lower left",
            bbox_to_anchor=(-0.02, 0.97), handlelength=0.9, columnspacing=1.0, borderpad=0.1,
        )  # fmt: skip
    axis.set_xlabel("CPU seconds per GB")
    _title(axis, "\n")
