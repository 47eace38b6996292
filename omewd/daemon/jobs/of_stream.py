"""Builds the jobs of a stream other than its write units."""

from __future__ import annotations

from omewd.daemon.streams.stream import Stream
from omewd.protocol.jobs.datasets import CheckPlace, FinalizeDataset
from omewd.protocol.jobs.job import StreamToOpen


def documents_of(stream: Stream) -> int:
    """How many zarr.json files the stream's images have."""
    return stream.spec.images * (stream.spec.levels + 1)


def check_job(stream: Stream) -> CheckPlace:
    return CheckPlace(str(stream.dataset.path), str(stream.dataset.root), stream.fields, stream.details)


def finalize_job(stream: Stream) -> FinalizeDataset:
    return FinalizeDataset(
        stream.id,
        totals=tuple(source.totals for source in stream.sources),
        ended_by=stream.ended_by,
        windows=stream.contrast.found.windows,
        failed=stream.error is not None,
    )


def stream_to_open(stream: Stream) -> StreamToOpen:
    return StreamToOpen(
        stream.id,
        stream.epoch,
        str(stream.dataset.path),
        stream.backend,
        outline=stream.fields,
        details=stream.details,
        below=tuple(source.safe_below for source in stream.sources),
    )
