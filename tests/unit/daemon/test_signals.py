"""Signals as events of the loop, and what a running daemon takes from a new configuration."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from omewd.daemon.config import ServeConfig
from omewd.daemon.loop import Loop
from omewd.daemon.signals import DRAIN, RELOAD, STOP, Signals


@pytest.fixture
def handlers() -> Iterator[None]:
    """What the test process did at these signals before."""
    before = {number: signal.getsignal(number) for number in (*STOP, RELOAD, DRAIN)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_an_order_to_drain_is_seen_before_the_stop_that_came_with_it() -> None:
    loop, seen = Loop(), list[int]()
    signals = Signals(loop, seen.append)
    signal.pthread_sigmask(signal.SIG_BLOCK, [DRAIN, signal.SIGTERM])
    os.kill(os.getpid(), DRAIN)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [DRAIN, signal.SIGTERM])
    loop.wait(5)
    signals.close()
    loop.close()
    assert seen == [DRAIN, signal.SIGTERM]


def test_a_configuration_takes_what_may_change_and_names_the_rest(tmp_path: Path) -> None:
    config = ServeConfig(tmp_path / "socket", (tmp_path,), tmp_path / "state", memory_bytes=1 << 30, writers=2)
    new = replace(config, memory_bytes=2 << 30, data_roots=(tmp_path, Path("/data")), writers=3, group="users")
    done = config.take(new)
    assert (config.memory_bytes, config.data_roots) == (2 << 30, (tmp_path, Path("/data")))
    assert (config.writers, config.group) == (2, None)
    assert (set(done.taken), done.left) == ({"memory_bytes", "data_roots"}, ["writers", "group"])
    assert config.take(config).taken == {}
