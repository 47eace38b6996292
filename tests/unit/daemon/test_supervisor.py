"""The supervisor, when writers can't be started. Programs that exit at once stand in for writers."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from omewd.daemon.loop import Loop
from omewd.daemon.processes import supervisor as module
from omewd.daemon.processes.supervisor import Supervisor


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"], ids=["dies at once", "can't be executed"])
def test_writers_that_never_get_ready_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(module, "FAILED_START_PAUSE_NS", 100_000)
    loop = Loop()
    deaths: list[int] = []
    pool = Supervisor(loop, writers=2, scratch=tmp_path / "scratch", lock=tmp_path / "lock", start_timeout_s=10)
    pool.start(lambda *_: None, lambda writer: deaths.append(writer.id))
    deadline = time.monotonic() + 30
    while not pool.broken and time.monotonic() < deadline:
        loop.wait(0.005)
        pool.fill()
    assert pool.broken
    assert module.MAX_FAILED_STARTS <= pool.failed_starts <= module.MAX_FAILED_STARTS + 1
    pool.fill()
    assert len(pool.writers) <= 1
    pool.close()
    loop.close()


def test_a_callback_that_fails_does_not_end_the_loop() -> None:
    import os

    loop = Loop()
    doorbell = os.eventfd(1, os.EFD_NONBLOCK)
    calls = []

    def callback() -> None:
        calls.append(os.eventfd_read(doorbell))
        raise ValueError("a bug")

    loop.watch(doorbell, callback)
    loop.wait(0)
    assert calls == [1]
    loop.close()
    os.close(doorbell)
