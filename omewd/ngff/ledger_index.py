"""Where in a ledger the line of each frame index is: found once, and read on as the file grows.

It takes 8 bytes a frame index. Nothing here locks, so what a writer without room takes back may have been seen. Then,
and when another file is in the ledger's place, all is read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omewd.errors import OmewdError
from omewd.model.plan import Plan
from omewd.model.spec import StreamSpec
from omewd.ngff.ledger import FILE, FOLDER, parse

_BLOCK_BYTES = 1 << 20
_LINE_BYTES = 1 << 10  # most lines have fewer
_FIRST_ROWS = 1 << 10

Row = dict[str, Any]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


class LedgerIndex:
    """The lines of a dataset's ledger by source and frame index; the last one of an index counts.

    Raises OSError if the ledger can't be read, OmewdError ``no_memory`` if a frame index is too large to keep.
    """

    def __init__(self, dataset: Path, spec: StreamSpec) -> None:
        self._path, self._sources = dataset / FOLDER / FILE, spec.sources
        self._frames_total = Plan.of(spec).frames_total
        self._start_again()

    def _start_again(self) -> None:
        # One past the offset of each line, less than 0 for one about a gap; 0 where there is none.
        self._lines = [np.zeros(_FIRST_ROWS, np.int64) for _ in range(self._sources)]
        self._ends = [0] * self._sources
        self._identity: tuple[int, int] | None = None
        self._end = 0
        self._last_line = (0, b"")

    def read_on(self) -> None:
        """Take in the lines that have come since, or all if others are in their place."""
        with self._opened() as descriptor:
            if not self._goes_on(descriptor):
                self._start_again()
                self._identity = _identity(descriptor)
            size = _BLOCK_BYTES
            while True:
                block = os.pread(descriptor, size, self._end)
                *lines, _ = block.split(b"\n")
                if not lines:
                    if len(block) < size:
                        return
                    size *= 2  # for a line that is longer
                for line in lines:
                    if line:
                        self._take(line, self._end)
                        self._last_line = (self._end, line)
                    self._end += len(line) + 1

    def _goes_on(self, descriptor: int) -> bool:
        """Whether it is the file of the last look, with what was read then."""
        offset, line = self._last_line
        return self._identity == _identity(descriptor) and os.pread(descriptor, len(line), offset) == line

    def _take(self, line: bytes, offset: int) -> None:
        row = parse(line)
        if row is None or "frame" not in row or row.get("source", 0) >= self._sources:
            return
        source, first, count = row.get("source", 0), row["frame"], row.get("count", 1)
        stop = first + count if self._frames_total is None else min(first + count, self._frames_total)
        if not 0 <= first < stop:
            return
        if stop > len(self._lines[source]):
            self._lines[source] = _longer(self._lines[source], stop)
        self._lines[source][first:stop] = -1 - offset if "gap" in row else 1 + offset
        self._ends[source] = max(self._ends[source], stop)

    def lines(self, source: int) -> Numbers:
        """For each frame index of a source one past its line's offset; less than 0 for a gap's line, 0 for none."""
        return self._lines[source][: self._ends[source]]

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The file, to read rows of; raises OmewdError ``changed`` if it is another than at the last look."""
        with self._opened() as descriptor:
            if self._identity != _identity(descriptor):
                raise self._changed()
            yield descriptor

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def row(self, descriptor: int, source: int, frame: int) -> Row | None:
        """What the ledger says of a frame index, as far as it was read; None if it says nothing.

        Raises OmewdError ``changed`` if another line is in its place now.
        """
        line = int(self.lines(source)[frame]) if frame < self._ends[source] else 0
        if not line:
            return None
        row = parse(_line_at(descriptor, abs(line) - 1))
        if row is None or row.get("source", 0) != source or "frame" not in row:
            raise self._changed()
        if not 0 <= frame - row["frame"] < row.get("count", 1) or ("gap" in row) != (line < 0):
            raise self._changed()
        return row

    def _changed(self) -> OmewdError:
        return OmewdError("changed", f"{self._path} has changed since it was read", "Open it again")


def _identity(descriptor: int) -> tuple[int, int]:
    info = os.fstat(descriptor)
    return info.st_dev, info.st_ino


def _longer(lines: Numbers, stop: int) -> Numbers:
    try:
        longer = np.zeros(max(stop, 2 * len(lines)), np.int64)  # takes memory where something is written, not before
    except (MemoryError, ValueError) as error:
        raise OmewdError("no_memory", f"a ledger with frame index {stop - 1} does not fit into memory") from error
    longer[: len(lines)] = lines
    return longer


def _line_at(descriptor: int, offset: int) -> bytes:
    size = _LINE_BYTES
    while True:
        block = os.pread(descriptor, size, offset)
        end = block.find(b"\n")
        if end >= 0 or len(block) < size:
            return block[:end] if end >= 0 else block
        size *= 8
