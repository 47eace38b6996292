"""The frame ledger: what became of every frame index of a dataset, readable without omewd.

It is the file ``omewd/ledger.jsonl`` in the dataset, one JSON object a line, in no particular order:

    {"frame": 17, "image": 0, "index": {"t": 8, "c": 1}, "wall_ns": 1700000000000000000, "monotonic_ns": 123,
     "metadata": {…}}                                           written (in the file all of it on one line)
    {"frame": 18, "count": 3, "gap": "skipped"}                 no frame at 18, 19, 20: reads as fill value
    {"frame": 21, "count": 1, "gap": "dropped"}
    {"frame": 22, "count": 2, "gap": "lost"}                    was written, and ``omewd repair`` found it gone

``frame`` is the frame's number in acquisition order (of its source), from 0. ``image`` and ``index`` say where it is
stored: the number of its image (0 without positions), and its index along each outer dimension of that image's array,
in storage order. Lines of a stream that several producers feed have ``"source": n`` beside that, the producer's number.

A write unit's lines are appended at once, after its pixels are in place. The last of them also has ``"received": n``:
frame indexes below n (of that source) had been handed over by then, on disk or not. A unit that is written again after
a crash appends its lines again: for each index the last line counts. A writer that is killed while it appends leaves a
torn line at the end, which the next one cuts off.

Version 1 had no ``image`` and ``index``, had blank lines, and had ``received`` on lines of its own. It is still read;
so are ledgers with torn lines in the middle, which do not count.

The totals are attributes of the group ``omewd``, under the key ``omewd``: see :func:`summary_json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from omewd.dataset.made_by import FIELD, MadeBy
from omewd.errors import OmewdError
from omewd.model.plan.grid import places
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import Flags
from omewd.model.spec.spec import StreamSpec
from omewd.model.spec.stored import stored_spec
from omewd.model.totals import Totals
from omewd.process.locks import lock, try_lock

FOLDER = "omewd"
FILE = "ledger.jsonl"
# Whatever a file raises that is not what it should be.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
)
VERSION = 2
# Which frames are lost follows from the ledger too; this many runs of them are told.
_LOST_RUNS = 1000
# Bytes of the ledger that are locked: by all who write the dataset, and by who appends a line. They are far apart from
# what flock(2) could mean: over NFS that locks all bytes, and an append would wait for its own process.
WRITING_BYTE, APPENDING_BYTE = 0, 1


@dataclass(frozen=True)
class FrameLines:
    """Makes the lines of written frames of one source: a thousand in half a millisecond."""

    plan: Plan
    format: str

    @classmethod
    def of(cls, spec: StreamSpec, source: int) -> FrameLines:
        of_source = _of(source_of(spec, source))
        index = ",".join(f'"{dim.name}":%d' for dim in spec.disk_dimensions[:-2])
        line = f'{{"frame":%d{of_source},"image":%d,"index":{{{index}}},"wall_ns":%d,"monotonic_ns":%d%s}}\n'
        return cls(Plan.of(spec, source=source), line)

    def make(
        self,
        frames: np.ndarray[Any, Any],
        wall_ns: Sequence[int],
        monotonic_ns: Sequence[int],
        metadata: Iterable[bytes],
    ) -> list[str]:
        """A line for each frame index; ``metadata`` of each is JSON as the producer encoded it, or empty."""
        images, axes = places(self.plan, frames)
        where = (column.tolist() for column in (frames, images, *axes))
        said = (f',"metadata":{_checked(text)}' if text else "" for text in metadata)
        return [self.format % row for row in zip(*where, wall_ns, monotonic_ns, said, strict=True)]


def _of(source: int | None) -> str:
    return "" if source is None else f',"source":{source}'


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_json)
_read = json.JSONDecoder().raw_decode  # json.loads first finds out in which encoding bytes are, and takes half longer


def _checked(metadata: bytes) -> str:
    """Metadata comes out of shared memory: one that is no JSON must not spoil the line."""
    try:
        text = metadata.decode()
        value = _decoder.decode(text)
    except (ValueError, RecursionError):
        return json.dumps({"omewd_unreadable": metadata.decode(errors="replace")})
    # As it is, it is cheaper by far; a line break in it would be one of the ledger's.
    return text if text.isascii() and text.isprintable() else json.dumps(value, separators=(",", ":"))


def gap_line(frame: int, count: int, kind: str, source: int | None = None) -> str:
    """The line of ``count`` frame indexes without a frame, from ``frame`` on; kind "skipped", "dropped" or "lost"."""
    return f'{{"frame":{frame}{_of(source)},"count":{count},"gap":"{kind}"}}\n'


def batch(lines: Iterable[str], received: int) -> bytes:
    """One job's lines as they are appended; none are no bytes.

    ``received``: all frame indexes below (of the source) have been handed over by now, on disk or not.
    """
    text = "".join(lines)
    return f'{text[:-2]},"received":{received}}}\n'.encode() if text else b""


def source_of(spec: StreamSpec, number: int) -> int | None:
    """What the lines of a source say of it: nothing where it is the only one."""
    return None if spec.source_axis is None else number


def summary_json(
    spec: StreamSpec,
    *,
    state: str,
    epoch: int = 0,
    totals: Sequence[Totals] = (),
    ended_by: str = "",
    made_by: MadeBy | None = None,
) -> dict[str, Any]:
    """The zarr.json of the group ``omewd``: what was acquired, and the totals of the ledger.

    ``state``: "writing", "complete" or "failed"; ``epoch``: a number that tells the stream from all others.
    ``totals``: of each source; all together they stand beside the state, those of each under ``sources`` where a
    stream has several. See :class:`omewd.model.totals.Totals`. ``made_by``: what encodes the pixels.
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
        FIELD: (made_by or MadeBy()).to_dict(),
        **together.to_dict(),
        "stream": spec.model_dump(mode="json"),
    }
    if spec.source_axis is not None:
        document["sources"] = [{"name": name, **t.to_dict()} for name, t in zip(spec.source_names, each, strict=True)]
    return {"zarr_format": 3, "node_type": "group", "attributes": {"omewd": document}}


