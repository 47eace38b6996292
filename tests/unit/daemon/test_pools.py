"""Children of the daemon: started, given jobs, replaced, given up. Adders stand in for writers."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from omewd.daemon.jobs.delivery import Delivery
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.routing import Router
from omewd.daemon.jobs.tasks import Task
from omewd.daemon.loop import Loop
from omewd.daemon.processes import pool as module
from omewd.daemon.processes.child import Place, start
from omewd.daemon.processes.fence import children_lock, fence
from omewd.daemon.processes.pools import Pools
from omewd.daemon.processes.roles import Role, roles
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.protocol.jobs.job import CLEANER, COPIER, MAINTAINER, WRITER, Job, Result
from tests.support.places import REPOSITORY
from tests.unit.daemon.adder.jobs import ADDER, Add, Sum

ADDERS = Role(
    ADDER,
    "tests.unit.daemon.adder",
    on_demand=True,
    environment={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
)


def place(folder: Path) -> Place:
    return Place(folder / "scratch", folder / "lock", start_timeout_s=30)


def wait_for(done: Callable[[], bool], turn: Callable[[], None]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        turn()


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"], ids=["dies at once", "can't be executed"])
def test_writers_that_never_get_ready_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(module, "FAILED_START_PAUSE_NS", 100_000)
    loop = Loop()
    deaths: list[int] = []
    pools = Pools(loop, roles(2, 4), place(tmp_path))
    pools.start(lambda *_: None, lambda child: deaths.append(child.id))
    pool = pools.of(WRITER)

    def turn() -> None:
        loop.wait(0.005)
        pools.tend({}, 0)

    wait_for(lambda: pools.broken == WRITER, turn)
    assert pools.awaited is pool
    assert module.MAX_FAILED_STARTS <= pool.failed_starts <= module.MAX_FAILED_STARTS + 1
    pool.fill()
    assert len(pool.children) <= 1
    pools.close()
    loop.close()


def test_a_role_on_demand_that_can_not_be_started_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(module, "FAILED_START_PAUSE_NS", 1000)
    loop = Loop()
    pools = Pools(loop, [ADDERS], place(tmp_path))
    pools.start(lambda *_: None, lambda *_: None)
    wait_for(lambda: pools.of(ADDER).failed_starts > 2 * module.MAX_FAILED_STARTS, lambda: pools.tend({ADDER: 1}, 0))
    assert (pools.broken, pools.awaited) == (None, None)
    pools.close()
    loop.close()


def test_writers_share_the_cores_and_each_role_on_demand_takes_one() -> None:
    writer, *on_demand = roles(writers=3, cores=8)
    assert (writer.name, writer.children, writer.threads, writer.on_demand) == (WRITER, 3, 2, False)
    assert [(role.name, role.children, role.threads, role.on_demand) for role in on_demand] == [
        (MAINTAINER, 1, 1, True),
        (CLEANER, 1, 1, True),
        (COPIER, 4, 1, True),
    ]
    assert roles(writers=4, cores=2)[0].threads == 1


def test_libraries_of_children_start_no_threads_beyond_their_share(tmp_path: Path) -> None:
    child = start(replace(ADDERS, threads=3), 1, place(tmp_path))
    try:
        environment = Path(f"/proc/{child.process.pid}/environ")
        while not (text := environment.read_text()):  # the kernel is still setting the new program up
            assert child.process.poll() is None
        shares = dict(line.split("=", 1) for line in text.split("\0") if "_" in line)
        assert [shares[f"{library}_NUM_THREADS"] for library in ("OMP", "RAYON", "OPENBLAS")] == ["3", "3", "1"]
    finally:
        child.process.kill()
        child.process.wait()
        child.close()


# -- a role that is new ----------------------------------------------------------------------------


class Asker:
    """A daemon's parts around a role of its own, and the owner of what is asked."""

    waits_for_space = False

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.pools = Pools(self.loop, [ADDERS], place(folder))
        self.dispatcher = Dispatcher(30, self.pools.roles)
        self.delivery = Delivery(self.dispatcher, self.pools, cast(Streams, SimpleNamespace(open={})))
        self.put_back: list[str] = []
        self.ends: list[Result | OmewdError] = []
        router = Router(self.dispatcher, self.delivery.give_jobs)
        self.pools.start(router.child_said, router.child_died)

    def job_done(self, _task: Task, result: Result, _now_ns: int) -> None:
        self.ends.append(result)

    def job_put_back(self, _task: Task, error: OmewdError, _now_ns: int) -> None:
        self.put_back.append(error.message)

    def job_failed(self, _task: Task, error: OmewdError, _now_ns: int) -> None:
        self.ends.append(error)

    def turn(self) -> None:
        self.loop.wait(0.01)
        self.pools.tend(self.dispatcher.wanted(), time.monotonic_ns())
        self.delivery.give_jobs(time.monotonic_ns())

    def ask(self, job: Job) -> Result | OmewdError:
        self.dispatcher.submit(job, self)
        wait_for(lambda: bool(self.ends), self.turn)
        return self.ends.pop()


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    asker = Asker(tmp_path)
    yield asker
    asker.pools.close()
    asker.loop.close()


