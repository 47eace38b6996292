"""The writer's loop: take a job, run it, answer. One job at a time."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset import dataset
from omewd.dataset import user_metadata as annotate
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.appending import append_to
from omewd.dataset.user_value import annotation
from omewd.errors import OmewdError
from omewd.model.spec.outline import join
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.model.waits import Histogram, Waits, histogram_of
from omewd.process.faultpoints import point
from omewd.process.profiling import profiled
from omewd.protocol.jobs import Job
from omewd.protocol.messages import Message, close_all, receive, send
from omewd.ring.segment import Segment
from omewd.store import encoders as backends
from omewd.store.encoders.base import UnitArray
from omewd.store.sinks.publish import SMALL_FILES_AT_ONCE
from omewd.store.sinks.shards import ShardPool
from omewd.writer import sample
from omewd.writer.lines import gap_lines, ledger_lines
from omewd.writer.open_stream import OpenStream, Tools
from omewd.writer.ring_reader import RingReader, UnitFrames


class Worker:
    """Serves the daemon at the other end of ``channel`` until it closes that."""

    def __init__(self, channel: socket.socket, *, threads: int, scratch: Path) -> None:
        self._channel = channel
        self._streams: dict[int, OpenStream | OmewdError] = {}
        files = ThreadPoolExecutor(SMALL_FILES_AT_ONCE, thread_name_prefix="publish")
        self._tools = Tools(threads, scratch, files, ShardPool(threads))
        self._clock = self._tools.clock

    def run(self) -> None:
        send(self._channel, {"ready": backends.availability()})
        backends.preload()
        with profiled("writer", threads=True):
            while (received := receive(self._channel)) is not None:
                message, descriptors = received
                self._handle(message, descriptors)

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        match message["do"]:
            case "open" | "ring" as what:
                try:
                    if what == "open":
                        self._open(message)
                    else:
                        self._add_ring(message, descriptors)
                except OmewdError as error:  # its jobs fail with this; other streams go on
                    failed = self._streams.get(message["stream"])
                    if isinstance(failed, OpenStream):
                        failed.close()
                    self._streams[message["stream"]] = error
            case "close":
                stream = self._streams.pop(message["stream"], None)
                if isinstance(stream, OpenStream):
                    stream.close()
            case "job":
                self._run(Job.from_dict(message["job"], message.get("attachment", b"")))
            case other:
                close_all(descriptors)
                raise OmewdError("bad_message", f"a writer can't {other!r}")

    def _open(self, message: Message) -> None:
        number, spec = message["stream"], StreamSpec.parse(join(message["spec"], message.get("attachment", b"")))
        self._streams[number] = OpenStream(number, spec, message["backend"], Path(message["dataset"]), self._tools)

    def _add_ring(self, message: Message, descriptors: list[int]) -> None:
        """Take a source's ring."""
        # Touch the whole ring now: the first touch of a page costs more than the copy of it.
        segment = Segment.open(descriptors[0], owner=os.geteuid(), writable=False, populate=True)
        stream = self._streams[message["stream"]]
        if isinstance(stream, OmewdError):
            segment.close()
        else:
            stream.add_ring(message["source"], segment)

    def _run(self, job: Job) -> None:
        try:
            result = self._do(job)
        except OmewdError as error:
            send(self._channel, {"failed": job.id, "error": error.to_dict()})
        except OSError as error:
            send(self._channel, {"failed": job.id, "error": _disk_error(error).to_dict()})
        except Exception as error:  # noqa: BLE001  libraries raise anything; the daemon decides what follows
            wrapped = OmewdError("backend_error", f"{type(error).__name__}: {error}"[:2000])
            send(self._channel, {"failed": job.id, "error": wrapped.to_dict()})
        else:
            send(self._channel, {"done": job.id, "result": result})
            point("writer: reported")

    def _do(self, job: Job) -> dict[str, Any]:
        if job.kind == "check":
            spec = StreamSpec.parse(join(job.spec or {}, job.attachment))
            place = dataset.check(spec, Path(job.dataset), Path(job.root))
            backend, reason = backends.select(spec.backend, UnitArray.of(spec), place)
            return {"backend": backend.name, "reason": reason, "place": str(place)}
        if job.kind == "sweep":
            dataset.sweep(Path(job.dataset), job.epoch)
            return {}
        if job.kind == "undo":
            dataset.undo(Path(job.dataset), job.epoch)
            return {"leftovers": dataset.has_leftovers(Path(job.dataset), job.epoch)}
        if job.kind == "recover":
            spec = StreamSpec.parse(join(job.spec or {}, job.attachment))
            return dataset.recover(spec, Path(job.dataset), job.epoch)
        if job.kind == "annotate":
            with ledger.held(Path(job.dataset)):
                if job.namespace:
                    value, where = annotation(job.attachment), (job.position, job.well)
                    annotate.put(Path(job.dataset), job.epoch, job.namespace, value, *where)
                else:
                    annotate.put_windows(Path(job.dataset), job.epoch, job.windows)
            return {}
        if isinstance(stream := self._streams[job.stream], OmewdError):
            raise stream
        match job.kind:
            case "create":
                stream.open_sinks()  # a library that fails does so before anything is made
                dataset.create(stream.spec, stream.folder, Path(job.root), stream.epoch)
                stream.hold_dataset()
                return {"leftovers": dataset.has_leftovers(stream.folder, stream.epoch)}
            case "write":
                point("writer: job begun")
                return self._write(job, stream)
            case "seal":
                stream.hold_dataset()
                stream.seal(job.source, job.frames[job.source])
                return {}
            case "grow":
                stream.hold_dataset()
                dataset.grow(stream.spec, stream.folder, job.frames)
                return {}
            case "finalize":
                stream.hold_dataset()
                return {"totals": [totals.to_dict() for totals in self._finalize(job, stream)]}

    @staticmethod
    def _finalize(job: Job, stream: OpenStream) -> Iterable[Totals]:
        """Write the last metadata; returns the totals of each source, of a failed stream by its ledger."""
        spec, folder, ended_by = stream.spec, stream.folder, job.ended_by
        if job.failed:
            received = [totals.received for totals in job.totals]
            return dataset.finalize_by_ledger(spec, folder, ended_by, received, failed=True, windows=job.windows)
        dataset.finalize(spec, folder, totals=job.totals, ended_by=ended_by, failed=False, windows=job.windows)
        return job.totals

    def _write(self, job: Job, stream: OpenStream) -> dict[str, Any]:
        """Store a job's units: pixels first, then their lines in the ledger."""
        started_ns = time.monotonic_ns()
        self._clock.take()
        stream.hold_dataset()
        ring = stream.rings[job.source]
        with self._clock.stage("read"):
            units = [] if job.gap_frames else ring.locate(job)
            present = [frames for frames in units if frames.count]
        frames_written = sum(frames.count for frames in present)
        stored_bytes = stream.store(job.source, present) if present else 0
        with self._clock.stage("write"):
            source = ledger.source_of(stream.spec, job.source)
            if job.gap_frames:
                lines = gap_lines(job, source)
            else:
                lines = ledger_lines(ring, units, job, stream.lines[job.source], source)
            durable = stream.publisher.durable
            append_to(stream.folder, lines.text, lines.runs, durable=durable, clock=self._clock)
        point("writer: ledger appended")
        waits = _waits(ring, units, started_ns)
        for stage, spent_ns in self._clock.take().items():
            waits[stage] = Histogram()
            waits[stage].add(spent_ns, frames_written)
        return {
            "frames": frames_written,
            "stored_bytes": stored_bytes,
            "waits": {stage: histogram.pack() for stage, histogram in waits.items()},
            "free_bytes": _free_bytes(stream.folder),
            "contrast": sample.sketches(stream.spec, ring.plan, ring, present),
            "io": "O_DIRECT" if stream.publisher.direct else "page cache",
            "done_ns": time.monotonic_ns(),
        }

    def close(self) -> None:
        for stream in self._streams.values():
            if isinstance(stream, OpenStream):
                stream.close()
        self._streams.clear()
        self._tools.files.shutdown()
        self._tools.shards.close()


