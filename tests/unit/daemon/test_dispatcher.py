"""Which job goes to which writer; time is a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.daemon.config import SLOWEST_DISK_BYTES_PER_S
from omewd.daemon.jobs.dispatcher import MAX_DEATHS, MAX_ERRORS, QUEUE_BYTES, RETRY_DELAYS_NS, Dispatcher, Lease, Task
from omewd.protocol.jobs import Job, JobKind

SECOND = 10**9
TIMEOUT_S = 60.0
LARGE = QUEUE_BYTES + 1


class Units:
    """A stream with a number of units that are ready."""

    def __init__(self, stream: int, ready: int, size_bytes: int = 1000) -> None:
        self.stream = stream
        self.ready = ready
        self.size_bytes = size_bytes
        self.taken = 0

    def take_job(self, number: Callable[[], int], writers: int) -> Job | None:
        assert writers >= 1
        if self.taken == self.ready:
            return None
        self.taken += 1
        return Job(id=number(), stream=self.stream, kind="write", unit=self.taken - 1)

    def unit_bytes(self) -> int:
        return self.size_bytes


def make(timeout_s: float = TIMEOUT_S) -> Dispatcher:
    return Dispatcher(timeout_s)


def job(dispatcher: Dispatcher, stream: int = 1, kind: JobKind = "create") -> Job:
    return Job(id=dispatcher.number(), stream=stream, kind=kind)


def pairs(leases: list[Lease]) -> list[tuple[int, int]]:
    """(writer, unit)."""
    return [(lease.writer, lease.task.job.unit) for lease in leases]


def test_every_idle_writer_gets_a_job_before_any_gets_a_second() -> None:
    leases = make().assign([1, 2, 3], [Units(1, ready=9)], 0)
    assert pairs(leases) == [(1, 0), (2, 1), (3, 2), (1, 3), (2, 4), (3, 5)]
    assert len({lease.task.job.id for lease in leases}) == 6


def test_no_writer_has_more_than_two_jobs() -> None:
    dispatcher, units = make(), Units(1, ready=9)
    dispatcher.assign([1], [units], 0)
    assert dispatcher.assign([1], [units], 0) == []
    assert (dispatcher.jobs_of(1), units.taken) == (2, 2)
    assert dispatcher.jobs_of(99) == 0


def test_a_large_job_does_not_wait_behind_another() -> None:
    for size, held in ((QUEUE_BYTES, 2), (LARGE, 1)):
        dispatcher = make()
        assert len(dispatcher.assign([1], [Units(1, 5, size)], 0)) == held


def test_no_small_job_waits_behind_a_large_one() -> None:
    dispatcher = make()
    dispatcher.assign([1], [Units(1, 1, LARGE)], 0)
    assert dispatcher.assign([1], [Units(2, 1, 10)], 0) == []


def test_a_large_retry_goes_to_an_idle_writer_only() -> None:
    dispatcher = make()
    [large] = dispatcher.assign([1], [Units(1, 1, LARGE)], 0)
    dispatcher.finish(large.task.job.id, 0)
    dispatcher.assign([1], [Units(2, 1)], 0)
    assert dispatcher.retry(large.task, 0)
    assert dispatcher.assign([1], [], 10 * SECOND) == []
    assert pairs(dispatcher.assign([1, 2], [], 10 * SECOND)) == [(2, 0)]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(5, 30))
def test_streams_take_turns(sizes: list[int], rounds: int) -> None:
    dispatcher = make()
    streams = [Units(number, ready=10**6, size_bytes=size) for number, size in enumerate(sizes)]
    for _ in range(rounds):
        for lease in dispatcher.assign([1], streams, 0):
            dispatcher.finish(lease.task.job.id, 0)
    taken = [stream.taken for stream in streams]
    assert max(taken) - min(taken) <= 1


def test_a_stream_without_work_costs_no_turn() -> None:
    dispatcher = make()
    streams = [Units(1, ready=0), Units(2, ready=4), Units(3, ready=0)]
    leases = dispatcher.assign([1, 2], streams, 0)
    assert [lease.task.job.stream for lease in leases] == [2, 2, 2, 2]


def test_turns_survive_streams_that_go() -> None:
    dispatcher = make()
    many = [Units(n, ready=1) for n in range(5)]
    dispatcher.assign([1, 2], many, 0)
    [lease] = dispatcher.assign([3], [Units(9, ready=1)], 0)
    assert lease.task.job.stream == 9


def test_waiting_jobs_come_before_new_units_in_their_order() -> None:
    dispatcher = make()
    first, second = job(dispatcher), job(dispatcher, 2, "finalize")
    dispatcher.submit(first)
    dispatcher.submit(second)
    leases = dispatcher.assign([1, 2, 3], [Units(3, ready=1)], 0)
    assert [lease.task.job.id for lease in leases][:2] == [first.id, second.id]
    assert leases[2].task.job.kind == "write"


# -- deadlines -------------------------------------------------------------------------------------


def test_a_job_has_the_timeout_and_the_time_its_bytes_take_on_the_slowest_disk() -> None:
    [lease] = make().assign([1], [Units(1, 1, 10 * SLOWEST_DISK_BYTES_PER_S)], 5 * SECOND)
    assert lease.deadline_ns == (5 + TIMEOUT_S + 10) * SECOND


def test_the_clock_of_a_queued_job_starts_when_it_gets_to_the_head() -> None:
    dispatcher = make()
    head, queued = dispatcher.assign([1], [Units(1, 2, 0)], 0)
    assert (head.deadline_ns, queued.deadline_ns) == (TIMEOUT_S * SECOND, None)
    assert dispatcher.finish(head.task.job.id, 50 * SECOND) is head.task
    assert [lease.deadline_ns for lease in (queued,)] == [(50 + TIMEOUT_S) * SECOND]
    assert dispatcher.overdue(int((50 + TIMEOUT_S) * SECOND) - 1) == []
    assert dispatcher.overdue(int((50 + TIMEOUT_S) * SECOND)) == [queued]


def test_an_overdue_job_is_told_once_so_that_nobody_waits_in_a_spin_for_its_writer_to_die() -> None:
    dispatcher = make()
    dispatcher.assign([1], [Units(1, 1)], 0)
    late = 1000 * SECOND
    assert len(dispatcher.overdue(late)) == 1
    assert dispatcher.overdue(late) == []
    assert dispatcher.next_event_ns() is None
    back, _ = dispatcher.writer_lost(1)
    assert len(back) == 1


def test_the_next_event_is_the_earliest_deadline_or_retry() -> None:
    dispatcher = make()
    assert dispatcher.next_event_ns() is None
    first, second = dispatcher.assign([1, 2], [Units(1, 2, 0)], 0)[:2]
    assert dispatcher.next_event_ns() == TIMEOUT_S * SECOND
    dispatcher.finish(first.task.job.id, 0)
    assert dispatcher.retry(first.task, 7)
    assert dispatcher.next_event_ns() == 7 + RETRY_DELAYS_NS[0]
    dispatcher.finish(second.task.job.id, 0)
    assert dispatcher.next_event_ns() == 7 + RETRY_DELAYS_NS[0]


def test_a_retry_that_is_due_and_waits_for_a_writer_is_no_event() -> None:
    dispatcher = make()
    failed, busy = dispatcher.assign([1, 2], [Units(1, 2, LARGE)], 0)
    dispatcher.finish(failed.task.job.id, 0)
    dispatcher.assign([1], [Units(2, 1, LARGE)], 0)
    assert dispatcher.retry(failed.task, 0)
    now = 10 * RETRY_DELAYS_NS[0]
    assert dispatcher.assign([1, 2], [], now) == []
    event = dispatcher.next_event_ns()
    assert event is not None
    assert event > now
    dispatcher.finish(busy.task.job.id, now)
    assert pairs(dispatcher.assign([1, 2], [], now)) == [(2, 0)]


# -- errors and deaths -----------------------------------------------------------------------------


def test_a_failed_job_is_tried_again_later_and_not_for_ever() -> None:
    dispatcher = make()
    [lease] = dispatcher.assign([1], [Units(1, 1)], 0)
    now = 0
    for attempt in range(MAX_ERRORS - 1):
        task = dispatcher.finish(lease.task.job.id, now)
        assert task is not None
        assert dispatcher.retry(task, now)
        due = now + RETRY_DELAYS_NS[attempt]
        assert dispatcher.assign([1], [], due - 1) == []
        [lease] = dispatcher.assign([1], [], due)
        assert lease.task is task
        now = due
    task = dispatcher.finish(lease.task.job.id, now)
    assert task is not None
    assert not dispatcher.retry(task, now)
    assert not dispatcher.is_busy(1)
    assert (task.errors, task.deaths) == (MAX_ERRORS, 0)


def test_other_jobs_pass_one_that_waits_for_its_retry() -> None:
    dispatcher = make()
    [lease] = dispatcher.assign([1], [Units(1, 1)], 0)
    dispatcher.finish(lease.task.job.id, 0)
    dispatcher.retry(lease.task, 0)
    later = job(dispatcher, 2)
    dispatcher.submit(later)
    assert [x.task.job.id for x in dispatcher.assign([1], [], 1)] == [later.id]


def test_the_jobs_of_a_lost_writer_come_first_and_in_order() -> None:
    dispatcher = make()
    dispatcher.assign([1], [Units(1, 2)], 0)
    waiting = job(dispatcher, 2)
    dispatcher.submit(waiting)
    back, given_up = dispatcher.writer_lost(1)
    assert ([task.job.unit for task in back], given_up) == ([0, 1], [])
    assert dispatcher.jobs_of(1) == 0
    assert [x.task.job.unit for x in dispatcher.assign([2], [], 0)] == [0, 1]
    assert [x.task.job.id for x in dispatcher.assign([3], [], 0)] == [waiting.id]


def test_only_the_job_a_writer_was_at_is_to_blame_for_its_death() -> None:
    dispatcher = make()
    head, queued = dispatcher.assign([1], [Units(1, 2)], 0)
    dispatcher.writer_lost(1)
    assert (head.task.deaths, queued.task.deaths) == (1, 0)
    dispatcher.assign([2], [], 0)
    dispatcher.finish(head.task.job.id, 0)
    dispatcher.writer_lost(2)
    assert queued.task.deaths == 1


def test_a_job_that_kills_every_writer_is_given_up() -> None:
    dispatcher = make()
    dispatcher.assign([1], [Units(1, 1)], 0)
    for death in range(1, MAX_DEATHS):
        back, given_up = dispatcher.writer_lost(death)
        assert (len(back), given_up) == (1, [])
        assert pairs(dispatcher.assign([death + 1], [], 0)) == [(death + 1, 0)]
    back, given_up = dispatcher.writer_lost(MAX_DEATHS)
    assert back == []
    assert [task.deaths for task in given_up] == [MAX_DEATHS]
    assert not dispatcher.is_busy(1)


def test_an_answer_after_the_lease_has_ended_is_none() -> None:
    dispatcher = make()
    [lease] = dispatcher.assign([1], [Units(1, 1)], 0)
    dispatcher.writer_lost(1)
    assert dispatcher.finish(lease.task.job.id, 0) is None
    assert dispatcher.finish(12345, 0) is None
    assert dispatcher.is_busy(1), "it still waits to be done"


def test_losing_a_writer_without_jobs_is_nothing() -> None:
    assert make().writer_lost(7) == ([], [])


def test_a_forgotten_stream_keeps_only_what_is_out() -> None:
    dispatcher = make()
    for stream in (1, 2, 1):
        dispatcher.submit(job(dispatcher, stream))
    [out] = [x for x in dispatcher.assign([1], [], 0) if x.deadline_ns is not None]
    dispatcher.submit(job(dispatcher, 1))
    dispatcher.forget(1)
    assert dispatcher.is_busy(1)
    assert dispatcher.finish(out.task.job.id, 0) is out.task
    left = dispatcher.assign([2, 3], [], 0)
    assert all(x.task.job.stream == 2 for x in left)


@pytest.mark.parametrize("where", ["waiting", "out", "nowhere"])
def test_a_stream_is_busy_while_a_job_of_it_waits_or_is_out(where: str) -> None:
    dispatcher = make()
    if where != "nowhere":
        dispatcher.submit(job(dispatcher, 5))
    if where == "out":
        dispatcher.assign([1], [], 0)
    assert dispatcher.is_busy(5) == (where != "nowhere")
    assert not dispatcher.is_busy(6)


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
    out: dict[int, list[Task]] = {}
    ended: Counter[int] = Counter()
    for event, number in [*history, *[("later", 0), ("assign", 0), ("done", 0)] * 60]:
        busy = [writer for writer, tasks in out.items() if tasks]
        if event == "later":
            now += SECOND
        elif event == "assign":
            for lease in dispatcher.assign(alive, streams, now):
                out.setdefault(lease.writer, []).append(lease.task)
        elif event == "lost":
            writer = alive.pop(number % len(alive))
            lost = out.pop(writer, [])
            back, given_up = dispatcher.writer_lost(writer)
            assert sorted(t.job.id for t in [*back, *given_up]) == sorted(t.job.id for t in lost)
            ended.update(t.job.id for t in given_up)
            alive.append(next_writer)
            next_writer += 1
        elif busy:
            task = out[busy[number % len(busy)]].pop(0)
            assert dispatcher.finish(task.job.id, now) is task
            if event == "done" or not dispatcher.retry(task, now):
                ended[task.job.id] += 1
        for writer in alive:
            assert dispatcher.jobs_of(writer) == len(out.get(writer, []))
    assert not any(out.values())
    assert not dispatcher.is_busy(1)
    assert not dispatcher.is_busy(2)
    assert sorted(ended) == list(range(1, 20))
    assert set(ended.values()) == {1}


def test_numbers_of_jobs_grow() -> None:
    dispatcher = make()
    assert all(a < b for a, b in pairwise(dispatcher.number() for _ in range(5)))


@pytest.mark.parametrize("kind", ["recover", "sweep", "create", "grow", "finalize"])
def test_long_jobs_are_for_the_writer_aside(kind: JobKind) -> None:
    """Frames' writers never take one, and it takes nothing else; one at a time."""
    dispatcher, units = make(), Units(2, ready=9)
    for _ in range(2):
        dispatcher.submit(job(dispatcher, kind=kind), 60.0)
    short = job(dispatcher, stream=3)
    dispatcher.submit(short, 1.0)
    has_long = dispatcher.has_long
    assert has_long
    first = dispatcher.assign([1], [], 0)
    assert [(lease.writer, lease.task.job.kind) for lease in first] == [(1, "create")]
    assert first[0].task.job is short
    dispatcher.finish(short.id, 0)
    given = dispatcher.assign([1], [units], 0, 7)
    assert [(lease.writer, lease.task.job.kind) for lease in given] == [(1, "write"), (1, "write"), (7, kind)]
    assert dispatcher.assign([1], [units], 0, 7) == []
    assert dispatcher.writer_at(1, kind) == 7
    dispatcher.finish(given[-1].task.job.id, 0)
    [last] = dispatcher.assign([1], [units], 0, 7)
    assert (last.writer, last.task.job.kind) == (7, kind)
    dispatcher.finish(last.task.job.id, 0)
    assert not dispatcher.has_long
    assert dispatcher.assign([], [units], 0, 7) == []
    assert dispatcher.writer_at(1, kind) is None


def test_long_jobs_of_a_writer_that_died_are_given_to_the_next_one_aside() -> None:
    dispatcher = make()
    dispatcher.submit(job(dispatcher, 0, "sweep"))
    dispatcher.assign([1], [], 0, 7)
    back, _ = dispatcher.writer_lost(7)
    assert [task.job.kind for task in back] == ["sweep"]
    assert dispatcher.has_long
    assert dispatcher.assign([1, 2], [], 0) == []
    assert [lease.writer for lease in dispatcher.assign([1, 2], [], 0, 8)] == [8]


def test_a_long_job_that_is_tried_again_waits_its_time() -> None:
    dispatcher = make()
    dispatcher.submit(job(dispatcher, 0, "sweep"))
    [lease] = dispatcher.assign([], [], 0, 7)
    task = dispatcher.finish(lease.task.job.id, 0)
    assert task is not None
    assert dispatcher.retry(task, 0)
    assert dispatcher.has_long
    assert dispatcher.assign([], [], 1, 7) == []
    assert len(dispatcher.assign([], [], RETRY_DELAYS_NS[0], 7)) == 1
