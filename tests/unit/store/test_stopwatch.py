"""The stages of a job add up to its time, also where they nest and where threads and jobs overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from omewd.store.stopwatch import Account, Stopwatch


class Clock:
    """Time that passes only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)


def test_a_stage_within_another_stops_the_outer_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch, job = Clock(monkeypatch), Stopwatch(), Account()
    with watch.charging(job), watch.stage("write"):
        clock.now += 5
        with watch.stage("encode"):
            clock.now += 7
            with watch.stage("read"):
                clock.now += 11
        with watch.stage("fsync"):
            clock.now += 13
        clock.now += 17
    assert job.stages() == {"write": 22, "encode": 7, "read": 11, "fsync": 13}


def test_making_items_is_timed_and_what_is_done_with_them_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch, job = Clock(monkeypatch), Stopwatch(), Account()

    def items() -> Iterator[int]:
        for item in range(3):
            clock.now += 2
            yield item
        clock.now += 1

    with watch.charging(job):
        for _ in watch.timed("encode", items()):
            clock.now += 100
    assert job.stages() == {"encode": 7}


def test_an_error_in_a_stage_is_charged_and_leaves_the_stack_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch, job = Clock(monkeypatch), Stopwatch(), Account()
    with watch.charging(job), watch.stage("write"):
        with pytest.raises(OSError, match="full"), watch.stage("fsync"):
            clock.now += 3
            raise OSError("full")
        clock.now += 4
    assert job.stages() == {"fsync": 3, "write": 4}


def test_a_thread_charges_the_account_that_it_works_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a block for another one, and not at all outside of every block."""
    clock, watch, outer, inner = Clock(monkeypatch), Stopwatch(), Account(), Account()
    with watch.charging(outer), watch.stage("write"):
        clock.now += 1
        with watch.charging(inner), watch.stage("write"):
            clock.now += 20
        clock.now += 300
    with watch.stage("write"):
        clock.now += 4000
    assert inner.stages() == {"write": 20}
    assert outer.stages() == {"write": 321}


def test_the_tasks_of_a_pool_share_the_rest_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times three of write, and ten times one of fsync; the thread itself took 20 of 100."""
    clock, watch, job = Clock(monkeypatch), Stopwatch(), Account()

    def work() -> None:
        with watch.stage("write"):
            clock.now += 3
            with watch.stage("fsync"):
                clock.now += 1

    with ThreadPoolExecutor(1) as pool, watch.charging(job):
        with watch.stage("encode"):
            clock.now += 20
        for _ in range(10):
            pool.submit(watch.carried(work)).result()
    assert job.stages(100) == {"encode": 20, "write": 60, "fsync": 20}


def test_each_task_works_for_the_job_that_has_submitted_it() -> None:
    """Two jobs have tasks in one pool at once; a task submits another one, which counts as the job's, too."""
    watch, both = Stopwatch(), threading.Barrier(2)
    jobs = {"read": Account(), "write": Account()}

    def more(stage: str) -> None:
        with watch.stage(f"{stage} more"):
            time.sleep(0.001)

    def work(stage: str) -> None:
        both.wait(30)
        with watch.stage(stage):
            time.sleep(0.001)
        futures.append(pool.submit(watch.carried(more), stage))

    with ThreadPoolExecutor(2) as pool:
        futures = []
        for stage, job in jobs.items():
            with watch.charging(job):
                futures.append(pool.submit(watch.carried(work), stage))
        for future in futures:
            future.result()
        for future in futures[2:]:
            future.result()
    for stage, job in jobs.items():
        assert set(job.stages(10**9)) == {stage, f"{stage} more"}
        assert sum(job.stages(10**9).values()) == pytest.approx(10**9, abs=2)


def test_a_job_that_waits_behind_another_is_charged_from_the_end_of_its_last_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, watch, job = Clock(monkeypatch), Stopwatch(), Account()

    def work() -> None:
        with watch.stage("write"):
            clock.now += 30

    with ThreadPoolExecutor(1) as pool, watch.charging(job):
        pool.submit(watch.carried(work)).result()
    clock.now += 50
    job.wait_in_line("fsync", 10, clock.now)
    assert job.stages(80) == {"fsync": 50, "write": 30}