def _free_bytes(folder: Path) -> int:
    """What the drive of a dataset has left for this user."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def _waits(ring: RingReader, units: Iterable[UnitFrames], started_ns: int) -> Waits:
    """What the slots' time stamps tell: how long frames waited until their job began."""
    present = [frames.sequences[frames.sequences >= 0] for frames in units if frames.count]
    if not present:
        return {"producer": Histogram(), "ring": Histogram(), "dispatch": Histogram()}
    counts = np.array([len(sequences) for sequences in present])
    published_ns, waited_ns = ring.stamps(np.concatenate(present))
    complete_ns = np.repeat(np.maximum.reduceat(published_ns, np.cumsum(counts) - counts), counts)
    return {
        "producer": histogram_of(waited_ns),
        "ring": histogram_of(complete_ns - published_ns),
        "dispatch": histogram_of(started_ns - complete_ns),
    }


def _disk_error(error: OSError) -> OmewdError:
    where = f" ({error.filename})" if error.filename else ""
    text = f"{error.strerror or error}{where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OmewdError("disk_full", f"the disk is full: {text}", "Free space on the drive of the dataset")
    return OmewdError("disk_error", f"writing failed: {text} [{errno.errorcode.get(error.errno or 0, '?')}]")


def serve(channel: socket.socket, *, threads: int, scratch: Path) -> None:
    """Run a worker until the daemon closes the channel; the scratch folder goes with it."""
    worker = Worker(channel, threads=threads, scratch=scratch)
    try:
        worker.run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the daemon is gone; whoever comes next runs the jobs again
    finally:
        worker.close()
        if scratch.exists():
            os.rmdir(scratch)  # noqa: PTH106
