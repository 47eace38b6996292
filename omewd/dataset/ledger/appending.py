"""Appends to the ledger so that every line is whole, and repairs a ledger with torn lines.

Writers append one after the other, under a lock. A writer with the lock first cuts off a torn line of a killed writer.
If it can't write all of its own lines, it takes all of them back. So a job's lines are there together or not at all,
unless the machine crashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from omewd.dataset.ledger.ledger import APPENDING_BYTE, FILE, FOLDER, MOST_LINE_BYTES, WRITING_BYTE, parse_object
from omewd.dataset.ledger.runs import Run, append_runs, discard_runs
from omewd.process.faultpoints import point
from omewd.process.locks import lock, unlock
from omewd.store.stopwatch import Stopwatch

_TAIL_BYTES = 1 << 16


# The bytes to append for a job, and the runs in them, with offsets within these bytes.
Lines = tuple[bytes, Sequence[Run]]


class HeldLedger:
    """A dataset's ledger, open for appending. It holds the dataset against ``omewd repair`` until it is closed.

    Errors are OSError.
    """

    def __init__(self, dataset: Path) -> None:
        self._dataset, self._path = dataset, dataset / FOLDER / FILE
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            lock(self._descriptor, WRITING_BYTE, shared=True)
        except OSError:
            self.close()
            raise

    @property
    def is_in_place(self) -> bool:
        """Whether the dataset at the path is still this one."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))  # noqa: PTH116
        except OSError:
            return False

    def append(self, jobs: Iterable[Lines], *, durable: bool, clock: Stopwatch) -> None:
        """Append the lines of jobs, all of them or none. See :func:`append_to`."""
        texts: list[bytes] = []
        runs: list[Run] = []
        start = 0
        for text, own in jobs:
            texts.append(text)
            runs += [run._replace(offset=run.offset + start) for run in own] if start else own
            start += len(text)
        _append_and_record(self._dataset, self._descriptor, b"".join(texts), runs, durable=durable, clock=clock)

    def close(self) -> None:
        os.close(self._descriptor)


def append_to(dataset: Path, lines: bytes, runs: Sequence[Run] = (), *, durable: bool = True) -> None:
    """Append lines to a dataset's ledger, all of them or none. ``durable``: with fsync. Creates the file.

    ``runs``: the runs among the lines, with offsets within them. They are recorded once the lines are on disk, without
    a sync; if that fails, readers read the lines instead. Raises OSError.
    """
    descriptor = os.open(dataset / FOLDER / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _append_and_record(dataset, descriptor, lines, runs, durable=durable, clock=Stopwatch())
    finally:
        os.close(descriptor)


def _append_and_record(
    dataset: Path, descriptor: int, lines: bytes, runs: Sequence[Run], *, durable: bool, clock: Stopwatch
) -> None:
    with clock.stage("write"):
        start = append(descriptor, lines, begin=partial(discard_runs, dataset, descriptor))
        if durable:
            with clock.stage("fsync"):
                os.fdatasync(descriptor)
        point("writer: ledger synced")
        if runs:
            with suppress(OSError):
                append_runs(dataset, descriptor, runs, start)


def append(descriptor: int, lines: bytes, *, begin: Callable[[], None] | None = None) -> int:
    """Append whole lines to a file that is open for reading and appending; returns their offset.

    ``begin``: called before the first lines of an empty file; its OSError is ignored. After an OSError, the file is
    unchanged. The lock costs 3 µs if nobody else has it.
    """
    lock(descriptor, APPENDING_BYTE)
    try:
        start = _end_of_lines(descriptor)
        if not start and begin is not None:
            with suppress(OSError):
                begin()
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(descriptor, left) :]
                point("writer: ledger written to")
        except OSError:
            with suppress(OSError):  # otherwise the next append does it
                os.ftruncate(descriptor, start)
            raise
        return start
    finally:
        unlock(descriptor, APPENDING_BYTE)


def _end_of_lines(descriptor: int) -> int:
    """The offset of the next line. A torn line at the end is cut off first; a whole one gets its missing newline."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    start = _start_of_last_line(descriptor, size)
    is_short = size - start <= MOST_LINE_BYTES
    if is_short and parse_object(os.pread(descriptor, size - start, start)) is not None:
        return size + os.write(descriptor, b"\n")  # whole: an editor may have removed the newline
    os.ftruncate(descriptor, start)
    return start


def _start_of_last_line(descriptor: int, size: int) -> int:
    """Where the last line of a file of ``size`` bytes starts."""
    end = size
    while end:
        start = max(end - _TAIL_BYTES, 0)
        if place := os.pread(descriptor, end - start, start).rfind(b"\n") + 1:
            return start + place
        end = start
    return 0


def mend(dataset: Path) -> int:
    """Remove torn lines, durably, from the ledger of a dataset that nobody writes; returns how many there were.

    A torn line inside the file is overwritten with spaces, which then precede the next line. If this is killed, it can
    be run again.
    """
    torn: list[tuple[int, int]] = []
    count = offset = 0
    with (dataset / FOLDER / FILE).open("r+b", buffering=_TAIL_BYTES) as file:
        while line := file.readline(MOST_LINE_BYTES):
            start, is_blank = offset, line.isspace()
            offset += len(line)
            is_part = len(line) == MOST_LINE_BYTES and not line.endswith(b"\n")
            if is_part and is_blank:  # what mending has left of a torn line, before the next one
                continue
            if not is_part and parse_object(line) is not None:
                continue
            while is_part and (line := file.readline(MOST_LINE_BYTES)):
                offset += len(line)
                is_part = not line.endswith(b"\n")
            torn.append((start, offset - start))
            count += not is_blank
        if count:
            for start, length in reversed(torn):
                if start + length == offset:
                    os.ftruncate(file.fileno(), start)
                    offset = start
                else:
                    _blank(file.fileno(), start, length)
            os.fsync(file.fileno())
    return count


def _blank(descriptor: int, start: int, length: int) -> None:
    """Overwrite a part of a file with spaces."""
    stop = start + length
    while start < stop:
        start += os.pwrite(descriptor, b" " * min(_TAIL_BYTES, stop - start), start)
