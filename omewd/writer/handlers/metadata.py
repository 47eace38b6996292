"""Handlers of jobs that change the attributes of a dataset's groups."""

from __future__ import annotations

from pathlib import Path

from omewd.dataset import user_metadata
from omewd.dataset.ledger import ledger
from omewd.dataset.user_value import parsed
from omewd.protocol.jobs.job import Result
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata


def put_user_metadata(job: PutUserMetadata) -> Result:
    with ledger.held(Path(job.dataset)):
        value = parsed(job.value)
        user_metadata.put(Path(job.dataset), job.epoch, job.namespace, value, job.position, job.well)
    return Result()


def put_contrast(job: PutContrast) -> Result:
    with ledger.held(Path(job.dataset)):
        user_metadata.put_windows(Path(job.dataset), job.epoch, job.windows)
    return Result()
