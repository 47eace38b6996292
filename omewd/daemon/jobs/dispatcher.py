"""Which job goes to which writer, and what follows when one fails, dies or hangs. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from omewd.daemon.config import SLOWEST_DISK_BYTES_PER_S
from omewd.daemon.jobs.jobs import is_long
from omewd.model.plan.memory import JOB_BYTES
from omewd.protocol.jobs import Job, JobKind

MAX_ERRORS = 3
MAX_DEATHS = 5
# A job that failed at once rarely does better at once.
RETRY_DELAYS_NS = (100_000_000, 1_000_000_000)
# How soon a full disk is asked again.
NO_SPACE_DELAY_NS = 500_000_000
# A second job waits in a writer's socket while it runs the first, so that it need not wait for the daemon.
# Not one with a larger unit: that does better at the next free writer.
QUEUE_BYTES = JOB_BYTES


# Jobs that read the whole ledger get this much longer: a million lines take 5 s, and a day's recording has a billion.
_LEDGER_S = 3600.0


class Source(Protocol):
    """A source of a stream, as far as the dispatcher knows."""

    def take_job(self, number: Callable[[], int], writers: int) -> Job | None: ...

    def unit_bytes(self) -> int: ...


@dataclass
class Task:
    """A job with its history. ``patience_s``: how much longer than usual it may take.

    ``was_postponed``: there was no space for it.
    """

    job: Job
    size_bytes: int
    errors: int = 0
    deaths: int = 0
    not_before_ns: int = 0
    patience_s: float = 0.0
    was_postponed: bool = False

    @property
    def is_short(self) -> bool:
        """Whether another one may wait behind it."""
        return self.size_bytes <= QUEUE_BYTES and not self.patience_s

    @property
    def is_long(self) -> bool:
        """Whether it is for the writer that is aside."""
        return is_long(self.job, self.patience_s)


@dataclass
class Lease:
    """A job given to a writer; it ends with the writer's answer, its death or the deadline.

    ``deadline_ns`` None: the job waits behind another one of the same writer, or has been told as overdue.
    """

    task: Task
    writer: int
    deadline_ns: int | None = None


@dataclass
class Dispatcher:
    """The jobs that wait, and those that are out."""

    job_timeout_s: float
    _waiting: deque[Task] = field(default_factory=deque)
    _leases: dict[int, Lease] = field(default_factory=dict)
    _queues: dict[int, list[int]] = field(default_factory=dict)
    _last_job: int = 0
    _turn: int = 0

    def number(self) -> int:
        """A new job's id."""
        self._last_job += 1
        return self._last_job

    def submit(self, job: Job, patience_s: float = 0.0) -> None:
        """Add a job that is no write unit, such as create, grow, finalize.

        ``patience_s``: how much longer than usual it may take.
        """
        reads_ledger = job.kind == "recover" or (job.kind == "finalize" and job.failed)
        self._waiting.append(Task(job, 0, patience_s=patience_s + (_LEDGER_S if reads_ledger else 0.0)))

    def assign(
        self, writers: Sequence[int], sources: Sequence[Source], now_ns: int, aside: int | None = None
    ) -> list[Lease]:
        """Give jobs to writers, idle ones first, then small jobs behind what a writer is at.

        Long jobs are given to ``aside`` alone, a writer that gets no others, one at a time.
        """
        assigned: list[Lease] = []
        for waiting in self._waiting:
            if waiting.not_before_ns <= now_ns:
                waiting.not_before_ns = 0  # what it waits for now is a writer
        for depth in (0, 1):
            for writer in writers:
                queue = self._queues.setdefault(writer, [])
                if len(queue) != depth or (depth and not self._leases[queue[0]].task.is_short):
                    continue
                task = self._next(sources, now_ns, len(writers), small=depth == 1)
                if task is None:
                    break
                lease = self._leases[task.job.id] = Lease(task, writer)
                queue.append(task.job.id)
                if depth == 0:
                    self._start(lease, now_ns)
                assigned.append(lease)
        if aside is not None and not self.jobs_of(aside) and (task := self._next_long(now_ns)) is not None:
            lease = self._leases[task.job.id] = Lease(task, aside)
            self._queues[aside] = [task.job.id]
            self._start(lease, now_ns)
            assigned.append(lease)
        return assigned

    def _next_long(self, now_ns: int) -> Task | None:
        task = next((task for task in self._waiting if task.is_long and task.not_before_ns <= now_ns), None)
        if task is not None:
            self._waiting.remove(task)
        return task

    @property
    def has_long(self) -> bool:
        """Whether there is work for a writer that is aside."""
        out = any(lease.task.is_long for lease in self._leases.values())
        return out or any(task.is_long for task in self._waiting)

    def writer_at(self, stream: int, kind: JobKind) -> int | None:
        """The writer that is at a job of that kind for a stream."""
        leases = self._leases.values()
        return next((x.writer for x in leases if (x.task.job.stream, x.task.job.kind) == (stream, kind)), None)

    def _next(self, sources: Sequence[Source], now_ns: int, writers: int, *, small: bool) -> Task | None:
        for place, task in enumerate(self._waiting):
            fits = not (task.is_long or (small and task.size_bytes > QUEUE_BYTES))
            if task.not_before_ns <= now_ns and fits:
                del self._waiting[place]
                return task
        for step in range(len(sources)):
            place = (self._turn + step) % len(sources)
            size_bytes = sources[place].unit_bytes()
            job = None if small and size_bytes > QUEUE_BYTES else sources[place].take_job(self.number, writers)
            if job is not None:
                self._turn = place + 1
                return Task(job, size_bytes * job.units)
        return None

    def _start(self, lease: Lease, now_ns: int) -> None:
        task = lease.task
        seconds = self.job_timeout_s + task.patience_s + task.size_bytes / SLOWEST_DISK_BYTES_PER_S
        lease.deadline_ns = now_ns + int(seconds * 1e9)

    def finish(self, job: int, now_ns: int) -> Task | None:
        """A writer has answered; returns the task, None if the lease had ended before."""
        lease = self._leases.pop(job, None)
        if lease is None:
            return None
        queue = self._queues[lease.writer]
        queue.remove(job)
        if queue:
            self._start(self._leases[queue[0]], now_ns)
        return lease.task

    def retry(self, task: Task, now_ns: int) -> bool:
        """A job failed: put it back for another try; False if it has had its tries."""
        task.errors += 1
        if task.errors >= MAX_ERRORS:
            return False
        task.not_before_ns = now_ns + RETRY_DELAYS_NS[task.errors - 1]
        self._waiting.append(task)
        return True

    def postpone(self, task: Task, now_ns: int) -> None:
        """A job could not be done for want of space: put it back, without blame."""
        task.not_before_ns = now_ns + NO_SPACE_DELAY_NS
        task.was_postponed = True
        self._waiting.append(task)

    def writer_lost(self, writer: int) -> tuple[list[Task], list[Task]]:
        """A writer is dead: its jobs are put back. Returns (put back, given up after too many deaths).

        Only the job it was at can have killed it; one that waited behind is not to blame.
        """
        back: list[Task] = []
        given_up: list[Task] = []
        for place, job in enumerate(self._queues.pop(writer, [])):
            task = self._leases.pop(job).task
            task.deaths += place == 0
            if task.deaths >= MAX_DEATHS:
                given_up.append(task)
            else:
                back.append(task)
        self._waiting.extendleft(reversed(back))
        return back, given_up

    def overdue(self, now_ns: int) -> list[Lease]:
        """Leases whose deadline has passed: their writers hang. Each is told once, until it ends with its writer."""
        late = [x for x in self._leases.values() if x.deadline_ns is not None and x.deadline_ns <= now_ns]
        for lease in late:
            lease.deadline_ns = None
        return late

    def next_event_ns(self) -> int | None:
        """When to look again at the latest: a deadline, or a job that may be tried again."""
        times = [x.deadline_ns for x in self._leases.values() if x.deadline_ns is not None]
        times += [task.not_before_ns for task in self._waiting if task.not_before_ns]
        return min(times, default=None)

    def forget(self, stream: int) -> list[int]:
        """Drop the jobs of a stream that wait, and return their ids; those that are out still get their answer."""
        dropped = [task.job.id for task in self._waiting if task.job.stream == stream]
        self._waiting = deque(task for task in self._waiting if task.job.stream != stream)
        return dropped

    def is_busy(self, stream: int) -> bool:
        """Whether a writer is at a job of that stream, or one waits."""
        out = any(lease.task.job.stream == stream for lease in self._leases.values())
        return out or any(task.job.stream == stream for task in self._waiting)

    def kinds_of(self, stream: int) -> set[JobKind]:
        """The kinds of a stream's jobs that are out, or wait."""
        tasks = [*(lease.task for lease in self._leases.values()), *self._waiting]
        return {task.job.kind for task in tasks if task.job.stream == stream}

    def jobs_of(self, writer: int) -> int:
        return len(self._queues.get(writer, ()))
