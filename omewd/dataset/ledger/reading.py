"""Reads a ledger run by run, in the order of its lines, from the record of runs and from lines without a record.

It takes no locks, so it may see lines that a writer without space takes back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.ledger.ledger import FILE, FOLDER, KINDS, MOST_LINE_BYTES, RECORDING_BYTE, SKIPPED, WRITTEN, parse
from omewd.dataset.ledger.runs import (
    HEADER_BYTES,
    MOST,
    RUN,
    RUNS_FILE,
    Runs,
    append_records,
    header,
    pack,
    record_bytes,
    run_starts,
    unpack,
)
from omewd.process.locks import lock
from omewd.process.names import sync_folder

RUNS_ASIDE = f"{RUNS_FILE}.new"
_BLOCK_BYTES = 1 << 20
_RECORDS_AT_ONCE = 1 << 16
# Concurrent writers finish in any order. The latest records are among this many at the end.
_LAST_RECORDS = 64
_MOST_RUN_BYTES = 64 << 20
# How much of what was read before is compared before reading on.
_LOOK_BACK_BYTES = 1 << 8
_MOST_SOURCE = (1 << 16) - 1


class LedgerReader:
    """Reads a ledger from its start, and later from where the last call ended.

    ``checks``: compare each record with its lines, and go by the lines. ``unreadable_lines``: lines that were read but
    can't be parsed. ``read_lines``: how many lines were read because they have no record. ``misfits``: records that
    differ from their lines.
    """

    def __init__(self, dataset: Path, *, checks: bool = False) -> None:
        self._folder = dataset / FOLDER
        self._checks = checks
        self.start_again()

    def start_again(self) -> None:
        self.identity: tuple[int, int] | None = None
        self.unreadable_lines = self.read_lines = self.misfits = 0
        self._end = 0
        self._before_end = b""
        self._record_identity: tuple[int, int] | None = None
        self._next_record = HEADER_BYTES

    def goes_on(self) -> bool:
        """Whether the file is the one of the last call, and still begins with what was read then; raises OSError."""
        with opened(self._folder / FILE) as lines:
            before = os.pread(lines, len(self._before_end), self._end - len(self._before_end))
            return self.identity == identity_of(lines) and before == self._before_end

    def read(self, *, last_line: bool = False) -> Iterator[Runs]:
        """Runs as arrays of RUN, in the order of their lines. Runs without a record have a ``crc`` of 0.

        ``last_line``: include a whole last line without a newline. Raises OSError if there are no lines.
        """
        with opened(self._folder / FILE) as lines:
            self.identity = identity_of(lines)
            with suppress(FileNotFoundError), opened(self._folder / RUNS_FILE) as record:
                yield from self._read_record(record, lines)
            yield from self._scan(lines, os.fstat(lines).st_size)
            start = max(self._end - _LOOK_BACK_BYTES, 0)
            self._before_end = os.pread(lines, self._end - start, start)
            left = min(os.fstat(lines).st_size - self._end, MOST_LINE_BYTES)
            if last_line and (line := os.pread(lines, left, self._end)):
                yield self._runs_of([line], self._end)

    # -- records ----------------------------------------------------------------------------------

    def _read_record(self, record: int, lines: int) -> Iterator[Runs]:
        each = record_bytes(os.pread(record, HEADER_BYTES, 0))
        if each is None:
            return
        is_known = self._record_identity == identity_of(record)
        if is_known and os.fstat(record).st_size < self._next_record + each:  # nothing has come to it
            return
        if not self._fits_at_end(record, lines, each):
            self.misfits += 1
            return
        if not is_known:
            self._record_identity, self._next_record = identity_of(record), HEADER_BYTES
        while block := os.pread(record, _RECORDS_AT_ONCE * each, self._next_record):
            whole = len(block) // each
            if not whole:
                return
            self._next_record += whole * each
            yield from self._in_order(unpack(block, each), lines)

    def _fits_at_end(self, record: int, lines: int, each: int) -> bool:
        """Whether the last records match the lines. They don't if the file was cut or changed by an editor."""
        count = (os.fstat(record).st_size - HEADER_BYTES) // each
        start = max(count - _LAST_RECORDS, 0)
        runs = unpack(os.pread(record, max(count - start, 0) * each, HEADER_BYTES + start * each), each)
        if not len(runs):
            return True
        ends = runs["offset"] + runs["length"]
        if ends.max() > os.fstat(lines).st_size:
            return False
        run = runs[ends.argmax()]
        offset, length = int(run["offset"]), int(run["length"])
        if length > _MOST_RUN_BYTES or (offset and os.pread(lines, 1, offset - 1) not in (b"\n", b" ")):
            return False
        *whole, rest = os.pread(lines, length, offset).split(b"\n")
        if rest or len(whole) != (run["count"] if run["kind"] == WRITTEN and run["count"] else 1):
            return False
        first, last = _told(whole[0]), _told(whole[-1])
        frames = int(run["first"]), int(run["first"]) + (len(whole) - 1) * int(run["step"])
        return first is not None and last is not None and (first[2], last[2]) == frames

    def _in_order(self, runs: Runs, lines: int) -> Iterator[Runs]:
        """Runs in the order of their offsets, with those of lines between them that have no record."""
        runs = runs[np.argsort(runs["offset"], kind="stable")]
        ends = runs["offset"] + runs["length"]
        runs = runs[(runs["offset"] >= self._end) & (ends <= os.fstat(lines).st_size)]
        while (bad := _overlap(runs)).any():
            runs = runs[~(_repeated(runs) if _repeated(runs).any() else bad)]
        if not len(runs):
            return
        ends = runs["offset"] + runs["length"]
        edges = (np.flatnonzero(runs["offset"][1:] != ends[:-1]) + 1).tolist()
        for first, stop in zip([0, *edges], [*edges, len(runs)], strict=True):
            start = int(runs["offset"][first])
            yield from self._scan(lines, start)
            if self._end != start:  # it starts in the middle of a line
                continue
            if self._checks:
                yield from self._checked(runs[first:stop], lines)
            else:
                self._end = int(ends[stop - 1])
                yield runs[first:stop]

    def _checked(self, runs: Runs, lines: int) -> Iterator[Runs]:
        for run in runs:
            end, before = int(run["offset"]) + int(run["length"]), self.unreadable_lines
            scanned = np.concatenate([np.zeros(0, RUN), *self._scan(lines, end)])
            if self._end != end or self.unreadable_lines != before or not _says_the_same(run, scanned):
                self.misfits += 1
            yield scanned

    # -- lines ------------------------------------------------------------------------------------

    def _scan(self, lines: int, stop: int) -> Iterator[Runs]:
        """Runs of the whole lines from where the last call ended, up to ``stop``."""
        size = _BLOCK_BYTES
        while self._end < stop:
            block = os.pread(lines, min(size, stop - self._end), self._end)
            *whole, _ = block.split(b"\n")
            if not whole:
                if len(block) < size:
                    return
                if block.isspace():  # what mending has left of a torn line, before the next one
                    self._end += size
                elif size < MOST_LINE_BYTES:
                    size *= 2
                elif (after := _after_line(lines, self._end + size, stop)) is None:
                    return
                else:
                    self._end, size = after, _BLOCK_BYTES
                    self.read_lines += 1
                    self.unreadable_lines += 1
                continue
            start, size = self._end, _BLOCK_BYTES
            self._end += sum(map(len, whole)) + len(whole)
            self.read_lines += len(whole)
            runs = self._runs_of(whole, start)
            if len(runs):
                yield runs

    def _runs_of(self, lines: list[bytes], offset: int) -> Runs:
        """Convert whole lines, without their newlines, to runs. ``offset``: of the first line."""
        told: list[tuple[int, ...]] = []
        for line in lines:
            length = len(line) + 1
            if line:
                said = _told(line)
                if said is not None:
                    told.append((offset, length, *said))
                elif not line.isspace():
                    self.unreadable_lines += 1
            offset += length
        if not told:
            return np.zeros(0, RUN)
        offsets, lengths, source, kind, first, count, received = np.array(told, np.int64).T
        alike = (kind[1:] == kind[:-1]) & (kind[1:] == WRITTEN) & (source[1:] == source[:-1])
        follows = (offsets[1:] == offsets[:-1] + lengths[:-1]) & (received[:-1] == 0)
        starts = run_starts(first, alike & follows & (count[1:] == 1) & (count[:-1] == 1))
        stops = [*starts[1:], len(first)]
        runs = np.zeros(len(starts), RUN)
        last = np.array(stops) - 1
        sizes = np.diff([*starts, len(first)])
        runs["offset"], runs["source"], runs["kind"], runs["first"] = (
            column[starts] for column in (offsets, source, kind, first)
        )
        runs["length"] = offsets[last] + lengths[last] - offsets[starts]
        runs["count"] = np.where(sizes > 1, sizes, count[starts])
        runs["step"] = np.where(sizes > 1, first[np.minimum(np.array(starts) + 1, len(first) - 1)] - first[starts], 1)
        runs["received"] = np.maximum.reduceat(received, starts)
        return runs


