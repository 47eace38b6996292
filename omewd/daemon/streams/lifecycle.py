"""The life of a stream: how it begins, what each turn of the loop leads to, and how it ends.

What follows from a job's end or a writer's death is in :mod:`omewd.daemon.jobs.results`.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import structlog

from omewd.daemon.control.pending_replies import Waiters
from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.control.status import stream_status
from omewd.daemon.datasets.user_metadata import Annotations
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.jobs import check_job, finalize_job, patience_s
from omewd.daemon.loop import Loop
from omewd.daemon.processes.supervisor import Supervisor, Writer
from omewd.daemon.streams.rings import Holding
from omewd.daemon.streams.stream import State
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.process.faultpoints import point
from omewd.protocol.jobs import NO_STREAM, Job

log = structlog.get_logger("streams")


class Lifecycle:
    """Moves streams from STARTING to their end. ``stopping``: the daemon drains and takes no new ones."""

    def __init__(
        self,
        loop: Loop,
        streams: Streams,
        dispatcher: Dispatcher,
        supervisor: Supervisor,
        server: ControlServer,
        waiters: Waiters,
        annotations: Annotations,
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._dispatcher = dispatcher
        self._supervisor = supervisor
        self._server = server
        self._waiters = waiters
        self._annotations = annotations
        self.stopping = False

    # -- starting and ending --------------------------------------------------------------------

    def begin(self, fields: Any, details: bytes, starter: Peer, now_ns: int, after: int = 0) -> None:
        """STARTING: check the place on disk; allocate the ring; make the dataset; ACTIVE."""
        holding = self._streams.admit(fields, details, now_ns, after)
        holding.starter = starter
        stream = holding.stream
        name, dataset = stream.spec.name, str(stream.dataset)
        slots = [source.geometry.capacity for source in stream.sources]
        log.info("stream starting", stream=name, dataset=dataset, slots=slots)
        self._dispatcher.submit(check_job(stream, self._dispatcher.number()))

    def try_next_name(self, holding: Holding, now_ns: int) -> None:
        """The name that was chosen for a stream is taken on disk."""
        starter, request, after = holding.starter, holding.request, holding.auto_name
        stream = holding.stream
        stream.error, stream.settled = OmewdError("output_exists", f"{stream.dataset} is already there"), True
        self._waiters.tell(stream)
        self._annotations.discarded(stream)
        self._streams.discard(holding)
        if starter is None:
            return
        try:
            self.begin({**request, "name": None, "output": None}, stream.details, starter, now_ns, after)
        except OmewdError as error:
            self._server.reply_error(starter, error)

    def _rings_are_there(self, holding: Holding) -> None:
        for writer in self._supervisor.writers.values():
            if writer.ready and not writer.aside and not self._dispatcher.jobs_of(writer.id):
                self._introduce(writer, holding)
        stream = holding.stream
        job = Job(id=self._dispatcher.number(), stream=stream.id, kind="create", root=str(stream.root))
        self._dispatcher.submit(job, patience_s(stream))

    def is_active(self, holding: Holding) -> None:
        """Its dataset has been made: it takes frames."""
        stream = holding.stream
        point("daemon: dataset made")
        self._streams.note_active(holding)
        point("daemon: noted active")
        stream.state = State.ACTIVE
        log.info("stream active", stream=stream.spec.name, backend=stream.backend)
        self._answer_starter(holding)

    def producer_lost(self, holding: Holding, number: int, now_ns: int) -> None:
        """The producer of a source has ended without closing it."""
        stream, source = holding.stream, holding.stream.sources[number]
        log.warning(
            "producer lost: it ended without closing its stream",
            stream=stream.spec.name,
            source=source.name,
            pid=source.producer_pid,
        )
        holding.rings[number].producer = source.producer_pid = None
        if source.ring is not None:
            source.ring.producer = 0
        if not stream.spec.waits_for_producer:
            self.stop(holding, "the producer was lost", now_ns, number)

    def _answer_starter(self, holding: Holding) -> None:
        peer, holding.starter = holding.starter, None
        if peer is None:
            return
        if holding.stream.error is not None:
            self._server.reply_error(peer, holding.stream.error)
        else:
            self._server.reply(peer, stream_status(holding.stream, time.monotonic_ns()).to_json())

    def fail(self, holding: Holding, error: OmewdError, now_ns: int) -> None:
        stream = holding.stream
        if stream.state in (State.DONE, State.FAILED):
            return
        log.error("stream failed", stream=stream.spec.name, code=error.code, reason=error.message)
        stream.fail(error, now_ns)
        making = self._supervisor.writers.get(self._dispatcher.writer_at(stream.id, "create") or 0)
        if making is not None and making.aside and not making.killed_for:  # of many images, which takes long
            self._supervisor.kill(making, f"stream {stream.spec.name} was given up while its dataset was made")
        self._annotations.forgotten(self._dispatcher.forget(stream.id))
        holding.wants_memory = False
        holding.ring_producers()

    def _end_if_done(self, holding: Holding, now_ns: int) -> None:
        """Move a stream on towards its end, as far as it has come."""
        stream = holding.stream
        if stream.state is State.ACTIVE:
            for kind, source in holding.upkeep.due(stream, now_ns):
                number, frames = self._dispatcher.number(), stream.safe_below
                job = Job(id=number, stream=stream.id, kind=kind, source=source, frames=frames)
                self._dispatcher.submit(job, patience_s(stream) if kind == "grow" else 0.0)
            if stream.may_show_contrast(now_ns):
                stream.contrast_shown = True
                self._annotations.show_contrast(stream)
            return
        if self._dispatcher.is_busy(stream.id) or self._annotations.is_writing(stream) or holding.wants_memory:
            return
        if stream.drained:
            stream.state = State.FINALIZING
            self._dispatcher.submit(finalize_job(stream, self._dispatcher.number()), patience_s(stream))
        elif stream.state is State.FAILED and stream.ended_ns is None:
            stream.ended_ns = now_ns
            if not stream.has_rings or not stream.was_active:
                self.settle(holding)
                return
            self._dispatcher.submit(finalize_job(stream, self._dispatcher.number()), patience_s(stream))
        elif stream.state in (State.DONE, State.FAILED):
            self.settle(holding)

    def settle(self, holding: Holding) -> None:
        """A stream has ended: answer those who wait, let go of its memory."""
        stream = holding.stream
        for number, ring in enumerate(holding.rings):
            ring.take_bell_down(self._loop)
            if ring.producer is not None and ring.producer.attached == (stream.id, number):
                ring.producer.attached = None
        for writer in self._supervisor.writers.values():
            if stream.id in writer.streams:
                writer.streams.discard(stream.id)
                self._supervisor.tell(writer, {"do": "close", "stream": stream.id})
        # Before memory is given back: for a ring of 512 MiB that takes up to 0.1 s.
        stream.settled = True
        self._answer_starter(holding)
        self._waiters.tell(stream)
        if not stream.was_active:  # it never was one: whoever asked for it has been told
            self._annotations.discarded(stream)
            self._streams.discard(holding)
        elif not stream.has_kept_frames:  # else until somebody says what to do with them
            self._streams.release(holding)
        frames = {"received": stream.received, "written": stream.written, "gaps": stream.gaps}
        log.info("stream ended", stream=stream.spec.name, state=stream.state.value, **frames, ended_by=stream.ended_by)
        if holding.leftovers:
            point("daemon: sweep due")
            number = self._dispatcher.number()
            dataset = str(stream.dataset)
            self._dispatcher.submit(Job(number, NO_STREAM, "sweep", dataset=dataset, epoch=stream.epoch))
        self._annotations.step(stream)
        self._waiters.settled(stream)

    def stop(self, holding: Holding, why: str, now_ns: int, number: int | None = None) -> None:
        """No more frames are taken, or none of the source of that number."""
        with self.failing(holding, now_ns):
            holding.stream.stop(why, now_ns, None if number is None else holding.stream.sources[number])
        holding.ring_producers()

    def stop_all(self, now_ns: int) -> None:
        """The daemon is stopping: no stream takes any more frames."""
        self.stopping = True
        for holding in list(self._streams.open.values()):
            if holding.stream.state is State.STARTING:
                self.fail(holding, OmewdError("stopping", "the daemon is stopping"), now_ns)
            self.stop(holding, "the daemon was stopped", now_ns)

    # -- the turn of the loop --------------------------------------------------------------------

    def step(self, holding: Holding, now_ns: int) -> None:
        """Take a stream as far as it has come. What goes wrong in one stream ends that one."""
        if holding.stream.settled:  # failed, and its ring is kept until it is told what to do
            return
        stream = holding.stream
        with self.failing(holding, now_ns):
            if holding.wants_memory and self._streams.allocate(holding):
                self._rings_are_there(holding)
            were_open = [source.is_open for source in stream.sources]
            if stream.state is State.ACTIVE:
                for number in self._orphans(holding):
                    self.producer_lost(holding, number, now_ns)
            stream.poll(now_ns)
            for source, ring, was_open in zip(stream.sources, holding.rings, were_open, strict=True):
                if was_open and not source.is_open:
                    ring.ring_producer()
        with self.failing(holding, now_ns):
            self._end_if_done(holding, now_ns)
        if stream.takes_frames:
            self._waiters.tell(stream)
        self._annotations.step(stream)

    def listen(self, holding: Holding, now_ns: int) -> bool:
        """Have the producers ring when there is something to do; returns whether there is already."""
        rung: list[bool] = []
        with self.failing(holding, now_ns):
            rung += [source.listen() for source in holding.stream.sources]
        return any(rung)

    def hang_bell(self, holding: Holding, number: int) -> socket.socket:
        """A new doorbell for the producer of a source: its end of it."""
        return holding.rings[number].hang_bell(self._loop)

    @staticmethod
    def _orphans(holding: Holding) -> list[int]:
        """Sources whose producer was there before this daemon, and has died since."""
        return [
            number
            for number, (source, ring) in enumerate(zip(holding.stream.sources, holding.rings, strict=True))
            if source.is_open
            and source.ring is not None
            and ring.producer is None
            and source.ring.producer != 0
            and not ring.producer_lives
        ]

    @contextlib.contextmanager
    def failing(self, holding: Holding, now_ns: int) -> Iterator[None]:
        """An error in the block fails the stream."""
        try:
            yield
        except OmewdError as error:
            self.fail(holding, error, now_ns)
        except Exception as error:
            log.exception("a stream can't go on: this is a bug", stream=holding.stream.spec.name)
            self.fail(
                holding, OmewdError("internal", f"the daemon can't go on with it: {error!r}", "Report it"), now_ns
            )

    def give_jobs(self, now_ns: int) -> None:
        """Hand out the jobs that can be done now."""
        writers = self._supervisor.writers.values()
        ready = [w.id for w in writers if w.ready and not w.killed_for and not w.aside]
        aside = self._supervisor.aside
        long = aside.id if aside is not None and aside.ready and not aside.killed_for else None
        streams = [holding.stream for holding in self._streams.open.values()]
        sources = [source for stream in streams if stream.gives_jobs for source in stream.sources]
        for lease in self._dispatcher.assign(ready, sources, now_ns, long):
            writer, job = self._supervisor.writers[lease.writer], lease.task.job
            holding = self._streams.open.get(job.stream)
            try:
                if job.kind not in ("check", "undo", "annotate") and holding is not None:
                    self._introduce(writer, holding)
                self._supervisor.give(writer, job)
            except OmewdError as error:  # it does not fit in a message
                self._dispatcher.finish(job.id, now_ns)
                if job.kind == "annotate":
                    self._annotations.ended(job, error)
                elif holding is not None:
                    self.fail(holding, error, now_ns)

    def _introduce(self, writer: Writer, holding: Holding) -> None:
        """Tell a writer of a stream and give it the rings, once."""
        stream = holding.stream
        if stream.id in writer.streams:
            return
        writer.streams.add(stream.id)
        message = {
            "do": "open",
            "stream": stream.id,
            "spec": stream.fields,
            "backend": stream.backend,
            "dataset": str(stream.dataset),
        }
        self._supervisor.tell(writer, message, attachment=stream.details)
        for number, ring in enumerate(holding.rings):
            self._supervisor.tell(writer, {"do": "ring", "stream": stream.id, "source": number}, (ring.descriptor,))
