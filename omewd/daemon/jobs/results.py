"""What follows when a job has ended, well or not, and when a writer has died."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from omewd.daemon.datasets.user_metadata import Annotations
from omewd.daemon.jobs.dispatcher import Dispatcher, Task
from omewd.daemon.jobs.jobs import undo_job
from omewd.daemon.processes.supervisor import Writer
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.rings import Holding
from omewd.daemon.streams.stream import State
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.model.totals import Totals
from omewd.process.faultpoints import point
from omewd.protocol.messages import Message

log = structlog.get_logger("streams")

# Errors that another try does not mend.
_FINAL = ("bad_metadata", "bad_spec", "dataset_replaced")


class Outcomes:
    """``on_done``: what follows the success of a job of no stream."""

    def __init__(
        self, streams: Streams, dispatcher: Dispatcher, lifecycle: Lifecycle, annotations: Annotations
    ) -> None:
        self._streams, self._dispatcher = streams, dispatcher
        self._lifecycle, self._annotations = lifecycle, annotations
        self.on_done: dict[int, Callable[[], None]] = {}

    def writer_said(self, writer: Writer, message: Message) -> None:
        now = time.monotonic_ns()
        if "done" in message:
            task = self._dispatcher.finish(message["done"], now)
            holding = None if task is None else self._streams.open.get(task.job.stream)
            if task is not None and holding is not None:
                with self._lifecycle.failing(holding, now):
                    self._job_done(holding, task, message["result"], now)
            elif task is not None and (then := self.on_done.pop(task.job.id, None)):
                then()
            if task is not None and task.job.kind == "annotate":
                self._annotations.ended(task.job)
            if task is not None and task.job.kind == "sweep":
                self._streams.swept(task.job.epoch)
            if task is not None and task.job.kind == "recover":
                log.error("a dataset whose ring was gone is finalized", dataset=task.job.dataset, **message["result"])
        elif "failed" in message:
            task = self._dispatcher.finish(message["failed"], now)
            holding = None if task is None else self._streams.open.get(task.job.stream)
            if task is not None and holding is not None:
                with self._lifecycle.failing(holding, now):
                    self._job_failed(holding, task, OmewdError.from_dict(message["error"]), now, writer)
            elif task is not None:  # of no stream; the next daemon may try again
                error = OmewdError.from_dict(message["error"])
                if error.code in _FINAL or not self._dispatcher.retry(task, now):
                    self._forget(task, error)
        self._lifecycle.give_jobs(now)

    def _forget(self, task: Task, error: OmewdError) -> None:
        """A job of no stream has had its tries."""
        self.on_done.pop(task.job.id, None)
        if task.job.kind == "annotate":
            self._annotations.ended(task.job, error)
        log.error("job failed", kind=task.job.kind, dataset=task.job.dataset, **error.to_dict())

    def _job_done(self, holding: Holding, task: Task, result: dict[str, Any], now_ns: int) -> None:
        stream = holding.stream
        if stream.paused is not None and task.was_postponed:  # others may have found the last of the space
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
                self._lifecycle.is_active(holding)
            case "create":  # stopped while it was made
                self._dispatcher.submit(undo_job(stream, self._dispatcher.number()))
            case "grow" | "seal" as kind:
                holding.upkeep.done(kind, task.job.source, now_ns)
            case "write":
                point("daemon: report taken")
                source, ring = stream.sources[task.job.source], holding.rings[task.job.source]
                released = source.written_to_disk(task.job, result["frames"], result["stored_bytes"])
                stream.note_waits(result["waits"], result["done_ns"], now_ns)
                stream.contrast.add(result["contrast"])
                stream.disk_free_bytes, stream.disk_io = result["free_bytes"], result["io"]
                if released and source.ring is not None and source.ring.producer_waits:
                    ring.ring_producer()
            case "undo":
                holding.leftovers = result["leftovers"]
            case "finalize":
                self._finalized(holding, result, now_ns)

    def _finalized(self, holding: Holding, result: dict[str, Any], now_ns: int) -> None:
        stream = holding.stream
        if stream.state is State.FAILED:
            stream.tell_loss([Totals.from_dict(totals) for totals in result["totals"]])
        if stream.state is State.FINALIZING:
            stream.ended_ns = now_ns
            if stream.in_flight:
                error = OmewdError(
                    "frames_unaccounted",
                    f"{stream.in_flight} of {stream.received} frames are unaccounted for after writing all units",
                )
                log.error("stream failed", stream=stream.spec.name, reason=error.message)
                stream.fail(error, now_ns)
            else:
                stream.state = State.DONE
                point("daemon: dataset finalized")
                for source in stream.sources:
                    assert source.ring is not None
                    source.ring.finish()
                point("daemon: ring done")
        self._lifecycle.settle(holding)

    def _job_failed(self, holding: Holding, task: Task, error: OmewdError, now_ns: int, writer: Writer) -> None:
        stream, job = holding.stream, task.job
        where = {"stream": stream.spec.name, "kind": job.kind, "unit": job.unit, "writer": writer.id}
        log.warning("job failed", **where, **error.to_dict())
        if job.kind in ("check", "create"):
            taken = job.kind == "check" and error.code == "output_exists" and stream.state is State.STARTING
            if taken and holding.auto_name and not holding.request.get("output"):
                self._lifecycle.try_next_name(holding, now_ns)
            else:
                self._lifecycle.fail(holding, error, now_ns)
        elif stream.state is State.FAILED and job.kind == "write":
            return
        elif error.code == "disk_full" and job.kind != "annotate" and stream.spec.on_disk_full == "wait":
            stream.paused = error
            self._dispatcher.postpone(task, now_ns)
        elif error.code not in _FINAL and self._dispatcher.retry(task, now_ns):
            stream.retries += 1
        else:
            self._give_up(holding, task, error, now_ns)

    def _give_up(self, holding: Holding, task: Task, error: OmewdError, now_ns: int) -> None:
        """A job has had its tries."""
        stream = holding.stream
        tries = task.errors + task.deaths
        match task.job.kind:
            case "grow" | "seal" as kind if error.code != "dataset_replaced":
                holding.upkeep.done(kind, task.job.source, now_ns)
                if task.was_postponed:  # nothing waits for space any more
                    stream.paused = None
                log.warning("the dataset on disk lags behind", stream=stream.spec.name, kind=kind, reason=error.message)
            case "annotate":
                self._annotations.ended(task.job, error)
            case "undo":
                log.warning("a dataset that never started is still there", dataset=str(stream.dataset))
            case "finalize" if stream.state is State.FAILED:
                log.error("the failed dataset could not be finalized", stream=stream.spec.name, reason=error.message)
                stream.tell_loss()
                self._lifecycle.settle(holding)
            case _ if error.code == "dataset_replaced":
                self._lifecycle.fail(holding, error, now_ns)
            case _:
                what = "the dataset's last metadata" if task.job.kind == "finalize" else f"write unit {task.job.unit}"
                message = f"{what} could not be written in {tries} tries: {error.message}"
                self._lifecycle.fail(holding, error.with_text(message, error.remedy), now_ns)

    def writer_died(self, writer: Writer) -> None:
        now = time.monotonic_ns()
        back, given_up = self._dispatcher.writer_lost(writer.id)
        for task in back:
            holding = self._streams.open.get(task.job.stream)
            if holding is None:
                continue
            stream = holding.stream
            stream.retries += 1
            if task.job.kind == "create" and stream.state is State.FAILED:  # nobody wants it any more
                self._dispatcher.forget(stream.id)
                self._dispatcher.submit(undo_job(stream, self._dispatcher.number()))
        reason = writer.killed_for or "it died"
        for task in given_up:
            holding = self._streams.open.get(task.job.stream)
            error = OmewdError(
                "writer_died", f"each time the writer process was lost ({reason})", "See the daemon's log"
            )
            if holding is None:
                self._forget(task, error)
            else:
                if holding.stream.state is State.STARTING:
                    self._lifecycle.fail(holding, error, now)
                    self._dispatcher.submit(undo_job(holding.stream, self._dispatcher.number()))
                else:
                    self._give_up(holding, task, error, now)

    def give_up_all(self, error: OmewdError, now_ns: int) -> None:
        """Nothing can be written any more: end every stream, saying which frames are missing."""
        for holding in list(self._streams.open.values()):
            self._lifecycle.fail(holding, error, now_ns)
            if holding.stream.has_rings:
                holding.stream.tell_loss()
            self._lifecycle.settle(holding)
