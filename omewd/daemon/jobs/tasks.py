"""Tasks (jobs with their history) and leases (a task's grant to a child). Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from omewd.errors import OmewdError
from omewd.model.plan.memory import JOB_BYTES
from omewd.protocol.jobs.job import Job, Result

# Jobs up to this size are queued in a writer's socket while it has others: it begins one while it ends those before.
# Larger jobs are not queued, because the next free writer gets them sooner.
QUEUE_BYTES = JOB_BYTES
# A writer that has a job of a source gets the next one early only if it has at least this many bytes. Fewer wait in the
# ring, where more join them: a job costs a millisecond or two of CPU time, however small it is. With a unit of 4 MB a
# job, a camera of 64 x 64 pixels reached 80,000 frames/s on two cores; with 2 to 4 units, 115,000.
LEAST_AHEAD_BYTES = 4 << 20
# Writing a zarr.json of one of many images takes 0.1 ms on a local disk. Over a network, each is created by itself.
_DOCUMENT_S = 0.05
# Jobs that read the ledger get this much longer. A hundred million frames take half a second of a core if jobs have a
# thousand frames each, 50 s if they have one, and 200 s without a record of runs, as in an older omewd's datasets.
_LEDGER_S = 900.0
# Jobs with at least this much extra time are long: they may take longer than a fast camera's ring lasts.
_LONG_S = 5.0


class Owner(Protocol):
    """The submitter of a job, which is told of its end exactly once."""

    @property
    def waits_for_space(self) -> bool:
        """Whether jobs wait while the disk is full, for as long as that takes."""
        ...

    def job_done(self, task: Task, result: Result, now_ns: int, /) -> None:
        """A child has done the job. The result has the type for the job's kind."""
        ...

    def job_put_back(self, task: Task, error: OmewdError, now_ns: int, /) -> None:
        """The job has failed, or its child has died, and it will be tried again."""
        ...

    def job_failed(self, task: Task, error: OmewdError, now_ns: int, /) -> None:
        """The job has failed for good, or has no tries left."""
        ...


@dataclass(eq=False)
class Task:
    """A job with its history.

    ``size_bytes``: pixels that it writes, which are those of ``source``; ``extra_timeout_s``: how much longer than
    usual it may take. ``was_postponed``: there was no space for it. ``deaths``: of children that had no other job.
    ``runs_alone``: a child has died with it, so that it shares no child with other jobs any more. ``on_progress``: told
    how far a long job is.
    """

    job: Job
    owner: Owner
    size_bytes: int = 0
    extra_timeout_s: float = 0.0
    source: object = None
    errors: int = 0
    deaths: int = 0
    not_before_ns: int = 0
    was_postponed: bool = False
    runs_alone: bool = False
    on_progress: Callable[[Result], None] | None = None

    def look_at(self, now_ns: int) -> None:
        """Clear the earliest time once it has passed, so that the task only waits for a child."""
        if self.not_before_ns <= now_ns:
            self.not_before_ns = 0

    def postponed(self, until_ns: int) -> None:
        """Wait until a time, because the disk is full."""
        self.not_before_ns, self.was_postponed = until_ns, True

    def failed(self) -> None:
        self.errors += 1

    def waits(self, until_ns: int) -> None:
        """Wait until a time before the next try."""
        self.not_before_ns = until_ns

    def lost(self, *, alone: bool) -> None:
        """Note that its child has died. ``alone``: with no other job, so that this one is to blame."""
        self.deaths += alone
        self.runs_alone = True

    @property
    def tries(self) -> int:
        return self.errors + self.deaths

    @property
    def is_short(self) -> bool:
        """Whether another job may be queued behind it."""
        return self.may_queue and not self.extra_timeout_s

    @property
    def may_queue(self) -> bool:
        """Whether it may be queued behind another job."""
        return self.size_bytes <= QUEUE_BYTES and not self.runs_alone

    @property
    def role(self) -> str:
        """The role of the children that run it."""
        needs = self.job.needs
        return needs.long_role if needs.long_role and self.extra_timeout_s >= _LONG_S else needs.role


def extra_timeout_s(job: Job, documents: int) -> float:
    """How much longer than usual a job may take. ``documents``: how many zarr.json files its dataset has."""
    of_documents = _DOCUMENT_S * documents if job.needs.documents else 0.0
    return of_documents + (_LEDGER_S if job.reads_ledger else 0.0)


@dataclass(eq=False)
class Lease:
    """A job's grant to a child. It ends with the child's answer, its death or the deadline.

    ``deadline_ns``: None while the job is queued behind another one, and after it was reported as overdue.
    """

    id: int
    task: Task
    child: int
    deadline_ns: int | None = None

    def starts(self, deadline_ns: int) -> None:
        """Note that the job's answer is the child's next one."""
        self.deadline_ns = deadline_ns

    def gets_longer(self, by_ns: int) -> None:
        """Move the deadline, because the child got another job."""
        if self.deadline_ns is not None:
            self.deadline_ns += by_ns

    def told_overdue(self) -> None:
        self.deadline_ns = None
