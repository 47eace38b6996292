"""What became of the frames of a dataset, by its ledger."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np

from omewd.dataset.ledger.ledger import DROPPED, SKIPPED, UNACCOUNTED, WRITTEN
from omewd.dataset.ledger.marks import Flags, Indexes, Marks
from omewd.dataset.ledger.reading import LedgerReader, complete_runs
from omewd.model.totals import Totals

# Which frames are lost follows from the ledger, too; this many runs of them are told.
_LOST_RUNS = 1000


@dataclass(frozen=True)
class Account:
    """What a ledger says of the frames of one source.

    ``marks``: of each frame index UNACCOUNTED, WRITTEN, SKIPPED or DROPPED; ``received``: one past the last frame index
    that the ledger knows of, on disk or not.
    """

    marks: Marks
    received: int = 0

    def written(self, frames: Indexes) -> Flags:
        """Which of some frame indexes are written."""
        flags: Flags = self.marks.at(frames) == WRITTEN
        return flags

    def totals(self, received: int | None = None) -> Totals:
        """What became of the first ``received`` frame indexes; of those that the ledger knows of, if it is None."""
        frames = self.received if received is None else received
        counts = self.marks.counts(frames)
        lost = self.marks.intervals({UNACCOUNTED}, frames)
        return Totals(
            received=frames,
            written=counts[WRITTEN],
            gaps=counts[SKIPPED] + counts[DROPPED],
            lost=tuple((first, stop - first) for first, stop in islice(lost, _LOST_RUNS)),
            lost_frames=counts[UNACCOUNTED],
        )


@dataclass(frozen=True)
class Ledger:
    """A dataset's ledger, read back: an account of each source.

    ``unreadable_lines``: of those lines that had to be read; ``misfits``: records of runs that do not say what their
    lines do, as far as that was looked at; ``read_lines``: how many lines were read, for want of a record.
    """

    accounts: Sequence[Account]
    unreadable_lines: int = 0
    misfits: int = 0
    read_lines: int = 0

    @classmethod
    def read(cls, dataset: Path, sources: int, *, checks: bool = False, completes: bool = False) -> Self:
        """What the ledger says of each of so many sources; raises OSError if there is none.

        ``checks``: read all lines, compare the record of runs with them, and go by the lines. ``completes``: put on
        record what it lacks, so that whoever comes next need not read those lines; nobody may be appending.
        """
        marks, received = [Marks() for _ in range(sources)], [0] * sources
        reader = LedgerReader(dataset, checks=checks)
        strange = 0
        for runs in reader.read(last_line=True):
            if completes and not runs["crc"].any() and not reader.misfits:
                with suppress(OSError):
                    complete_runs(dataset, runs)
            for source in np.unique(runs["source"]).tolist():
                own = runs if len(runs) == 1 else runs[runs["source"] == source]
                if source >= sources:
                    strange += int(np.where(own["kind"] == WRITTEN, own["count"], own["count"] > 0).sum())
                    continue
                stops = own["first"] + np.maximum(own["count"] - 1, 0) * own["step"] + (own["count"] > 0)
                received[source] = max(received[source], int(stops.max()), int(own["received"].max()))
                marks[source].put_runs(own, own["kind"])
        accounts = [Account(*pair) for pair in zip(marks, received, strict=True)]
        return cls(accounts, reader.unreadable_lines + strange, reader.misfits, reader.read_lines)

    def totals(self, received: Sequence[int] | None = None) -> list[Totals]:
        """The totals of each source, of the first ``received`` frame indexes of each."""
        each = received or [account.received for account in self.accounts]
        return [account.totals(frames) for account, frames in zip(self.accounts, each, strict=True)]
