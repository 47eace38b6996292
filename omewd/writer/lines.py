"""What a job says in the ledger: a line for each frame, and one for each run of gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from omewd.dataset.ledger import ledger
from omewd.protocol.jobs.frames import WriteUnits
from omewd.writer.ring_reader import RingReader, UnitFrames

Array = np.ndarray[Any, Any]


def ledger_lines(
    ring: RingReader, units: Sequence[UnitFrames], job: WriteUnits, lines: ledger.FrameLines, source: int | None
) -> list[str]:
    """A job's lines, in the order of frame indexes; ``source``: what they say of theirs."""
    indexes = np.concatenate([unit.grid.ravel() for unit in units])
    sequences = np.concatenate([unit.sequences.ravel() for unit in units])
    order = np.argsort(indexes, kind="stable")
    indexes, sequences = indexes[order], sequences[order]
    is_there = sequences >= 0
    frames = indexes[is_there]
    wall_ns, monotonic_ns, metadata = ring.headers(sequences[is_there])
    made = lines.make(frames, wall_ns.tolist(), monotonic_ns.tolist(), metadata)
    gaps = indexes[~is_there & (indexes < job.frontier)]
    if not gaps.size:
        return made
    told = [(start, ledger.gap_line(start, count, kind, source)) for start, count, kind in _runs(gaps, job.gap_kinds)]
    return [line for _, line in sorted([*zip(frames.tolist(), made, strict=True), *told])]


def gap_lines(job: WriteUnits, source: int | None) -> list[str]:
    """The lines of a job whose units hold no frame: one for each kind of gap."""
    assert job.gap_frames is not None
    first, stop = job.gap_frames
    ends = [start for start, _ in job.gap_kinds[1:]]
    runs = zip(job.gap_kinds or ((first, "skipped"),), [*ends, stop], strict=True)
    return [ledger.gap_line(start, end - start, kind, source) for (start, kind), end in runs]


def _runs(gaps: Array, kinds: Sequence[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """Ascending frame indexes without a frame as (first, count, what kind of gap); never none of them."""
    names = ["skipped", *(name for _, name in kinds)]
    kind = np.searchsorted([start for start, _ in kinds], gaps, side="right")
    starts = np.flatnonzero((np.diff(gaps, prepend=-2) != 1) | (np.diff(kind, prepend=-1) != 0))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(gaps)], strict=True):
        yield int(gaps[start]), stop - start, names[kind[start]]