def _after_line(lines: int, start: int, stop: int) -> int | None:
    """The offset after the next newline from ``start`` on; None if there is none before ``stop``."""
    while start < stop and (block := os.pread(lines, min(_BLOCK_BYTES, stop - start), start)):
        if (place := block.find(b"\n")) >= 0:
            return start + place + 1
        start += len(block)
    return None


def _told(line: bytes) -> tuple[int, int, int, int, int] | None:
    """Parse a line: (source, kind, first, count, received); None if it can't be parsed."""
    row = parse(line)
    if row is None or row.get("source", 0) > _MOST_SOURCE:
        return None
    source, received = row.get("source", 0), min(max(row.get("received", 0), 0), MOST)
    if "frame" not in row:
        return source, WRITTEN, 0, 0, received
    first, gap = row["frame"], row.get("gap")
    count = 1 if gap is None else row.get("count", 1)
    if not 0 <= first < MOST or count < 1:
        return source, WRITTEN, 0, 0, min(max(received, first + count), MOST)
    kind = WRITTEN if gap is None else KINDS.get(gap, SKIPPED)
    return source, kind, first, min(count, MOST - first), received


def _repeated(runs: Runs) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which runs, sorted by offset, repeat the one before."""
    rows = runs.view(np.uint8).reshape(len(runs), -1)
    return np.append(False, (rows[1:] == rows[:-1]).all(axis=1))


def _overlap(runs: Runs) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which runs, sorted by offset, share lines with others."""
    bad = np.zeros(len(runs), bool)
    if len(runs) > 1:
        ends = runs["offset"] + runs["length"]
        bad[1:] = runs["offset"][1:] < np.maximum.accumulate(ends)[:-1]
        bad[:-1] |= ends[:-1] > runs["offset"][1:]
    return bad


