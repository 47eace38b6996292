"""Tasks that belong together, the buffers that they hand on, and calls that are made at once."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from omewd.store.buffers import BufferPool
from omewd.store.sinks.allowance import Allowance
from omewd.store.sinks.base import at_once
from omewd.store.sinks.tasks import Tasks
from omewd.store.stopwatch import Stopwatch


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_tasks_of_tasks_are_waited_for(pool: ThreadPoolExecutor) -> None:
    tasks, done, go = Tasks(Stopwatch()), [], threading.Event()

    def second() -> None:
        go.wait(30)
        done.append("second")

    def first() -> None:
        tasks.submit(pool, second)
        done.append("first")

    tasks.submit(pool, first)
    before = tasks.are_done
    go.set()
    tasks.wait()
    assert (before, tasks.are_done) == (False, True)
    assert sorted(done) == ["first", "second"]


def test_the_first_error_is_raised_once_all_have_ended(pool: ThreadPoolExecutor) -> None:
    tasks, ended, go = Tasks(Stopwatch()), [], threading.Event()

    def fail() -> None:
        go.set()
        raise OSError("the disk")

    def end() -> None:
        go.wait(30)
        ended.append(1)

    tasks.submit(pool, fail)
    for _ in range(10):
        tasks.submit(pool, end)
    with pytest.raises(OSError, match="the disk"):
        tasks.wait()
    assert len(ended) == 10
    tasks.wait()


def test_an_error_keeps_nothing_alive(pool: ThreadPoolExecutor) -> None:
    class Held:
        pass

    def fail(_: Held) -> None:
        raise OSError("the disk")

    def run() -> weakref.ref[Held]:
        tasks, held = Tasks(Stopwatch()), Held()
        tasks.submit(pool, fail, held)
        with pytest.raises(OSError, match="the disk"):
            tasks.wait()
        return weakref.ref(held)

    gc.disable()
    try:
        alive = run()
        pool.submit(int).result()  # the thread lets go of its last task
        pool.submit(int).result()
        assert alive() is None
    finally:
        gc.enable()


def test_buffers_are_given_on_and_never_more_than_there_are() -> None:
    buffers = BufferPool(2, 5000)
    one, two = buffers.take(1), buffers.take(5000)
    assert one.size == two.size >= 5000
    taken = threading.Event()

    def take() -> None:
        buffers.give_back(buffers.take(9))
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.05)
    buffers.give_back(one)
    assert taken.wait(30)
    thread.join()
    assert buffers.take(2) is one
    buffers.give_back(two)
    large = buffers.take(100_000)
    assert large.size >= 100_000
    buffers.give_back(large)
    assert buffers.take(1) is two


def test_an_allowance_is_shared_and_does_not_stop_one_that_is_alone() -> None:
    allowance = Allowance(3)
    for has in range(5):
        allowance.take(has)
    taken = threading.Event()

    def take() -> None:
        allowance.take(0)
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    allowance.give_back(2)
    assert not taken.wait(0.05)
    allowance.give_back(1)
    assert taken.wait(30)
    thread.join()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_caller_makes_one_of_the_calls_itself(pool: ThreadPoolExecutor, count: int) -> None:
    callers: list[threading.Thread] = []
    together = threading.Barrier(max(count, 1))

    def call() -> None:
        together.wait(60)  # all are being made at the same time
        callers.append(threading.current_thread())

    assert at_once(dict.fromkeys(range(count), call), pool) == {}
    assert len(callers) == count
    assert callers.count(threading.current_thread()) == min(count, 1)


def test_each_error_is_returned_under_its_key(pool: ThreadPoolExecutor) -> None:
    def fail(error: Exception) -> None:
        raise error

    errors = {key: OSError(key) for key in range(2)}
    calls = {key: partial(fail, error) for key, error in errors.items()}
    assert at_once({"good": lambda: None} | calls, pool) == errors
    assert at_once(calls | {"good": lambda: None}, pool) == errors


def test_what_ends_the_caller_is_raised_once_no_call_is_being_made(pool: ThreadPoolExecutor) -> None:
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait(60)
        done.set()

    def own() -> None:
        begun.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_once({"other": other, "own": own}, pool)
    assert done.is_set()
