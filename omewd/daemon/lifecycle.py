"""The life of a stream, step by step: what each job's end, each lost writer and each turn of the loop leads to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from omewd.control.faultpoints import point
from omewd.control.jobs import Job
from omewd.control.messages import Message
from omewd.daemon.dispatcher import Dispatcher, Task
from omewd.daemon.jobs import check_job, finalize_job, undo_job
from omewd.daemon.loop import Loop
from omewd.daemon.server import ControlServer, Peer
from omewd.daemon.stream import State
from omewd.daemon.streams import Holding, Streams
from omewd.daemon.supervisor import Supervisor, Writer
from omewd.daemon.waiters import Waiters
from omewd.errors import OmewdError, stream_failed

log = structlog.get_logger("streams")

# The id of jobs that belong to no stream; streams count from 1.
NO_STREAM = 0


class Lifecycle:
    """Moves streams from STARTING to their end. ``stopping``: the daemon drains and takes no new ones.

    ``on_done``: what follows the success of a job of no stream.
    """

    def __init__(
        self,
        loop: Loop,
        streams: Streams,
        dispatcher: Dispatcher,
        supervisor: Supervisor,
        server: ControlServer,
        waiters: Waiters,
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._dispatcher = dispatcher
        self._supervisor = supervisor
        self._server = server
        self._waiters = waiters
        self.stopping = False
        self.on_done: dict[int, Callable[[], None]] = {}

    # -- starting and ending --------------------------------------------------------------------

    def begin(self, fields: Any, starter: Peer, now_ns: int, after: int = 0) -> None:
        """STARTING: check the place on disk; allocate the ring; make the dataset; ACTIVE."""
        holding = self._streams.admit(fields, now_ns, after)
        holding.starter = starter
        stream = holding.stream
        name, dataset = stream.spec.name, str(stream.dataset)
        log.info("stream starting", stream=name, dataset=dataset, slots=stream.geometry.capacity)
        self._dispatcher.submit(check_job(stream, self._dispatcher.number()))

    def _ring_is_there(self, holding: Holding) -> None:
        self._loop.watch(holding.to_daemon, holding.hush)
        for writer in self._supervisor.writers.values():
            if writer.ready and not self._dispatcher.jobs_of(writer.id):
                self._introduce(writer, holding)
        stream = holding.stream
        self._dispatcher.submit(
            Job(id=self._dispatcher.number(), stream=stream.id, kind="create", root=str(stream.root))
        )

    def _is_active(self, holding: Holding) -> None:
        stream = holding.stream
        point("daemon: dataset made")
        self._streams.note_active(holding)
        point("daemon: noted active")
        stream.state = State.ACTIVE
        log.info("stream active", stream=stream.spec.name, backend=stream.backend)
        self._answer_starter(holding)

    def producer_lost(self, holding: Holding, now_ns: int) -> None:
        """A producer has ended without closing its stream."""
        stream = holding.stream
        pid = stream.producer_pid
        log.warning("producer lost: it ended without closing its stream", stream=stream.spec.name, pid=pid)
        holding.producer = stream.producer_pid = None
        if stream.ring is not None:
            stream.ring.producer = 0
        if stream.spec.on_producer_loss == "finalize":
            self.stop(holding, "the producer was lost", now_ns)

    def _answer_starter(self, holding: Holding) -> None:
        peer, holding.starter = holding.starter, None
        if peer is None:
            return
        if holding.stream.error is not None:
            self._server.reply_error(peer, holding.stream.error)
        else:
            self._server.reply(peer, holding.stream.status(time.monotonic_ns()))

    def fail(self, holding: Holding, error: OmewdError, now_ns: int) -> None:
        stream = holding.stream
        if stream.state in (State.DONE, State.FAILED):
            return
        log.error("stream failed", stream=stream.spec.name, code=error.code, reason=error.message)
        stream.fail(error, now_ns)
        self._dispatcher.forget(stream.id)
        holding.wants_memory = False
        holding.ring_producer()

    def _end_if_done(self, holding: Holding, now_ns: int) -> None:
        """Move a stream on towards its end, as far as it has come."""
        stream = holding.stream
        if stream.state is State.ACTIVE:
            for kind, frames in holding.upkeep.due(stream, now_ns):
                number = self._dispatcher.number()
                self._dispatcher.submit(Job(id=number, stream=stream.id, kind=kind, frames=frames))
            return
        if self._dispatcher.is_busy(stream.id) or holding.wants_memory:
            return
        if stream.drained:
            stream.state = State.FINALIZING
            self._dispatcher.submit(finalize_job(stream, self._dispatcher.number()))
        elif stream.state is State.FAILED and stream.ended_ns is None:
            stream.ended_ns = now_ns
            if stream.ring is None or not stream.was_active:
                self._settle(holding)
                return
            stream.tell_loss()
            self._dispatcher.submit(finalize_job(stream, self._dispatcher.number()))
        elif stream.state in (State.DONE, State.FAILED):
            self._settle(holding)

    def _settle(self, holding: Holding) -> None:
        """A stream has ended: answer those who wait, let go of its memory."""
        stream = holding.stream
        self._loop.forget(holding.to_daemon)
        if holding.producer is not None:
            holding.producer.attached = None
        for writer in self._supervisor.writers.values():
            if stream.id in writer.streams:
                writer.streams.discard(stream.id)
                self._supervisor.tell(writer, {"do": "close", "stream": stream.id})
        # Before memory is given back: for a ring of 512 MiB that takes up to 0.1 s.
        stream.settled = True
        self._answer_starter(holding)
        self._waiters.tell(stream)
        if not stream.was_active:  # it never was one: whoever asked for it has been told
            self._streams.discard(holding)
        elif not stream.has_kept_frames:  # else until somebody says what to do with them
            self._streams.release(holding)
        frames = {"received": stream.received, "written": stream.written, "gaps": sum(stream.gaps.values())}
        log.info("stream ended", stream=stream.spec.name, state=stream.state.value, **frames, ended_by=stream.ended_by)
        if holding.leftovers:
            number = self._dispatcher.number()
            self._dispatcher.submit(Job(id=number, stream=NO_STREAM, kind="sweep", dataset=str(stream.dataset)))

    def stop(self, holding: Holding, why: str, now_ns: int) -> None:
        with self._failing(holding, now_ns):
            holding.stream.stop(why, now_ns)
        holding.ring_producer()

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
        with self._failing(holding, now_ns):
            if holding.wants_memory and self._streams.allocate(holding):
                self._ring_is_there(holding)
            before = holding.stream.state
            if before is State.ACTIVE and self._is_orphan(holding):
                self.producer_lost(holding, now_ns)
            holding.stream.poll(now_ns)
            if before is State.ACTIVE and holding.stream.state is State.DRAINING:
                holding.ring_producer()
        with self._failing(holding, now_ns):
            self._end_if_done(holding, now_ns)

    def _is_orphan(self, holding: Holding) -> bool:
        """Whether a producer of before this daemon has died since."""
        ring = holding.stream.ring
        missed = ring is not None and holding.producer is None and ring.producer != 0
        return missed and not self._streams.producer_lives(holding)

    @contextlib.contextmanager
    def _failing(self, holding: Holding, now_ns: int) -> Iterator[None]:
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
        ready = [w.id for w in self._supervisor.writers.values() if w.ready and not w.killed_for]
        sources = [holding.stream for holding in self._streams.open.values()]
        for lease in self._dispatcher.assign(ready, sources, now_ns):
            writer, job = self._supervisor.writers[lease.writer], lease.task.job
            holding = self._streams.open.get(job.stream)
            try:
                if job.kind not in ("check", "undo") and holding is not None:
                    self._introduce(writer, holding)
                self._supervisor.give(writer, job)
            except OmewdError as error:  # it does not fit in a message
                self._dispatcher.finish(job.id, now_ns)
                if holding is not None:
                    self.fail(holding, error, now_ns)

    def _introduce(self, writer: Writer, holding: Holding) -> None:
        """Tell a writer of a stream and give it the ring, once."""
        stream = holding.stream
        if stream.id in writer.streams:
            return
        writer.streams.add(stream.id)
        self._supervisor.tell(
            writer,
            {
                "do": "open",
                "stream": stream.id,
                "spec": stream.spec.model_dump(mode="json"),
                "backend": stream.backend,
                "dataset": str(stream.dataset),
            },
            (holding.descriptor,),
        )

    # -- writers ---------------------------------------------------------------------------------

    def writer_said(self, writer: Writer, message: Message) -> None:
        now = time.monotonic_ns()
        if "done" in message:
            task = self._dispatcher.finish(message["done"], now)
            holding = None if task is None else self._streams.open.get(task.job.stream)
            if task is not None and holding is not None:
                with self._failing(holding, now):
                    self._job_done(holding, task, message["result"], now)
            elif task is not None and (then := self.on_done.pop(task.job.id, None)):
                then()
            if task is not None and task.job.kind == "recover":
                log.error("a dataset whose ring was gone is finalized", dataset=task.job.dataset, **message["result"])
        elif "failed" in message:
            task = self._dispatcher.finish(message["failed"], now)
            holding = None if task is None else self._streams.open.get(task.job.stream)
            if task is not None and holding is not None:
                with self._failing(holding, now):
                    self._job_failed(holding, task, OmewdError.from_dict(message["error"]), now, writer)
            elif task is not None and not self._dispatcher.retry(task, now):  # of no stream; the next daemon may try
                self.on_done.pop(task.job.id, None)
                log.error("job failed", kind=task.job.kind, dataset=task.job.dataset, **message["error"])
        self.give_jobs(now)

    def _job_done(self, holding: Holding, task: Task, result: dict[str, Any], now_ns: int) -> None:
        stream = holding.stream
        if stream.paused is not None:
            log.info("there is space again", stream=stream.spec.name)
            stream.paused = None
        match task.job.kind:
            case "check" if stream.state is State.STARTING:
                self._streams.settle_on(holding, Path(result["place"]))
                self._streams.write_with(holding, result["backend"])
                stream.backend_reason = result["reason"]
                holding.wants_memory = True
            case "create" if stream.state is State.STARTING:
                stream.was_active = True
                holding.leftovers = result["leftovers"]
                self._is_active(holding)
            case "create":  # stopped while it was made
                self._dispatcher.submit(undo_job(stream, self._dispatcher.number()))
            case "grow" | "seal" as kind:
                holding.upkeep.done(kind)
            case "write":
                point("daemon: report taken")
                released = stream.written_to_disk(task.job, result["frames"], result["stored_bytes"])
                stream.note_waits(result["waits"], result["done_ns"], now_ns)
                stream.disk_free_bytes, stream.disk_io = result["free_bytes"], result["io"]
                if released and stream.ring is not None and stream.ring.producer_waits:
                    holding.ring_producer()
            case "finalize":
                self._finalized(holding, now_ns)

    def _finalized(self, holding: Holding, now_ns: int) -> None:
        stream = holding.stream
        if stream.state is State.FINALIZING and stream.ring is not None:
            stream.ended_ns = now_ns
            if stream.in_flight:
                error = stream_failed(
                    f"{stream.in_flight} of {stream.received} frames are unaccounted for after writing all units",
                    "Run omewd verify on the dataset, and report this: it is a bug",
                )
                log.error("stream failed", stream=stream.spec.name, reason=error.message)
                stream.fail(error, now_ns)
            else:
                stream.state = State.DONE
                point("daemon: dataset finalized")
                stream.ring.finish()
                point("daemon: ring done")
        self._settle(holding)

    def _job_failed(self, holding: Holding, task: Task, error: OmewdError, now_ns: int, writer: Writer) -> None:
        stream, job = holding.stream, task.job
        where = {"stream": stream.spec.name, "kind": job.kind, "unit": job.unit, "writer": writer.id}
        log.warning("job failed", **where, **error.to_dict())
        if job.kind in ("check", "create"):
            taken = job.kind == "check" and error.code == "output_exists" and stream.state is State.STARTING
            if taken and holding.auto_name:
                self._try_next_name(holding, now_ns)
            else:
                self.fail(holding, error, now_ns)
        elif stream.state is State.FAILED and job.kind == "write":
            return
        elif error.code == "disk_full" and stream.spec.on_disk_full == "wait":
            stream.paused = error
            self._dispatcher.postpone(task, now_ns)
        elif self._dispatcher.retry(task, now_ns):
            stream.retries += 1
        else:
            self._give_up(holding, task, error, now_ns)

    def _try_next_name(self, holding: Holding, now_ns: int) -> None:
        starter, request, after = holding.starter, holding.request, holding.auto_name
        self._streams.discard(holding)
        if starter is None:
            return
        try:
            self.begin({**request, "name": None, "output": None}, starter, now_ns, after)
        except OmewdError as error:
            self._server.reply_error(starter, error)

    def _give_up(self, holding: Holding, task: Task, error: OmewdError, now_ns: int) -> None:
        """A job has had its tries."""
        stream = holding.stream
        tries = task.errors + task.deaths
        match task.job.kind:
            case "grow" | "seal" as kind:
                holding.upkeep.done(kind)
                log.warning("the dataset on disk lags behind", stream=stream.spec.name, kind=kind, reason=error.message)
            case "undo":
                log.warning("a dataset that never started is still there", dataset=str(stream.dataset))
            case "finalize" if stream.state is State.FAILED:
                log.error("the failed dataset could not be finalized", stream=stream.spec.name, reason=error.message)
                self._settle(holding)
            case _:
                what = "the dataset's last metadata" if task.job.kind == "finalize" else f"write unit {task.job.unit}"
                message = f"{what} could not be written in {tries} tries: {error.message}"
                self.fail(holding, OmewdError(error.code, message, error.remedy), now_ns)

    def writer_died(self, writer: Writer) -> None:
        now = time.monotonic_ns()
        back, given_up = self._dispatcher.writer_lost(writer.id)
        for task in back:
            holding = self._streams.open.get(task.job.stream)
            if holding is not None:
                holding.stream.retries += 1
        reason = writer.killed_for or "it died"
        for task in given_up:
            holding = self._streams.open.get(task.job.stream)
            if holding is not None:
                error = OmewdError(
                    "writer_died", f"each time the writer process was lost ({reason})", "See the daemon's log"
                )
                if holding.stream.state is State.STARTING:
                    self.fail(holding, error, now)
                else:
                    self._give_up(holding, task, error, now)

    def give_up_all(self, error: OmewdError, now_ns: int) -> None:
        """Nothing can be written any more: end every stream, saying which frames are missing."""
        for holding in list(self._streams.open.values()):
            self.fail(holding, error, now_ns)
            if holding.stream.ring is not None:
                holding.stream.tell_loss()
            self._settle(holding)
