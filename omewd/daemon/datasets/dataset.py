"""A dataset as the daemon sees it: which one it is, where it is, who may write its metadata now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from omewd.daemon.datasets.maintenance import Maintenance
from omewd.daemon.datasets.user_metadata import UserMetadata
from omewd.model.totals import Totals


class Phase(Enum):
    """What its stream does with it."""

    MAKING = "its metadata is being made"
    WRITING = "frames are written into it"
    ENDING = "its last metadata is being written"
    AT_REST = "its stream has ended"


@dataclass(eq=False)
class Dataset:
    """What a stream makes on disk; it outlives its stream.

    ``path`` and ``epoch`` identify it: a stream of another epoch may replace what is at a path. ``name``: its stream's.
    ``root``: the data root that it lies under. ``place``: where it really is, symbolic links followed; None before a
    writer has looked. ``has_leftovers``: it has replaced another dataset, which is still to be removed. ``by_ledger``:
    what became of each source's frames, once the last metadata says so. ``retries``: of jobs for its metadata, while
    its stream went on.
    """

    name: str
    path: Path
    root: Path
    epoch: int
    phase: Phase = Phase.MAKING
    place: Path | None = None
    has_leftovers: bool = False
    is_being_undone: bool = False
    by_ledger: Sequence[Totals] | None = None
    retries: int = 0
    maintenance: Maintenance = field(default_factory=Maintenance)
    user_metadata: UserMetadata = field(default_factory=UserMetadata)

    def enter(self, phase: Phase) -> None:
        """Its stream has gone on."""
        self.phase = phase

    def placed(self, place: Path) -> None:
        """A writer has found out where it really is."""
        self.place = place

    def note_leftovers(self, there_are: bool) -> None:
        """Whether something that was replaced is still to be removed."""
        self.has_leftovers = there_are

    def undo_begun(self) -> None:
        """It is being taken away, as its stream did not start."""
        self.is_being_undone = True

    def undo_ended(self, there_are_leftovers: bool) -> None:
        self.is_being_undone, self.has_leftovers = False, there_are_leftovers

    def finalized(self, by_ledger: Sequence[Totals]) -> None:
        """Its last metadata is on disk."""
        self.by_ledger = by_ledger

    def reopened(self) -> None:
        """Its stream goes on: what its last metadata says will not be the last word."""
        self.by_ledger = None

    def note_retry(self) -> None:
        if self.phase is not Phase.AT_REST:
            self.retries += 1

    @property
    def takes_user_metadata(self) -> bool:
        """Whether nobody else is about to write its metadata."""
        return self.phase in (Phase.WRITING, Phase.AT_REST)
