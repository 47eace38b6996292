"""What a turn of the daemon's loop costs, as a count of calls: what has happened, and not what is open or how long."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from omewd.daemon.streams import producers
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.transitions import Action, State
from omewd.errors import OmewdError
from tests.unit.daemon.streams.desk import desk, starting

LATE = 60_000_000


def calls(act: Callable[[], object]) -> int:
    """How many functions are called, those in C included."""
    count = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # it would call whatever other tests have left to be finalized
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def calls_of_a_frame(sources: int, frames: int) -> int:
    with desk(sources, frames) as it:
        return calls(lambda: it.frame(sources - 1))


def test_a_frame_costs_the_same_beside_63_idle_sources() -> None:
    assert calls_of_a_frame(64, 1000) == calls_of_a_frame(1, 1000)


def test_a_frame_costs_the_same_after_60_million() -> None:
    assert calls_of_a_frame(2, LATE + 1) == calls_of_a_frame(2, 1001)


@pytest.mark.parametrize("sources", [1, 64])
def test_a_turn_in_which_nothing_happens_looks_at_no_source(sources: int) -> None:
    with desk(sources, LATE) as it:
        for source in it.stream.sources:
            source.plan = source.ring = cast(Any, None)  # it would be an error to use them
        it.rounds.next_ns = 1
        assert calls(it.turn) < 40


def test_a_round_looks_at_three_words_of_each_ring() -> None:
    with desk(64, LATE) as it:
        it.rounds.soon()
        assert calls(lambda: it.rounds.go(0)) < 64 * 12
        assert it.rounds.next_ns == 10**9


def test_a_round_finds_a_doorbell_that_was_lost() -> None:
    with desk(3, 1000) as it:
        it.producers[2].publish(1, 1, b"")
        it.turn()
        assert not it.writer.jobs
        it.rounds.soon()
        it.turn()
        assert it.writer.jobs
        assert it.rounds.next_ns < 10**8, "the next one may get lost, too"


def test_a_source_that_ends_is_no_matter_of_the_others() -> None:
    with desk(64, 1000) as it:
        rung: list[int] = []
        it.stream.rings = [
            cast(Any, SimpleNamespace(ring_producer=lambda number=number: rung.append(number))) for number in range(64)
        ]
        it.lifecycle.stop(it.stream, "the producer closed the stream", 0, it.stream.sources[5])
        assert rung == [5]
        assert it.streams.agenda.take(0) == {1: {5}}


# -- memory ----------------------------------------------------------------------------------------


class Allocations:
    """Admission as far as it allocates. ``steps``: the streams that got a step of memory, by id."""

    def __init__(self, needed: int = 3) -> None:
        self.needed = needed
        self.steps: list[int] = []
        self.is_full = False

    def allocate(self, stream: Stream) -> bool:
        if self.is_full:
            raise OmewdError("no_shared_memory", "0 MiB are free")
        self.steps.append(stream.id)
        return self.steps.count(stream.id) == self.needed


def test_a_turn_has_one_step_of_memory_however_many_streams_start() -> None:
    with desk(1, 1000) as it:
        it.lifecycle._admission = admission = cast(Any, Allocations())
        for number in (2, 3):
            starting(it, number)
        for turn in range(1, 6):
            it.turn()
            assert len(admission.steps) == turn
            assert it.streams.agenda.has_more
        it.turn()
        assert admission.steps == [2, 2, 2, 3, 3, 3]


def test_a_start_waits_for_memory_that_an_ended_stream_is_giving_back() -> None:
    with desk(1, 1000) as it:
        it.lifecycle._admission = admission = cast(Any, Allocations(1))
        stream = starting(it, 2)
        admission.is_full, it.lifecycle._given_back_ns = True, 10**9
        it.turn()
        assert (stream.state, stream.error) == (State.STARTING, None)
        assert not it.streams.agenda.has_more
        assert it.streams.agenda.next_ns is not None
        admission.is_full = False
        it.lifecycle.step(it.streams.agenda.next_ns)
        assert admission.steps == [2]
        assert not stream.wants_memory


def test_a_start_without_room_fails_if_no_memory_is_being_given_back() -> None:
    with desk(1, 1000) as it:
        it.lifecycle._admission = admission = cast(Any, Allocations(1))
        stream = starting(it, 2)
        admission.is_full, it.lifecycle._given_back_ns = True, -1
        it.turn()
        assert stream.error is not None
        assert stream.error.code == "no_shared_memory"


def test_the_writers_let_go_of_a_ring_after_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Because the last process gives the memory back, which takes seconds for a large ring."""
    with desk(1, 1000) as it:
        order: list[str] = []
        monkeypatch.setattr(it.streams, "release", lambda _: order.append("daemon"))
        monkeypatch.setattr(it.delivery, "close", lambda _: order.append("writers"))
        monkeypatch.setattr(producers, "let_go", lambda _: order.append("bell"))
        it.lifecycle._settle(it.stream, 0)
        assert order == ["bell", "daemon", "writers"]


def test_a_start_does_not_wait_for_writers_that_map_the_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(1, 1000) as it:
        order: list[str] = []
        monkeypatch.setattr(it.delivery, "submit", lambda *_: order.append("submit"))
        monkeypatch.setattr(it.delivery, "give_jobs", lambda _: order.append("give"))
        monkeypatch.setattr(it.delivery, "introduce", lambda _: order.append("introduce"))
        monkeypatch.setattr(it.lifecycle._replies, "started", lambda _: order.append("answer"))
        it.lifecycle.do(it.stream, (Action.MAKE_DATASET, Action.INTRODUCE, Action.ANSWER_STARTER), 0)
        assert order == ["submit", "give", "introduce", "answer", "introduce"]
