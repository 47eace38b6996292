"""Every test leaves no process and no shared memory behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import DaemonProcess, daemon
from tests.support.processes import children
from tests.support.shared_memory import shared_memory_names, started_instances

# Commands that the tests start write into pipes as users' do, also where this is set.
os.environ.pop("PYTHONUNBUFFERED", None)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    processes = children()
    yield
    deadline = time.monotonic() + 30
    while children() - processes and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not children() - processes, "processes are left"
    assert not shared_memory_names(*started_instances), "shared memory is left"


@pytest.fixture
def omewd_daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon with two writers and 2 GiB."""
    with daemon(tmp_path, "--memory", "2GiB", "--writers", "2") as process:
        yield process
