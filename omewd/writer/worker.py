"""The writer's loop: take a job, run it, answer. One job at a time."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omewd.control.faultpoints import point
from omewd.control.jobs import Job
from omewd.control.messages import Message, close_all, receive, send
from omewd.control.profiling import profiled
from omewd.errors import OmewdError
from omewd.model.plan import Plan
from omewd.model.shards import ShardPlace
from omewd.model.spec import DIRECT, StreamSpec
from omewd.model.waits import Histogram, Waits, histogram_of
from omewd.ngff import ledger
from omewd.ngff.metadata import key_of
from omewd.ring import pixels
from omewd.ring.segment import Segment
from omewd.writer import backends, dataset
from omewd.writer.backends.base import Piece, Sink, UnitArray
from omewd.writer.block import RingReader, UnitFrames
from omewd.writer.publish import SMALL_FILE_BYTES, SMALL_FILES_AT_ONCE, Folder, Publisher
from omewd.writer.shards import ShardPool, Shards
from omewd.writer.stopwatch import Stopwatch


@dataclass
class OpenStream:
    """What a writer holds for one stream: the mapped ring, the publisher, and the backend's sink, or its shards.

    ``shards``: where the write units are chunks of shards.
    """

    spec: StreamSpec
    backend: str
    plan: Plan
    folder: Path
    ring: RingReader
    publisher: Publisher
    array: UnitArray
    shards: Shards | None = None
    sink: Sink | None = None
    lock: int | None = None

    def hold_dataset(self) -> None:
        """Lock the dataset against ``omewd repair`` while this writer has it, and see that it is open for writing."""
        if self.lock is None:
            lock = ledger.hold(self.folder)
            try:
                dataset.reopen(self.spec, self.folder, self.ring.segment.geometry.epoch)
            except OSError:
                os.close(lock)
                raise
            self.lock = lock

    def close(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
        if self.sink is not None:
            self.sink.close()
        self.ring.close()


class Worker:
    """Serves the daemon at the other end of ``channel`` until it closes that."""

    def __init__(self, channel: socket.socket, *, threads: int, scratch: Path) -> None:
        self._channel = channel
        self._threads = threads
        self._scratch = scratch
        self._streams: dict[int, OpenStream | OmewdError] = {}
        self._clock = Stopwatch()
        self._pool = ThreadPoolExecutor(SMALL_FILES_AT_ONCE, thread_name_prefix="publish")
        self._shard_pool = ShardPool(threads)

    def run(self) -> None:
        send(self._channel, {"ready": backends.availability()})
        backends.preload()
        with profiled("writer"):
            while (received := receive(self._channel)) is not None:
                message, descriptors = received
                self._handle(message, descriptors)

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        match message["do"]:
            case "open":
                try:
                    self._open(message, descriptors)
                except OmewdError as error:  # its jobs fail with this; other streams go on
                    self._streams[message["stream"]] = error
            case "close":
                stream = self._streams.pop(message["stream"], None)
                if isinstance(stream, OpenStream):
                    stream.close()
            case "job":
                self._run(Job.from_dict(message["job"]))
            case other:
                close_all(descriptors)
                raise OmewdError("bad_message", f"a writer can't {other!r}")

    def _open(self, message: Message, descriptors: list[int]) -> None:
        spec = StreamSpec.model_validate(message["spec"])
        folder = Path(message["dataset"])
        backend = message["backend"]
        plan = Plan.of(spec, backend)
        # Touch the whole ring now: the first touch of a page costs more than the copy of it.
        segment = Segment.open(descriptors[0], owner=os.geteuid(), writable=False, populate=True)
        publisher = Publisher(
            folder,
            folder / dataset.STAGING,
            durable=spec.durability == "fsync",
            pool=self._pool,
            clock=self._clock,
            buffers=self._shard_pool.buffers,
        )
        self._streams[message["stream"]] = OpenStream(
            spec=spec,
            backend=backend,
            plan=plan,
            folder=folder,
            ring=RingReader(segment, plan),
            publisher=publisher,
            array=UnitArray.of(spec),
            shards=Shards(spec, publisher, self._clock, self._shard_pool)
            if backend == DIRECT and spec.sharded
            else None,
        )

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
            spec = StreamSpec.model_validate(job.spec)
            place = dataset.check(spec, Path(job.dataset), Path(job.root))
            backend, reason = backends.select(spec.backend, UnitArray.of(spec), place)
            return {"backend": backend.name, "reason": reason, "place": str(place)}
        if job.kind == "sweep":
            dataset.sweep(Path(job.dataset))
            return {}
        if job.kind == "undo":
            dataset.undo(Path(job.dataset), job.epoch)
            return {}
        if job.kind == "recover":
            return dataset.recover(StreamSpec.model_validate(job.spec), Path(job.dataset), job.epoch)
        if isinstance(stream := self._streams[job.stream], OmewdError):
            raise stream
        match job.kind:
            case "create":
                if stream.shards is None:
                    self._sink(job.stream, stream)  # a library that fails does so before anything is made
                dataset.create(stream.spec, stream.folder, Path(job.root), stream.ring.segment.geometry.epoch)
                stream.hold_dataset()
                return {"leftovers": dataset.has_leftovers(stream.folder)}
            case "write":
                point("writer: job begun")
                return self._write(job, stream)
            case "seal":
                if stream.shards is not None:
                    stream.hold_dataset()
                    stream.shards.seal(job.frames)
                return {}
            case "grow":
                stream.hold_dataset()
                dataset.grow(stream.spec, stream.folder, job.frames)
                return {}
            case "finalize":
                stream.hold_dataset()
                dataset.finalize(
                    stream.spec,
                    stream.folder,
                    frames=job.frames,
                    written=job.written,
                    gaps=job.gaps,
                    lost=job.lost,
                    lost_frames=job.lost_frames,
                    ended_by=job.ended_by,
                    failed=job.failed,
                )
                return {}

    def _sink(self, number: int, stream: OpenStream) -> Sink:
        if stream.sink is None:
            scratch = self._scratch / str(number)
            backend = backends.BACKENDS[stream.backend]
            stream.sink = backend.open(stream.array, threads=self._threads, scratch=scratch)
        return stream.sink

    def _write(self, job: Job, stream: OpenStream) -> dict[str, Any]:
        """Store a job's units: pixels first, then their lines in the ledger."""
        started_ns = time.monotonic_ns()
        self._clock.take()
        stream.hold_dataset()
        with self._clock.stage("read"):
            units = stream.ring.locate(job)
            present = [frames for frames in units if frames.count]
        stored_bytes = 0
        frames_written = sum(frames.count for frames in present)
        if present and stream.shards is not None:
            with self._clock.stage("read"):
                blocks = stream.ring.blocks(present)
            stored_bytes = stream.shards.store(
                (frames.unit, block) for frames, block in zip(present, blocks, strict=True)
            )
        elif present:
            sink = self._sink(job.stream, stream)
            several = job.units * len(stream.array.frame_keys) > 1
            small = several and stream.array.key_bytes <= SMALL_FILE_BYTES
            pool = self._pool if small else self._shard_pool.threads if several and sink.lasting else None
            folders = self._encoded(sink, stream, present, at_once=small and not sink.lasting)
            stored_bytes = stream.publisher.publish_folders(folders, pool)
        with self._clock.stage("write"):
            lines = _ledger_lines(stream.ring.segment, units, job)
            stream.publisher.append(f"{ledger.FOLDER}/{ledger.FILE}", ledger.batch(lines, job.frontier))
        point("writer: ledger appended")
        waits = _waits(stream.ring, units, started_ns)
        for stage, spent_ns in self._clock.take().items():
            waits[stage] = Histogram()
            waits[stage].add(spent_ns, frames_written)
        return {
            "frames": frames_written,
            "stored_bytes": stored_bytes,
            "waits": {stage: histogram.pack() for stage, histogram in waits.items()},
            "free_bytes": _free_bytes(stream.folder),
            "io": "O_DIRECT" if stream.publisher.direct else "page cache",
            "done_ns": time.monotonic_ns(),
        }

    def _encoded(
        self, sink: Sink, stream: OpenStream, units: Iterable[UnitFrames], *, at_once: bool
    ) -> Iterator[Folder]:
        """The folder of each unit: all keys across the frame, at one place along the outer axes.

        ``at_once``: the bytes are taken out of the sink here, so that threads can still be writing them when the
        next unit is encoded; else they are valid until the next file is asked for.
        """
        for frames in units:
            place = key_of(stream.plan, ShardPlace(frames.unit, 0, 0)).rsplit("/", 2)[0]
            yield Folder(place, f"unit{frames.unit}", self._keys(sink, stream, frames, at_once=at_once))

    def _keys(
        self, sink: Sink, stream: OpenStream, frames: UnitFrames, *, at_once: bool
    ) -> Iterator[tuple[str, Iterable[Piece]]]:
        clock = self._clock
        with clock.stage("read"):
            block = stream.ring.block(frames)
        for key in clock.timed("encode", sink.encode(block)):
            pieces = clock.timed("encode", key.pieces)
            if at_once:
                pieces = iter([bytes(piece) for piece in pieces])
            yield f"{key.place[0]}/{key.place[1]}", pieces

    def close(self) -> None:
        for stream in self._streams.values():
            if isinstance(stream, OpenStream):
                stream.close()
        self._streams.clear()
        self._pool.shutdown()
        self._shard_pool.close()


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


def _ledger_lines(segment: Segment, units: Sequence[UnitFrames], job: Job) -> Iterator[str]:
    """A job's lines, in the order of frame indexes."""
    frames = np.concatenate([unit.grid.ravel() for unit in units])
    sequences = np.concatenate([unit.sequences.ravel() for unit in units])
    order = np.argsort(frames, kind="stable")
    gap: tuple[int, int, str] | None = None  # a run that may go on
    for frame, sequence in zip(frames[order].tolist(), sequences[order].tolist(), strict=True):
        if sequence >= 0:
            _, monotonic_ns, wall_ns, metadata = pixels.header(segment, sequence)
            yield ledger.frame_line(frame, wall_ns, monotonic_ns, metadata)
        elif frame < job.frontier:
            kind = next((name for start, name in reversed(job.gap_kinds) if start <= frame), "skipped")
            if gap is not None and (gap[0] + gap[1], gap[2]) == (frame, kind):
                gap = (gap[0], gap[1] + 1, kind)
                continue
            if gap is not None:
                yield ledger.gap_line(*gap)
            gap = (frame, 1, kind)
    if gap is not None:
        yield ledger.gap_line(*gap)


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
