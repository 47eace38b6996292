"""The table of the jobs that a writer knows, each with its handler.

Write units have none: they are done in two halves (:mod:`omewd.writer.write_units`).
"""

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
from omewd.protocol.jobs.job import Job, Result, StreamJob
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata
from omewd.writer.handlers import datasets, frames, metadata
from omewd.writer.open_stream import OpenStream

_J = TypeVar("_J", bound=Job)
_S = TypeVar("_S", bound=StreamJob)
Handler = Callable[[Any], Result]
StreamHandler = Callable[[Any, OpenStream], Result]


def _on(kind: type[_J], handler: Callable[[_J], Result]) -> tuple[type[Job], Handler]:
    """A row of the table. The signature makes the type checker match the job and the handler."""
    return kind, handler


def _on_stream(kind: type[_S], handler: Callable[[_S, OpenStream], Result]) -> tuple[type[Job], StreamHandler]:
    return kind, handler


HANDLERS: dict[type[Job], Handler] = dict(
    (
        _on(CheckPlace, datasets.check_place),
        _on(UndoDataset, datasets.undo),
        _on(SweepLeftovers, datasets.sweep),
        _on(RecoverDataset, datasets.recover),
        _on(PutUserMetadata, metadata.put_user_metadata),
        _on(PutContrast, metadata.put_contrast),
    )
)
# Jobs of a stream that the writer has opened.
STREAM_HANDLERS: dict[type[Job], StreamHandler] = dict(
    (
        _on_stream(CreateDataset, datasets.create),
        _on_stream(FinalizeDataset, datasets.finalize),
        _on_stream(SealShards, frames.seal_shards),
        _on_stream(GrowShape, frames.grow_shape),
    )
)
JOBS: list[type[Job]] = [*HANDLERS, *STREAM_HANDLERS, WriteUnits]
KINDS = {kind.kind: kind for kind in JOBS}
