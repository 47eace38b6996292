"""``omewd benchmark --recommend``: find the settings that suit a camera and a drive."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from omewd.bench.benchmark import Bench
from omewd.bench.candidates import COMFORTABLE, Candidate, Trial, best, first_round, second_round
from omewd.bench.plan import Column, Geometry, Options, Sample
from omewd.errors import OmewdError

if TYPE_CHECKING:
    from rich.console import Console

# The share of the time in which every setting is tried once; then the best few are tried again.
_FIRST_SHARE = 0.6
_FINALISTS = 3


def recommend(
    console: Console,
    geometries: list[Geometry],
    chosen: list[Column],
    options: Options,
    folder: Path,
    time_limit_s: float,
    *,
    explicit: bool,
) -> None:
    """Try settings within a time limit and print the best. ``explicit``: try only the compressions of ``chosen``.

    Raises OmewdError if no setting keeps up with the camera.
    """
    if not options.fps:
        raise OmewdError("usage", "--recommend needs the camera's rate", "Give --fps, in frames a second")
    if len(geometries) != 1:
        raise OmewdError("usage", "--recommend takes one --dims", "It tries chunks and shards by itself")
    geometry = geometries[0]
    backends = list(dict.fromkeys(c.backend for c in chosen))
    compressions = list(dict.fromkeys(c.compression for c in chosen)) if explicit else [None, "blosc-lz4", "blosc-zstd"]
    first = first_round(geometry.dimensions, geometry.dtype, backends, compressions, chosen[0].writers)
    rate = options.fps * geometry.frame_bytes / 1e9
    console.print(
        f"A camera with {options.fps:g} frames a second of {geometry.frame_shape} {geometry.dtype}: {rate:.3f} GB/s; "
        f"trying settings in {folder} for {time_limit_s:.0f} s with {options.data} pixels",
        highlight=False,
        soft_wrap=True,
    )
    search = _Search(console, geometry, options, time_limit_s)
    search.run(first, folder)
    trials = search.trials()
    if not trials:
        raise search.failure or OmewdError("error", "nothing could be tried")
    winner = best(trials, options.fps)
    _show(console, trials, winner, options.fps)
    headroom = winner.fps / options.fps
    if search.left_out:
        console.print(f"{search.left_out} settings were not tried, because the time was up", highlight=False)
    console.print(
        f"best: {winner.fps:,.0f} frames a second, {headroom:.2f} times the camera's rate; "
        f"{winner.bytes_a_frame / 1e6:.2f} MB a frame on disk",
        highlight=False,
        soft_wrap=True,
    )
    console.print(winner.candidate.start_stream(geometry.dtype, options.durability), highlight=False, soft_wrap=True)
    if headroom < 1:
        raise OmewdError(
            "error",
            f"no settings keep up: the camera gives {options.fps:g} frames a second, the best settings take "
            f"{winner.fps:.0f}",
            "Use a faster drive, a smaller region of interest, or --backpressure drop",
        )
    if headroom < COMFORTABLE:
        console.print(
            f"[yellow]less than {COMFORTABLE} times the camera's rate: a slow minute of the disk may fill the ring"
        )


class _Search:
    """Tries settings while there is time. ``left_out``: how many were not tried; ``failure``: the first error."""

    def __init__(self, console: Console, geometry: Geometry, options: Options, time_limit_s: float) -> None:
        self._console, self._geometry, self._options = console, geometry, options
        self._began, self._limit_s = time.monotonic(), time_limit_s
        self._samples: dict[Candidate, list[Sample]] = {}
        self.left_out = 0
        self.failure: OmewdError | None = None

    def run(self, first: list[Candidate], folder: Path) -> None:
        """Try every setting once, as far as the time allows, then the best few in turn until the time is up."""
        from rich.progress import Progress

        unpaced = replace(self._options, fps=0.0)
        with (
            Bench(folder, unpaced) as bench,
            Progress(console=self._console, disable=not self._console.is_terminal) as progress,
        ):
            task = progress.add_task("backends and compressions", total=1.0)
            self._try_all(bench, first, lambda done: progress.update(task, completed=done))
            second = second_round(self._geometry.dimensions, self._geometry.dtype, self.trials())
            progress.update(task, description="chunks and shards")
            self._try_all(bench, second, lambda done: progress.update(task, completed=done))
            progress.update(task, description="the best again", total=None)
            for candidate in cycle(self._finalists()):
                if self._is_over(1.0):
                    break
                self._try(bench, candidate)

    def trials(self) -> list[Trial]:
        return [_trial(candidate, samples) for candidate, samples in self._samples.items() if samples]

    def _is_over(self, share: float) -> bool:
        return time.monotonic() - self._began > share * self._limit_s

    def _try_all(self, bench: Bench, candidates: list[Candidate], done: Callable[[float], None]) -> None:
        for number, candidate in enumerate(candidates):
            if self._is_over(_FIRST_SHARE) and self._samples:
                self.left_out += len(candidates) - number
                return
            self._try(bench, candidate)
            done((number + 1) / len(candidates))

    def _finalists(self) -> list[Candidate]:
        ranked = self.trials()
        finalists: list[Candidate] = []
        while ranked and len(finalists) < _FINALISTS:
            ranked.remove(next_best := best(ranked, self._options.fps))
            finalists.append(next_best.candidate)
        return finalists

    def _try(self, bench: Bench, candidate: Candidate) -> None:
        samples = self._samples.setdefault(candidate, [])
        try:
            samples.append(bench.iterate(candidate.trial, candidate.column))
        except OmewdError as error:
            self.failure = self.failure or error
            column = candidate.column
            what = f"{candidate.dims} {column.backend} {column.compression or 'none'}"
            text = f"  ✗ {what}: {error}"
            self._console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def _trial(candidate: Candidate, samples: list[Sample]) -> Trial:
    frames = candidate.trial.frames
    return Trial(
        candidate,
        fps=frames / statistics.median(sample.write_s for sample in samples),
        bytes_a_frame=statistics.median(sample.stored_bytes for sample in samples) / frames,
        files_a_frame=statistics.median(sample.files for sample in samples) / frames,
    )


def _show(console: Console, trials: list[Trial], winner: Trial, fps: float) -> None:
    from rich.table import Table

    table = Table()
    for title in ("dims", "backend", "compression"):
        table.add_column(title)
    for title in ("fps", "head-room", "GB/s", "MB a frame", "files a frame"):
        table.add_column(title, justify="right")
    for trial in sorted(trials, key=lambda t: -t.fps):
        column = trial.candidate.column
        table.add_row(
            trial.candidate.dims,
            column.backend,
            column.compression or "none",
            f"{trial.fps:,.0f}",
            f"{trial.fps / fps:.2f}×",
            f"{trial.fps * trial.candidate.trial.frame_bytes / 1e9:.2f}",
            f"{trial.bytes_a_frame / 1e6:.2f}",
            f"{trial.files_a_frame:.3g}",
            style="bold green" if trial is winner else "red" if trial.fps < fps else None,
        )
    console.print(table)
