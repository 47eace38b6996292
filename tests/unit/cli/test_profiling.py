"""Profiles of threads: every call is there, and whose time it was."""

from __future__ import annotations

import pstats
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from omewd.process.profiling import VARIABLE, profiled
from omewd.process.thread_profile import ThreadProfile


def leaf() -> None:
    time.sleep(0.001)


def branch() -> None:
    leaf()
    leaf()


def fall(depth: int) -> None:
    if depth:
        fall(depth - 1)


def failing() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        int("x")


def numbers() -> Iterator[int]:
    yield from range(3)


def of(stats: Any, name: str) -> Any:
    """(primitive calls, calls, own, cumulative, callers) of a function."""
    [found] = [entry for (_, _, known), entry in stats.items() if known == name]
    return found


def profile(work: Any, *arguments: Any) -> Any:
    measured = ThreadProfile()
    sys.setprofile(measured)
    try:
        work(*arguments)
    finally:
        sys.setprofile(None)
    measured.create_stats()
    return measured.stats


def test_time_is_that_of_the_function_which_spent_it() -> None:
    stats = profile(branch)
    primitive, calls, own_s, cumulative_s, callers = of(stats, "leaf")
    assert (primitive, calls) == (2, 2)
    slept = of(stats, "<built-in method time.sleep>")
    assert slept[1] == 2
    assert 0.002 <= slept[2] <= cumulative_s
    assert own_s < slept[2]
    [(caller, edge)] = callers.items()
    assert (caller[2], edge[0]) == ("branch", 2)
    assert of(stats, "branch")[3] >= cumulative_s


def test_recursion_is_counted_once_in_the_cumulative_time() -> None:
    primitive, calls, own_s, cumulative_s, _ = of(profile(fall, 10), "fall")
    assert (primitive, calls) == (1, 11)
    assert own_s == pytest.approx(cumulative_s)


def test_what_is_left_by_an_exception_or_a_yield_is_left() -> None:
    stats = profile(failing)
    assert of(stats, "failing")[:2] == (1, 1)
    stats = profile(lambda: list(numbers()))
    assert of(stats, "numbers")[:2] == (4, 4)  # each time it is gone on with, as cProfile counts


def test_every_call_of_every_thread_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    together = threading.Barrier(4)

    def work() -> None:
        together.wait(30)
        for _ in range(25):
            branch()

    with profiled("writer", threads=True):
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(work) for _ in range(4)]:
                future.result()
        branch()
    assert sys.getprofile() is None
    [path] = tmp_path.iterdir()
    stats = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    assert of(stats, "branch")[:2] == (101, 101)
    primitive, calls, _, cumulative_s, callers = of(stats, "leaf")
    assert (primitive, calls) == (202, 202)
    assert cumulative_s >= 0.202
    assert [edge[0] for edge in callers.values()] == [202]


def test_a_thread_that_goes_on_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        leaf()
        begun.set()
        while not end.is_set():
            leaf()

    thread = threading.Thread(target=work)
    with profiled("writer", threads=True):
        thread.start()
        assert begun.wait(30)
    end.set()
    thread.join()
    [path] = tmp_path.iterdir()
    assert of(pstats.Stats(str(path)).stats, "leaf")[1] > 0  # type: ignore[attr-defined]


def test_one_thread_is_left_to_cprofile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with profiled("daemon"):
        branch()
    [path] = tmp_path.iterdir()
    assert path.name.startswith("daemon-")
    assert of(pstats.Stats(str(path)).stats, "leaf")[:2] == (2, 2)  # type: ignore[attr-defined]
