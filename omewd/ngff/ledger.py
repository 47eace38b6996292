"""The frame ledger: what became of every frame index of a dataset, readable without omewd.

It is the file ``omewd/ledger.jsonl`` in the dataset, one JSON object a line, in no particular order:

    {"frame": 17, "wall_ns": 1700000000000000000, "monotonic_ns": 123, "metadata": {…}}   written
    {"frame": 18, "count": 3, "gap": "skipped"}                 no frame at 18, 19, 20: reads as fill value
    {"frame": 21, "count": 1, "gap": "dropped"}
    {"frame": 22, "count": 2, "gap": "lost"}                    was written, and ``omewd repair`` found it gone

    {"received": 40}                                            frame indexes below 40 had been handed over by now

Lines of a stream that several producers feed have ``"source": n`` beside that, the producer's number.

A frame index is the frame's number in acquisition order (of its source), from 0. A write unit's lines are appended at
once, after its pixels are in place. A unit that is written again after a crash appends its lines again:
for each index the last line counts. A crash can leave a torn line; lines that do not parse do not count.

The totals are attributes of the group ``omewd``, under the key ``omewd``: see :func:`summary_json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omewd.model.shards import Flags
from omewd.model.spec import StreamSpec
from omewd.model.totals import Totals

FOLDER = "omewd"
FILE = "ledger.jsonl"
VERSION = 1
# Which frames are lost follows from the ledger too; this many runs of them are told.
_LOST_RUNS = 1000


def frame_line(frame: int, wall_ns: int, monotonic_ns: int, metadata: bytes, source: int | None = None) -> str:
    """The line of a written frame; ``metadata`` is JSON as the producer encoded it, or empty.

    ``source``: of which source it is, where a stream has several.
    """
    line = f'{{"frame":{frame}{_of(source)},"wall_ns":{wall_ns},"monotonic_ns":{monotonic_ns}'
    return f'{line},"metadata":{_checked(metadata)}}}\n' if metadata else line + "}\n"


def _of(source: int | None) -> str:
    return "" if source is None else f',"source":{source}'


def _checked(metadata: bytes) -> str:
    """Metadata comes out of shared memory: one that is no JSON must not spoil the line."""
    try:
        return json.dumps(json.loads(metadata), separators=(",", ":"))
    except (ValueError, RecursionError):
        return json.dumps({"omewd_unreadable": metadata.decode(errors="replace")})


def gap_line(frame: int, count: int, kind: str, source: int | None = None) -> str:
    """The line of ``count`` frame indexes without a frame, from ``frame`` on; kind "skipped", "dropped" or "lost"."""
    return f'{{"frame":{frame}{_of(source)},"count":{count},"gap":"{kind}"}}\n'


def batch(lines: Iterable[str], received: int, source: int | None = None) -> bytes:
    """One unit's lines as they are appended: the first newline ends a line that a crash may have torn.

    ``received``: all frame indexes below (of the source) have been handed over by now, on disk or not.
    """
    return ("\n" + "".join(lines) + f'{{"received":{received}{_of(source)}}}\n').encode()


def source_of(spec: StreamSpec, number: int) -> int | None:
    """What the lines of a source say of it: nothing where it is the only one."""
    return None if spec.source_axis is None else number


def summary_json(
    spec: StreamSpec, *, state: str, epoch: int = 0, totals: Sequence[Totals] = (), ended_by: str = ""
) -> dict[str, Any]:
    """The zarr.json of the group ``omewd``: what was acquired, and the totals of the ledger.

    ``state``: "writing", "complete" or "failed"; ``epoch``: a number that tells the stream from all others.
    ``totals``: of each source; all together they stand beside the state, those of each under ``sources`` where a
    stream has several. See :class:`omewd.model.totals.Totals`.
    """
    each = list(totals) or [Totals()] * spec.sources
    together = Totals(
        received=sum(t.received for t in each),
        written=sum(t.written for t in each),
        gaps=sum(t.gaps for t in each),
        lost=each[0].lost if len(each) == 1 else (),
        lost_frames=sum(t.lost_frames for t in each),
    )
    document = {
        "ledger": FILE,
        "version": VERSION,
        "state": state,
        "epoch": epoch,
        "ended_by": ended_by,
        **together.to_dict(),
        "stream": spec.model_dump(mode="json"),
    }
    if spec.source_axis is not None:
        document["sources"] = [{"name": name, **t.to_dict()} for name, t in zip(spec.source_names, each, strict=True)]
    return {"zarr_format": 3, "node_type": "group", "attributes": {"omewd": document}}


def totals_in(summary: dict[str, Any]) -> list[Totals]:
    """The totals of each source in what :func:`summary_json` wrote."""
    return [Totals.from_dict(fields) for fields in summary.get("sources", [summary])]


# These backends do not store chunks that only hold the fill value.
LEAVE_ZEROS_OUT = ("zarrs-python", "acquire-zarr")

UNACCOUNTED, WRITTEN, SKIPPED, DROPPED = range(4)
_GAP_STATUS = {"skipped": SKIPPED, "dropped": DROPPED, "lost": UNACCOUNTED}


@dataclass
class Ledger:
    """A dataset's ledger, read back.

    ``status``: for each source one byte a frame index, UNACCOUNTED, WRITTEN, SKIPPED or DROPPED.
    """

    status: list[bytearray]
    unreadable_lines: int = 0

    @property
    def written(self) -> list[Flags]:
        """For each source whether each frame index is WRITTEN."""
        return [np.frombuffer(status, np.uint8) == WRITTEN for status in self.status]

    @property
    def totals(self) -> list[Totals]:
        """What became of the frames of each source, by this ledger."""
        return [_totals(status) for status in self.status]

    @classmethod
    def read(cls, dataset: Path, frames: Sequence[int]) -> Ledger:
        """What the ledger says of the first so many frame indexes of each source; raises OSError if there is none."""
        ledger = cls([bytearray(count) for count in frames])
        for row in rows(dataset):
            if row is None or row.get("source", 0) >= len(frames):
                ledger.unreadable_lines += 1
                continue
            status = ledger.status[row.get("source", 0)]
            first, count = row["frame"], row.get("count", 1)
            mark = _GAP_STATUS.get(row["gap"], SKIPPED) if "gap" in row else WRITTEN
            stop = min(first + count, len(status))
            if 0 <= first < stop:
                status[first:stop] = bytes([mark]) * (stop - first)
        return ledger


def _totals(status: bytearray) -> Totals:
    lost = [(run.start(), run.end() - run.start()) for run in re.finditer(rb"\x00+", status)]
    return Totals(
        received=len(status),
        written=status.count(WRITTEN),
        gaps=status.count(SKIPPED) + status.count(DROPPED),
        lost=tuple(lost[:_LOST_RUNS]),
        lost_frames=sum(count for _, count in lost),
    )


@contextlib.contextmanager
def held(dataset: Path) -> Iterator[None]:
    """Hold a dataset against ``omewd repair``, as all who write it do: a shared lock on its ledger."""
    descriptor = hold(dataset)
    try:
        yield
    finally:
        os.close(descriptor)


def hold(dataset: Path) -> int:
    """A descriptor that holds a dataset until it is closed; raises OSError."""
    descriptor = os.open(dataset / FOLDER / FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def received(dataset: Path, sources: int) -> list[int]:
    """For each source one past the last frame index that a ledger knows of, on disk or not."""
    known = [0] * sources
    for row in _lines(dataset):
        if row is not None and row.get("source", 0) < sources:
            source = row.get("source", 0)
            known[source] = max(
                known[source], row["received"] if "received" in row else row["frame"] + row.get("count", 1)
            )
    return known


def rows(dataset: Path) -> Iterator[dict[str, Any] | None]:
    """The lines about frames of a dataset's ledger in file order; None for one that can't be read."""
    return (row for row in _lines(dataset) if row is None or "received" not in row)


def _lines(dataset: Path) -> Iterator[dict[str, Any] | None]:
    with (dataset / FOLDER / FILE).open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                numbers = (
                    row["received"] if "received" in row else row["frame"],
                    row.get("count", 1),
                    row.get("source", 0),
                )
                is_row = all(isinstance(n, int) for n in numbers) and isinstance(row.get("gap", ""), str)
                yield row if is_row and numbers[2] >= 0 else None
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                yield None
