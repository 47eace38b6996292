"""The frame ledger, which records what became of every frame index of a dataset. It is readable without omewd.

It is the file ``omewd/ledger.jsonl`` in the dataset, with one JSON object on each line, in no particular order:

    {"frame": 17, "image": 0, "index": {"t": 8, "c": 1}, "wall_ns": 1700000000000000000, "monotonic_ns": 123,
     "metadata": {…}}                                           a written frame (on one line in the file)
    {"frame": 18, "count": 3, "gap": "skipped"}                 no frames at 18, 19, 20: they read as the fill value
    {"frame": 21, "count": 1, "gap": "dropped"}
    {"frame": 22, "count": 2, "gap": "lost"}                    were written, but ``omewd repair`` found them gone

``frame`` is the frame's number in acquisition order, from 0, within its source. ``image`` and ``index`` say where it is
stored: the number of its image (0 without positions), and its index along each outer dimension of that image's array,
in storage order. In a stream with several sources, lines also have ``"source": n``, the source's number.

A write unit's lines are appended together, after its pixels are in place. The last line also has ``"received": n``: all
of this source's frame indexes below n had been handed over by then, on disk or not. A unit that is written again after
a crash appends its lines again; for each index, the last line counts. A writer that is killed while it appends leaves a
torn line at the end, which the next writer cuts off.

Version 1 had no ``image`` and ``index``, had blank lines, and had ``received`` on separate lines. It can still be read,
and so can ledgers with torn lines in the middle, which are ignored.

Which frames each part of the file is about is in the record of runs beside it: see :mod:`omewd.dataset.ledger.runs`.
The totals are attributes of the group ``omewd``, under the key ``omewd``: see :func:`summary_json`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from omewd.dataset.made_by import FIELD, MadeBy
from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec
from omewd.model.spec.stored import stored_spec
from omewd.model.totals import Totals
from omewd.process.locks import lock, try_lock

FOLDER = "omewd"
FILE = "ledger.jsonl"
# The errors of a file with unexpected content.
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
# What became of a frame index. Nothing is known about a lost frame.
UNACCOUNTED, WRITTEN, SKIPPED, DROPPED = range(4)
KINDS = {"lost": UNACCOUNTED, "skipped": SKIPPED, "dropped": DROPPED}
# A longer line is damage, and no part of it is kept in memory. Metadata of a frame may have some KiB.
MOST_LINE_BYTES = 16 << 20
# No dataset has more frames than this.
_MOST_FRAMES = 1 << 48
# The bytes of the ledger that are locked by all writers of the dataset, by a writer that appends lines, and by one that
# appends to the record of runs. flock(2) would not do: over NFS it locks all bytes, and an append would wait for its
# own process.
WRITING_BYTE, APPENDING_BYTE, RECORDING_BYTE = 0, 1, 2


def of_source(source: int | None) -> str:
    """The part of a line that names its source."""
    return "" if source is None else f',"source":{source}'


_read = json.JSONDecoder().raw_decode  # json.loads detects the encoding first, and takes 1.5 times as long


def gap_line(frame: int, count: int, kind: str, source: int | None = None) -> str:
    """The line of a gap: ``count`` frame indexes from ``frame`` on. ``kind``: "skipped", "dropped" or "lost"."""
    return f'{{"frame":{frame}{of_source(source)},"count":{count},"gap":"{kind}"}}\n'


def batch(lines: Iterable[str], received: int) -> bytes:
    """The bytes to append for a job's lines; empty without lines.

    ``received``: all frame indexes of the source below this one have been handed over, on disk or not.
    """
    text = "".join(lines).encode()
    return with_received(text, received) if text else b""


def with_received(lines: bytes, received: int) -> bytes:
    """Add ``received`` to the last line."""
    return b'%b,"received":%d}\n' % (lines[:-2], received)


def source_of(spec: StreamSpec, number: int) -> int | None:
    """The source's number for its lines; None if it is the only source."""
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
    """The totals of each source, from what :func:`summary_json` wrote."""
    return [Totals.from_dict(fields) for fields in summary.get("sources", [summary])]


def summary_in(text: bytes) -> dict[str, Any]:
    """What :func:`summary_json` put into a zarr.json; raises one of ``UNREADABLE`` for another file."""
    summary = json.loads(text)["attributes"]["omewd"]
    if not isinstance(summary, dict):
        raise TypeError("the attribute omewd must be an object")
    return summary


def totals_of(dataset: Path) -> tuple[dict[str, Any], StreamSpec]:
    """The recorded totals of a dataset, and what was acquired; raises OmewdError ``not_a_dataset``."""
    path = dataset / FOLDER / "zarr.json"
    try:
        totals = summary_in(path.read_bytes())
        spec, each = stored_spec(totals["stream"]), totals_in(totals)
        if not isinstance(totals["state"], str) or not isinstance(totals["ended_by"], str):
            raise TypeError("state and ended_by must be strings")
        if len(each) != spec.sources or not all(0 <= of.received <= _MOST_FRAMES for of in each):
            raise ValueError(f"totals of {len(each)} sources, but the stream has {spec.sources}")
        return totals, spec
    except FileNotFoundError as error:
        raise OmewdError(
            "not_a_dataset",
            f"{dataset} is not a dataset of omewd: it has no {FOLDER}/{path.name}",
            "Name the folder of a dataset that omewd has written",
        ) from error
    except (*UNREADABLE, OmewdError) as error:
        raise OmewdError(
            "not_a_dataset", f"{dataset} is not a dataset of omewd: {path.name} of its ledger can't be read ({error})"
        ) from error


@contextlib.contextmanager
def held(dataset: Path, *, writable: bool = False) -> Iterator[int]:
    """Hold a dataset against ``omewd repair``, as all its writers do; yields the descriptor of :func:`hold`."""
    descriptor = hold(dataset, writable=writable)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def hold(dataset: Path, *, writable: bool = False) -> int:
    """A descriptor that holds a dataset, together with others, until it is closed; raises OSError.

    ``writable``: so that it may be held :func:`alone` for a while.
    """
    descriptor = os.open(dataset / FOLDER / FILE, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        lock(descriptor, WRITING_BYTE, shared=True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def alone(descriptor: int) -> Iterator[bool]:
    """Hold exclusively what a descriptor of :func:`hold` holds; yields False, and does not, if others hold it, too."""
    is_alone = try_lock(descriptor, WRITING_BYTE)
    try:
        yield is_alone
    finally:
        if is_alone:
            lock(descriptor, WRITING_BYTE, shared=True)


def hold_alone(dataset: Path) -> int | None:
    """A descriptor that holds a dataset exclusively until it is closed; None if others hold it. Raises OSError."""
    descriptor = os.open(dataset / FOLDER / FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        if try_lock(descriptor, WRITING_BYTE):
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def parse(line: bytes) -> dict[str, Any] | None:
    """Parse and check a line; returns None if it is torn or not a line of a ledger."""
    row = parse_object(line)
    if row is None or not ("frame" in row or "received" in row):
        return None
    numbers = (row.get("frame", 0), row.get("count", 1), row.get("source", 0), row.get("received", 0))
    for number in numbers:
        if not isinstance(number, int):
            return None
    return row if numbers[2] >= 0 and isinstance(row.get("gap", ""), str) else None


def parse_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line; None if there is none. A part of an object never is one."""
    try:
        row = from_json(line)
    except ValueError:
        try:  # stricter than json, for surrogates and depth
            text = line.decode().strip(" \t\r\n")
            row, end = _read(text)
        except (ValueError, RecursionError):
            return None
        if end != len(text):
            return None
    return row if isinstance(row, dict) else None
