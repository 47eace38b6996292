"""The kinds of jobs that a writer knows, each with its handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from omewd.protocol.jobs.datasets import (
    CheckPlace,
    CreateDataset,
    FinalizeDataset,
    RecoverDataset,
    SweepLeftovers,
    UndoDataset,
)
from omewd.protocol.jobs.frames import GrowShape, SealShards, WriteUnits
from omewd.protocol.jobs.job import Job, Result
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata
from omewd.writer.handlers import datasets, frames, metadata
from omewd.writer.open_streams import OpenStreams

Handler = Callable[[Any, OpenStreams], Result]
_J = TypeVar("_J", bound=Job)


def _on(kind: type[_J], handler: Callable[[_J, OpenStreams], Result]) -> tuple[type[Job], Handler]:
    """A row; its types are held against each other here."""
    return kind, handler


HANDLERS: dict[type[Job], Handler] = dict(
    (
        _on(CheckPlace, datasets.check_place),
        _on(CreateDataset, datasets.create),
        _on(UndoDataset, datasets.undo),
        _on(SweepLeftovers, datasets.sweep),
        _on(RecoverDataset, datasets.recover),
        _on(FinalizeDataset, datasets.finalize),
        _on(WriteUnits, frames.write_units),
        _on(SealShards, frames.seal_shards),
        _on(GrowShape, frames.grow_shape),
        _on(PutUserMetadata, metadata.put_user_metadata),
        _on(PutContrast, metadata.put_contrast),
    )
)
KINDS: dict[str, type[Job]] = {kind.kind: kind for kind in HANDLERS}
