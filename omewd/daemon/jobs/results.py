"""What follows for a stream when a job of it has ended, well or not."""

from __future__ import annotations

from pathlib import Path

import structlog

from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.of_stream import undo_job
from omewd.daemon.jobs.tasks import Task
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.rings import Holding
from omewd.daemon.streams.stream import State
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.process.faultpoints import point
from omewd.protocol.jobs.datasets import (
    CheckPlace,
    CreateDataset,
    Finalized,
    FinalizeDataset,
    Leftovers,
    PlaceChecked,
    UndoDataset,
)
from omewd.protocol.jobs.frames import GrowShape, SealShards, WriteUnits, Written
from omewd.protocol.jobs.job import Result

log = structlog.get_logger("streams")


class StreamJobs:
    """The owner of a stream's jobs."""

    def __init__(self, holding: Holding, streams: Streams, dispatcher: Dispatcher, lifecycle: Lifecycle) -> None:
        self._holding, self._streams = holding, streams
        self._dispatcher, self._lifecycle = dispatcher, lifecycle

    @property
    def waits_for_space(self) -> bool:
        return self._holding.stream.spec.on_disk_full == "wait"

    def job_done(self, task: Task, result: Result, now_ns: int) -> None:
        with self._lifecycle.failing(self._holding, now_ns):
            self._done(self._holding, task, result, now_ns)

    def _done(self, holding: Holding, task: Task, result: Result, now_ns: int) -> None:
        stream = holding.stream
        if stream.paused is not None and task.was_postponed:  # others may have found the last of the space
            log.info("there is space again", stream=stream.spec.name)
            stream.paused = None
        match task.job, result:
            case WriteUnits() as job, Written():
                point("daemon: report taken")
                source, ring = stream.sources[job.source], holding.rings[job.source]
                released = source.written_to_disk(job, result.frames, result.stored_bytes)
                stream.note_waits(result.waits, result.frames, now_ns - result.done_ns, now_ns)
                stream.contrast.add(result.contrast)
                stream.disk_free_bytes, stream.disk_io = result.free_bytes, result.io
                if released and source.ring is not None and source.ring.producer_waits:
                    ring.ring_producer()
            case CheckPlace(), PlaceChecked() if stream.state is State.STARTING:
                self._streams.settle_on(holding, Path(result.place))
                self._streams.write_with(holding, result.backend)
                stream.backend_reason = result.reason
                holding.wants_memory = True
            case CreateDataset(), Leftovers() if stream.state is State.STARTING:
                stream.was_active = True
                holding.leftovers = result.leftovers
                self._lifecycle.is_active(holding)
            case CreateDataset(), _:  # stopped while it was made
                self._dispatcher.submit(undo_job(stream), self)
            case ((GrowShape() | SealShards() as job), _):
                holding.upkeep.done(job, now_ns)
            case UndoDataset(), Leftovers():
                holding.leftovers = result.leftovers
            case FinalizeDataset(), Finalized():
                self._finalized(holding, result, now_ns)

    def _finalized(self, holding: Holding, result: Finalized, now_ns: int) -> None:
        stream = holding.stream
        if stream.state is State.FAILED:
            stream.tell_loss(result.totals)
        if stream.state is State.FINALIZING:
            stream.ended_ns = now_ns
            if stream.in_flight:
                error = OmewdError(
                    "frames_unaccounted",
                    f"{stream.in_flight} of {stream.received} frames are unaccounted for after writing all units",
                )
                log.error("stream failed", stream=stream.spec.name, reason=error.message)
                stream.fail(error, now_ns)
            else:
                stream.state = State.DONE
                point("daemon: dataset finalized")
                for source in stream.sources:
                    assert source.ring is not None
                    source.ring.finish()
                point("daemon: ring done")
        self._lifecycle.settle(holding)

    def job_put_back(self, task: Task, error: OmewdError, _now_ns: int) -> None:
        stream = self._holding.stream
        failed = stream.state is State.FAILED
        if failed and isinstance(task.job, CreateDataset):  # nobody wants it any more
            self._dispatcher.forget(self)
            self._dispatcher.submit(undo_job(stream), self)
        elif failed and isinstance(task.job, WriteUnits) and error.code != "writer_died":
            self._dispatcher.forget(self)
        elif task.was_postponed and error.code == "disk_full":
            stream.paused = error
        else:
            stream.retries += 1

    def job_failed(self, task: Task, error: OmewdError, now_ns: int) -> None:
        with self._lifecycle.failing(self._holding, now_ns):
            self._failed(self._holding, task, error, now_ns)

    def _failed(self, holding: Holding, task: Task, error: OmewdError, now_ns: int) -> None:
        stream, died = holding.stream, error.code == "writer_died"
        match task.job:
            case CheckPlace() | CreateDataset() as job:
                name_is_free_to_change = holding.auto_name and not holding.request.get("output")
                taken = isinstance(job, CheckPlace) and error.code == "output_exists"
                if taken and stream.state is State.STARTING and name_is_free_to_change:
                    self._lifecycle.try_next_name(holding, now_ns)
                    return
                self._lifecycle.fail(holding, error, now_ns)
                if died:
                    self._dispatcher.submit(undo_job(stream), self)
            case WriteUnits() if stream.state is State.FAILED and not died:
                pass
            case GrowShape() | SealShards() as job if error.code != "dataset_replaced":
                holding.upkeep.done(job, now_ns)
                if task.was_postponed:  # nothing waits for space any more
                    stream.paused = None
                log.warning(
                    "the dataset on disk lags behind", stream=stream.spec.name, kind=job.kind, reason=error.message
                )
            case UndoDataset():
                log.warning("a dataset that never started is still there", dataset=str(stream.dataset))
            case FinalizeDataset() if stream.state is State.FAILED:
                log.error("the failed dataset could not be finalized", stream=stream.spec.name, reason=error.message)
                stream.tell_loss()
                self._lifecycle.settle(holding)
            case _ if error.code == "dataset_replaced":
                self._lifecycle.fail(holding, error, now_ns)
            case job:
                message = f"{job.what} could not be written in {task.tries} tries: {error.message}"
                self._lifecycle.fail(holding, error.with_text(message, error.remedy), now_ns)


def give_up_all(streams: Streams, lifecycle: Lifecycle, error: OmewdError, now_ns: int) -> None:
    """Nothing can be written any more: end every stream, saying which frames are missing."""
    for holding in list(streams.open.values()):
        lifecycle.fail(holding, error, now_ns)
        if holding.stream.has_rings:
            holding.stream.tell_loss()
        lifecycle.settle(holding)
