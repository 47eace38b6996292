"""The frame ledger: what became of every frame index of a dataset, readable without omewd.

It is the file ``omewd/ledger.jsonl`` in the dataset, one JSON object a line, in no particular order:

    {"frame": 17, "wall_ns": 1700000000000000000, "monotonic_ns": 123, "metadata": {…}}   written
    {"frame": 18, "count": 3, "gap": "skipped"}                 no frame at 18, 19, 20: reads as fill value
    {"frame": 21, "count": 1, "gap": "dropped"}
    {"frame": 22, "count": 2, "gap": "lost"}                    was written, and ``omewd repair`` found it gone

    {"received": 40}                                            frame indexes below 40 had been handed over by now

A frame index is the frame's number in acquisition order, from 0. A write unit's lines are appended at
once, after its pixels are in place. A unit that is written again after a crash appends its lines again:
for each index the last line counts. A crash can leave a torn line; lines that do not parse do not count.

The totals are attributes of the group ``omewd``, under the key ``omewd``: see :func:`summary_json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omewd.model.shards import Flags
from omewd.model.spec import StreamSpec

FOLDER = "omewd"
FILE = "ledger.jsonl"
VERSION = 1


def frame_line(frame: int, wall_ns: int, monotonic_ns: int, metadata: bytes) -> str:
    """The line of a written frame; ``metadata`` is JSON as the producer encoded it, or empty."""
    line = f'{{"frame":{frame},"wall_ns":{wall_ns},"monotonic_ns":{monotonic_ns}'
    return f'{line},"metadata":{_checked(metadata)}}}\n' if metadata else line + "}\n"


def _checked(metadata: bytes) -> str:
    """Metadata comes out of shared memory: one that is no JSON must not spoil the line."""
    try:
        return json.dumps(json.loads(metadata), separators=(",", ":"))
    except (ValueError, RecursionError):
        return json.dumps({"omewd_unreadable": metadata.decode(errors="replace")})


def gap_line(frame: int, count: int, kind: str) -> str:
    """The line of ``count`` frame indexes without a frame, from ``frame`` on; kind "skipped", "dropped" or "lost"."""
    return f'{{"frame":{frame},"count":{count},"gap":"{kind}"}}\n'


def batch(lines: Iterable[str], received: int) -> bytes:
    """One unit's lines as they are appended: the first newline ends a line that a crash may have torn.

    ``received``: all frame indexes below have been handed over by now, on disk or not.
    """
    return ("\n" + "".join(lines) + f'{{"received":{received}}}\n').encode()


def summary_json(
    spec: StreamSpec,
    *,
    state: str,
    epoch: int = 0,
    received: int = 0,
    written: int = 0,
    gaps: int = 0,
    lost: tuple[tuple[int, int], ...] = (),
    lost_frames: int = 0,
    ended_by: str = "",
) -> dict[str, Any]:
    """The zarr.json of the group ``omewd``: what was acquired, and the totals of the ledger.

    ``state``: "writing", "complete" or "failed"; ``epoch``: the number of the stream's ring while it is written.
    received = written + gaps + lost_frames; ``lost`` are the
    first runs (first frame index, count) of frames that were handed over and are not in the dataset.
    """
    totals = {
        "ledger": FILE,
        "version": VERSION,
        "state": state,
        "epoch": epoch,
        "ended_by": ended_by,
        "received": received,
        "written": written,
        "gaps": gaps,
        "lost_frames": lost_frames,
        "lost": [list(run) for run in lost],
        "stream": spec.model_dump(mode="json"),
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": {"omewd": totals}}


UNACCOUNTED, WRITTEN, SKIPPED, DROPPED = range(4)
_GAP_STATUS = {"skipped": SKIPPED, "dropped": DROPPED, "lost": UNACCOUNTED}


@dataclass
class Ledger:
    """A dataset's ledger, read back. ``status``: one byte a frame index, UNACCOUNTED, WRITTEN, SKIPPED or DROPPED."""

    status: bytearray
    unreadable_lines: int = 0

    @property
    def written(self) -> Flags:
        """Whether each frame index is WRITTEN."""
        flags: Flags = np.frombuffer(self.status, np.uint8) == WRITTEN
        return flags

    @classmethod
    def read(cls, dataset: Path, frames: int) -> Ledger:
        """Read what the ledger says of the first ``frames`` frame indexes; raises OSError if there is none."""
        ledger = cls(bytearray(frames))
        for row in rows(dataset):
            if row is None:
                ledger.unreadable_lines += 1
                continue
            first, count = row["frame"], row.get("count", 1)
            status = _GAP_STATUS.get(row["gap"], SKIPPED) if "gap" in row else WRITTEN
            stop = min(first + count, frames)
            if 0 <= first < stop:
                ledger.status[first:stop] = bytes([status]) * (stop - first)
        return ledger


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


def received(dataset: Path) -> int:
    """One past the last frame index that a ledger knows of, on disk or not."""
    known = 0
    with (dataset / FOLDER / FILE).open("rb") as lines:
        for line in lines:
            if line.startswith(b'{"received":'):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    known = max(known, int(json.loads(line)["received"]))
    return max(known, max((row["frame"] + row.get("count", 1) for row in rows(dataset) if row), default=0))


def rows(dataset: Path) -> Iterator[dict[str, Any] | None]:
    """The lines about frames of a dataset's ledger in file order; None for one that can't be read."""
    with (dataset / FOLDER / FILE).open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if "received" in row:
                    continue
                numbers = row["frame"], row.get("count", 1)
                is_row = all(isinstance(n, int) for n in numbers) and isinstance(row.get("gap", ""), str)
                yield row if is_row else None
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                yield None
