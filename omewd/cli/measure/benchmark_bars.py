"""The progress bars of ``omewd benchmark``. Each column has one, with its clock, its rate and the time left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from omewd.bench.pace import Pace
from omewd.cli.errors import with_options
from omewd.cli.show.text import shortened
from omewd.cli.show.units import byte_rate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task

    from omewd.bench.plan import Column, Geometry, Sample, Timed

_NARROW, _SHORT_LABEL = 100, 12


class Bars:
    """A :class:`omewd.bench.benchmark.Watcher` that shows bars, or in a pipe only lines. A context manager."""

    def __init__(self, console: Console, geometry: Geometry, columns: list[Column], rounds: int) -> None:
        self._console, self._geometry, self._columns = console, geometry, columns
        bar = 8 if console.width < _NARROW else 20
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar),
            MofNCompleteColumn(),
            _PaceColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        room = max(console.width - bar - len("    10/10 1:00:00  1.00 GB/s  1:00:00 left"), _SHORT_LABEL)
        self._paces = {column: Pace(rounds) for column in columns}
        self._tasks = {
            column: self._progress.add_task(shortened(column.label(columns), room), total=rounds, pace=pace)
            for column, pace in self._paces.items()
        }
        self._told: set[Column] = set()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begins(self, timed: Timed) -> None:
        self._paces[timed.column].begin(time.monotonic())

    def ended(self, timed: Timed, sample: Sample | None) -> None:
        column = timed.column
        pace = self._paces[column]
        pace.end(time.monotonic(), self._geometry.volume_bytes(column) / sample.write_s if sample else None)
        self._progress.update(self._tasks[column], completed=pace.done)
        if timed.error is not None:
            self._tell(column, f"✗ {column.label(self._columns)} failed: {with_options(str(timed.error), {})}", "red")
        elif pace.done == pace.rounds:
            self.complete(column)

    def complete(self, column: Column) -> None:
        """Report, once, that a column has finished, unless it has failed."""
        self._paces[column].rounds = self._paces[column].done
        if column not in self._told:
            self._tell(column, f"✓ {column.label(self._columns)} complete", "green")

    def _tell(self, column: Column, text: str, style: str) -> None:
        self._told.add(column)
        self._console.print(f"  {text}", style=style, markup=False, highlight=False, soft_wrap=True)


class _PaceColumn(ProgressColumn):
    """The clock, the rate and the time left of a bar."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        return Text(pace_text(task.fields["pace"], time.monotonic()), style="progress.elapsed")


def pace_text(pace: Pace, now_s: float) -> str:
    """The text of a bar, such as ``0:12  1.31 GB/s  0:40 left``."""
    parts = [_clock(pace.elapsed_s(now_s))]
    if pace.bytes_per_s is not None:
        parts.append(byte_rate(pace.bytes_per_s))
    left_s = pace.left_s(now_s)
    if left_s:
        parts.append(f"{_clock(left_s)} left")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
