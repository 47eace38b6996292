"""Handles the ends of a stream's jobs, both successes and failures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from omewd.daemon.jobs.tasks import Task
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.process.faultpoints import point
from omewd.protocol.jobs.datasets import (
    CheckPlace,
    CreateDataset,
    Finalized,
    FinalizeDataset,
    Leftovers,
    PlaceChecked,
)
from omewd.protocol.jobs.frames import GrowShape, SealShards, WriteUnits, Written
from omewd.protocol.jobs.job import Result

if TYPE_CHECKING:
    from omewd.daemon.streams.lifecycle import Lifecycle

log = structlog.get_logger("streams")


class StreamJobs:
    """The owner of a stream's jobs."""

    def __init__(self, stream: Stream, lifecycle: Lifecycle) -> None:
        self._stream, self._lifecycle = stream, lifecycle

    @property
    def waits_for_space(self) -> bool:
        return self._stream.waits_for_space

    def job_done(self, task: Task, result: Result, now_ns: int) -> None:
        self._lifecycle.job_ended(self._stream, task.job)
        with self._lifecycle.failing(self._stream, now_ns):
            self._done(self._stream, task, result, now_ns)

    def _done(self, stream: Stream, task: Task, result: Result, now_ns: int) -> None:
        if stream.drive.paused is not None and task.was_postponed:  # other jobs may have used the last free space
            log.info("there is space on the disk again", stream=stream.name)
            self._lifecycle.go_on(stream)
        match task.job, result:
            case WriteUnits() as job, Written():
                point("daemon: report taken")
                if stream.written_to_disk(job, result, now_ns):
                    stream.rings[job.source].ring_producer()
            case CheckPlace(), PlaceChecked() if stream.state is State.STARTING:
                stream.drive.report(result.drive, result.free_bytes)
                self._lifecycle.placed(stream, Path(result.place), result.backend, result.reason, now_ns)
            case CreateDataset(), Leftovers():
                stream.dataset.note_leftovers(result.leftovers)
                self._lifecycle.do(stream, stream.start.made(), now_ns)
            case ((GrowShape() | SealShards() as job), _):
                stream.dataset.maintenance.done(job, now_ns)
            case FinalizeDataset(), Finalized():
                self._lifecycle.do(stream, stream.finalized(result.totals, now_ns), now_ns)

    def job_put_back(self, task: Task, error: OmewdError, now_ns: int) -> None:
        stream = self._stream
        if stream.state is State.FAILED and isinstance(task.job, CreateDataset):  # no longer needed
            self._lifecycle.do(stream, stream.not_made(), now_ns)
        elif stream.state is State.FAILED and isinstance(task.job, WriteUnits) and error.code != "writer_died":
            self._lifecycle.drop_jobs(stream)
        elif task.was_postponed and error.code == "disk_full":
            self._lifecycle.pause(stream, error)
        else:
            stream.note_retry()

    def job_failed(self, task: Task, error: OmewdError, now_ns: int) -> None:
        self._lifecycle.job_ended(self._stream, task.job)
        with self._lifecycle.failing(self._stream, now_ns):
            self._failed(self._stream, task, error, now_ns)

    def _failed(self, stream: Stream, task: Task, error: OmewdError, now_ns: int) -> None:
        died = error.code == "writer_died"
        match task.job:
            case CheckPlace() if error.code == "output_exists" and stream.may_change_name:
                self._lifecycle.try_next_name(stream, now_ns)
            case CheckPlace():
                self._lifecycle.fail(stream, error, now_ns)
            case CreateDataset():  # it may have put the dataset in place already, and moved the one there aside
                self._lifecycle.fail(stream, error, now_ns)
                self._lifecycle.do(stream, stream.not_made(), now_ns)
            case WriteUnits() if stream.state is State.FAILED and not died:
                pass
            case GrowShape() | SealShards() as job if error.code != "dataset_replaced":
                stream.dataset.maintenance.failed(job, now_ns)
                if task.was_postponed:  # no job waits for space any more
                    self._lifecycle.go_on(stream)
                log.warning(
                    "the dataset's metadata on disk are out of date",
                    stream=stream.name,
                    kind=job.kind,
                    reason=error.message,
                )
            case FinalizeDataset() if stream.state is State.FAILED:
                log.error("the failed dataset could not be finalized", stream=stream.name, reason=error.message)
                self._lifecycle.do(stream, stream.not_finalized(), now_ns)
            case _ if error.code == "dataset_replaced":
                self._lifecycle.fail(stream, error, now_ns)
            case job:
                message = f"{job.what} could not be written in {task.tries} attempts: {error.message}"
                self._lifecycle.fail(stream, error.with_text(message, error.remedy), now_ns)
