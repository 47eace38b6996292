"""How far a stream is: the daemon's record of it in the ring, for a daemon that takes the stream over."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from omewd.ring.layout import PROGRESS, PROGRESS_WORDS


@dataclass(frozen=True)
class Progress:
    """How far a stream is, for a daemon that takes it over.

    The first ``units`` write units are on disk, with them the frame indexes below ``frames``; the slots below
    sequence ``released`` held those of them that are no gaps. ``skipped`` and ``dropped`` are the gaps below
    ``frames``, ``stored_bytes`` what the units take on disk.
    """

    units: int = 0
    frames: int = 0
    released: int = 0
    skipped: int = 0
    dropped: int = 0
    stored_bytes: int = 0


def read_progress(words: memoryview) -> tuple[Progress, int]:
    """The newest record that is whole, and its number: the next one has to go to the other place.

    Nothing is done if there is none.
    """
    records = []
    for number, place in enumerate(PROGRESS):
        *fields, checksum = words[place : place + PROGRESS_WORDS]
        if checksum == _checksum(fields):
            records.append((Progress(*fields), number))
    return max(records, key=lambda record: (record[0].units, record[0].frames), default=(Progress(), 0))


def write_progress(words: memoryview, progress: Progress, number: int) -> None:
    """Leave a record in the place of the older one; ``number`` counts them. The other one stays whole meanwhile."""
    place = PROGRESS[number % len(PROGRESS)]
    fields = astuple(progress)
    words[place + len(fields)] = 0
    for offset, value in enumerate(fields):
        words[place + offset] = value
    words[place + len(fields)] = _checksum(fields)


def _checksum(fields: Sequence[int]) -> int:
    """Of a progress record; never 0, so that a record that was never written is none."""
    return zlib.crc32(b"".join(value.to_bytes(8, "little") for value in fields)) | 1 << 32
