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
# What became of a frame index. A frame that is lost is one that nothing is known of.
UNACCOUNTED, WRITTEN, SKIPPED, DROPPED = range(4)
KINDS = {"lost": UNACCOUNTED, "skipped": SKIPPED, "dropped": DROPPED}
# More frames than these make no sense.
_MOST_FRAMES = 1 << 48
# Bytes of the ledger that are locked: by all who write the dataset, by who appends a line, and by who appends to the
# record of runs. They are far apart from what flock(2) could mean: over NFS that locks all bytes, and an append would
# wait for its own process.
WRITING_BYTE, APPENDING_BYTE, RECORDING_BYTE = 0, 1, 2


def of_source(source: int | None) -> str:
    """What lines say of their source."""
    return "" if source is None else f',"source":{source}'


_read = json.JSONDecoder().raw_decode  # json.loads first finds out in which encoding bytes are, and takes half longer


def gap_line(frame: int, count: int, kind: str, source: int | None = None) -> str:
    """The line of ``count`` frame indexes without a frame, from ``frame`` on; kind "skipped", "dropped" or "lost"."""
    return f'{{"frame":{frame}{of_source(source)},"count":{count},"gap":"{kind}"}}\n'


def batch(lines: Iterable[str], received: int) -> bytes:
    """One job's lines as they are appended; none are no bytes.

    ``received``: all frame indexes below (of the source) have been handed over by now, on disk or not.
    """
    text = "".join(lines).encode()
    return with_received(text, received) if text else b""


def with_received(lines: bytes, received: int) -> bytes:
    """Lines of which the last one says it."""
    return b'%b,"received":%d}\n' % (lines[:-2], received)


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
        if len(each) != spec.sources or not all(0 <= of.received <= _MOST_FRAMES for of in each):
            raise ValueError(f"totals of {len(each)} sources, the stream has {spec.sources}")
        return totals, spec
    except (*UNREADABLE, OmewdError) as error:
        raise OmewdError(
            "not_a_dataset", f"{dataset} is no dataset of omewd: {path.name} of its ledger can't be read ({error})"
        ) from error


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
        row = from_json(line)
    except ValueError:
        try:  # it is stricter than json, with surrogates and depth
            text = line.decode().strip(" \t\r\n")
            row, end = _read(text)
        except (ValueError, RecursionError):
            return None
        if end != len(text):
            return None
    return row if isinstance(row, dict) else None
