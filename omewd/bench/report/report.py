"""Formats the figures for people and programs: a table, JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from omewd.bench.plan import Column, Geometry, Options, Outcome
from omewd.bench.report.ceilings import references
from omewd.bench.report.figures import bandwidth
from omewd.bench.report.results import METRICS, Metric, labels, shown_metrics, to_dict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_ANY_WIDTH = 10_000
# The parts of a summary that CSV has; the median of the writes is a metric of its own.
_SUMMARY = ("mean", "std", "min", "max")


def print_configuration(
    console: Console, geometries: list[Geometry], columns: list[Column], options: Options, folder: str
) -> None:
    """Print what will be run."""
    distinct = {c.backend: None for c in columns}
    lines = [
        ("Backends", ", ".join(distinct)),
        *(
            (
                "Dimensions",
                f"{''.join(d.name for d in g.dimensions)!r} {tuple(d.count for d in g.dimensions)}, "
                f"chunk shape {g.spec(columns[0], options).chunk_shape}, {g.frames:,} frames in total",
            )
            for g in geometries
        ),
        ("Dtype", geometries[0].dtype),
        ("Compression", ", ".join({c.compression or "none": None for c in columns})),
        ("Writers", ", ".join({str(c.writers): None for c in columns if c.writers})),
        *([("Cameras at once", _camera_counts(columns))] if _have_several(columns) else []),
        ("Durability", options.durability),
        ("Output", folder),
        ("Warm-ups", str(options.warmups)),
        ("Iterations", f"{options.iterations}{_limit(options)}, all columns in turn"),
    ]
    others = {c.kind: None for c in columns if c.writers == 0}
    if others:
        lines.insert(1, ("Compared with", ", ".join(others)))
    _print_lines(console, "Benchmark configuration", lines)


def _limit(options: Options) -> str:
    return f", or fewer within {options.time_limit_s:.0f} s" if options.time_limit_s else ""


def _print_lines(console: Console, title: str, lines: list[tuple[str, str]]) -> None:
    console.print(f"\n[bold cyan]{title}[/]")
    for what, value in lines:
        console.print(f"  {what}: {value}", markup=False, highlight=False, soft_wrap=True)


def print_outcome(console: Console, outcome: Outcome, options: Options) -> None:
    """Print the test conditions and the table of one geometry."""
    lines = _conditions(outcome, options)
    _print_lines(console, "Test conditions", lines)
    console.print()
    for columns in _blocks(console, outcome):
        console.print(_table(outcome, columns))
    for timed, label in zip(outcome.timed, labels(outcome), strict=True):
        if timed.error is not None:
            console.print(f"{label}: {timed.error}", style="red", markup=False, highlight=False, soft_wrap=True)


def _have_several(columns: list[Column]) -> bool:
    return any(column.cameras > 1 for column in columns)


def _camera_counts(columns: list[Column]) -> str:
    return ", ".join({str(c.cameras): None for c in columns})


def _conditions(outcome: Outcome, options: Options) -> list[tuple[str, str]]:
    columns = [timed.column for timed in outcome.timed]
    lines = [*outcome.geometry.conditions(options), *references(outcome)]
    lines.append(("Compression", ", ".join({c.compression or "none": None for c in columns})))
    if _have_several(columns):
        what = "each has the frames and data above; figures are for all together"
        lines.append(("Cameras at once", f"{_camera_counts(columns)}; {what}"))
    return lines


def _cells(outcome: Outcome, metric: Metric) -> list[str]:
    cells = []
    for timed in outcome.timed:
        value = metric.of(timed, outcome) if timed.samples else None
        cells.append("ERROR" if not timed.samples else "–" if value is None else metric.show(value))
    return cells


def _title(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _blocks(console: Console, outcome: Outcome) -> list[list[int]]:
    """Split the columns, by number, into tables that fit the console."""
    from rich.measure import Measurement

    everything = list(range(len(outcome.timed)))
    unbounded = console.options.update(width=_ANY_WIDTH)
    for size in range(len(everything), 1, -1):
        blocks = [everything[at : at + size] for at in range(0, len(everything), size)]
        tables = (_table(outcome, block) for block in blocks)
        if all(Measurement.get(console, unbounded, table).maximum <= console.width for table in tables):
            return blocks
    return [[number] for number in everything]


def _table(outcome: Outcome, columns: list[int]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("Metric", style="cyan", no_wrap=True)
    names = labels(outcome)
    speeds = {i: bandwidth(t, outcome) for i, t in enumerate(outcome.timed) if t.samples}
    for number in columns:
        style = "dim" if number not in speeds else "bold white"
        if len(speeds) > 1 and number in speeds:
            best, worst = max(speeds.values()), min(speeds.values())
            style = {worst: "bold red", best: "bold green"}.get(speeds[number], style)
        table.add_column(names[number], justify="right", header_style=style, no_wrap=True)
    for metric in shown_metrics(outcome):
        cells = _cells(outcome, metric)
        table.add_row(_title(metric), *(cells[number] for number in columns))
    return table


def as_markdown(outcomes: list[Outcome], options: Options) -> str:
    """A section for each geometry, with the conditions as a list and the figures as a pipe table."""
    sections = []
    for outcome in outcomes:
        lines = [f"### `{outcome.geometry.dims}`", ""]
        lines += [f"- {what}: {value}" for what, value in _conditions(outcome, options)]
        lines += ["", f"| | {' | '.join(labels(outcome))} |", f"|---|{'---:|' * len(outcome.timed)}"]
        lines += [f"| {_title(m)} | {' | '.join(_cells(outcome, m))} |" for m in shown_metrics(outcome)]
        for timed, label in zip(outcome.timed, labels(outcome), strict=True):
            if timed.error is not None:
                lines += ["", f"{label}: {timed.error}"]
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def as_json(outcomes: list[Outcome], options: Options) -> str:
    return json.dumps({"benchmarks": [to_dict(outcome, options) for outcome in outcomes]}, indent=2)


def as_csv(outcomes: list[Outcome], options: Options) -> str:
    """A line for each column of each geometry, in base units."""
    keys = [
        "dims",
        "dtype",
        "data",
        "durability",
        "label",
        "kind",
        "backend",
        "compression",
        "writers",
        "cameras",
        "levels",
    ]
    figures = ["error"]
    for metric in METRICS:
        figures += [f"{metric.key}_{which}" for which in _SUMMARY] if metric.unit == "mean±std s" else [metric.key]
    text = io.StringIO()
    table = csv.DictWriter(text, [*keys, *figures, "disk_gb_per_s"], extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for outcome in outcomes:
        result = to_dict(outcome, options)
        for column in result["columns"]:
            flat = {k: v for k, v in column.items() if not isinstance(v, dict | list)}
            for key in ("create_s", "write_s"):
                flat |= {f"{key}_{which}": value for which, value in (column.get(key) or {}).items()}
            if ceiling := column.get("nearest_ceiling"):
                flat["nearest_ceiling"] = ceiling["name"]
            shared = {key: result[key] for key in ("dims", "dtype", "data", "durability")}
            error = column["error"]["message"] if column["error"] else None
            table.writerow({**shared, **flat, "error": error, "disk_gb_per_s": result["disk"]["gb_per_s"]})
    return text.getvalue().rstrip("\n")
