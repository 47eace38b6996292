"""The stages of a job add up to its time, also where they nest and where threads overlap."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from omewd.store.stopwatch import Stopwatch


class Clock:
    """Time that passes only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)


def test_a_stage_within_another_stops_the_outer_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch = Clock(monkeypatch), Stopwatch()
    with watch.stage("write"):
        clock.now += 5
        with watch.stage("encode"):
            clock.now += 7
            with watch.stage("read"):
                clock.now += 11
        with watch.stage("fsync"):
            clock.now += 13
        clock.now += 17
    assert watch.take() == {"write": 22, "encode": 7, "read": 11, "fsync": 13}
    assert watch.take() == {}


def test_making_items_is_timed_and_what_is_done_with_them_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch = Clock(monkeypatch), Stopwatch()

    def items() -> Iterator[int]:
        for item in range(3):
            clock.now += 2
            yield item
        clock.now += 1

    for _ in watch.timed("encode", items()):
        clock.now += 100
    assert watch.take() == {"encode": 7}


def test_an_error_in_a_stage_is_charged_and_leaves_the_stack_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watch = Clock(monkeypatch), Stopwatch()
    with watch.stage("write"):
        with pytest.raises(OSError, match="full"), watch.stage("fsync"):
            clock.now += 3
            raise OSError("full")
        clock.now += 4
    assert watch.take() == {"fsync": 3, "write": 4}


def test_the_stages_of_a_pool_share_out_the_time_that_passed() -> None:
    watch = Stopwatch()

    def work() -> None:
        with watch.stage("write"):
            time.sleep(0.01)
            with watch.stage("fsync"):
                time.sleep(0.03)

    began = time.monotonic_ns()
    with ThreadPoolExecutor(8) as pool, watch.pooled():
        with watch.stage("encode"):
            time.sleep(0.02)
        for future in [pool.submit(work) for _ in range(16)]:
            future.result()
    passed = time.monotonic_ns() - began
    spent = watch.take()
    assert set(spent) == {"encode", "write", "fsync"}
    assert sum(spent.values()) <= passed
    assert spent["encode"] >= 20_000_000
    assert spent["write"] + spent["fsync"] >= 75_000_000  # two rounds of 40 ms each, not sixteen
    assert spent["fsync"] > spent["write"]


def test_what_threads_do_outside_a_pool_block_is_not_counted() -> None:
    watch = Stopwatch()

    def work() -> None:
        with watch.stage("fsync"):
            time.sleep(0.001)

    with watch.stage("rename"), ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert set(watch.take()) == {"rename"}
