"""The back of a writer: which jobs it commits together, and that its answers keep the order of the jobs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, cast

import pytest

from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import Leftovers
from omewd.protocol.jobs.job import Result
from omewd.protocol.messages import receive
from omewd.store.tools import Tools
from omewd.writer import back
from omewd.writer.back import Back
from omewd.writer.write_units import UnitsInFlight


class Units(UnitsInFlight):
    """Units whose chunks are written once they are told to be."""

    def __init__(self, *, written: bool = True) -> None:
        self.written = threading.Event()
        if written:
            self.written.set()

    @property
    def is_written(self) -> bool:
        return self.written.is_set()

    def settle(self) -> None:
        assert self.written.wait(30)


class Desk:
    """A back, the daemon's end of its channel, and the groups that it has committed. ``fails``: with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channel, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(30)
        self.groups: list[list[UnitsInFlight]] = []
        self.fails: dict[int, Exception] = {}
        monkeypatch.setattr(back, "commit_units", self._commit)
        self.back = Back(self.theirs, cast(Tools, None))

    def _commit(self, jobs: Sequence[UnitsInFlight], _: Tools) -> list[Result | Exception]:
        self.groups.append(list(jobs))
        return [self.fails.get(id(job), Result()) for job in jobs]

    def hold(self) -> Callable[[], None]:
        """Keep the back from what comes next; returns what lets it go."""
        go = threading.Event()
        self.back.call(lambda: cast(None, go.wait(30)))
        return go.set

    def close(self) -> None:
        self.channel.close()
        self.theirs.close()

    def answers(self, count: int) -> list[dict[str, Any]]:
        return [message for message, _ in filter(None, (receive(self.channel) for _ in range(count)))]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk(monkeypatch)
    with closing(desk):
        yield desk
        desk.back.end()


def test_jobs_that_are_written_are_committed_together_up_to_one_that_is_not(desk: Desk) -> None:
    first, second, late, last = Units(), Units(), Units(written=False), Units()
    go = desk.hold()
    for lease, units in enumerate((first, second, late, last)):
        desk.back.take(lease, units)
    go()
    assert [answer["done"] for answer in desk.answers(2)] == [0, 1]
    late.written.set()
    assert [answer["done"] for answer in desk.answers(2)] == [2, 3]
    assert desk.groups == [[first, second], [late, last]]


def test_the_first_job_is_waited_for_before_others_are_looked_at(desk: Desk) -> None:
    first, second = Units(written=False), Units(written=False)
    desk.back.take(1, first)
    desk.back.take(2, second)
    second.written.set()
    first.written.set()
    assert [answer["done"] for answer in desk.answers(2)] == [1, 2]
    assert desk.groups == [[first, second]]


def test_other_jobs_come_after_the_ones_before_them_and_before_those_after_them(desk: Desk) -> None:
    order: list[str] = []

    def create() -> Leftovers:
        order.append(f"created after {len(desk.groups)}")
        return Leftovers(True)

    go = desk.hold()
    desk.back.take(1, Units())
    desk.back.take(2, create)
    desk.back.call(lambda: order.append("closed"))
    desk.back.take(3, Units())
    go()
    answers = desk.answers(3)
    assert [answer["done"] for answer in answers] == [1, 2, 3]
    assert answers[1]["result"] == {"leftovers": True}
    assert order == ["created after 1", "closed"]
    assert [len(group) for group in desk.groups] == [1, 1]


def test_an_error_is_the_answer_to_its_own_job(desk: Desk) -> None:
    first, second, third = Units(), Units(), Units()
    desk.fails[id(second)] = OSError(28, "No space left on device")

    def fail() -> Result:
        raise OmewdError("bad_spec", "no")

    go = desk.hold()
    for lease, units in enumerate((first, second, third)):
        desk.back.take(lease, units)
    desk.back.take(3, fail)
    desk.back.take(4, lambda: cast(Result, 1 // 0))
    go()
    told = [answer.get("error", {}).get("code") for answer in desk.answers(5)]
    assert told == [None, "disk_full", None, "bad_spec", "backend_error"]


def test_a_daemon_that_is_gone_ends_the_back_and_streams_are_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, closed = Desk(monkeypatch), threading.Event()
    go = desk.hold()
    desk.channel.close()
    desk.back.take(1, Units())
    desk.back.take(2, Units(written=False))
    desk.back.call(closed.set)
    go()
    with closing(desk), pytest.raises(BrokenPipeError):
        desk.back.end()
    assert closed.is_set()
    assert len(desk.groups) == 1
