"""The daemon's progress records in the ring, for a daemon that takes the stream over."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from omewd.model.dtypes import MAX_FRAMES
from omewd.ring.layout import PROGRESS, PROGRESS_WORDS

# Messages and ledgers carry signed numbers.
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Progress:
    """How much of a stream is on disk.

    The first ``units`` write units are, and so are the frame indexes below ``frames``. Those that are not gaps were in
    the slots below sequence ``released``. ``skipped`` and ``dropped`` count the gaps below ``frames``;
    ``stored_bytes`` is the units' size on disk.
    """

    units: int = 0
    frames: int = 0
    released: int = 0
    skipped: int = 0
    dropped: int = 0
    stored_bytes: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether its numbers fit together. The program that shares the ring could have written any."""
        gaps = self.skipped + self.dropped
        return self.released + gaps == self.frames <= MAX_FRAMES and max(self.units, self.stored_bytes) <= _MOST


def read_progress(words: memoryview) -> tuple[Progress, int]:
    """The newest whole record and its number; the next record takes the next number. No progress if there is none."""
    records = []
    for number, place in enumerate(PROGRESS):
        *fields, checksum = words[place : place + PROGRESS_WORDS]
        if checksum == _checksum(fields):
            records.append((Progress(*fields), number))
    return max(records, key=lambda record: (record[0].units, record[0].frames), default=(Progress(), 0))


def write_progress(words: memoryview, progress: Progress, number: int) -> None:
    """Overwrite the older record; ``number`` counts the records. The other one stays whole meanwhile."""
    place = PROGRESS[number % len(PROGRESS)]
    fields = astuple(progress)
    words[place + len(fields)] = 0
    for offset, value in enumerate(fields):
        words[place + offset] = value
    words[place + len(fields)] = _checksum(fields)


def _checksum(fields: Sequence[int]) -> int:
    """A record's checksum; never 0, so that a place that was never written holds no record."""
    return zlib.crc32(b"".join(value.to_bytes(8, "little") for value in fields)) | 1 << 32