def _says_the_same(run: Runs, scanned: Runs) -> bool:
    """Whether lines, which may have been read in parts, match their record."""
    counts = scanned["count"]
    before = np.cumsum(counts) - counts
    return bool(
        len(scanned)
        and scanned["offset"][0] == run["offset"]
        and scanned["length"].sum() == run["length"]
        and counts.sum() == run["count"]
        and (scanned["source"] == run["source"]).all()
        and (scanned["kind"] == run["kind"]).all()
        and (scanned["first"] == run["first"] + before * run["step"].astype(np.int64)).all()
        and (scanned["step"][counts > 1] == run["step"]).all()
        and scanned["received"].max() == run["received"]
    )


def complete_runs(dataset: Path, runs: Runs) -> None:
    """Append the missing records of lines that were read. Nobody may be appending. Raises OSError."""
    ledger = os.open(dataset / FOLDER / FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        # A line without a newline will still change.
        whole = runs[runs["offset"] + runs["length"] <= os.fstat(ledger).st_size]
        append_records(dataset, ledger, pack(whole))
    finally:
        os.close(ledger)


def make_runs_again(dataset: Path, *, by_lines: bool = False) -> None:
    """Replace an incomplete record of runs with a whole one. Nobody may be appending. Raises OSError.

    ``by_lines``: go by the lines alone.
    """
    folder = dataset / FOLDER
    ledger = os.open(folder / FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        lock(ledger, RECORDING_BYTE)
        aside = folder / RUNS_ASIDE
        with aside.open("wb") as file:
            file.write(header())
            for runs in LedgerReader(dataset, checks=by_lines).read():
                file.write(pack(runs))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(folder / RUNS_FILE)
        sync_folder(folder)
    finally:
        os.close(ledger)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def identity_of(descriptor: int) -> tuple[int, int]:
    """(device, inode)."""
    info = os.fstat(descriptor)
    return info.st_dev, info.st_ino
