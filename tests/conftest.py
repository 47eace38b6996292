"""How the suite runs, and that every test leaves no process and no shared memory behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import scheduling
from tests.support.daemons import DaemonProcess, daemon
from tests.support.processes import children
from tests.support.shared_memory import shared_memory_names, started_instances

# Commands that the tests start write into pipes as users' do, also where this is set.
os.environ.pop("PYTHONUNBUFFERED", None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    captures_output = config.getoption("capture") != "no"
    return scheduling.worker_count(config.args, captures_output=captures_output, cores=len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=scheduling.order)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    scheduling.skip_without_root(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside the wrapper that counts the time of a test
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if not hasattr(item.config, "workerinput"):
        return (yield)
    folder = item.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]
    with scheduling.turn(folder, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    processes = children()
    yield
    deadline = time.monotonic() + 30
    while children() - processes and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not children() - processes, "processes are left"
    left = shared_memory_names(*started_instances)
    started_instances.difference_update({one for one in started_instances if any(n.startswith(one) for n in left)})
    assert not left, "shared memory is left"  # said once: other tests are not to blame


@pytest.fixture
def omewd_daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon with two writers and 2 GiB."""
    with daemon(tmp_path, "--memory", "2GiB", "--writers", "2") as process:
        yield process
