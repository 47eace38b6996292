"""Where in a ledger the line of each frame index is: found once, and read on as the file grows.

It takes 8 bytes a frame index. Nothing here locks, so what a writer without room takes back may have been seen. Then,
and when another file is in the ledger's place, all is read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.ledger.ledger import FILE, FOLDER, parse
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

_BLOCK_BYTES = 1 << 20
_LINE_BYTES = 1 << 10  # most lines have fewer
# Frame indexes that are kept together, and how long a run of gaps has to be to be kept as one.
_PAGE = 1 << 16
# A row each of more gaps than these does not fit into memory.
_MOST_GAPS = 1 << 26

Row = dict[str, Any]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class LedgerFile:
    """A ledger as it was found, to read lines of. ``identity``: (device, inode) of the file."""

    path: Path
    identity: tuple[int, int] | None

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of it; raises OmewdError ``changed`` if another file is in its place, OSError."""
        with _opened(self.path) as descriptor:
            if self.identity != _identity(descriptor):
                raise self._changed()
            yield descriptor

    def row(self, descriptor: int, source: int, frame: int, line: int) -> Row:
        """What a line says of a frame index; raises OmewdError ``changed`` if another line is in its place now."""
        row = parse(_line_at(descriptor, abs(line) - 1))
        if row is None or row.get("source", 0) != source or "frame" not in row:
            raise self._changed()
        if not 0 <= frame - row["frame"] < row.get("count", 1) or ("gap" in row) != (line < 0):
            raise self._changed()
        return row

    def _changed(self) -> OmewdError:
        return OmewdError("changed", f"{self.path} has changed since it was read", "Open it again")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class LedgerIndex:
    """The lines of a dataset's ledger by source and frame index; the last one of an index counts.

    A line is a number: one past its offset, negative for one about a gap, 0 where there is none. Raises OSError if the
    ledger can't be read.
    """

    def __init__(self, dataset: Path, spec: StreamSpec) -> None:
        self._path, self._sources = dataset / FOLDER / FILE, spec.sources
        self._frames_total = Plan.of(spec).frames_total
        self._start_again()

    def _start_again(self) -> None:
        self._pages: list[dict[int, Numbers]] = [{} for _ in range(self._sources)]
        self._long_runs: list[list[tuple[int, int, int]]] = [[] for _ in range(self._sources)]  # (first, stop, line)
        self._identity: tuple[int, int] | None = None
        self._end = 0
        self._last_line = (0, b"")

    def read_on(self) -> None:
        """Take in the lines that have come since, or all if others are in their place."""
        with _opened(self._path) as descriptor:
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
        self._put(source, first, stop, -1 - offset if "gap" in row else 1 + offset)

    def _put(self, source: int, first: int, stop: int, line: int) -> None:
        if stop - first > _PAGE:
            self._long_runs[source].append((first, stop, line))
            return
        for number in range(first // _PAGE, (stop - 1) // _PAGE + 1):
            page = self._pages[source].get(number)
            if page is None:
                page = self._pages[source][number] = np.zeros(_PAGE, np.int64)
            start = number * _PAGE
            page[max(first - start, 0) : stop - start] = line

    @property
    def file(self) -> LedgerFile:
        """The file of the last look."""
        return LedgerFile(self._path, self._identity)

    def line(self, source: int, frame: int) -> int:
        """The line of a frame index, as far as the ledger was read."""
        page = self._pages[source].get(frame // _PAGE)
        line = 0 if page is None else int(page[frame % _PAGE])
        for first, stop, other in self._long_runs[source]:
            if first <= frame < stop and abs(other) > abs(line):
                line = other
        return line

    def last_frame(self, source: int, below: int) -> int | None:
        """The last frame index below ``below`` that is no gap; None if there is none."""
        for number, page in sorted(self._pages[source].items(), reverse=True):
            start = number * _PAGE
            for place in reversed(np.flatnonzero(page[: max(below - start, 0)] > 0).tolist()):
                if self.line(source, start + place) > 0:
                    return start + place
        return None

    def lines(self, source: int) -> tuple[Numbers, Numbers]:
        """All frame indexes of a source that have a line, ascending, and their lines.

        Raises OmewdError ``no_memory`` if gaps make them too many.
        """
        pages = sorted(self._pages[source].items())
        places = [(number * _PAGE, np.flatnonzero(page), page) for number, page in pages]
        frames = [start + found for start, found, _ in places]
        lines = [page[found] for _, found, page in places]
        gaps = sum(stop - first for first, stop, _ in self._long_runs[source])
        if gaps > _MOST_GAPS:
            message = f"{self._path} has {gaps} frame indexes in long gaps: too many to have a row each"
            raise OmewdError("no_memory", message, "Read the file itself: each gap is one line of it")
        for first, stop, line in self._long_runs[source]:
            frames.append(np.arange(first, stop))
            lines.append(np.full(stop - first, line))
        if not frames:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        all_frames, all_lines = np.concatenate(frames), np.concatenate(lines)
        if gaps:
            order = np.lexsort((np.abs(all_lines), all_frames))
            all_frames, all_lines = all_frames[order], all_lines[order]
            is_last = np.diff(all_frames, append=-1) != 0
            all_frames, all_lines = all_frames[is_last], all_lines[is_last]
        return all_frames, all_lines


def _identity(descriptor: int) -> tuple[int, int]:
    info = os.fstat(descriptor)
    return info.st_dev, info.st_ino


def _line_at(descriptor: int, offset: int) -> bytes:
    size = _LINE_BYTES
    while True:
        block = os.pread(descriptor, size, offset)
        end = block.find(b"\n")
        if end >= 0 or len(block) < size:
            return block[:end] if end >= 0 else block
        size *= 8
