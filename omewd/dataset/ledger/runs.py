"""The record of runs says which frames each part of the ledger is about, so that readers need not read all lines.

It is the file ``omewd/ledger.runs`` beside ``ledger.jsonl``. The lines are authoritative; the record can always be
rebuilt from them. Numbers are little-endian and unsigned. The file starts with a header of 48 bytes:

    offset  bytes  what
         0      8  magic, "OMEWRUNS"
         8      2  major version: a reader refuses another one
        10      2  minor version: a higher one may have added fields at the end of records
        12      4  bytes of a record, at least 48
        16     32  zeros

Records follow, each about consecutive lines of ``ledger.jsonl``:

         0      4  CRC-32 (of zlib, gzip and java.util.zip) of the rest of the record
         4      4  bytes of the lines, with their newlines
         8      4  step between the frame indexes
        12      2  source
        14      1  what became of the frames: 0 lost, 1 written, 2 skipped, 3 dropped
        15      1  zero
        16      8  first frame index
        24      8  number of frame indexes: first, first + step, first + 2 * step, …
        32      8  received: frame indexes of the source below this had been handed over by then; 0 if unknown
        40      8  offset of the lines in ``ledger.jsonl``

A run of written frames has one line for each frame, in order. A run of other frames has a single line, and step 1. A
record without frame indexes only holds ``received``.

A job's records are written after its lines are on disk, and are not synced one by one. So a record is never ahead of
its lines, and some records may be missing after a power cut. Records are in no particular order. A reader

- ignores records with a wrong CRC, records whose lines end beyond the end of ``ledger.jsonl``, records that overlap
  others, and a partial record at the end;
- sorts the other records by the offset of their lines;
- reads the lines without a record; in a dataset without this file, all lines.

The last line about a frame index counts, and so does the record with the highest offset.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omewd.dataset.ledger.ledger import FOLDER, RECORDING_BYTE
from omewd.process.locks import lock, unlock

RUNS_FILE = "ledger.runs"
MAGIC, MAJOR, MINOR = b"OMEWRUNS", 1, 0

_HEADER = struct.Struct("<8sHHI32x")
_BODY = struct.Struct("<IIHBxqqqq")
HEADER_BYTES, RECORD_BYTES = _HEADER.size, 4 + _BODY.size
# Frame indexes and offsets are below this.
MOST = 1 << 62
# A larger step does not fit; such frames are runs of one.
MOST_STEP = (1 << 32) - 1
_MOST_RECORD_BYTES = 1 << 16

RUN = np.dtype(
    [
        ("crc", "<u4"),
        ("length", "<u4"),
        ("step", "<u4"),
        ("source", "<u2"),
        ("kind", "u1"),
        ("zero", "u1"),
        ("first", "<i8"),
        ("count", "<i8"),
        ("received", "<i8"),
        ("offset", "<i8"),
    ]
)
# An array of RUN.
Runs = np.ndarray[Any, Any]


class Run(NamedTuple):
    """One record. ``offset``: of its lines, in bytes, in the file or within the lines that are appended together."""

    length: int
    step: int
    source: int
    kind: int
    first: int
    frames: int
    received: int
    offset: int

    def pack(self, start: int = 0) -> bytes:
        """The bytes of the record in the file. ``start``: the offset of the appended lines."""
        body = _BODY.pack(*self[:-1], self.offset + start)
        return zlib.crc32(body).to_bytes(4, "little") + body


def header() -> bytes:
    return _HEADER.pack(MAGIC, MAJOR, MINOR, RECORD_BYTES)


def record_bytes(header: bytes) -> int | None:
    """The size of a record in a file with this header; None if the header is not of this major version."""
    if len(header) < HEADER_BYTES:
        return None
    magic, major, _, size = _HEADER.unpack_from(header)
    return size if magic == MAGIC and major == MAJOR and RECORD_BYTES <= size <= _MOST_RECORD_BYTES else None


def unpack(records: bytes, size: int) -> Runs:
    """Parse records of ``size`` bytes each; returns those that are whole and plausible."""
    rows = np.frombuffer(records, np.uint8, len(records) // size * size).reshape(-1, size)
    runs: Runs = np.ascontiguousarray(rows[:, :RECORD_BYTES]).view(RUN)[:, 0]
    whole = _crc32(rows[:, 4:]) == runs["crc"]
    last = np.where(runs["count"] > 0, runs["count"] - 1, 0)
    with np.errstate(over="ignore"):
        in_range = (last <= (MOST - 1 - runs["first"]) // np.maximum(runs["step"], 1)) & (runs["offset"] < MOST)
    named = (runs["kind"] < 4) & ((runs["step"] > 0) | (runs["count"] < 2)) & (runs["length"] > 0)
    positive = (runs["first"] >= 0) & (runs["count"] >= 0) & (runs["received"] >= 0) & (runs["offset"] >= 0)
    kept: Runs = runs[whole & in_range & named & positive & (runs["received"] <= MOST)]
    return kept


def pack(runs: Runs) -> bytes:
    """Runs as records."""
    packed = runs.copy()
    rows = packed.view(np.uint8).reshape(len(packed), RECORD_BYTES)
    packed["crc"] = _crc32(rows[:, 4:])
    return packed.tobytes()


@cache
def _tables(length: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """What each byte at each place contributes to the CRC-32 of a message of this length (linear except a constant)."""
    one = np.array([zlib.crc32(bytes([n])) ^ zlib.crc32(b"\0") for n in range(256)], np.uint32)
    tables = [one]
    for _ in range(length - 1):
        before = tables[-1]
        tables.append((before >> 8) ^ one[before & 0xFF])
    return np.array(tables[::-1])


def _crc32(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The CRC-32 of each row of bytes, at 70 ns a record: a third of zlib's time row by row."""
    length = rows.shape[1]
    crc = np.full(len(rows), zlib.crc32(bytes(length)), np.uint32)
    for table, column in zip(_tables(length), rows.T, strict=True):
        crc ^= table[column]
    return crc


