"""Handlers of jobs for a stream's frames."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from omewd.dataset import dataset
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.appending import append_to
from omewd.model.waits import Histogram, Waits, histogram_of
from omewd.process.faultpoints import point
from omewd.protocol.jobs.frames import GrowShape, SealShards, WriteUnits, Written
from omewd.protocol.jobs.job import Result
from omewd.writer import sample
from omewd.writer.lines import gap_lines, ledger_lines
from omewd.writer.open_streams import OpenStreams
from omewd.writer.ring_reader import RingReader, UnitFrames


def write_units(job: WriteUnits, streams: OpenStreams) -> Written:
    """Write the pixels, then their lines in the ledger."""
    stream = streams.get(job.stream)
    point("writer: job begun")
    clock = streams.tools.clock
    started_ns = time.monotonic_ns()
    clock.take()
    stream.hold_dataset()
    ring = stream.rings[job.source]
    with clock.stage("read"):
        units = [] if job.gap_frames else ring.locate(job)
        present = [frames for frames in units if frames.count]
    frames_written = sum(frames.count for frames in present)
    stored_bytes = stream.store(job.source, present) if present else 0
    with clock.stage("write"):
        source = ledger.source_of(stream.spec, job.source)
        if job.gap_frames:
            lines = gap_lines(job, source)
        else:
            lines = ledger_lines(ring, units, job, stream.lines[job.source], source)
        append_to(stream.folder, lines.text, lines.runs, durable=stream.publisher.durable, clock=clock)
    point("writer: ledger appended")
    waits = _waits(ring, units, started_ns)
    for stage, spent_ns in clock.take().items():
        waits[stage] = Histogram()
        waits[stage].add(spent_ns, frames_written)
    return Written(
        frames=frames_written,
        stored_bytes=stored_bytes,
        free_bytes=_free_bytes(stream.folder),
        io="O_DIRECT" if stream.publisher.direct else "page cache",
        contrast=sample.sketches(stream.spec, ring.plan, ring, present),
        waits=waits,
        done_ns=time.monotonic_ns(),
    )


def seal_shards(job: SealShards, streams: OpenStreams) -> Result:
    stream = streams.get(job.stream)
    stream.hold_dataset()
    stream.seal(job.source, job.below, job.since)
    return Result()


def grow_shape(job: GrowShape, streams: OpenStreams) -> Result:
    stream = streams.get(job.stream)
    stream.hold_dataset()
    dataset.grow(stream.spec, stream.folder, job.frames)
    return Result()


def _free_bytes(folder: Path) -> int:
    """The space that is left on the dataset's drive for this user."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def _waits(ring: RingReader, units: Iterable[UnitFrames], started_ns: int) -> Waits:
    """How long frames waited before their job began, by the slots' time stamps."""
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
