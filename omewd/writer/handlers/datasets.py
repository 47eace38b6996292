"""Handlers of jobs for a whole dataset."""

from __future__ import annotations

from pathlib import Path

from omewd import __version__
from omewd.dataset import dataset
from omewd.dataset.beside import has_leftovers
from omewd.dataset.beside import sweep as sweep_beside
from omewd.dataset.made_by import MadeBy
from omewd.model.spec.outline import join
from omewd.model.spec.spec import StreamSpec
from omewd.model.spec.stored import stored_spec
from omewd.protocol.jobs.datasets import (
    CheckPlace,
    CreateDataset,
    Finalized,
    FinalizeDataset,
    Leftovers,
    PlaceChecked,
    RecoverDataset,
    Recovered,
    SweepLeftovers,
    UndoDataset,
)
from omewd.protocol.jobs.job import Result
from omewd.store import encoders as backends
from omewd.store.filesystem import room_of
from omewd.writer.open_stream import OpenStream


def check_place(job: CheckPlace) -> PlaceChecked:
    spec = StreamSpec.parse(join(job.outline, job.details))
    place = dataset.check(spec, Path(job.dataset), Path(job.root))
    backend, reason = backends.select(spec, place)
    room = room_of(place)
    return PlaceChecked(str(place), backend.name, reason, room.device, room.free_bytes)


def create(job: CreateDataset, stream: OpenStream) -> Leftovers:
    stream.open_encoders()  # first, so that a library that fails does so before anything is created
    made_by = MadeBy(stream.backend.name, __version__)
    dataset.create(stream.spec, stream.folder, Path(job.root), stream.epoch, made_by)
    stream.hold_dataset()
    return Leftovers(has_leftovers(stream.folder, stream.epoch))


def undo(job: UndoDataset) -> Leftovers:
    dataset.undo(Path(job.dataset), job.epoch)
    return Leftovers(has_leftovers(Path(job.dataset), job.epoch))


def sweep(job: SweepLeftovers) -> Result:
    sweep_beside(Path(job.dataset), job.epoch)
    return Result()


def recover(job: RecoverDataset) -> Recovered:
    spec = stored_spec(join(job.outline, job.details))
    totals = dataset.recover(spec, Path(job.dataset), job.epoch)
    return Recovered(totals is not None, tuple(totals or ()))


def finalize(job: FinalizeDataset, stream: OpenStream) -> Finalized:
    stream.hold_dataset()
    spec, folder, ended_by = stream.spec, stream.folder, job.ended_by
    if job.failed:
        received = [totals.received for totals in job.totals]
        by_ledger = dataset.finalize_by_ledger(spec, folder, ended_by, received, failed=True, windows=job.windows)
        return Finalized(tuple(by_ledger))
    dataset.finalize(spec, folder, totals=job.totals, ended_by=ended_by, failed=False, windows=job.windows)
    return Finalized(job.totals)
