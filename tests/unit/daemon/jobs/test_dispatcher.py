"""Which job goes to which child; time is a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.daemon.config import SLOWEST_DISK_BYTES_PER_S
from omewd.daemon.jobs.dispatcher import MAX_DEATHS, RETRY_DELAYS_NS, Dispatcher
from omewd.daemon.jobs.tasks import LEAST_AHEAD_BYTES, QUEUE_BYTES, Lease, Task
from omewd.daemon.processes.roles import roles
from omewd.errors import OmewdError
from omewd.model.plan.memory import IN_FLIGHT_BYTES, JOBS_IN_FLIGHT
from omewd.protocol.jobs.datasets import (
    CheckPlace,
    CreateDataset,
    FinalizeDataset,
    RecoverDataset,
    SweepLeftovers,
    UndoDataset,
)
from omewd.protocol.jobs.frames import GrowShape, SealShards, WriteUnits
from omewd.protocol.jobs.job import CLEANER, MAINTAINER, WRITER, Job, Result
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata

SECOND = 10**9
TIMEOUT_S = 60.0
LARGE = QUEUE_BYTES + 1
ERROR = OmewdError("disk_error", "it does not spin")
FULL = OmewdError("disk_full", "no space")
MAX_ERRORS = WriteUnits.needs.tries

CREATE, UNDO, SWEEP = CreateDataset(1, "/data"), UndoDataset("/data/s", 7), SweepLeftovers("/data/s", 7)
FINALIZE, GROW = FinalizeDataset(1, (), "asked"), GrowShape(1, (5,))
RECOVER = RecoverDataset("/data/s", 7, {})
JOBS: list[Job] = [
    CheckPlace("/data/s", "/data", {}),
    CREATE,
    UNDO,
    SWEEP,
    RECOVER,
    FINALIZE,
    FinalizeDataset(1, (), "failure", failed=True),
    WriteUnits(1, 0, 0, 1, 0, 1, 1),
    SealShards(1, 0, 5),
    GROW,
    PutUserMetadata("/data/s", 7, "mine"),
    PutContrast("/data/s", 7, ()),
]


class Units:
    """A stream with a number of units that are ready, and the owner of its jobs.

    ``ready_bytes``: of the units, as it says; by default, they are worth a job while another one runs.
    """

    def __init__(
        self,
        stream: int,
        ready: int = 0,
        size_bytes: int = 1000,
        *,
        waits_for_space: bool = False,
        ready_bytes: int = 1 << 40,
    ) -> None:
        self.stream = stream
        self.ready = ready
        self.size_bytes = size_bytes
        self.ready_bytes = ready_bytes
        self.waits_for_space = waits_for_space
        self.taken = 0

    def take_job(self, writers: int) -> WriteUnits | None:
        assert writers >= 1
        if self.taken == self.ready:
            return None
        self.taken += 1
        return WriteUnits(self.stream, 0, self.taken - 1, 1, 0, 1, 1)

    @property
    def unit_bytes(self) -> int:
        return self.size_bytes

    def job_done(self, task: Task, result: Result, now_ns: int) -> None: ...

    def job_put_back(self, task: Task, error: OmewdError, now_ns: int) -> None: ...

    def job_failed(self, task: Task, error: OmewdError, now_ns: int) -> None: ...


SOMEBODY = Units(1)


def make(timeout_s: float = TIMEOUT_S) -> Dispatcher:
    return Dispatcher(timeout_s, {role.name: role for role in roles(writers=2, cores=2)})


def assign(
    dispatcher: Dispatcher,
    writers: Sequence[int],
    units: Sequence[Units],
    now_ns: int,
    aside: int | None = None,
    cleaner: int | None = None,
) -> list[Lease]:
    """``aside``: a maintainer that is ready."""
    on_demand = {MAINTAINER: aside, CLEANER: cleaner}
    ready = {WRITER: writers} | {role: [] if child is None else [child] for role, child in on_demand.items()}
    for each in units:
        dispatcher.offer(each, each)
    return dispatcher.assign(ready, now_ns)


def unit_of(lease: Lease | Task) -> int:
    task = lease.task if isinstance(lease, Lease) else lease
    assert isinstance(task.job, WriteUnits)
    return task.job.unit


def pairs(leases: list[Lease]) -> list[tuple[int, int]]:
    """(writer, unit)."""
    return [(lease.child, unit_of(lease)) for lease in leases]


def test_every_idle_writer_gets_a_job_before_any_gets_a_second() -> None:
    leases = assign(make(), [1, 2, 3], [Units(1, ready=99)], 0)
    assert pairs(leases[:6]) == [(1, 0), (2, 1), (3, 2), (1, 3), (2, 4), (3, 5)]
    assert len({lease.id for lease in leases}) == 3 * JOBS_IN_FLIGHT


def test_no_writer_has_more_jobs_than_it_may_have_in_flight() -> None:
    dispatcher, units = make(), Units(1, ready=9)
    assign(dispatcher, [1], [units], 0)
    assert assign(dispatcher, [1], [units], 0) == []
    assert (dispatcher.jobs_of(1), units.taken) == (JOBS_IN_FLIGHT, JOBS_IN_FLIGHT)
    assert dispatcher.jobs_of(99) == 0


def test_a_large_job_does_not_wait_behind_another() -> None:
    for size, held in ((QUEUE_BYTES, IN_FLIGHT_BYTES // QUEUE_BYTES), (LARGE, 1)):
        dispatcher = make()
        assert len(assign(dispatcher, [1], [Units(1, 5, size)], 0)) == held


@pytest.mark.parametrize("size", [1, QUEUE_BYTES // 3, QUEUE_BYTES // 2, QUEUE_BYTES - 1, QUEUE_BYTES])
def test_the_jobs_of_a_writer_are_bounded_by_their_bytes(size: int) -> None:
    dispatcher = make()
    assign(dispatcher, [1], [Units(1, 99, size)], 0)
    assert dispatcher.jobs_of(1) * size <= IN_FLIGHT_BYTES
    assert dispatcher.jobs_of(1) == min(JOBS_IN_FLIGHT, QUEUE_BYTES // size + 1)


def test_few_units_of_a_source_wait_until_its_job_is_done() -> None:
    """More of them join meanwhile, and make a larger job. Those of another source do not wait."""
    dispatcher, few = make(), Units(1, ready=9, ready_bytes=2 * LEAST_AHEAD_BYTES - 1)
    first, second = assign(dispatcher, [1, 2], [few], 0)
    assert (first.child, second.child) == (1, 2)
    assert assign(dispatcher, [1, 2], [few], 0) == []
    other = Units(2, ready=1, ready_bytes=1)
    assert [lease.task.owner for lease in assign(dispatcher, [1, 2], [few, other], 0)] == [other]
    few.ready_bytes += 1
    assert len(assign(dispatcher, [1], [few], 0)) > 0
    few.ready_bytes = 1
    dispatcher.finish(second.id, 0)
    assert [lease.child for lease in assign(dispatcher, [1, 2], [few], 0)] == [2]


def test_units_that_are_too_few_for_one_busy_writer_go_to_another() -> None:
    """The first writer has a job of their source. The second has a job, too, but of another source."""
    dispatcher, few, other = make(), Units(1, ready=1, ready_bytes=1), Units(2, ready=1)
    leases = assign(dispatcher, [1, 2], [few, other], 0)
    assert [(lease.child, lease.task.owner) for lease in leases] == [(1, few), (2, other)]
    few.ready += 1
    assert [lease.child for lease in assign(dispatcher, [1, 2], [few], 0)] == [2]


def test_no_small_job_waits_behind_a_large_one() -> None:
    dispatcher = make()
    assign(dispatcher, [1], [Units(1, 1, LARGE)], 0)
    assert assign(dispatcher, [1], [Units(2, 1, 10)], 0) == []


def test_a_large_retry_goes_to_an_idle_writer_only() -> None:
    dispatcher = make()
    [large] = assign(dispatcher, [1], [Units(1, 1, LARGE)], 0)
    dispatcher.finish(large.id, 0)
    assign(dispatcher, [1], [Units(2, 1)], 0)
    assert dispatcher.put_back(large.task, ERROR, 0)
    assert assign(dispatcher, [1], [], 10 * SECOND) == []
    assert pairs(assign(dispatcher, [1, 2], [], 10 * SECOND)) == [(2, 0)]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(5, 30))
def test_streams_take_turns(sizes: list[int], rounds: int) -> None:
    dispatcher = make()
    streams = [Units(number, ready=10**6, size_bytes=size) for number, size in enumerate(sizes)]
    for _ in range(rounds):
        for lease in assign(dispatcher, [1], streams, 0):
            dispatcher.finish(lease.id, 0)
    taken = [stream.taken for stream in streams]
    assert max(taken) - min(taken) <= 1


def test_a_stream_without_work_costs_no_turn() -> None:
    dispatcher = make()
    streams = [Units(1, ready=0), Units(2, ready=4), Units(3, ready=0)]
    leases = assign(dispatcher, [1, 2], streams, 0)
    assert [lease.task.owner for lease in leases] == [streams[1]] * 4


def test_turns_survive_streams_that_go() -> None:
    dispatcher = make()
    many = [Units(n, ready=1) for n in range(5)]
    assign(dispatcher, [1, 2], many, 0)
    last = Units(9, ready=1)
    assert last in [lease.task.owner for lease in assign(dispatcher, [3], [last], 0)]
    assert assign(dispatcher, [4], [], 0) == []


def test_the_units_of_an_owner_are_withdrawn_until_they_are_offered_again() -> None:
    dispatcher, units, other = make(), Units(1, ready=2), Units(2, ready=2)
    for each in (units, other):
        dispatcher.offer(each, each)
    dispatcher.withdraw(units)
    assert [lease.task.owner for lease in assign(dispatcher, [1], [], 0)] == [other, other]
    dispatcher.forget(other)
    assert assign(dispatcher, [2], [], 0) == []
    assert [lease.task.owner for lease in assign(dispatcher, [2], [units], 0)] == [units, units]


def test_sources_that_had_no_units_cost_nothing_until_they_are_offered_again() -> None:
    dispatcher, idle = make(), Units(1)
    asked: list[int] = []
    idle.take_job = asked.append  # type: ignore[assignment, method-assign]
    assign(dispatcher, [1, 2], [idle], 0)
    for _ in range(9):
        assign(dispatcher, [1, 2], [], 0)
    assert len(asked) == 1


def test_waiting_jobs_come_before_new_units_in_their_order() -> None:
    dispatcher = make()
    first, second = dispatcher.submit(CREATE, SOMEBODY), dispatcher.submit(FINALIZE, SOMEBODY)
    leases = assign(dispatcher, [1, 2, 3], [Units(3, ready=1)], 0)
    assert [lease.task for lease in leases][:2] == [first, second]
    assert isinstance(leases[2].task.job, WriteUnits)


def test_writers_do_the_long_jobs_of_maintainers_that_can_not_be_started() -> None:
    """After an upgrade on disk: a stream of many images starts and ends all the same, but a sweep waits."""
    dispatcher = make()
    create, sweep = dispatcher.submit(CREATE, SOMEBODY, documents=1000), dispatcher.submit(SWEEP, SOMEBODY)
    assert dispatcher.wanted().keys() == {MAINTAINER, CLEANER}
    assert assign(dispatcher, [1], [], 0) == []
    dispatcher.do_without({MAINTAINER, CLEANER})
    assert dispatcher.wanted().keys() == {WRITER, CLEANER}
    assert [lease.task for lease in assign(dispatcher, [1, 2], [], 0)] == [create]
    dispatcher.do_without(set())
    assert [lease.task for lease in assign(dispatcher, [1, 2], [], 0, cleaner=3)] == [sweep]


# -- deadlines -------------------------------------------------------------------------------------


def test_a_job_has_the_timeout_and_the_time_its_bytes_take_on_the_slowest_disk() -> None:
    [lease] = assign(make(), [1], [Units(1, 1, 10 * SLOWEST_DISK_BYTES_PER_S)], 5 * SECOND)
    assert lease.deadline_ns == (5 + TIMEOUT_S + 10) * SECOND


def test_a_job_has_the_time_that_the_bytes_of_all_jobs_of_its_writer_take() -> None:
    dispatcher, size = make(), SLOWEST_DISK_BYTES_PER_S
    [first] = assign(dispatcher, [1], [Units(1, 1, size)], 0)
    [second] = assign(dispatcher, [1], [Units(1, 1, 2 * size)], 0)
    assert first.deadline_ns == (TIMEOUT_S + 3) * SECOND
    dispatcher.finish(first.id, 10 * SECOND)
    assert second.deadline_ns == (10 + TIMEOUT_S + 2) * SECOND


def test_the_length_of_a_gap_puts_no_deadline_off() -> None:
    class Gap(Units):
        def take_job(self, writers: int) -> WriteUnits | None:
            job = super().take_job(writers)
            return job and replace(job, units=10**9, gap_frames=(0, 10**9))

    dispatcher = make()
    [frames] = assign(dispatcher, [1], [Units(1, 1, 0)], 0)
    [gap] = assign(dispatcher, [1], [Gap(1, 1, 1 << 20)], 0)
    assert frames.deadline_ns == TIMEOUT_S * SECOND
    dispatcher.finish(frames.id, 0)
    assert gap.deadline_ns == TIMEOUT_S * SECOND


def test_the_clock_of_a_queued_job_starts_when_it_gets_to_the_head() -> None:
    dispatcher = make()
    head, queued = assign(dispatcher, [1], [Units(1, 2, 0)], 0)
    assert (head.deadline_ns, queued.deadline_ns) == (TIMEOUT_S * SECOND, None)
    assert dispatcher.finish(head.id, 50 * SECOND) is head.task
    assert [lease.deadline_ns for lease in (queued,)] == [(50 + TIMEOUT_S) * SECOND]
    assert dispatcher.overdue(int((50 + TIMEOUT_S) * SECOND) - 1) == []
    assert dispatcher.overdue(int((50 + TIMEOUT_S) * SECOND)) == [queued]


def test_an_overdue_job_is_told_once_so_that_nobody_waits_in_a_spin_for_its_writer_to_die() -> None:
    dispatcher = make()
    assign(dispatcher, [1], [Units(1, 1)], 0)
    late = 1000 * SECOND
    assert len(dispatcher.overdue(late)) == 1
    assert dispatcher.overdue(late) == []
    assert dispatcher.next_event_ns() is None
    back, _ = dispatcher.child_lost(1)
    assert len(back) == 1


def test_the_next_event_is_the_earliest_deadline_or_retry() -> None:
    dispatcher = make()
    assert dispatcher.next_event_ns() is None
    first, second = assign(dispatcher, [1, 2], [Units(1, 2, 0)], 0)[:2]
    assert dispatcher.next_event_ns() == TIMEOUT_S * SECOND
    dispatcher.finish(first.id, 0)
    assert dispatcher.put_back(first.task, ERROR, 7)
    assert dispatcher.next_event_ns() == 7 + RETRY_DELAYS_NS[0]
    dispatcher.finish(second.id, 0)
    assert dispatcher.next_event_ns() == 7 + RETRY_DELAYS_NS[0]


def test_a_retry_that_is_due_and_waits_for_a_writer_is_no_event() -> None:
    dispatcher = make()
    failed, busy = assign(dispatcher, [1, 2], [Units(1, 2, LARGE)], 0)
    dispatcher.finish(failed.id, 0)
    assign(dispatcher, [1], [Units(2, 1, LARGE)], 0)
    assert dispatcher.put_back(failed.task, ERROR, 0)
    now = 10 * RETRY_DELAYS_NS[0]
    assert assign(dispatcher, [1, 2], [], now) == []
    event = dispatcher.next_event_ns()
    assert event is not None
    assert event > now
    dispatcher.finish(busy.id, now)
    assert pairs(assign(dispatcher, [1, 2], [], now)) == [(2, 0)]


# -- errors and deaths -----------------------------------------------------------------------------


def test_a_failed_job_is_tried_again_later_and_not_for_ever() -> None:
    dispatcher = make()
    [lease] = assign(dispatcher, [1], [Units(1, 1)], 0)
    now = 0
    for attempt in range(MAX_ERRORS - 1):
        task = dispatcher.finish(lease.id, now)
        assert task is not None
        assert dispatcher.put_back(task, ERROR, now)
        due = now + RETRY_DELAYS_NS[attempt]
        assert assign(dispatcher, [1], [], due - 1) == []
        [lease] = assign(dispatcher, [1], [], due)
        assert lease.task is task
        now = due
    task = dispatcher.finish(lease.id, now)
    assert task is not None
    assert not dispatcher.put_back(task, ERROR, now)
    assert not list(dispatcher.tasks())
    assert (task.errors, task.deaths) == (MAX_ERRORS, 0)


def test_other_jobs_pass_one_that_waits_for_its_retry() -> None:
    dispatcher = make()
    [lease] = assign(dispatcher, [1], [Units(1, 1)], 0)
    dispatcher.finish(lease.id, 0)
    dispatcher.put_back(lease.task, ERROR, 0)
    later = dispatcher.submit(UNDO, SOMEBODY)
    assert [x.task for x in assign(dispatcher, [1], [], 1)] == [later]


def test_the_jobs_of_a_lost_writer_come_first_and_in_order() -> None:
    dispatcher = make()
    assign(dispatcher, [1], [Units(1, 2)], 0)
    waiting = dispatcher.submit(CREATE, SOMEBODY)
    back, given_up = dispatcher.child_lost(1)
    assert ([unit_of(task) for task in back], given_up) == ([0, 1], [])
    assert dispatcher.jobs_of(1) == 0
    assert [unit_of(x) for x in assign(dispatcher, [2, 3], [], 0)] == [0, 1]
    assert [x.task for x in assign(dispatcher, [4], [], 0)] == [waiting]


def test_a_job_of_a_lost_writer_shares_none_with_others_any_more() -> None:
    dispatcher, others = make(), Units(2, ready=9)
    assign(dispatcher, [1], [Units(1, 2)], 0)
    dispatcher.child_lost(1)
    assert pairs(assign(dispatcher, [2], [others], 0)) == [(2, 0)]
    assert pairs(assign(dispatcher, [2, 3], [others], 0)) == [(3, 1)]
    assert assign(dispatcher, [2, 3], [others], 0) == []
    dispatcher.withdraw(others)
    busy = assign(dispatcher, [4], [Units(3, 1)], 0)
    dispatcher.child_lost(3)
    assert assign(dispatcher, [2, 4], [], 0) == []
    dispatcher.finish(busy[0].id, 0)
    assert pairs(assign(dispatcher, [2, 4], [others], 0)) == [(4, 1)]


def test_a_job_is_to_blame_for_the_death_of_a_writer_that_had_no_other() -> None:
    dispatcher = make()
    killer, innocent = (lease.task for lease in assign(dispatcher, [1], [Units(1, 2)], 0))
    dispatcher.child_lost(1)
    assert (killer.deaths, innocent.deaths) == (0, 0)
    for writer in range(2, 2 + MAX_DEATHS):
        [alone] = assign(dispatcher, [writer], [], 0)
        assert alone.task is killer
        dispatcher.child_lost(writer)
    [alone] = assign(dispatcher, [99], [], 0)
    assert alone.task is innocent
    assert (killer.deaths, innocent.deaths) == (MAX_DEATHS, 0)


def test_a_job_that_kills_every_writer_is_given_up() -> None:
    dispatcher = make()
    assign(dispatcher, [1], [Units(1, 1)], 0)
    for death in range(1, MAX_DEATHS):
        back, given_up = dispatcher.child_lost(death)
        assert (len(back), given_up) == (1, [])
        assert pairs(assign(dispatcher, [death + 1], [], 0)) == [(death + 1, 0)]
    back, given_up = dispatcher.child_lost(MAX_DEATHS)
    assert back == []
    assert [task.deaths for task in given_up] == [MAX_DEATHS]
    assert not list(dispatcher.tasks())


def test_an_answer_after_the_lease_has_ended_is_none() -> None:
    dispatcher = make()
    [lease] = assign(dispatcher, [1], [Units(1, 1)], 0)
    dispatcher.child_lost(1)
    assert dispatcher.finish(lease.id, 0) is None
    assert dispatcher.finish(12345, 0) is None
    assert list(dispatcher.tasks()) == [lease.task], "it still waits to be done"


def test_losing_a_writer_without_jobs_is_nothing() -> None:
    assert make().child_lost(7) == ([], [])


def test_a_forgotten_owner_keeps_only_what_is_out() -> None:
    dispatcher = make()
    one, other = Units(1), Units(2)
    for owner in (one, other, one):
        dispatcher.submit(UNDO, owner)
    [out] = [x for x in assign(dispatcher, [1], [], 0) if x.deadline_ns is not None]
    dispatcher.submit(UNDO, one)
    dispatcher.forget(one)
    assert dispatcher.is_busy(one)
    assert dispatcher.finish(out.id, 0) is out.task
    left = assign(dispatcher, [2, 3], [], 0)
    assert all(x.task.owner is other for x in left)


@pytest.mark.parametrize("where", ["waiting", "out", "nowhere"])
def test_an_owner_is_busy_while_a_job_of_it_waits_or_is_out(where: str) -> None:
    dispatcher = make()
    if where != "nowhere":
        dispatcher.submit(CREATE, SOMEBODY)
    if where == "out":
        assign(dispatcher, [1], [], 0)
    assert dispatcher.is_busy(SOMEBODY) == (where != "nowhere")
    assert not dispatcher.is_busy(Units(1))


# -- anything may happen ---------------------------------------------------------------------------

events = st.lists(
    st.tuples(st.sampled_from(["assign", "done", "failed", "lost", "later"]), st.integers(0, 5)), max_size=60
)


@given(events, st.integers(1, 3), st.sampled_from([10, QUEUE_BYTES, LARGE]))
def test_every_job_ends_once_whatever_happens(history: list[tuple[str, int]], writers: int, size_bytes: int) -> None:
    dispatcher = make()
    streams = [Units(1, ready=12, size_bytes=size_bytes), Units(2, ready=7)]
    alive = list(range(writers))
    next_writer, now = writers, 0
    out: dict[int, list[Lease]] = {}
    ended: Counter[Task] = Counter()
    for event, number in [*history, *[("later", 0), ("assign", 0), ("done", 0)] * 60]:
        busy = [writer for writer, tasks in out.items() if tasks]
        if event == "later":
            now += SECOND
        elif event == "assign":
            for lease in assign(dispatcher, alive, streams, now):
                out.setdefault(lease.child, []).append(lease)
        elif event == "lost":
            writer = alive.pop(number % len(alive))
            lost = out.pop(writer, [])
            back, given_up = dispatcher.child_lost(writer)
            assert {*back, *given_up} == {lease.task for lease in lost}
            ended.update(given_up)
            alive.append(next_writer)
            next_writer += 1
        elif busy:
            lease = out[busy[number % len(busy)]].pop(0)
            task = lease.task
            assert dispatcher.finish(lease.id, now) is task
            if event == "done" or not dispatcher.put_back(task, ERROR, now):
                ended[task] += 1
        for writer in alive:
            assert dispatcher.jobs_of(writer) == len(out.get(writer, []))
    assert not any(out.values())
    assert not list(dispatcher.tasks())
    assert len(ended) == 19
    assert set(ended.values()) == {1}


def test_each_grant_of_a_job_has_a_number_of_its_own() -> None:
    """An answer of a child that is gone is never taken for that of the next one."""
    dispatcher = make()
    [first] = assign(dispatcher, [1], [Units(1, 1)], 0)
    dispatcher.child_lost(1)
    [again] = assign(dispatcher, [2], [], 0)
    assert again.task is first.task
    assert dispatcher.finish(first.id, 0) is None
    assert dispatcher.finish(again.id, 0) is first.task


# -- what a kind of job needs ----------------------------------------------------------------------


def names(jobs: Sequence[Job]) -> list[str]:
    return [job.kind for job in jobs]


@pytest.mark.parametrize("job", JOBS, ids=names(JOBS))
def test_a_job_fails_as_often_as_its_kind_may(job: Job) -> None:
    dispatcher, now = make(), 0
    task = dispatcher.submit(job, SOMEBODY)
    for failure in range(1, job.needs.tries + 1):
        [lease] = assign(dispatcher, [1], [], now, 7, 8)
        assert dispatcher.finish(lease.id, now) is task
        assert dispatcher.put_back(task, ERROR, now) == (failure < job.needs.tries)
        now += 10 * SECOND
    assert not list(dispatcher.tasks())


@pytest.mark.parametrize("code", ["bad_message", "bad_metadata", "bad_spec", "dataset_replaced"])
def test_an_error_that_no_other_try_mends_ends_a_job(code: str) -> None:
    dispatcher = make()
    [lease] = assign(dispatcher, [1], [Units(1, 1)], 0)
    dispatcher.finish(lease.id, 0)
    assert not dispatcher.put_back(lease.task, OmewdError(code, "no"), 0)


@pytest.mark.parametrize("job", JOBS, ids=names(JOBS))
@pytest.mark.parametrize("waits", [True, False])
def test_a_full_disk_is_waited_for_if_the_kind_and_the_owner_do(job: Job, waits: bool) -> None:
    dispatcher = make()
    task = dispatcher.submit(job, Units(1, waits_for_space=waits))
    [lease] = assign(dispatcher, [1], [], 0, 7, 8)
    dispatcher.finish(lease.id, 0)
    postponed = waits and job.needs.waits_for_space
    assert dispatcher.put_back(task, FULL, 0) == (postponed or job.needs.tries > 1)
    assert (task.was_postponed, task.errors) == (postponed, 0 if postponed else 1)


def test_a_full_disk_is_waited_for_however_long_it_takes() -> None:
    dispatcher, now = make(), 0
    units = Units(1, 1, waits_for_space=True)
    for _ in range(10 * MAX_ERRORS):
        [lease] = assign(dispatcher, [1], [units], now)
        dispatcher.finish(lease.id, now)
        assert dispatcher.put_back(lease.task, FULL, now)
        assert assign(dispatcher, [1], [units], now) == []
        now += SECOND


@pytest.mark.parametrize(
    ("job", "extra_s"),
    [
        (CREATE, 30),
        (GROW, 30),
        (FINALIZE, 30),
        (FinalizeDataset(1, (), "failure", failed=True), 930),
        (RECOVER, 900),
        (SWEEP, 0),
        (SealShards(1, 0, 5), 0),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_job_gets_more_time_for_what_it_reads_and_writes(job: Job, extra_s: float) -> None:
    dispatcher = make()
    dispatcher.submit(job, SOMEBODY, documents=600)
    [lease] = assign(dispatcher, [1], [], 0, 7, 8)
    assert lease.deadline_ns == (TIMEOUT_S + extra_s) * SECOND


def test_the_end_of_a_failed_stream_does_not_wait_for_clean_up() -> None:
    """It reads the ledger, so it is a long job. Removing a large dataset, or recovering many, takes longer still."""
    dispatcher = make()
    for job in (RECOVER, SWEEP):
        dispatcher.submit(job, SOMEBODY)
    end = dispatcher.submit(FinalizeDataset(1, (), "failure", failed=True), Units(1))
    given = {lease.child: lease.task.job for lease in assign(dispatcher, [1], [], 0, 7, 8)}
    assert given == {7: end.job, 8: RECOVER}


@pytest.mark.parametrize("job", [CREATE, GROW, FINALIZE], ids=lambda job: job.kind)
def test_long_jobs_are_for_the_maintainer(job: Job) -> None:
    """Frames' writers never take one, and it takes nothing else; one at a time."""
    dispatcher, units, owner = make(), Units(2, ready=9), Units(1)
    for _ in range(2):
        dispatcher.submit(job, owner, documents=1200)
    short = dispatcher.submit(CREATE, SOMEBODY, documents=20)
    assert dispatcher.wanted().keys() == {WRITER, MAINTAINER}
    first = assign(dispatcher, [1], [], 0)
    assert [(lease.child, lease.task) for lease in first] == [(1, short)]
    dispatcher.finish(first[0].id, 0)
    given = assign(dispatcher, [1], [units], 0, 7)
    assert [(lease.child, lease.task.job.kind) for lease in given] == [
        *[(1, "write_units")] * JOBS_IN_FLIGHT,
        (7, job.kind),
    ]
    assert assign(dispatcher, [1], [units], 0, 7) == []
    assert dispatcher.child_at(owner, type(job)) == 7
    dispatcher.finish(given[-1].id, 0)
    [last] = assign(dispatcher, [1], [units], 0, 7)
    assert (last.child, last.task.job) == (7, job)
    dispatcher.finish(last.id, 0)
    assert dispatcher.wanted().keys() == {WRITER}
    assert assign(dispatcher, [], [units], 0, 7) == []
    assert dispatcher.child_at(owner, type(job)) is None


def test_long_jobs_of_a_cleaner_that_died_are_given_to_the_next_one() -> None:
    dispatcher = make()
    dispatcher.submit(SWEEP, SOMEBODY)
    assign(dispatcher, [1], [], 0, cleaner=7)
    back, _ = dispatcher.child_lost(7)
    assert [task.job for task in back] == [SWEEP]
    assert dispatcher.wanted().keys() == {CLEANER}
    assert assign(dispatcher, [1, 2], [], 0) == []
    assert [lease.child for lease in assign(dispatcher, [1, 2], [], 0, cleaner=8)] == [8]


def test_a_long_job_that_is_tried_again_waits_its_time() -> None:
    dispatcher = make()
    dispatcher.submit(SWEEP, SOMEBODY)
    [lease] = assign(dispatcher, [], [], 0, cleaner=7)
    task = dispatcher.finish(lease.id, 0)
    assert task is not None
    assert dispatcher.put_back(task, ERROR, 0)
    assert dispatcher.wanted().keys() == {CLEANER}
    assert assign(dispatcher, [], [], 1, cleaner=7) == []
    assert len(assign(dispatcher, [], [], RETRY_DELAYS_NS[0], cleaner=7)) == 1