def test_a_row_and_a_folder_make_a_role(asker: Asker) -> None:
    assert list(asker.pools) == []
    result = asker.ask(Add((2, 3)))
    assert isinstance(result, Sum)
    assert result.total == 5
    assert asker.pools.of(ADDER).facts == {"adds": True}
    refused = asker.ask(Add(()))
    assert isinstance(refused, OmewdError)
    assert refused.code == "bad_spec"
    wait_for(lambda: not asker.pools.of(ADDER).children, asker.turn)  # there is nothing to do for one any more
    with contextlib.suppress(ProcessLookupError):
        os.kill(result.pid, 0)
        pytest.fail("the adder is still there")


def test_nothing_is_kept_of_children_that_have_left(asker: Asker) -> None:
    for _ in range(2):
        asker.ask(Add((2, 3)))
        wait_for(lambda: not asker.pools.of(ADDER).children, asker.turn)
    assert asker.dispatcher._queues == {}


def test_the_job_of_a_child_that_died_is_done_by_the_next_one(asker: Asker, tmp_path: Path) -> None:
    result = asker.ask(Add((1, 2), dies_without=str(tmp_path / "died")))
    assert isinstance(result, Sum)
    assert result.total == 3
    assert asker.put_back == ["the adder process was lost each time (it died)"]


def test_a_job_that_is_not_known_fails_and_its_child_lives_on(asker: Asker) -> None:
    class Subtract(Add):
        kind = "subtract"

    before = asker.ask(Add((1,)))
    refused = asker.ask(Subtract((1,)))
    assert isinstance(refused, OmewdError)
    assert "'subtract' is not a known kind of job" in refused.message
    after = asker.ask(Add((1,)))
    assert isinstance(before, Sum)
    assert isinstance(after, Sum)
    assert asker.put_back == []


def test_the_fence_ends_children_of_any_role(tmp_path: Path) -> None:
    instance = f"omewd-fence-{os.getpid()}"
    scratch = Path(f"/dev/shm/{instance}-scratch-x")
    child = start(ADDERS, 1, Place(scratch, children_lock(tmp_path), 30))
    assert child.process.poll() is None
    fence(tmp_path, instance)
    assert child.process.wait(10) == -9
    child.close()


def test_a_callback_that_fails_does_not_end_the_loop() -> None:
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


def test_an_upgrade_on_disk_ends_the_daemon_once_it_can_not_go_on(tmp_path: Path) -> None:
    """At once without writers. A cleaner's work, such as a sweep, waits for the end of streams."""
    loop = Loop()
    pools = Pools(loop, roles(1, 1), place(tmp_path))
    writers, cleaners = pools.of(WRITER), pools.of(CLEANER)
    cleaners._outdated = True
    assert pools.outdated == {CLEANER}
    assert not pools.must_restart(at_work=False)
    cleaners.want(True)
    assert not pools.must_restart(at_work=True)
    assert pools.must_restart(at_work=False)
    writers._outdated = True
    assert pools.outdated == {WRITER, CLEANER}
    assert pools.must_restart(at_work=True)
    loop.close()
