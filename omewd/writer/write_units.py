"""Writes units in two halves: the front puts them, and the back makes them durable and records them.

Between the halves, the threads of pools encode and write the chunks. The back takes the jobs that are written by then
together (group commit): each phase is done for all of them at once, and the filesystem merges their syncs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from omewd.dataset.ledger import ledger
from omewd.model.waits import Histogram, Waits, histogram_of
from omewd.process.faultpoints import point
from omewd.protocol.jobs.frames import WriteUnits, Written
from omewd.store.filesystem import Room, room_of
from omewd.store.sinks.base import Fence, at_once, commit
from omewd.store.stopwatch import Account
from omewd.store.tools import Tools
from omewd.writer import sample
from omewd.writer.lines import JobLines, gap_lines, ledger_lines
from omewd.writer.open_stream import OpenStream
from omewd.writer.ring_reader import RingReader, UnitFrames

Sketches = tuple[tuple[int, tuple[float, ...]], ...]


@dataclass
class UnitsInFlight:
    """A job whose units are put. ``fence``: the one after them; None if the job has no frames.

    ``waits``: of its ``frames`` frames, until the job began. ``account``: gets the time of its stages.
    """

    stream: OpenStream
    fence: Fence | None
    lines: JobLines
    frames: int
    contrast: Sketches
    waits: Waits
    started_ns: int
    account: Account
    put_ns: int = field(default_factory=time.monotonic_ns)

    @property
    def is_written(self) -> bool:
        """Whether the back would not have to wait for its chunks."""
        return self.fence is None or self.fence.is_written

    def settle(self) -> None:
        """Wait until its chunks are written, or one has failed."""
        if self.fence is not None:
            self.fence.settle()

    def report(self, stored_bytes: int, room: Room, group: Account, begun_ns: int) -> Written:
        """The result. ``group``: the stages of the group commit, which began at ``begun_ns``."""
        now_ns = time.monotonic_ns()
        self.account.wait_in_line("fsync", self.put_ns, begun_ns)
        self.account.add(group.stages())
        if not self.stream.publisher.durable:
            self.account.rename("fsync", "write")
        for stage, spent_ns in self.account.stages(now_ns - self.started_ns).items():
            self.waits[stage] = Histogram()
            self.waits[stage].add(spent_ns, self.frames)
        return Written(
            frames=self.frames,
            stored_bytes=stored_bytes,
            drive=room.device,
            free_bytes=room.free_bytes,
            io="O_DIRECT" if self.stream.publisher.direct else "page cache",
            contrast=self.contrast,
            waits=self.waits,
            done_ns=now_ns,
        )


def put_units(job: WriteUnits, stream: OpenStream, tools: Tools) -> UnitsInFlight:
    """The front's half: find the frames, put their units into the sink, and make their lines for the ledger."""
    point("writer: job begun")
    started_ns = time.monotonic_ns()
    account = Account()
    with tools.clock.charging(account):
        stream.hold_dataset()
        ring = stream.rings[job.source]
        with tools.clock.stage("read"):
            units = [] if job.gap_frames else ring.locate(job)
            present = [run for frames in units for run in frames.with_frames()]
        fence = stream.put(job.source, present) if present else None
        try:
            with tools.clock.stage("write"):  # the pixels are being written meanwhile
                source = ledger.source_of(stream.spec, job.source)
                if job.gap_frames:
                    lines = gap_lines(job, source)
                else:
                    lines = ledger_lines(ring, units, job, stream.lines[job.source], source)
            return UnitsInFlight(
                stream,
                fence,
                lines,
                frames=sum(int(units.frames.sum()) for units in present),
                contrast=sample.sketches(stream.spec, ring.plan, ring, present),
                waits=_waits(ring, units, started_ns),
                started_ns=started_ns,
                account=account,
            )
        except BaseException:
            if fence is not None:
                fence.give_up()
            raise


def commit_units(jobs: Sequence[UnitsInFlight], tools: Tools) -> list[Written | Exception]:
    """The back's half, for several jobs together: sync their chunks, record them, and append to the ledgers.

    Returns the result of each, or its error. An error of a stream's ledger is one of all its jobs here.
    """
    begun_ns, group = time.monotonic_ns(), Account()
    with tools.clock.charging(group), tools.clock.stage("fsync"):
        stored = _commit_chunks(jobs, tools)
        lines: dict[OpenStream, list[JobLines]] = {}
        for job, size in zip(jobs, stored, strict=True):
            if not isinstance(size, Exception):
                lines.setdefault(job.stream, []).append(job.lines)
        rooms: dict[OpenStream, Room] = {}
        appends = {stream: partial(_append, stream, some, tools, rooms) for stream, some in lines.items()}
        failed = at_once(appends, tools.syncs)
    outcomes: list[Written | Exception] = []
    for job, size in zip(jobs, stored, strict=True):
        if isinstance(size, Exception):
            outcomes.append(size)
        elif job.stream in failed:
            outcomes.append(failed[job.stream])
        else:
            point("writer: ledger appended")
            outcomes.append(job.report(size, rooms[job.stream], group, begun_ns))
    return outcomes


def _commit_chunks(jobs: Sequence[UnitsInFlight], tools: Tools) -> list[int | Exception]:
    """The size on disk of each job's chunks, or its error."""
    fences = [job.fence for job in jobs if job.fence is not None]
    sizes = iter(commit(fences, tools.syncs))
    return [0 if job.fence is None else next(sizes) for job in jobs]


def _append(stream: OpenStream, jobs: Sequence[JobLines], tools: Tools, rooms: dict[OpenStream, Room]) -> None:
    """Append the lines of jobs to their stream's ledger. ``rooms``: gets what is left on its drive."""
    stream.hold_dataset().append(jobs, durable=stream.publisher.durable, clock=tools.clock)
    rooms[stream] = room_of(stream.folder)


def _waits(ring: RingReader, units: Sequence[UnitFrames], started_ns: int) -> Waits:
    """How long frames waited before their job began, by the slots' time stamps."""
    counts = np.concatenate([frames.frames for frames in units]) if units else np.zeros(0, int)
    if not counts.any():
        return {"producer": Histogram(), "ring": Histogram(), "dispatch": Histogram()}
    counts = counts[counts > 0]
    published_ns, waited_ns = ring.stamps(np.concatenate([x.sequences[x.sequences >= 0] for x in units]))
    complete_ns = np.repeat(np.maximum.reduceat(published_ns, np.cumsum(counts) - counts), counts)
    return {
        "producer": histogram_of(waited_ns),
        "ring": histogram_of(complete_ns - published_ns),
        "dispatch": histogram_of(started_ns - complete_ns),
    }
