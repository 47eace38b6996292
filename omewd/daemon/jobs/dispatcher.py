"""Decides which child gets which job, and what happens when a job fails or a child dies or hangs. Pure: time is passed
in.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from omewd.daemon.config import SLOWEST_DISK_BYTES_PER_S
from omewd.daemon.jobs.tasks import LEAST_AHEAD_BYTES, QUEUE_BYTES, Lease, Owner, Task, extra_timeout_s
from omewd.daemon.processes.roles import Role
from omewd.errors import OmewdError
from omewd.model.plan.memory import IN_FLIGHT_BYTES
from omewd.protocol.jobs.frames import WriteUnits
from omewd.protocol.jobs.job import FINAL_ERRORS, Job, Result

MAX_DEATHS = 5
# A job that failed rarely succeeds at once.
RETRY_DELAYS_NS = (100_000_000, 1_000_000_000)
# How long to wait before a full disk is tried again.
NO_SPACE_DELAY_NS = 500_000_000


class Source(Protocol):
    """A source of a stream, as far as the dispatcher needs it."""

    def take_job(self, writers: int) -> WriteUnits | None: ...

    @property
    def unit_bytes(self) -> int: ...

    @property
    def ready_bytes(self) -> int:
        """The pixels in the units that can be given out now."""
        ...


@dataclass
class Dispatcher:
    """The waiting jobs and the running ones. ``roles``: by name.

    ``_offers``: the sources that may have write units, by their ``id()``, each with the owner of its jobs. They take
    turns in this order.

    ``_queues``: the leases of each child that has jobs, in the order of its answers.
    """

    job_timeout_s: float
    roles: Mapping[str, Role]
    _waiting: deque[Task] = field(default_factory=deque)
    _leases: dict[int, Lease] = field(default_factory=dict)
    _queues: dict[int, list[int]] = field(default_factory=dict)
    _offers: dict[int, tuple[Owner, Source]] = field(default_factory=dict)
    _last_lease: int = 0
    _missing: Set[str] = frozenset()

    def submit(
        self, job: Job, owner: Owner, documents: int = 0, on_progress: Callable[[Result], None] | None = None
    ) -> Task:
        """Add a job other than write units. ``documents``: how many zarr.json files its dataset has.

        ``on_progress``: told how far it is.
        """
        task = Task(job, owner, extra_timeout_s=extra_timeout_s(job, documents), on_progress=on_progress)
        assert task.role in self.roles, f"there is no role {task.role} for {job.kind}"
        self._waiting.append(task)
        return task

    def set_timeout(self, job_timeout_s: float) -> None:
        """Change how long a job may take, from the next look at running jobs on."""
        self.job_timeout_s = job_timeout_s

    def do_without(self, missing: Set[str]) -> None:
        """Let long jobs be done by their usual role, where these roles have no children and get none."""
        self._missing = missing

    def _role_of(self, task: Task) -> str:
        return task.job.needs.role if task.role in self._missing else task.role

    def offer(self, owner: Owner, source: Source) -> None:
        """Ask for the write units of a source until it has no more, or until :meth:`withdraw`."""
        self._offers.setdefault(id(source), (owner, source))

    def withdraw(self, owner: Owner) -> None:
        """Ask for no more write units of an owner."""
        self._offers = {key: offer for key, offer in self._offers.items() if offer[0] is not owner}

    # -- giving out ------------------------------------------------------------------------------

    def assign(self, ready: Mapping[str, Sequence[int]], now_ns: int) -> list[Lease]:
        """Give jobs to children: to idle ones first, then small jobs to queue behind a child's current one.

        ``ready``: the ids of the children that take jobs, by role. Write units come after their role's waiting jobs.
        """
        assigned: list[Lease] = []
        if not self._waiting and not self._offers:
            return assigned
        for waiting in self._waiting:
            waiting.look_at(now_ns)
        for role, children in ready.items():
            for depth in range(self.roles[role].jobs_ahead + 1):
                for child in children:
                    queue = [self._leases[lease].task for lease in self._queues.get(child, ())]
                    if len(queue) != depth or not _takes_another(queue):
                        continue
                    task = self._next_waiting(role, now_ns, small=depth > 0)
                    if task is None and role == WriteUnits.needs.role:
                        task = self._next_units(len(children), queue)
                    if task is not None:  # otherwise another child may still take units that are too few for this one
                        assigned.append(self._grant(task, child, now_ns))
        return assigned

    def _grant(self, task: Task, child: int, now_ns: int) -> Lease:
        self._last_lease += 1
        lease = self._leases[self._last_lease] = Lease(self._last_lease, task, child)
        queue = self._queues.setdefault(child, [])
        queue.append(lease.id)
        if len(queue) == 1:
            self._start(child, now_ns)
        else:
            self._leases[queue[0]].gets_longer(_disk_ns(task.size_bytes))
        return lease

    def _next_waiting(self, role: str, now_ns: int, *, small: bool) -> Task | None:
        for place, task in enumerate(self._waiting):
            fits = self._role_of(task) == role and (task.may_queue or not small)
            if fits and task.not_before_ns <= now_ns:
                del self._waiting[place]
                return task
        return None

    def _next_units(self, writers: int, queue: Sequence[Task]) -> Task | None:
        """The next units for one of so many writers. ``queue``: what it has to do."""
        theirs = {id(task.source) for task in queue}
        for key, (owner, source) in list(self._offers.items()):
            size_bytes = source.unit_bytes
            if queue and size_bytes > QUEUE_BYTES:
                continue
            if key in theirs and source.ready_bytes < LEAST_AHEAD_BYTES * writers:
                continue
            del self._offers[key]
            job = source.take_job(writers)
            if job is not None:
                self._offers[key] = owner, source  # after the others
                # A gap has units without end, and writes none of their pixels.
                pixels = size_bytes * job.units if job.gap_frames is None else 0
                return Task(job, owner, pixels, source=source)
        return None

    def _start(self, child: int, now_ns: int) -> None:
        """Let the deadline of a child's next answer run. Its other jobs' bytes may go to disk with that job's."""
        leases = [self._leases[lease] for lease in self._queues[child]]
        seconds = self.job_timeout_s + leases[0].task.extra_timeout_s
        leases[0].starts(now_ns + int(seconds * 1e9) + _disk_ns(sum(lease.task.size_bytes for lease in leases)))

    # -- taking back -----------------------------------------------------------------------------

    def task_of(self, lease: int) -> Task | None:
        """The task of a lease; None if the lease has ended."""
        found = self._leases.get(lease)
        return None if found is None else found.task

    def goes_on(self, lease: int, now_ns: int) -> None:
        """Let a job's deadline run anew, because its child tells that it works at it."""
        self._start(self._leases[lease].child, now_ns)

    def finish(self, lease: int, now_ns: int) -> Task | None:
        """End a lease because its child has answered; returns the task, or None if the lease had ended before."""
        ended = self._leases.pop(lease, None)
        if ended is None:
            return None
        queue = self._queues[ended.child]
        queue.remove(lease)
        if queue:
            self._start(ended.child, now_ns)
        else:  # the child may leave, and another one has another id
            del self._queues[ended.child]
        return ended.task

    def put_back(self, task: Task, error: OmewdError, now_ns: int) -> bool:
        """Put a failed job back for another try; returns False if none would help or none is left.

        A job that fails because the disk is full waits for space, if its owner does; that does not count as a failure.
        """
        needs = task.job.needs
        if error.code == "disk_full" and needs.waits_for_space and task.owner.waits_for_space:
            task.postponed(now_ns + NO_SPACE_DELAY_NS)
            self._waiting.append(task)
            return True
        task.failed()
        if error.code in FINAL_ERRORS or task.errors >= needs.tries:
            return False
        task.waits(now_ns + RETRY_DELAYS_NS[min(task.errors, len(RETRY_DELAYS_NS)) - 1])
        self._waiting.append(task)
        return True

    def child_lost(self, child: int) -> tuple[list[Task], list[Task]]:
        """Put back the jobs of a dead child; returns (put back, given up after too many deaths).

        Any of a child's jobs may have killed it, because it works on several at once. So none is blamed, but each has a
        child for itself from then on, and is to blame for the next death.
        """
        tasks = [self._leases.pop(lease).task for lease in self._queues.pop(child, [])]
        for task in tasks:
            task.lost(alone=len(tasks) == 1)
        back = [task for task in tasks if task.deaths < MAX_DEATHS]
        self._waiting.extendleft(reversed(back))
        return back, [task for task in tasks if task.deaths >= MAX_DEATHS]

    def overdue(self, now_ns: int) -> list[Lease]:
        """The leases whose deadline has passed, because their children hang. Each is reported once."""
        late = [x for x in self._leases.values() if x.deadline_ns is not None and x.deadline_ns <= now_ns]
        for lease in late:
            lease.told_overdue()
        return late

    def forget(self, owner: Owner) -> None:
        """Drop the waiting jobs of an owner, and its offers. Running jobs still get their answers."""
        self._waiting = deque(task for task in self._waiting if task.owner is not owner)
        self.withdraw(owner)

    # -- looking up ------------------------------------------------------------------------------

    def next_event_ns(self) -> int | None:
        """The time of the next event: a deadline, or a job that may be tried again; None if there is none."""
        times = [x.deadline_ns for x in self._leases.values() if x.deadline_ns is not None]
        times += [task.not_before_ns for task in self._waiting if task.not_before_ns]
        return min(times, default=None)

    def tasks(self) -> Iterator[Task]:
        """All running and waiting tasks."""
        yield from (lease.task for lease in self._leases.values())
        yield from self._waiting

    def is_busy(self, owner: Owner) -> bool:
        """Whether an owner has waiting or running jobs."""
        return any(task.owner is owner for task in self.tasks())

    def wanted(self) -> Counter[str]:
        """How many jobs are waiting or running for each role."""
        return Counter(map(self._role_of, self.tasks()))

    def child_at(self, owner: Owner, kind: type[Job]) -> int | None:
        """The child that is running a job of this kind for an owner."""
        leases = self._leases.values()
        return next((x.child for x in leases if x.task.owner is owner and isinstance(x.task.job, kind)), None)

    def jobs_of(self, child: int) -> int:
        return len(self._queues.get(child, ()))


def _takes_another(queue: Sequence[Task]) -> bool:
    """Whether a job may be queued behind these, or run if there are none."""
    held_bytes = sum(task.size_bytes for task in queue)
    return held_bytes <= IN_FLIGHT_BYTES - QUEUE_BYTES and all(task.is_short for task in queue)


def _disk_ns(size_bytes: int) -> int:
    """How long the slowest disk takes for this."""
    return size_bytes * 10**9 // SLOWEST_DISK_BYTES_PER_S
