"""Removing what a dataset has replaced, once its stream has ended."""

from __future__ import annotations

from pathlib import Path

import structlog

from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Task
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import SweepLeftovers
from omewd.protocol.jobs.job import Result

log = structlog.get_logger("jobs")


class Sweep:
    """The owner of one such job. One that fails stays in the journal: the next daemon tries again."""

    waits_for_space = False

    def __init__(self, streams: Streams, dataset: Path, epoch: int) -> None:
        self._streams, self._dataset, self._epoch = streams, dataset, epoch

    def submit(self, dispatcher: Dispatcher) -> None:
        dispatcher.submit(SweepLeftovers(str(self._dataset), self._epoch), self)

    def job_done(self, _task: Task, _result: Result, _now_ns: int) -> None:
        self._streams.swept(self._epoch)

    def job_put_back(self, task: Task, error: OmewdError, now_ns: int) -> None:
        pass

    def job_failed(self, _task: Task, error: OmewdError, _now_ns: int) -> None:
        log.error("what a dataset has replaced can't be removed", dataset=str(self._dataset), **error.to_dict())
