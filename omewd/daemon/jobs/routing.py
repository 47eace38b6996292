"""Routes a child's answers to the owners of the jobs."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Task
from omewd.daemon.processes.child import Child
from omewd.errors import OmewdError
from omewd.protocol.jobs.job import progress_of, result_of
from omewd.protocol.messages import Message

log = structlog.get_logger("jobs")


class Router:
    """Tells the owners of jobs what children have answered.

    ``give_more``: called after each answer, because the child can take the next job.
    """

    def __init__(self, dispatcher: Dispatcher, give_more: Callable[[int], None]) -> None:
        self._dispatcher, self._give_more = dispatcher, give_more

    def child_said(self, child: Child, message: Message) -> None:
        now = time.monotonic_ns()
        if "done" in message:
            self._done(child, message, now)
        elif "going" in message:
            self._goes_on(child, message, now)
        elif "failed" in message:
            task = self._dispatcher.finish(message["failed"], now)
            if task is not None:
                self._failed(task, OmewdError.from_dict(message["error"]), now, child)
        self._give_more(now)

    def _goes_on(self, child: Child, message: Message, now_ns: int) -> None:
        task = self._dispatcher.task_of(message["going"])
        if task is None:
            return
        try:
            progress = progress_of(task.job, message)
        except OmewdError as error:
            child.kill(f"it told something unreadable of a job ({error})")
            return
        self._dispatcher.goes_on(message["going"], now_ns)
        if task.on_progress is not None:
            task.on_progress(progress)

    def _done(self, child: Child, message: Message, now_ns: int) -> None:
        task = self._dispatcher.task_of(message["done"])
        if task is None:
            return
        try:
            result = result_of(task.job, message)
        except OmewdError as error:  # after its death, another child gets the job
            child.kill(f"it sent an unreadable answer to a job ({error})")
            return
        self._dispatcher.finish(message["done"], now_ns)
        task.owner.job_done(task, result, now_ns)

    def _failed(self, task: Task, error: OmewdError, now_ns: int, child: Child) -> None:
        log.warning("job failed", job=task.job.what, child=child.id, **error.to_dict())
        if self._dispatcher.put_back(task, error, now_ns):
            task.owner.job_put_back(task, error, now_ns)
        else:
            task.owner.job_failed(task, error, now_ns)

    def child_died(self, child: Child) -> None:
        now = time.monotonic_ns()
        error = OmewdError(
            "writer_died",
            f"the {child.role.name} process was lost each time ({child.killed_for or 'it died'})",
            "See the daemon's log",
        )
        back, given_up = self._dispatcher.child_lost(child.id)
        for task in back:
            task.owner.job_put_back(task, error, now)
        for task in given_up:
            task.owner.job_failed(task, error, now)
