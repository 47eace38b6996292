"""The life of a stream: its start, its step in each turn of the loop, and its end.

:mod:`omewd.daemon.streams.transitions` decides which actions follow; this module performs them.
:mod:`omewd.daemon.streams.stream_jobs` handles the ends of jobs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.server import Peer
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.datasets.watermarks import copied_below, sealed_below
from omewd.daemon.jobs.delivery import Delivery
from omewd.daemon.jobs.of_stream import check_job, finalize_job
from omewd.daemon.state.journal import ACTIVE, STARTING
from omewd.daemon.streams import producers
from omewd.daemon.streams.admission import Admission
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.stream_jobs import StreamJobs
from omewd.daemon.streams.streams import Streams
from omewd.daemon.streams.transitions import Action, State
from omewd.errors import OmewdError
from omewd.model.plan.memory import unit_bytes
from omewd.process.faultpoints import point
from omewd.protocol.jobs.datasets import CreateDataset
from omewd.protocol.jobs.frames import SealShards, WriteUnits
from omewd.protocol.jobs.job import Job

log = structlog.get_logger("streams")

# How long a new stream waits for memory that the processes of an ended one may still be giving back.
_GIVING_BACK_NS = 5_000_000_000
_ROOM_EVERY_NS = 20_000_000


class Lifecycle:
    """Moves streams from STARTING to their end."""

    def __init__(
        self,
        streams: Streams,
        admission: Admission,
        delivery: Delivery,
        replies: PendingReplies,
        datasets: Datasets,
    ) -> None:
        self._streams = streams
        self._admission = admission
        self._delivery = delivery
        self._replies = replies
        self._datasets = datasets
        self._may_allocate = True
        self._given_back_ns = 0
        self._doing: dict[Action, Callable[[Stream, int], None]] = {
            Action.MAKE_DATASET: self._make_dataset,
            Action.INTRODUCE: lambda stream, _: delivery.introduce(stream),
            Action.NOTE_STARTING: self._note_starting,
            Action.NOTE_ACTIVE: self._note_active,
            Action.ANSWER_STARTER: self._answer_starter,
            Action.DROP_JOBS: lambda stream, _: self.drop_jobs(stream),
            Action.WAKE_PRODUCERS: lambda stream, _: stream.ring_producers(),
            Action.UNDO: lambda stream, _: datasets.undo(stream.dataset, waits_for_space=stream.waits_for_space),
            Action.FINALIZE: self._finalize,
            Action.FINISH_RINGS: self._finish_rings,
            Action.TELL_UNACCOUNTED: self._tell_unaccounted,
            Action.TELL_LOSS: lambda stream, _: stream.tell_loss(),
            Action.SETTLE: self._settle,
        }

    def do(self, stream: Stream, actions: Sequence[Action], now_ns: int) -> None:
        """Perform the actions of a stream's transition."""
        for action in actions:
            self._doing[action](stream, now_ns)
        if actions:
            self._streams.agenda.stream(stream.id)

    # -- starting ------------------------------------------------------------------------------

    def begin(self, fields: Any, details: bytes, starter: Peer, now_ns: int, after: int = 0) -> None:
        """Start a stream: it is recorded, its place on disk is checked, its rings and its dataset are made."""
        if self._streams.is_closed:
            raise OmewdError("stopping", "the daemon is stopping and takes no new streams")
        if self._delivery.is_broken:
            raise OmewdError("no_writers", "writer processes can't be started here", "See the daemon's log")
        stream = self._admission.admit(fields, details, now_ns, after)
        self.add(stream)
        self._replies.when_started(starter, stream)
        slots = [source.geometry.capacity for source in stream.sources]
        log.info("stream starting", stream=stream.name, dataset=str(stream.dataset.path), slots=slots)
        self._admission.note(stream, STARTING, partial(self._recorded, stream))
        self._delivery.submit(stream, check_job(stream))

    def add(self, stream: Stream) -> None:
        """Add a stream that is new, or that was taken over from the last daemon."""
        stream.owned_by(StreamJobs(stream, self))
        self._streams.add(stream)
        self._datasets.add(stream.dataset)
        if (copy := stream.dataset.copy) is not None:
            key_bytes = unit_bytes(stream.spec, stream.sources[0].keys)
            copied = [
                0 if s.ring is None else s.keys.units_complete(min(s.ring.copied, s.safe_below)) for s in stream.sources
            ]
            copy.follow(stream.id, key_bytes, copied)
            self._datasets.copies.add(copy)

    def placed(self, stream: Stream, place: Path, backend: str, reason: str, now_ns: int) -> None:
        """Accept a writer's answer about the disk: see :meth:`Admission.placed`."""
        self.do(stream, self._admission.placed(stream, place, backend, reason), now_ns)

    def try_next_name(self, stream: Stream, now_ns: int) -> None:
        """Start the stream under the next free name, because a dataset has the chosen one."""
        starter = self._replies.take_starter(stream)
        stream.name_taken(OmewdError("output_exists", f"{stream.dataset.path} already exists"))
        self._replies.tell(stream)
        self._datasets.never_made(stream.dataset)
        self._streams.discard(stream)
        if starter is None:
            return
        fields = {**stream.fields, "name": None, "output": None}
        try:
            self.begin(fields, stream.details, starter, now_ns, stream.auto_name)
        except OmewdError as error:
            self._replies.result(starter, error)

    def _make_dataset(self, stream: Stream, now_ns: int) -> None:
        self._delivery.submit(stream, CreateDataset(stream.id, str(stream.dataset.root)))
        self._delivery.give_jobs(now_ns)

    def _recorded(self, stream: Stream, error: OmewdError | None) -> None:
        """Go on once the journal says that a stream is starting, or can't."""
        point("daemon: journal written")
        if not self._streams.is_open(stream):
            return
        now_ns = time.monotonic_ns()
        with self.failing(stream, now_ns):
            if error is not None and stream.state is State.STARTING:
                raise error
            self.do(stream, stream.start.recorded(), now_ns)

    def _note_starting(self, stream: Stream, _: int) -> None:
        stream.start.noting()
        self._admission.note(stream, STARTING, partial(self._recorded, stream))

    def _note_active(self, stream: Stream, _: int) -> None:
        point("daemon: dataset made")
        stream.start.noting()
        self._admission.note(stream, ACTIVE, partial(self._noted_active, stream))

    def _noted_active(self, stream: Stream, error: OmewdError | None) -> None:
        """Let a stream take frames once the journal says so."""
        point("daemon: noted active")
        if not self._streams.is_open(stream):
            return
        now_ns = time.monotonic_ns()
        if error is not None:
            self.fail(stream, error, now_ns)
        with self.failing(stream, now_ns):
            self.do(stream, stream.start.noted(), now_ns)

    def _answer_starter(self, stream: Stream, _: int) -> None:
        log.info("stream active", stream=stream.name, backend=stream.backend)
        self._replies.started(stream)
        self._delivery.introduce(stream)  # to the writer that was busy with the dataset, too

    # -- ending --------------------------------------------------------------------------------

    def stop(self, stream: Stream, why: str, now_ns: int, source: Source | None = None) -> None:
        """Let a stream, or one of its sources, take no more frames."""
        with self.failing(stream, now_ns):
            stream.stop(why, now_ns, source)
        for each in stream.sources if source is None else [source]:
            stream.rings[each.number].ring_producer()
            self._streams.agenda.source(stream.id, each.number)

    def stop_asked(self, stream: Stream, now_ns: int) -> None:
        """Stop a stream because a client asked for it."""
        if stream.state is State.STARTING:
            self.fail(stream, OmewdError("stream_stopped", "the stream was stopped while it started"), now_ns)
        self.stop(stream, "stop-stream", now_ns)

    def stop_all(self, now_ns: int) -> None:
        """Stop all streams because the daemon is stopping."""
        self._streams.close()
        for stream in list(self._streams.open.values()):
            if stream.state is State.STARTING:
                self.fail(stream, OmewdError("stopping", "the daemon is stopping"), now_ns)
            self.stop(stream, "the daemon was stopped", now_ns)

    def producer_lost(self, stream: Stream, source: Source, now_ns: int) -> None:
        """Handle a producer that has ended without closing its source."""
        producers.lost(stream, source)
        self._streams.agenda.source(stream.id, source.number)
        if not stream.spec.waits_for_producer:
            self.stop(stream, "the producer was lost", now_ns, source)

    def fail(self, stream: Stream, error: OmewdError, now_ns: int) -> None:
        actions = stream.fail(error, now_ns)
        if actions:
            log.error("stream failed", stream=stream.name, code=error.code, reason=error.message)
        self.do(stream, actions, now_ns)

    def give_up_all(self, error: OmewdError, now_ns: int) -> None:
        """Fail every stream and report the missing frames, because nothing can be written any more.

        The next daemon sees to their rings and datasets: it finalizes these, or removes those of streams that were
        starting.
        """
        for stream in list(self._streams.open.values()):
            if stream.settled:
                continue
            self.fail(stream, error, now_ns)
            if stream.has_rings:
                stream.tell_loss()
            self._tell_end(stream)

    def take_back_starts(self) -> None:
        """Let no stream that is starting take frames under the next daemon, because its client hears of no success.

        The entry that says that it takes frames may be in the journal already, or on its way.
        """
        for stream in self._streams.open.values():
            if stream.was_active:
                continue
            if stream.start.is_noting:
                self._admission.note(stream, STARTING, lambda _: None)
            if (starter := self._replies.take_starter(stream)) is not None:
                self._replies.result(starter, stream.error or OmewdError("stopping", "the daemon is stopping"))

    @contextlib.contextmanager
    def failing(self, stream: Stream, now_ns: int) -> Iterator[None]:
        """Fail the stream if the block raises an error."""
        try:
            yield
        except OmewdError as error:
            self.fail(stream, error, now_ns)
        except Exception as error:
            log.exception("a stream can't go on: this is a bug", stream=stream.name)
            self.fail(stream, OmewdError("internal", f"the daemon can't continue it: {error!r}", "Report it"), now_ns)

    def drop_jobs(self, stream: Stream) -> None:
        """Drop all waiting jobs of a stream."""
        self._delivery.drop(stream)
        self._datasets.withdraw(stream.dataset)
        self._streams.agenda.stream(stream.id)

    def pause(self, stream: Stream, error: OmewdError) -> None:
        """Give out no new jobs of a stream, because the disk is full."""
        stream.drive.pause(error)
        self._delivery.withdraw(stream)

    def go_on(self, stream: Stream) -> None:
        """Give out jobs of a stream again, because there is space."""
        stream.drive.go_on()
        self._streams.look_at(stream)

    def job_ended(self, stream: Stream, job: Job) -> None:
        """Let the next turn of the loop look at what a job was for."""
        if isinstance(job, WriteUnits | SealShards):
            self._streams.agenda.source(stream.id, job.source)
        else:
            self._streams.agenda.stream(stream.id)

    def _finalize(self, stream: Stream, _: int) -> None:
        self._delivery.submit(stream, finalize_job(stream))

    def _finish_rings(self, stream: Stream, _: int) -> None:
        point("daemon: dataset finalized")
        stream.finish_rings()
        point("daemon: ring done")

    def _tell_unaccounted(self, stream: Stream, now_ns: int) -> None:
        stream.tell_unaccounted(now_ns)
        log.error("stream failed", stream=stream.name, reason=str(stream.error))

    def _settle(self, stream: Stream, now_ns: int) -> None:
        """Answer the clients that wait for the end, and release the stream's memory."""
        self._tell_end(stream)
        if not stream.was_active:  # it never started, and its client has been told
            self._datasets.never_made(stream.dataset)
            self._streams.discard(stream)
        elif not stream.has_kept_frames:  # kept frames wait for resume-stream or stop-stream
            self._streams.release(stream)
        self._delivery.close(stream)
        self.memory_comes_back(now_ns)
        frames = {"received": stream.received, "written": stream.written, "gaps": stream.gaps}
        log.info("stream ended", stream=stream.name, state=stream.state.value, **frames, ended_by=stream.ended_by)
        if stream.dataset.has_leftovers:
            point("daemon: sweep due")
            self._datasets.sweep(stream.dataset)
        self._datasets.step(stream.dataset)
        self._replies.settled(stream)

    def _tell_end(self, stream: Stream) -> None:
        """Note that nothing more will happen to a stream, and answer the clients that wait for that."""
        producers.let_go(stream)
        stream.settle()
        self._replies.started(stream)
        self._replies.tell(stream)

    def memory_comes_back(self, now_ns: int) -> None:
        """Note that rings were removed. Their memory is given back by the last process that lets go of it."""
        self._given_back_ns = now_ns + _GIVING_BACK_NS

    # -- the turn of the loop --------------------------------------------------------------------

    def step(self, now_ns: int) -> None:
        """Step each stream to which something has happened."""
        self._may_allocate = True
        for stream, numbers in self._streams.due(now_ns):
            self._step(stream, numbers, now_ns)

    def _step(self, stream: Stream, numbers: Collection[int], now_ns: int) -> None:
        """Step a stream, and those of its sources to which something has happened. An error only ends this stream."""
        if stream.settled:  # it has failed, and its ring is kept for resume-stream or stop-stream
            return
        with self.failing(stream, now_ns):
            if stream.wants_memory:
                self._allocate(stream, now_ns)
            for source in stream.poll(now_ns, numbers):
                stream.rings[source.number].ring_producer()
        with self.failing(stream, now_ns):
            for job in stream.maintenance_due(now_ns, numbers):
                self._delivery.submit(stream, job)
            self._copy(stream, numbers)
            if stream.state is State.ACTIVE:
                self._show_contrast(stream, now_ns)
            elif not self._is_busy(stream):
                self.do(stream, stream.idle(now_ns), now_ns)
        self._delivery.offer(stream, numbers)
        if stream.takes_frames:
            self._replies.tell(stream)
        else:
            self._replies.watches.note(stream)
        self._datasets.step(stream.dataset)

    def _copy(self, stream: Stream, numbers: Collection[int]) -> None:
        """Let the files be copied that are in their places now, and tell the producers what is in the store."""
        if (copy := stream.dataset.copy) is None or not stream.was_active:
            return
        for number in numbers:
            source = stream.sources[number]
            units = source.keys.units_complete(sealed_below(stream, source))
            self._datasets.copies.note_sealed(copy, number, units)
        for source in stream.sources:
            if source.ring is not None:
                source.ring.note_copied(copied_below(stream, source))

    def _allocate(self, stream: Stream, now_ns: int) -> None:
        """Allocate a step of a stream's memory. Each turn has one step, of the stream that has waited the longest."""
        if not self._may_allocate:
            self._streams.agenda.stream(stream.id)
            return
        self._may_allocate = False
        try:
            is_done = self._admission.allocate(stream)
        except OmewdError as error:
            if error.code != "no_shared_memory" or now_ns > self._given_back_ns:
                raise
            self._streams.agenda.at(stream.id, now_ns + _ROOM_EVERY_NS)
            return
        if is_done:
            self.do(stream, stream.allocated(), now_ns)
        else:
            self._streams.agenda.stream(stream.id)

    def _is_busy(self, stream: Stream) -> bool:
        """Whether the stream has waiting or running jobs, or waits for memory or the journal."""
        has_jobs = self._delivery.is_busy(stream) or self._datasets.is_busy(stream.dataset)
        return has_jobs or stream.wants_memory or stream.start.is_noting

    def _show_contrast(self, stream: Stream, now_ns: int) -> None:
        """Put what was found of the pixels' range into the dataset now and then, and choose when to look again."""
        if (windows := stream.take_contrast(now_ns)) is not None:
            self._datasets.put_contrast(stream.dataset, windows)
        grows_ns = None if stream.drive.paused else stream.dataset.maintenance.grows_ns
        times = filter(None, (grows_ns, stream.contrast.shows_ns(now_ns)))
        self._streams.agenda.at(stream.id, min(times, default=None))

    def listen(self, now_ns: int) -> None:
        """Ask the producers of the sources that were looked at to ring; looks again at those that should have rung."""
        for stream, numbers in self._streams.listening():
            with self.failing(stream, now_ns):
                for number in numbers:
                    if stream.sources[number].listen():
                        self._streams.agenda.source(stream.id, number)
