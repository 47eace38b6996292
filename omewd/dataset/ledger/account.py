"""An account of a dataset's frames, by its ledger."""

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

# The most runs of lost frames in the totals; the ledger shows all of them.
_LOST_RUNS = 1000


@dataclass(frozen=True)
class Account:
    """The account of one source's frames.

    ``marks``: UNACCOUNTED, WRITTEN, SKIPPED or DROPPED for each frame index. ``received``: one past the last frame
    index in the ledger, on disk or not.
    """

    marks: Marks
    received: int = 0

    def written(self, frames: Indexes) -> Flags:
        """Which of these frame indexes are written."""
        flags: Flags = self.marks.at(frames) == WRITTEN
        return flags

    def totals(self, received: int | None = None) -> Totals:
        """The totals of the first ``received`` frame indexes, or with None of all that are in the ledger."""
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
    """A dataset's ledger, read back: the account of each source.

    ``unreadable_lines``: among the lines that had to be read. ``misfits``: records of runs that were found to differ
    from their lines. ``read_lines``: how many lines had to be read because they had no record.
    """

    accounts: Sequence[Account]
    unreadable_lines: int = 0
    misfits: int = 0
    read_lines: int = 0

    @classmethod
    def read(cls, dataset: Path, sources: int, *, checks: bool = False, completes: bool = False) -> Self:
        """Read the accounts of ``sources`` sources; raises OSError if there is no ledger.

        ``checks``: read all lines, compare the record of runs with them, and go by the lines. ``completes``: add
        missing records, so that the next reader need not read these lines. Nobody may be appending.
        """
        marks, received = Marks.of_sources(sources), [0] * sources
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
