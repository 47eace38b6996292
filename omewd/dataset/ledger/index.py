"""Finds the ledger's lines of single frame indexes. The index is built once, and extended as the file grows.

It takes at most a few bytes for each frame index, and next to nothing if jobs have many frames. It is built again if a
writer without space has taken back lines that were seen, or if another file is in the ledger's place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.ledger.ledger import FILE, FOLDER, UNACCOUNTED, WRITTEN, parse
from omewd.dataset.ledger.marks import Indexes, Marks
from omewd.dataset.ledger.reading import LedgerReader, identity_of, opened
from omewd.dataset.ledger.run_lines import BLOCK_BYTES, RunLines
from omewd.dataset.ledger.runs import MOST, Runs
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

FRAME, GAP, LOST = 1, 2, 3

Row = dict[str, Any]

# Lines that are searched together, so that jobs of one frame share a part. A longer run is a part of its own.
_PART_BYTES = 1 << 14
# Consecutive lines. Their frame indexes are ``first``, ``first + step``, … below ``stop``, in order; with step 0, any
# of them in any order.
_PART = np.dtype([("offset", "<i8"), ("length", "<i8"), ("first", "<i8"), ("stop", "<i8"), ("step", "<i8")])
_Parts = np.ndarray[Any, Any]
_BLOCK_PARTS = 1 << 12


class _PartList:
    """Parts in the order of their lines, in blocks, of which a search looks at those with its frame indexes."""

    def __init__(self) -> None:
        self._blocks: list[_Parts] = []
        self._spans: list[tuple[int, int]] = []

    def add(self, parts: _Parts) -> None:
        """Add at least one part, which comes after the others."""
        first, stop = int(parts["first"].min()), int(parts["stop"].max())
        if self._blocks and len(self._blocks[-1]) + len(parts) <= _BLOCK_PARTS:
            parts = np.concatenate([self._blocks.pop(), parts])
            before = self._spans.pop()
            first, stop = min(first, before[0]), max(stop, before[1])
        self._blocks.append(parts)
        self._spans.append((first, stop))

    def overlapping(self, first: int, stop: int) -> _Parts:
        """The parts with any of these frame indexes, in the order of their lines."""
        found = [
            block[(block["first"] < stop) & (block["stop"] > first)]
            for block, (low, high) in zip(self._blocks, self._spans, strict=True)
            if low < stop and high > first
        ]
        return np.concatenate([np.zeros(0, _PART), *found])


class LedgerIndex:
    """The lines of a dataset's ledger by source and frame index. The last line of an index counts."""

    def __init__(self, dataset: Path, spec: StreamSpec) -> None:
        self._path, self._sources = dataset / FOLDER / FILE, spec.sources
        self._frames_total = Plan.of(spec).frames_total
        self._reader = LedgerReader(dataset)
        self._start_again()

    def _start_again(self) -> None:
        self._reader.start_again()
        self.marks = Marks.of_sources(self._sources)
        """Of each source: FRAME, GAP, LOST by a line that says so, or 0 where the ledger says nothing."""
        self._parts = [_PartList() for _ in range(self._sources)]

    def read_on(self) -> None:
        """Read the lines added since the last call, or all lines if they were replaced; raises OSError."""
        if not self._reader.goes_on():
            self._start_again()
        for runs in self._reader.read():
            for source in np.unique(runs["source"]).tolist():
                if source < self._sources:
                    self._take(source, self._of_acquisition(runs[(runs["source"] == source) & (runs["count"] > 0)]))

    def _of_acquisition(self, runs: Runs) -> Runs:
        """Remove frame indexes from runs that the acquisition does not have."""
        total = self._frames_total
        if total is None or not len(runs) or (runs["first"] + (runs["count"] - 1) * runs["step"]).max() < total:
            return runs
        cut = runs[runs["first"] < total]
        cut["count"] = np.minimum(cut["count"], -(-(total - cut["first"]) // np.maximum(cut["step"], 1)))
        return cut

    def _take(self, source: int, runs: Runs) -> None:
        if not len(runs):
            return
        kinds = runs["kind"]
        marks = np.select([kinds == WRITTEN, kinds == UNACCOUNTED], [FRAME, LOST], GAP)
        self.marks[source].put_runs(runs, marks.astype(np.uint8))
        steps = runs["step"].astype(np.int64)
        stops = runs["first"] + (runs["count"] - 1) * steps + 1
        ends = runs["offset"] + runs["length"]
        where = runs["offset"] // _PART_BYTES
        is_long = runs["length"] > _PART_BYTES
        starts = np.flatnonzero((np.diff(where, prepend=-1) != 0) | is_long | np.roll(is_long, 1))
        parts = np.zeros(len(starts), _PART)
        parts["offset"] = runs["offset"][starts]
        parts["length"] = np.maximum.reduceat(ends, starts) - parts["offset"]
        parts["first"] = np.minimum.reduceat(runs["first"], starts)
        parts["stop"] = np.maximum.reduceat(stops, starts)
        alone = np.diff([*starts, len(runs)]) == 1
        parts["step"] = np.where(alone, np.where(runs["count"] > 1, steps, 1)[starts], 0)
        self._parts[source].add(parts)

    def row(self, source: int, frame: int) -> Row | None:
        """The row of a frame index, as far as the ledger was read; None if there is none.

        Raises OmewdError ``changed`` if another file or other lines are in the ledger's place; OSError.
        """
        return self.rows(source, np.array([frame], np.int64))[0]

    def rows(self, source: int, frames: Indexes) -> list[Row | None]:
        """The rows of ascending frame indexes; see :meth:`row`."""
        lines: list[bytes | None] = [None] * len(frames)
        if len(frames):
            with opened(self._path) as descriptor:
                if self._reader.identity != identity_of(descriptor):
                    raise self._changed()
                for part in self._parts[source].overlapping(int(frames[0]), int(frames[-1]) + 1):
                    self._find_lines(descriptor, part, source, frames, lines)
        marks = self.marks[source].at(frames).tolist()
        found: list[Row | None] = []
        last, row = None, None
        for frame, line, mark in zip(frames.tolist(), lines, marks, strict=True):
            if line is not last:  # the same line for a run of gaps
                last, row = line, None if line is None else parse(line)
            if not _fits(row, source, frame, mark):
                raise self._changed()
            found.append(row)
        return found

    def _find_lines(
        self, descriptor: int, part: _Parts, source: int, frames: Indexes, lines: list[bytes | None]
    ) -> None:
        """Put a part's lines into the places of their frame indexes."""
        offset, length, first, stop, step = part.tolist()
        start, end = np.searchsorted(frames, (first, stop)).tolist()
        inside = (frames[start:end] - first) // max(step, 1)
        places: Iterable[int] = range(start, end)
        if step > 1:
            is_there = (frames[start:end] - first) % step == 0
            inside, places = inside[is_there], (np.flatnonzero(is_there) + start).tolist()
        if not len(inside):
            return
        if step and length > BLOCK_BYTES and stop - first > 1:
            run = RunLines(descriptor, offset, length, first, step, (stop - 1 - first) // step + 1)
            try:
                for place, line in zip(places, run.find(inside.tolist()), strict=True):
                    lines[place] = line
            except ValueError as error:
                raise self._changed() from error
            return
        told = os.pread(descriptor, length, offset).split(b"\n")[:-1]
        if step:
            alone = len(told) == 1
            for place, number in zip(places, inside.tolist(), strict=True):
                if not alone and number >= len(told):
                    raise self._changed()
                lines[place] = told[0 if alone else number]
            return
        for line in told:
            row = parse(line)
            if row is None or "frame" not in row or row.get("source", 0) != source:
                continue
            stop = row["frame"] + (row.get("count", 1) if "gap" in row else 1)
            a, b = np.searchsorted(frames[start:end], [min(max(n, 0), MOST) for n in (row["frame"], stop)]).tolist()
            lines[start + a : start + b] = [line] * (b - a)

    def _changed(self) -> OmewdError:
        return OmewdError("changed", f"{self._path} has changed since it was read", "Open it again")


def _fits(row: Row | None, source: int, frame: int, mark: int) -> bool:
    """Whether a line is about a frame index with this mark."""
    if row is None or not mark:
        return row is None and not mark
    first, is_gap = row.get("frame"), "gap" in row
    count = row.get("count", 1) if is_gap else 1
    is_about = row.get("source", 0) == source and first is not None and 0 <= frame - first < count
    return is_about and is_gap == (mark != FRAME)
