"""``omewd ledger``: what is on record of each frame of a dataset."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from omewd.cli.options import example, json_option
from omewd.errors import OmewdError

if TYPE_CHECKING:
    from omewd.dataset.ledger.frames import FrameLedger, LedgerRow

# The summary lists this many runs of gaps.
_RUNS = 8


@click.command("ledger", epilog=example("omewd ledger cam0.ome.zarr --csv --output frames.csv"))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print a table with a line for each frame index and a column for each key."
)
@json_option
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead.")
def command(dataset: Path, as_csv: bool, as_json: bool, output: Path | None) -> None:
    """Show the record of each frame of DATASET: where it is stored, its times and metadata, or why it is a gap.

    Without --csv or --json, print a summary. The dataset may be one that is still recorded.
    """
    from omewd.dataset.ledger.frames import open_ledger

    if as_csv and as_json:
        raise OmewdError("usage", "--csv and --json exclude each other", "Leave one out")
    if output is not None and not (as_csv or as_json):
        raise OmewdError("usage", "--output needs --csv or --json", "Add one of them")
    ledger = open_ledger(dataset)
    if not (as_csv or as_json):
        print("\n".join(_summary(ledger)))
        return
    try:
        with nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8", newline="") as file:
            (_write_csv if as_csv else _write_json)(ledger, file)
    except OSError as error:
        if output is None:
            raise
        raise OmewdError("usage", f"{output} can't be written: {error.strerror}") from error


def _write_csv(ledger: FrameLedger, file: TextIO) -> None:
    columns = ledger.columns()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_cells, columns.values()), strict=True))


def _cells(column: Any) -> Iterable[Any]:
    """The values of a column for CSV; a missing value is an empty cell."""
    match column.dtype.kind:
        case "O":
            return ("" if value is None else value if isinstance(value, str) else json.dumps(value) for value in column)
        case "f":
            return ("" if value != value else value for value in column.tolist())
        case "b":
            return ("" if value is None else json.dumps(value) for value in column.tolist())
        case _:
            return ("" if value is None else value for value in column.tolist())


def _write_json(ledger: FrameLedger, file: TextIO) -> None:
    """Write one array, with a row on each line."""
    file.write("[")
    for number, row in enumerate(ledger):
        file.write(",\n" if number else "\n")
        json.dump(asdict(row), file)
    file.write("\n]\n")


class _Source:
    """Sums up the rows of one source, without their metadata."""

    def __init__(self) -> None:
        self.frames = 0
        self.gaps: Counter[str] = Counter()
        self._runs: dict[str, list[list[int]]] = {}
        self._run_count: Counter[str] = Counter()
        self._last_gap = (-2, "")
        self._wall_ns: list[int] = []
        self._monotonic_ns: list[int] = []

    def add(self, row: LedgerRow) -> None:
        if not row.gap:
            self.frames += 1
            self._wall_ns = _span(self._wall_ns, row.wall_ns)
            self._monotonic_ns = _span(self._monotonic_ns, row.monotonic_ns)
            return
        self.gaps[row.gap] += 1
        runs = self._runs.setdefault(row.gap, [])
        if self._last_gap != (row.frame - 1, row.gap):
            self._run_count[row.gap] += 1
            if len(runs) < _RUNS:
                runs.append([row.frame, row.frame])
        elif self._run_count[row.gap] == len(runs):
            runs[-1][1] = row.frame
        self._last_gap = (row.frame, row.gap)

    def lines(self) -> Iterable[str]:
        when = ""
        if self._wall_ns and self._monotonic_ns:
            when = f", {_times(*self._wall_ns)}"
            first_ns, last_ns = self._monotonic_ns
            if last_ns > first_ns:
                rate = (self.frames - 1) / (last_ns - first_ns) * 1e9
                when += f", {rate:.{0 if rate >= 1000 else 3}{'f' if rate >= 1000 else 'g'}} a second"
        yield f"{_count(self.frames, 'frame')}{when}"
        for kind, runs in self._runs.items():
            text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
            more = self._run_count[kind] - len(runs)
            yield f"{self.gaps[kind]} {kind}: {text}" + (f", and {_count(more, 'more run')}" if more else "")


def _summary(ledger: FrameLedger) -> Iterable[str]:
    sources = [_Source() for _ in range(ledger.spec.sources)]
    keys: Counter[str] = Counter()
    for row in ledger:
        sources[row.source].add(row)
        keys.update(list(row.metadata) if isinstance(row.metadata, dict) else ())
    frames, gaps = sum(each.frames for each in sources), sum(each.gaps.total() for each in sources)
    yield f"{ledger.dataset}: {ledger.totals['state']}, {_count(frames, 'frame')}, {_count(gaps, 'gap')}"
    for name, source in zip(ledger.spec.source_names, sources, strict=True):
        yield from _labelled(f"source {name}" if name else "frames", source.lines())
    metadata = (key if count == frames else f"{key} (of {_count(count, 'frame')})" for key, count in keys.items())
    yield from _labelled("metadata", [", ".join(metadata) or "none"])
    missing = ledger.totals["received"] - len(ledger)
    if missing > 0:
        yield f"{_count(missing, 'received frame')} not on record: omewd verify lists them"


def _labelled(label: str, lines: Iterable[str]) -> Iterable[str]:
    for number, line in enumerate(lines):
        yield f"  {'' if number else label:<9} {line}"


def _span(span: list[int], value: Any) -> list[int]:
    if not isinstance(value, int):
        return span
    return [min(span[0], value), max(span[1], value)] if span else [value, value]


def _times(first_ns: int, last_ns: int) -> str:
    try:
        first, last = (datetime.fromtimestamp(wall_ns / 1e9).astimezone() for wall_ns in (first_ns, last_ns))
    except (ValueError, OverflowError, OSError):  # from a damaged ring
        return f"{first_ns} to {last_ns} ns"
    day = "" if first.date() == last.date() else f"{last:%Y-%m-%d} "
    return f"{first:%Y-%m-%d %H:%M:%S} to {day}{last:%H:%M:%S %Z}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
