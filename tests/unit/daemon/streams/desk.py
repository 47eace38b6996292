"""A daemon's parts around an active stream, without processes: jobs are done by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.datasets.copies import Copies
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.jobs.delivery import Delivery
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.processes.memory_return import MemoryReturn
from omewd.daemon.processes.pools import Pools
from omewd.daemon.processes.roles import roles
from omewd.daemon.state.journal import Journal
from omewd.daemon.streams.admission import Admission
from omewd.daemon.streams.agenda import Agenda
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.rounds import Rounds
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.daemon.streams.transitions import State
from omewd.errors import OmewdError
from omewd.protocol.jobs.frames import WriteUnits, Written
from omewd.protocol.jobs.job import WRITER, Result
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import FRONTIER, PUBLISHED, RELEASED
from omewd.ring.progress import Progress, write_progress
from omewd.ring.ring import ProducerRing
from tests.unit.cameras import dataset_at, spec_with_sources
from tests.unit.rings import make_geometry, open_segment


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


class Answers:
    """A server as far as clients hear of errors: their codes, in order."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def reply_error(self, _: Peer, error: OmewdError) -> None:
        self.codes.append(error.code)


class Desk:
    """An active stream of sources that have had ``frames`` frames each, and what a turn uses."""

    def __init__(self, stack: contextlib.ExitStack, sources: int, frames: int) -> None:
        self.writer, agenda = Writer(), Agenda()
        self.dispatcher = Dispatcher(60, {role.name: role for role in roles(writers=1, cores=1)})
        server = cast(ControlServer, None)
        datasets = Datasets(self.dispatcher, cast(Journal, None), server, agenda, Copies(self.dispatcher, server))
        self.streams = Streams(cast(Journal, None), datasets, agenda, cast(MemoryReturn, None))
        self.delivery = Delivery(self.dispatcher, cast(Pools, self.writer), self.streams)
        self.answers = Answers()
        self.replies = PendingReplies(cast(ControlServer, self.answers))
        self.lifecycle = Lifecycle(self.streams, cast(Admission, None), self.delivery, self.replies, datasets)
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
            written = Written(1, 12, 8, 10**9, "O_DIRECT", (), {}, 0)
            task.owner.job_done(task, written if isinstance(task.job, WriteUnits) else Result(), 0)
            self.turn()


@contextlib.contextmanager
def desk(sources: int, frames: int) -> Iterator[Desk]:
    with contextlib.ExitStack() as stack:
        yield Desk(stack, sources, frames)


def starting(it: Desk, number: int) -> Stream:
    """A stream that waits for the memory of its rings."""
    spec = spec_with_sources("t:inf:1:1000,v:1,y:2,x:3", ["cam"])
    stream = Stream.of(number, spec, "direct", make_geometry(50), dataset_at(f"{number}.ome.zarr"), started_ns=0)
    it.lifecycle.add(stream)
    stream.placed("direct", "", make_geometry(50))
    return stream


class Notes:
    """Admission as far as it records: the phases of a stream's entries, and what waits for the last one."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.end: Callable[[OmewdError | None], object] = lambda _: None

    def note(self, _: Stream, phase: str, then: Callable[[OmewdError | None], object]) -> None:
        self.phases.append(phase)
        self.end = then
