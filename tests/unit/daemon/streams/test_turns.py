"""What a turn of the daemon's loop costs, as a count of calls: what has happened, and not what is open or how long."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.server import ControlServer
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.jobs.delivery import Delivery
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.processes.memory_return import MemoryReturn
from omewd.daemon.processes.pools import Pools
from omewd.daemon.processes.roles import roles
from omewd.daemon.state.journal import ACTIVE, STARTING, Journal
from omewd.daemon.streams import producers
from omewd.daemon.streams.admission import Admission
from omewd.daemon.streams.agenda import Agenda
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.rounds import Rounds
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.daemon.streams.transitions import Action, State
from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import UndoDataset
from omewd.protocol.jobs.frames import WriteUnits, Written
from omewd.protocol.jobs.job import WRITER, Result
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import FRONTIER, PUBLISHED, RELEASED
from omewd.ring.progress import Progress, write_progress
from omewd.ring.ring import ProducerRing
from tests.unit.cameras import dataset_at, spec_with_sources
from tests.unit.rings import make_geometry, open_segment

LATE = 60_000_000


class Writer:
    """Pools with one writer, which never gets full, and records its jobs."""

    def __init__(self) -> None:
        self.jobs: list[int] = []

    def ready(self) -> dict[str, list[int]]:
        return {WRITER: [1]}

    def of(self, _: str) -> Any:
        return SimpleNamespace(children={})

    def child(self, number: int | None) -> Any:
        return number and SimpleNamespace(id=1, learns_of=lambda _: False, takes_rings=lambda _: False)

    def tell(self, _: object, message: dict[str, Any], **__: bytes) -> None:
        self.jobs.append(message["lease"])


class Desk:
    """An active stream of sources that have had ``frames`` frames each, and what a turn uses."""

    def __init__(self, stack: contextlib.ExitStack, sources: int, frames: int) -> None:
        self.writer, agenda = Writer(), Agenda()
        self.dispatcher = Dispatcher(60, {role.name: role for role in roles(writers=1, cores=1)})
        datasets = Datasets(self.dispatcher, cast(Journal, None), cast(ControlServer, None), agenda)
        self.streams = Streams(cast(Journal, None), datasets, agenda, cast(MemoryReturn, None))
        self.delivery = Delivery(self.dispatcher, cast(Pools, self.writer), self.streams)
        replies = PendingReplies(cast(ControlServer, None))
        self.lifecycle = Lifecycle(self.streams, cast(Admission, None), self.delivery, replies, datasets)
        self.rounds = Rounds(self.streams, self.lifecycle.producer_lost)
        spec = spec_with_sources(f"t:inf:1:1000,v:{sources},y:2,x:3", [f"cam{n}" for n in range(sources)])
        segments = [stack.enter_context(open_segment(make_geometry(50))) for _ in range(sources)]
        self.stream = Stream.of(1, spec, "direct", make_geometry(50), dataset_at("s.ome.zarr"), started_ns=0)
        ring = SimpleNamespace(descriptor=9, producer="peer", ring_producer=lambda: None)
        self.stream.rings = [cast(Any, ring)] * sources
        self.producers = []
        rings = []
        for segment in segments:
            for word in (PUBLISHED, FRONTIER, RELEASED):
                segment.words[word] = frames
            write_progress(segment.words, Progress(frames, frames, frames), 0)
            self.producers.append(ProducerRing(segment))
            stack.callback(self.producers[-1].release)
            rings.append(DaemonRing(segment))
            rings[-1].resume()
        self.stream.resume(rings, 0)
        assert self.stream.state is State.ACTIVE
        self.lifecycle.add(self.stream)
        self.turn()
        self.work()  # what the last daemon may have left unsealed
        self.frame(sources - 1)  # what is computed once is not counted

    def turn(self) -> None:
        self.rounds.go(0)
        self.lifecycle.step(0)
        self.delivery.give_jobs(0)
        self.lifecycle.listen(0)

    def frame(self, number: int) -> None:
        """A frame of one source, from its doorbell until it is on disk and the daemon waits for the next one."""
        producer = self.producers[number]
        producer.publish(1, 1, b"")
        assert producer.wants_doorbell
        self.streams.agenda.source(1, number)
        self.turn()
        assert len(self.writer.jobs) == 1
        self.work()
        assert self.stream.sources[number].safe_below == producer.next_frame

    def work(self) -> None:
        """Do all jobs."""
        while self.writer.jobs:
            task = self.dispatcher.finish(self.writer.jobs.pop(0), 0)
            assert task is not None
            written = Written(1, 12, 10**9, "O_DIRECT", (), {}, 0)
            task.owner.job_done(task, written if isinstance(task.job, WriteUnits) else Result(), 0)
            self.turn()


@contextlib.contextmanager
def desk(sources: int, frames: int) -> Iterator[Desk]:
    with contextlib.ExitStack() as stack:
        yield Desk(stack, sources, frames)


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


def test_a_round_looks_at_two_words_of_each_ring() -> None:
    with desk(64, LATE) as it:
        it.rounds.soon()
        assert calls(lambda: it.rounds.go(0)) < 64 * 10
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


def starting(it: Desk, number: int) -> Stream:
    """A stream that waits for the memory of its rings."""
    spec = spec_with_sources("t:inf:1:1000,v:1,y:2,x:3", ["cam"])
    stream = Stream.of(number, spec, "direct", make_geometry(50), dataset_at(f"{number}.ome.zarr"), started_ns=0)
    it.lifecycle.add(stream)
    stream.placed("direct", "", make_geometry(50))
    return stream


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


class Notes:
    """Admission as far as it records: the phases of a stream's entries, and what waits for the last one."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.end: Callable[[OmewdError | None], object] = lambda _: None

    def note(self, _: Stream, phase: str, then: Callable[[OmewdError | None], object]) -> None:
        self.phases.append(phase)
        self.end = then


