"""The jobs of a stream beside its write units."""

from __future__ import annotations

from omewd.daemon.streams.stream import Stream
from omewd.protocol.jobs import Job

# A zarr.json of one of many images takes 2 ms on a disk that is quick to sync.
_DOCUMENT_S = 0.05
# What may take longer than the ring of a fast camera lasts: a hundred documents, or as many files as there are.
_LONG_S = 5.0
_LONG_KINDS = ("recover", "sweep")


def is_long(job: Job, patience_s: float) -> bool:
    """Whether a job must not stand before frames: it is for the writer that is aside.

    ``patience_s``: how much longer than usual it may take.
    """
    return job.kind in _LONG_KINDS or patience_s >= _LONG_S


def patience_s(stream: Stream) -> float:
    """How much longer than usual a job may take that writes the metadata of all images."""
    return _DOCUMENT_S * stream.spec.images * (stream.spec.levels + 1)


def check_job(stream: Stream, number: int) -> Job:
    return Job(
        id=number,
        stream=stream.id,
        kind="check",
        root=str(stream.root),
        dataset=str(stream.dataset),
        spec=stream.fields,
        attachment=stream.details,
    )


def undo_job(stream: Stream, number: int) -> Job:
    return Job(id=number, stream=stream.id, kind="undo", dataset=str(stream.dataset), epoch=stream.epoch)


def finalize_job(stream: Stream, number: int) -> Job:
    return Job(
        id=number,
        stream=stream.id,
        kind="finalize",
        totals=tuple(source.totals for source in stream.sources),
        ended_by=stream.ended_by,
        windows=stream.contrast.windows,
        failed=stream.error is not None,
    )
