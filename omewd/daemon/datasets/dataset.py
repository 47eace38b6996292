"""A dataset in the daemon: its identity, its place, and who may write its metadata now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from omewd.daemon.datasets.copy import DatasetCopy
from omewd.daemon.datasets.maintenance import Maintenance
from omewd.daemon.datasets.user_metadata import UserMetadata
from omewd.daemon.state.journal import COPY, SWEEP
from omewd.daemon.streams.transitions import State
from omewd.model.totals import Totals


class Phase(Enum):
    """What the stream is doing with the dataset."""

    MAKING = "its metadata are being written"
    WRITING = "frames are written into it"
    ENDING = "its last metadata is being written"
    AT_REST = "its stream has ended"


# By the state of the stream.
PHASES = {
    State.STARTING: Phase.MAKING,
    State.ACTIVE: Phase.WRITING,
    State.DRAINING: Phase.WRITING,
    State.FINALIZING: Phase.ENDING,
    State.DONE: Phase.ENDING,
    State.FAILED: Phase.ENDING,
}


@dataclass(eq=False)
class Dataset:
    """A stream's dataset on disk, which outlives the stream.

    ``path`` and ``epoch`` identify it: a stream with another epoch may replace the dataset at a path. ``name``: its
    stream's name. ``root``: its data root. ``place``: its path with symbolic links resolved, None before a writer has
    looked. ``has_leftovers``: it has replaced another dataset, which has not been removed yet. ``by_ledger``: each
    source's totals, once the final metadata have them. ``retries``: of jobs for its metadata during the stream.
    ``copy``: the one that its stream wants. ``is_forgotten``: no client can name it any more.
    """

    name: str
    path: Path
    root: Path
    epoch: int
    phase: Phase = Phase.MAKING
    place: Path | None = None
    has_leftovers: bool = False
    is_being_undone: bool = False
    is_forgotten: bool = False
    by_ledger: Sequence[Totals] | None = None
    retries: int = 0
    copy: DatasetCopy | None = None
    maintenance: Maintenance = field(default_factory=Maintenance)
    user_metadata: UserMetadata = field(default_factory=UserMetadata)

    def enter(self, phase: Phase) -> None:
        """Enter the phase that the stream has reached."""
        self.phase = phase

    def placed(self, place: Path) -> None:
        """Set the place, which a writer has found."""
        self.place = place

    def note_leftovers(self, there_are: bool) -> None:
        """Note whether a replaced dataset has yet to be removed."""
        self.has_leftovers = there_are

    def wants_copy(self, copy: DatasetCopy | None) -> None:
        """Note that it is to be copied, as the last daemon knew."""
        self.copy = copy

    def undo_begun(self) -> None:
        """Note that it is being removed, because its stream did not start."""
        self.is_being_undone = True

    def undo_ended(self, there_are_leftovers: bool) -> None:
        self.is_being_undone, self.has_leftovers = False, there_are_leftovers

    def finalized(self, by_ledger: Sequence[Totals]) -> None:
        """Note that the final metadata are on disk."""
        self.by_ledger = by_ledger

    def reopened(self) -> None:
        """Note that the stream goes on: the metadata are not final, and its jobs ended when it failed."""
        self.by_ledger, self.maintenance = None, Maintenance()

    def forgotten(self) -> None:
        """Note that no client can name it any more."""
        self.is_forgotten = True

    def note_retry(self) -> None:
        if self.phase is not Phase.AT_REST:
            self.retries += 1

    @property
    def left_to_do(self) -> str | None:
        """The kind of the job that is left to do once its stream has ended (see :mod:`omewd.daemon.state.journal`)."""
        if self.has_leftovers:
            return SWEEP
        return COPY if self.copy is not None and self.copy.is_last_due and not self.copy.is_over else None

    @property
    def takes_user_metadata(self) -> bool:
        """Whether nobody else may be writing its metadata."""
        return self.phase in (Phase.WRITING, Phase.AT_REST)
