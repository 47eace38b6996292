"""Calls that are made at once: by which threads, and what comes of their errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from omewd.store.sinks.base import at_once


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_the_caller_makes_one_of_the_calls_itself(threads: ThreadPoolExecutor, count: int) -> None:
    callers: list[threading.Thread] = []
    together = threading.Barrier(max(count, 1))

    def call() -> None:
        together.wait(60)  # all are being made at the same time
        callers.append(threading.current_thread())

    assert at_once(dict.fromkeys(range(count), call), threads) == {}
    assert len(callers) == count
    assert callers.count(threading.current_thread()) == min(count, 1)


def test_each_error_is_returned_under_its_key(threads: ThreadPoolExecutor) -> None:
    def fail(error: Exception) -> None:
        raise error

    errors = {key: OSError(key) for key in range(3)}
    calls = {key: partial(fail, error) for key, error in errors.items()}
    assert at_once({"good": lambda: None} | calls, threads) == errors
    assert at_once(calls | {"good": lambda: None}, threads) == errors


def test_what_ends_the_caller_is_raised_once_no_call_is_being_made(threads: ThreadPoolExecutor) -> None:
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait(60)
        done.set()

    def own() -> None:
        begun.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        at_once({"other": other, "own": own}, threads)
    assert done.is_set()
