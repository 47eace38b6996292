"""Jobs for a whole dataset: creating, undoing, finalizing and recovering it.

``epoch`` identifies the dataset's stream: a job does not touch the dataset of any other stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from omewd.model.contrast import Window
from omewd.model.spec.outline import Fields
from omewd.model.totals import Totals
from omewd.protocol.jobs.job import CLEANER, MAINTAINER, WRITER, Job, Needs, Opened, Result, StreamJob


@dataclass(frozen=True)
class PlaceChecked(Result):
    """``place``: the dataset's path with symbolic links resolved. ``backend``: the one for the stream.

    ``reason``: why it is not the first choice, or "" if it is. ``drive``: the device number of the place.
    ``free_bytes``: for ordinary users there, None if the filesystem does not tell.
    """

    place: str
    backend: str
    reason: str
    drive: int
    free_bytes: int | None


@dataclass(frozen=True)
class CheckPlace(Job):
    """Check whether a spec's dataset may be created at ``dataset``, under the data root ``root``.

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
    """``leftovers``: whether there are leftovers beside the dataset, such as a replaced dataset."""

    leftovers: bool


@dataclass(frozen=True)
class CreateDataset(StreamJob):
    """Create the dataset with its metadata. ``root``: the data root that must contain it."""

    kind = "create_dataset"
    needs = Needs(WRITER, MAINTAINER, opened=Opened.STREAM, documents=True, tries=1)
    result = Leftovers

    root: str


@dataclass(frozen=True)
class UndoDataset(Job):
    """Remove a dataset that was created for a stream which never started."""

    kind = "undo_dataset"
    needs = Needs(WRITER, waits_for_space=True)
    result = Leftovers

    dataset: str
    epoch: int


@dataclass(frozen=True)
class SweepLeftovers(Job):
    """Remove the dataset that ``dataset`` has replaced, and what killed writers left beside it."""

    kind = "sweep_leftovers"
    needs = Needs(CLEANER)

    dataset: str
    epoch: int


@dataclass(frozen=True)
class Recovered(Result):
    """``found``: whether there was a dataset to recover. ``totals``: of each source, by the ledger."""

    found: bool
    totals: tuple[Totals, ...] = ()


@dataclass(frozen=True)
class RecoverDataset(Job):
    """Finalize a dataset whose rings are gone, by its ledger.

    ``outline`` and ``details``: its stream's spec (see :mod:`omewd.model.spec.outline`).
    """

    kind = "recover_dataset"
    needs = Needs(CLEANER, waits_for_space=True)
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
    """``totals``: of each source, as written; for a failed stream, by its ledger."""

    totals: tuple[Totals, ...]


@dataclass(frozen=True)
class FinalizeDataset(StreamJob):
    """Write the final metadata with the ``totals`` of each source; for a ``failed`` stream, with those of its ledger.

    ``ended_by``: what ended the stream. ``windows``: the ranges of grey values in which viewers show the channels.
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
        return "the dataset's final metadata"