def sync_runs(dataset: Path) -> None:
    """Sync the record of a complete dataset. Without it, readers read the lines."""
    with suppress(OSError), (dataset / FOLDER / RUNS_FILE).open("rb") as file:
        os.fdatasync(file.fileno())


def append_runs(dataset: Path, ledger: int, runs: Iterable[Run], start: int) -> None:
    """Append the records of lines that were appended at ``start`` and are on disk; raises OSError.

    ``ledger``: the descriptor with which the lines were appended.
    """
    append_records(dataset, ledger, b"".join(run.pack(start) for run in runs))


def discard_runs(dataset: Path, ledger: int) -> None:
    """Discard the records of lines that are gone, before others get their place; raises OSError.

    ``ledger``: a descriptor of the lines, open for writing.
    """
    lock(ledger, RECORDING_BYTE)
    try:
        path = dataset / FOLDER / RUNS_FILE
        if path.stat().st_size > HEADER_BYTES:
            os.truncate(path, HEADER_BYTES)
    finally:
        unlock(ledger, RECORDING_BYTE)


def append_records(dataset: Path, ledger: int, records: bytes) -> None:
    """Append records; raises OSError.

    ``ledger``: a descriptor of the lines, open for writing. A file of another major version is not changed.
    """
    lock(ledger, RECORDING_BYTE)
    try:
        descriptor = os.open(dataset / FOLDER / RUNS_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            size, found = os.fstat(descriptor).st_size, os.pread(descriptor, HEADER_BYTES, 0)
            # A power cut may leave zeros in place of the header. Nobody would ever read such a file.
            if size < HEADER_BYTES or not any(found):
                os.ftruncate(descriptor, 0)
                found = header()
                size = os.write(descriptor, found)
            each = record_bytes(found)
            if each is None:
                return
            if torn := (size - HEADER_BYTES) % each:
                os.ftruncate(descriptor, size - torn)
            # If there is no space, the next append cuts off a partial record.
            os.write(descriptor, _padded(records, each))
        finally:
            os.close(descriptor)
    finally:
        unlock(ledger, RECORDING_BYTE)


def _padded(records: bytes, size: int) -> bytes:
    """Extend records for a file of a later minor version, whose records are longer."""
    if size == RECORD_BYTES:
        return records
    starts = range(4, len(records), RECORD_BYTES)
    bodies = [records[start : start + RECORD_BYTES - 4].ljust(size - 4, b"\0") for start in starts]
    return b"".join(zlib.crc32(body).to_bytes(4, "little") + body for body in bodies)


def run_starts(
    frames: np.ndarray[Any, np.dtype[np.int64]], together: np.ndarray[Any, np.dtype[np.bool_]] | None = None
) -> list[int]:
    """The places in frame indexes at which runs with a constant step start, in order.

    ``together``: for each index except the last, whether the next one may be in the same run.
    """
    if len(frames) == 1:
        return [0]
    steps = np.diff(frames)
    if together is not None:
        steps = np.where(together, steps, 0)
    if steps[0] == steps.min() == steps.max() and 0 < steps[0] <= MOST_STEP:
        return [0]
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    starts = [0]
    for first, stop in pairwise(edges):
        if not 0 < steps[first] <= MOST_STEP:
            starts.extend(range(first + 1, stop + 1))
        elif starts[-1] != first:
            starts.append(first + 1)
    return starts