def totals_in(summary: dict[str, Any]) -> list[Totals]:
    """The totals of each source in what :func:`summary_json` wrote."""
    return [Totals.from_dict(fields) for fields in summary.get("sources", [summary])]


def totals_of(dataset: Path) -> tuple[dict[str, Any], StreamSpec]:
    """The totals that a dataset has on record, and what was acquired; raises OmewdError ``not_a_dataset``."""
    path = dataset / FOLDER / "zarr.json"
    try:
        totals = json.loads(path.read_text())["attributes"]["omewd"]
        spec, each = stored_spec(totals["stream"]), totals_in(totals)
        if not isinstance(totals["state"], str) or not isinstance(totals["ended_by"], str):
            raise TypeError("state and ended_by are texts")
        if len(each) != spec.sources or min(of.received for of in each) < 0:
            raise ValueError(f"totals of {len(each)} sources, the stream has {spec.sources}")
        bytearray(max(of.received for of in each))  # what is made of its ledger: a MemoryError if that can't be
        return totals, spec
    except (*UNREADABLE, OmewdError) as error:
        raise OmewdError(
            "not_a_dataset", f"{dataset} is no dataset of omewd: {path.name} of its ledger can't be read ({error})"
        ) from error


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
    """Hold a dataset against ``omewd repair``, as all who write it do."""
    descriptor = hold(dataset)
    try:
        yield
    finally:
        os.close(descriptor)


def hold(dataset: Path) -> int:
    """A descriptor that holds a dataset, as others may too, until it is closed; raises OSError."""
    descriptor = os.open(dataset / FOLDER / FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lock(descriptor, WRITING_BYTE, shared=True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def hold_alone(dataset: Path) -> int | None:
    """A descriptor that holds a dataset alone until it is closed; None if someone else does. Raises OSError."""
    descriptor = os.open(dataset / FOLDER / FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        if try_lock(descriptor, WRITING_BYTE):
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def received(dataset: Path, sources: int) -> list[int]:
    """For each source one past the last frame index that a ledger knows of, on disk or not."""
    known = [0] * sources
    for row in _lines(dataset):
        if row is not None and (source := row.get("source", 0)) < sources:
            of_frames = row["frame"] + row.get("count", 1) if "frame" in row else 0
            known[source] = max(known[source], of_frames, row.get("received", 0))
    return known


def rows(dataset: Path) -> Iterator[dict[str, Any] | None]:
    """The lines about frames of a dataset's ledger in file order; None for one that can't be read."""
    return (row for row in _lines(dataset) if row is None or "frame" in row)


def _lines(dataset: Path) -> Iterator[dict[str, Any] | None]:
    with (dataset / FOLDER / FILE).open("rb") as lines:
        for line in lines:
            if not line.isspace():
                yield parse(line)


def parse(line: bytes) -> dict[str, Any] | None:
    """A line with what it has to have, each of its type; None if it is torn, or no line of a ledger."""
    row = parse_object(line)
    if row is None or not ("frame" in row or "received" in row):
        return None
    numbers = (row.get("frame", 0), row.get("count", 1), row.get("source", 0), row.get("received", 0))
    for number in numbers:
        if not isinstance(number, int):
            return None
    return row if numbers[2] >= 0 and isinstance(row.get("gap", ""), str) else None


def parse_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, None if it is none: no part of one is one."""
    try:
        text = line.decode().strip(" \t\r\n")
        row, end = _read(text)
    except (ValueError, RecursionError):
        return None
    return row if end == len(text) and isinstance(row, dict) else None
