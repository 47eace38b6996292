"""A job with its history, and the grant of it to a child. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from omewd.errors import OmewdError
from omewd.model.plan.memory import JOB_BYTES
from omewd.protocol.jobs.job import Job, Result

# A second job waits in a writer's socket while it runs the first, so that it need not wait for the daemon.
# Not one with a larger unit: that does better at the next free writer.
QUEUE_BYTES = JOB_BYTES
# A zarr.json of one of many images takes 2 ms on a disk that is quick to sync.
_DOCUMENT_S = 0.05
# Jobs that read the ledger get this much longer. A hundred million frames take half a second of a core where jobs have
# a thousand each, 50 s where they have one, and 200 s without a record of runs, as in a dataset of an older omewd.
_LEDGER_S = 900.0
# What may take longer than the ring of a fast camera lasts: a hundred documents.
_LONG_S = 5.0


class Owner(Protocol):
    """Whoever has submitted a job, and is told what becomes of it; of a job it is told one end."""

    @property
    def waits_for_space(self) -> bool:
        """Whether jobs wait while the disk is full, for as long as that takes."""
        ...

    def job_done(self, task: Task, result: Result, now_ns: int, /) -> None:
        """A child has done it; the result is of the type that belongs to the job's."""
        ...

    def job_put_back(self, task: Task, error: OmewdError, now_ns: int, /) -> None:
        """It has failed, or its child has died, and it will be tried again."""
        ...

    def job_failed(self, task: Task, error: OmewdError, now_ns: int, /) -> None:
        """It has failed for good, or has had its tries."""
        ...


@dataclass(eq=False)
class Task:
    """A job with its history.

    ``size_bytes``: pixels that it writes; ``extra_timeout_s``: how much longer than usual it may take.
    ``was_postponed``: there was no space for it.
    """

    job: Job
    owner: Owner
    size_bytes: int = 0
    extra_timeout_s: float = 0.0
    errors: int = 0
    deaths: int = 0
    not_before_ns: int = 0
    was_postponed: bool = False

    def look_at(self, now_ns: int) -> None:
        """Once its time has come, what it waits for is a child."""
        if self.not_before_ns <= now_ns:
            self.not_before_ns = 0

    def postponed(self, until_ns: int) -> None:
        """There was no space for it."""
        self.not_before_ns, self.was_postponed = until_ns, True

    def failed(self) -> None:
        self.errors += 1

    def waits(self, until_ns: int) -> None:
        """It is tried again, not before that."""
        self.not_before_ns = until_ns

    def lost(self) -> None:
        """Its child has died at it."""
        self.deaths += 1

    @property
    def tries(self) -> int:
        return self.errors + self.deaths

    @property
    def is_short(self) -> bool:
        """Whether another one may wait behind it."""
        return self.size_bytes <= QUEUE_BYTES and not self.extra_timeout_s

    @property
    def role(self) -> str:
        """Whose children do it."""
        needs = self.job.needs
        return needs.long_role if needs.long_role and self.extra_timeout_s >= _LONG_S else needs.role


def extra_timeout_s(job: Job, documents: int) -> float:
    """How much longer than usual a job may take; ``documents``: how many zarr.json its dataset has."""
    of_documents = _DOCUMENT_S * documents if job.needs.documents else 0.0
    return of_documents + (_LEDGER_S if job.reads_ledger else 0.0)


@dataclass(eq=False)
class Lease:
    """A job given to a child; it ends with the child's answer, its death or the deadline.

    ``deadline_ns`` None: the job waits behind another one of the same child, or has been told as overdue.
    """

    id: int
    task: Task
    child: int
    deadline_ns: int | None = None

    def starts(self, deadline_ns: int) -> None:
        """The child is at it now."""
        self.deadline_ns = deadline_ns

    def told_overdue(self) -> None:
        self.deadline_ns = None
