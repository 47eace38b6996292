"""Appending to the ledger, so that every line in it is whole, and mending one in which a line is not.

Writers append one after the other, under a lock. Who gets it cuts off what one that was killed has left of a line, and
takes back all of its own lines if it can't write the last of them. So a job's lines are there together or not at all,
whatever happens but a crash of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from omewd.dataset.ledger.ledger import APPENDING_BYTE, FILE, FOLDER, parse_object
from omewd.dataset.ledger.runs import Run, append_runs
from omewd.process.faultpoints import point
from omewd.process.locks import lock, unlock
from omewd.store.stopwatch import Stopwatch

_TAIL_BYTES = 1 << 16


def append_to(
    dataset: Path, lines: bytes, runs: Sequence[Run] = (), *, durable: bool = True, clock: Stopwatch | None = None
) -> None:
    """Append lines to the ledger of a dataset, all of them or none; ``durable``: with fsync.

    ``runs``: what they tell of, by offsets among the lines. It is put on record once the lines are on disk, and not
    synced; if that fails, whoever reads the ledger reads the lines. ``clock`` gets the time of each stage. Raises
    OSError.
    """
    clock = clock or Stopwatch()
    with clock.stage("write"):
        descriptor = os.open(dataset / FOLDER / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            start = append(descriptor, lines)
            if durable:
                with clock.stage("fsync"):
                    os.fdatasync(descriptor)
            point("writer: ledger synced")
            if runs:
                with suppress(OSError):
                    append_runs(dataset, descriptor, runs, start)
        finally:
            os.close(descriptor)


def append(descriptor: int, lines: bytes) -> int:
    """Append whole lines to a file that is open for reading and appending; returns where they start.

    It is as it was after an error, an OSError. The lock costs 3 µs where nobody else has it.
    """
    lock(descriptor, APPENDING_BYTE)
    try:
        start = _end_of_lines(descriptor)
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(descriptor, left) :]
                point("writer: ledger written to")
        except OSError:
            with suppress(OSError):  # then the next one does it
                os.ftruncate(descriptor, start)
            raise
        return start
    finally:
        unlock(descriptor, APPENDING_BYTE)


def _end_of_lines(descriptor: int) -> int:
    """Where the next line starts: at the end, once a torn line is cut off, and one without its newline has got it."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    start, tail = size, b""
    while start and b"\n" not in tail:
        start = max(start - _TAIL_BYTES, 0)
        tail = os.pread(descriptor, size - start, start)
    line = tail[tail.rfind(b"\n") + 1 :]
    if parse_object(line) is not None:  # whole: an editor may have taken the newline away
        return size + os.write(descriptor, b"\n")
    os.ftruncate(descriptor, size - len(line))
    return size - len(line)


def mend(dataset: Path) -> int:
    """Remove torn lines from the ledger of a dataset that nobody writes, durably; returns how many there were.

    One inside the file becomes spaces before the next line, in place: killed in the middle, this can be run again.
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
