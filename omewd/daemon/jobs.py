"""The jobs of a stream beside its write units."""

from __future__ import annotations

from omewd.control.jobs import Job
from omewd.daemon.stream import Stream

# Which frames are lost follows from the ledger too; this many runs of them fit in a message.
LOST_RUNS_ON_RECORD = 1000


def check_job(stream: Stream, number: int) -> Job:
    spec = stream.spec.model_dump(mode="json")
    root, dataset = str(stream.root), str(stream.dataset)
    return Job(id=number, stream=stream.id, kind="check", root=root, dataset=dataset, spec=spec)


def undo_job(stream: Stream, number: int) -> Job:
    return Job(id=number, stream=stream.id, kind="undo", dataset=str(stream.dataset), epoch=stream.geometry.epoch)


def finalize_job(stream: Stream, number: int) -> Job:
    return Job(
        id=number,
        stream=stream.id,
        kind="finalize",
        frames=stream.received,
        written=stream.written,
        gaps=sum(stream.gaps.values()),
        lost=stream.lost[:LOST_RUNS_ON_RECORD],
        lost_frames=sum(count for _, count in stream.lost),
        ended_by=stream.ended_by,
        failed=stream.error is not None,
    )
