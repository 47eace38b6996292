"""Work that the loop does not wait for: it goes on in order, beside the loop, which hears of each end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from omewd.daemon.background import Background
from omewd.daemon.loop import Loop
from omewd.daemon.processes.memory_return import MemoryReturn
from omewd.daemon.streams.source_ring import SourceRing
from omewd.ring.layout import PAGE
from tests.unit.rings import make_geometry


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_what_comes_meanwhile_is_done_together_and_in_order(loop: Loop) -> None:
    batches: list[list[int]] = []
    gate, begun = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[None]:
        batches.append(list(items))
        begun.set()
        gate.wait()
        return [None] * len(items)

    background, told = Background(loop, "test", work), list[int]()
    background.add(0, lambda _: told.append(0))
    begun.wait()
    for number in (1, 2, 3):
        background.add(number, lambda _, number=number: told.append(number))  # type: ignore[misc]
    loop.wait(0)  # the loop goes on
    assert told == []
    gate.set()
    background.finish()
    loop.wait(0)
    assert (batches, told) == ([[0], [1, 2, 3]], [0, 1, 2, 3])
    background.close()


def test_an_error_of_the_work_is_told_to_all_and_the_thread_goes_on(loop: Loop) -> None:
    def work(items: Sequence[int]) -> list[None]:
        if 1 in items:
            raise ValueError("one")
        return [None] * len(items)

    background, told = Background(loop, "test", work), list[str]()
    for number in (1, 2):
        background.add(number, lambda error: told.append(repr(error)))
        background.finish()
    loop.wait(0)
    assert told == ["ValueError('one')", "None"]
    background.close()


def test_a_callback_that_fails_harms_no_other(loop: Loop) -> None:
    background, told = Background[int](loop, "test", lambda items: [None] * len(items)), list[int]()

    def fail(_: object) -> None:
        raise ValueError("a bug")

    background.add(1, fail)
    background.add(2, lambda _: told.append(2))
    background.finish()
    loop.wait(0)
    assert told == [2]
    background.close()


def test_without_work_there_is_no_thread(loop: Loop) -> None:
    before = threading.active_count()
    Background[int](loop, "test", lambda items: [None] * len(items)).close()
    assert threading.active_count() == before


def ring_with_memory(name: str) -> SourceRing:
    geometry = make_geometry(50)
    ring = SourceRing.create(name, geometry)
    while ring.allocate(geometry) is None:
        pass
    return ring


@pytest.mark.parametrize("is_open", [True, False])
def test_the_memory_of_a_ring_is_given_back_by_the_thread(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """Whoever closes the last descriptor of a removed file gives back its memory."""
    name = f"/omewd-test-{os.getpid()}-return"
    ring = ring_with_memory(name)
    inode, closed, close = os.fstat(ring.descriptor).st_ino, list[tuple[str, int]](), os.close

    def note(descriptor: int) -> None:
        info = os.fstat(descriptor)
        if info.st_ino == inode and info.st_blocks * 512 >= PAGE:
            closed.append((threading.current_thread().name, info.st_nlink))
        close(descriptor)

    memory = MemoryReturn(loop)
    if is_open:
        monkeypatch.setattr(os, "close", note)
        memory.close_last([ring.remove()])
    else:
        ring.close()
        monkeypatch.setattr(os, "close", note)
        memory.remove([name, f"{name}-gone"])
    memory.close()
    assert closed[-1] == ("memory", 0)
    assert not Path("/dev/shm", name[1:]).exists()