@pytest.mark.parametrize("what", ["the journal fails", "it is stopped"])
def test_a_dataset_is_removed_once_the_journal_says_that_its_stream_never_started(what: str) -> None:
    """The entry that says that it takes frames may be there already. Nothing follows before it is taken back."""
    with desk(1, 1000) as it:
        it.lifecycle._admission = cast(Any, notes := Notes())
        stream = starting(it, 2)
        stream.allocated()
        stream.start.recorded()
        it.lifecycle.do(stream, (Action.NOTE_ACTIVE,), 0)
        assert (notes.phases, stream.state) == ([ACTIVE], State.STARTING)
        if what == "it is stopped":
            it.lifecycle.fail(stream, OmewdError("stream_stopped", "it was stopped while it started"), 0)
            it.turn()
            assert (notes.phases, stream.settled) == ([ACTIVE], False)
            notes.end(None)
        else:
            notes.end(OmewdError("no_resources", "the journal can't be written"))
        assert notes.phases == [ACTIVE, STARTING]
        assert stream.state is State.FAILED
        it.turn()
        assert not [task for task in it.dispatcher.tasks() if isinstance(task.job, UndoDataset)]
        notes.end(OmewdError("no_resources", "the journal can't be written"))  # whether it can or not
        assert [task.job for task in it.dispatcher.tasks()] == [UndoDataset("2.ome.zarr", stream.epoch)]
        assert not stream.settled


def test_what_the_journal_tells_of_a_stream_that_is_gone_is_nothing() -> None:
    with desk(1, 1000) as it:
        it.lifecycle._admission = cast(Any, notes := Notes())
        stream = starting(it, 2)
        it.lifecycle.do(stream, (Action.NOTE_ACTIVE,), 0)
        del it.streams.open[2]
        notes.end(OmewdError("no_resources", "the journal can't be written"))
        assert (notes.phases, stream.state, stream.error) == ([ACTIVE], State.STARTING, None)
