"""Appends to the ledger so that every line is whole, and repairs a ledger with torn lines.

Writers append one after the other, under a lock. A writer with the lock first cuts off a torn line of a killed writer.
If it can't write all of its own lines, it takes all of them back. So a job's lines are there together or not at all,
unless the machine crashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from omewd.dataset.ledger.ledger import APPENDING_BYTE, FILE, FOLDER, parse_object
from omewd.dataset.ledger.runs import Run, append_runs, discard_runs
from omewd.process.faultpoints import point
from omewd.process.locks import lock, unlock
from omewd.store.stopwatch import Stopwatch

_TAIL_BYTES = 1 << 16


def append_to(
    dataset: Path, lines: bytes, runs: Sequence[Run] = (), *, durable: bool = True, clock: Stopwatch | None = None
) -> None:
    """Append lines to a dataset's ledger, all of them or none. ``durable``: with fsync.

    ``runs``: the runs among the lines, with offsets within them. They are recorded once the lines are on disk, without
    a sync; if that fails, readers read the lines instead. ``clock``: gets the time of each stage. Raises OSError.
    """
    clock = clock or Stopwatch()
    with clock.stage("write"):
        descriptor = os.open(dataset / FOLDER / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            start = append(descriptor, lines, begin=partial(discard_runs, dataset, descriptor))
            if durable:
                with clock.stage("fsync"):
                    os.fdatasync(descriptor)
            point("writer: ledger synced")
            if runs:
                with suppress(OSError):
                    append_runs(dataset, descriptor, runs, start)
        finally:
            os.close(descriptor)


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
    start, tail = size, b""
    while start and b"\n" not in tail:
        start = max(start - _TAIL_BYTES, 0)
        tail = os.pread(descriptor, size - start, start)
    line = tail[tail.rfind(b"\n") + 1 :]
    if parse_object(line) is not None:  # whole: an editor may have removed the newline
        return size + os.write(descriptor, b"\n")
    os.ftruncate(descriptor, size - len(line))
    return size - len(line)


def mend(dataset: Path) -> int:
    """Remove torn lines, durably, from the ledger of a dataset that nobody writes; returns how many there were.

    A torn line inside the file is overwritten with spaces, which then precede the next line. If this is killed, it can
    be run again.
    """
    torn: list[tuple[int, int]] = []
    count = offset = 0
    with (dataset / FOLDER / FILE).open("r+b", buffering=_TAIL_BYTES) as file:
        for line in file:
            if parse_object(line) is None:
                torn.append((offset, len(line)))
                count += not line.isspace()
            offset += len(line)
        if count:
            for start, length in reversed(torn):
                if start + length == offset:
                    os.ftruncate(file.fileno(), start)
                    offset = start
                else:
                    os.pwrite(file.fileno(), b" " * length, start)
            os.fsync(file.fileno())
    return count
