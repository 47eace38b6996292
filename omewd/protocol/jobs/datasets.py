"""Jobs for a dataset as a whole: made, taken away, finalized, recovered.

``epoch`` says of which stream the dataset is: a job leaves the dataset of any other stream alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from omewd.model.contrast import Window
from omewd.model.spec.outline import Fields
from omewd.model.totals import Totals
from omewd.protocol.jobs.job import MAINTAINER, WRITER, Job, Needs, Opened, Result, StreamJob


@dataclass(frozen=True)
class PlaceChecked(Result):
    """``place``: where the dataset really is, symbolic links followed. ``backend``: which one serves the stream.

    ``reason``: why it is not the one that was hoped for; empty if it is.
    """

    place: str
    backend: str
    reason: str


@dataclass(frozen=True)
class CheckPlace(Job):
    """See whether the dataset of a spec may be made at ``dataset``, under the data root ``root``.

    ``outline`` and ``details``: the spec (see :mod:`omewd.model.spec.outline`).
    """

    kind = "check_place"
    needs = Needs(WRITER, tries=1)
    result = PlaceChecked

    dataset: str
    root: str
    outline: Fields
    details: bytes = b""


@dataclass(frozen=True)
class Leftovers(Result):
    """``leftovers``: whether there is something beside the dataset to sweep away."""

    leftovers: bool


@dataclass(frozen=True)
class CreateDataset(StreamJob):
    """Make the dataset's metadata; ``root`` is the data root that it must lie under."""

    kind = "create_dataset"
    needs = Needs(WRITER, MAINTAINER, opened=Opened.STREAM, documents=True, tries=1)
    result = Leftovers

    root: str


@dataclass(frozen=True)
class UndoDataset(Job):
    """Take a dataset away again that was made for a stream which never started."""

    kind = "undo_dataset"
    needs = Needs(WRITER, waits_for_space=True)
    result = Leftovers

    dataset: str
    epoch: int


@dataclass(frozen=True)
class SweepLeftovers(Job):
    """Remove what ``dataset`` has replaced, and what killed writers began beside it."""

    kind = "sweep_leftovers"
    needs = Needs(MAINTAINER)

    dataset: str
    epoch: int


@dataclass(frozen=True)
class Recovered(Result):
    """``found``: whether there was a dataset to recover. ``totals`` of each source, by the ledger."""

    found: bool
    totals: tuple[Totals, ...] = ()


@dataclass(frozen=True)
class RecoverDataset(Job):
    """Finalize a dataset whose rings are gone to what its ledger has.

    ``outline`` and ``details``: its stream's spec (see :mod:`omewd.model.spec.outline`).
    """

    kind = "recover_dataset"
    needs = Needs(MAINTAINER)
    result = Recovered

    dataset: str
    epoch: int
    outline: Fields
    details: bytes = b""

    @property
    def reads_ledger(self) -> bool:
        return True


@dataclass(frozen=True)
class Finalized(Result):
    """``totals`` of each source, as they were written; of a failed stream by its ledger."""

    totals: tuple[Totals, ...]


@dataclass(frozen=True)
class FinalizeDataset(StreamJob):
    """Write the final metadata for the ``totals`` of each source; of a stream that has ``failed`` for its ledger's.

    ``ended_by``: what ended the stream. ``windows``: what its channels are shown in.
    """

    kind = "finalize_dataset"
    needs = Needs(WRITER, MAINTAINER, opened=Opened.STREAM, documents=True, waits_for_space=True)
    result = Finalized

    totals: tuple[Totals, ...]
    ended_by: str
    failed: bool = False
    windows: tuple[Window, ...] = ()

    @property
    def reads_ledger(self) -> bool:
        return self.failed

    @property
    def what(self) -> str:
        return "the dataset's last metadata"
