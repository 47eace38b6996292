"""What a job says in the ledger: a line for each frame, and one for each run of gaps; and the runs that these make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.dataset.ledger.runs import Run, run_starts
from omewd.protocol.jobs.frames import WriteUnits
from omewd.writer.ring_reader import RingReader, UnitFrames

Array = np.ndarray[Any, Any]

# Who looks one frame up reads the lines of its run.
_MOST_LINES = 4096


class JobLines(NamedTuple):
    """The lines of a job as they are appended, and the runs among them."""

    text: bytes
    runs: list[Run]


class _Part(NamedTuple):
    """Lines that stand together, and what they are about."""

    first: int
    frames: int
    step: int
    kind: int
    text: bytes


def ledger_lines(
    ring: RingReader, units: Sequence[UnitFrames], job: WriteUnits, lines: FrameLines, source: int | None
) -> JobLines:
    """A job's lines, in the order of frame indexes; ``source``: what they say of theirs."""
    indexes = np.concatenate([unit.grid.ravel() for unit in units])
    sequences = np.concatenate([unit.sequences.ravel() for unit in units])
    order = np.argsort(indexes, kind="stable")
    indexes, sequences = indexes[order], sequences[order]
    is_there = sequences >= 0
    frames = indexes[is_there]
    gaps = indexes[~is_there & (indexes < job.frontier)]
    told = [_gap(*run, source) for run in _runs(gaps, job.gap_kinds)] if gaps.size else []
    if not frames.size:
        return _together(told, job.frontier, source)
    wall_ns, monotonic_ns, metadata = ring.headers(sequences[is_there])
    together = None
    if told:
        together = np.ones(len(frames) - 1, bool)
        # Where a gap comes before a frame, the lines of the frames around it do not stand together.
        after = np.searchsorted(frames, [part.first for part in told])
        together[after[(after > 0) & (after < len(frames))] - 1] = False
    starts = [
        start
        for first, stop in _pairs(run_starts(frames, together), len(frames))
        for start in range(first, stop, _MOST_LINES)
    ]
    parts = [
        _Part(
            int(frames[a]),
            b - a,
            int(frames[a + 1] - frames[a]) if b - a > 1 else 1,
            ledger.WRITTEN,
            lines.text(frames[a:b], wall_ns[a:b], monotonic_ns[a:b], metadata[a:b]),
        )
        for a, b in _pairs(starts, len(frames))
    ]
    return _together(sorted(parts + told) if told else parts, job.frontier, source)


def gap_lines(job: WriteUnits, source: int | None) -> JobLines:
    """The lines of a job whose units hold no frame: one for each kind of gap."""
    assert job.gap_frames is not None
    first, stop = job.gap_frames
    ends = [start for start, _ in job.gap_kinds[1:]]
    runs = zip(job.gap_kinds or ((first, "skipped"),), [*ends, stop], strict=True)
    return _together([_gap(start, end - start, kind, source) for (start, kind), end in runs], job.frontier, source)


def _gap(first: int, count: int, kind: str, source: int | None) -> _Part:
    return _Part(first, count, 1, ledger.KINDS[kind], ledger.gap_line(first, count, kind, source).encode())


def _together(parts: Sequence[_Part], frontier: int, source: int | None) -> JobLines:
    if not parts:
        return JobLines(b"", [])
    *texts, last = [part.text for part in parts]
    texts.append(ledger.with_received(last, frontier))
    runs, offset = [], 0
    for number, (part, text) in enumerate(zip(parts, texts, strict=True)):
        received = frontier if number == len(parts) - 1 else 0
        runs.append(Run(len(text), part.step, source or 0, part.kind, part.first, part.frames, received, offset))
        offset += len(text)
    return JobLines(b"".join(texts), runs)


def _pairs(starts: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    return zip(starts, [*starts[1:], end], strict=True)


def _runs(gaps: Array, kinds: Sequence[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """Ascending frame indexes without a frame as (first, count, what kind of gap); never none of them."""
    names = ["skipped", *(name for _, name in kinds)]
    kind = np.searchsorted([start for start, _ in kinds], gaps, side="right")
    starts = np.flatnonzero((np.diff(gaps, prepend=-2) != 1) | (np.diff(kind, prepend=-1) != 0))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(gaps)], strict=True):
        yield int(gaps[start]), stop - start, names[kind[start]]
