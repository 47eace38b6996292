"""Handlers of jobs for a stream's frames, other than write units."""

from __future__ import annotations

from omewd.dataset import dataset
from omewd.protocol.jobs.frames import GrowShape, SealShards
from omewd.protocol.jobs.job import Result
from omewd.writer.open_stream import OpenStream


def seal_shards(job: SealShards, stream: OpenStream) -> Result:
    stream.hold_dataset()
    stream.seal(job.source, job.below, job.since)
    return Result()


def grow_shape(job: GrowShape, stream: OpenStream) -> Result:
    stream.hold_dataset()
    dataset.grow(stream.spec, stream.folder, job.frames)
    return Result()
