"""One source of a stream as the daemon sees it: its ring, and which units are done.

No I/O but the ring's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter

from omewd.errors import Loss, OmewdError
from omewd.model.plan.memory import JOB_BYTES, unit_bytes
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.process.faultpoints import point
from omewd.protocol.jobs.frames import WriteUnits
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import STATE_OPEN, UNSET, Geometry
from omewd.ring.progress import Progress

# Which frames are lost follows from the ledger too; this many runs of them are told.
_LOST_RUNS = 1000
_JOB_UNITS = 1024
# What keeps a job within a message; a unit with more changes than this has the last kind to its end.
_KINDS_IN_JOB = 500


@dataclass
class Source:
    """``is_open``: it takes frames; ``ended_by``: why it does not any more."""

    stream_id: int
    number: int
    spec: StreamSpec
    backend: str
    geometry: Geometry
    ring: DaemonRing | None = None
    is_open: bool = True
    ended_by: str = ""
    first_frame_ns: int | None = None
    producer_pid: int | None = None

    received: int = 0
    written: int = 0
    gaps: dict[str, int] = field(default_factory=lambda: {"skipped": 0, "dropped": 0})
    stored_bytes: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    lost_frames: int = 0

    next_unit: int = 0
    incomplete_unit: int = 0
    done_below: int = 0
    # Of jobs that are done beyond that, by their first unit: the unit after the last one, and the bytes on disk.
    done: dict[int, tuple[int, int]] = field(default_factory=dict)
    _stored_below: int = 0

    @cached_property
    def name(self) -> str:
        """What it is called; nothing where it is the only one."""
        return self.spec.source_names[self.number]

    @cached_property
    def plan(self) -> Plan:
        """Its write units."""
        return Plan.of(self.spec, BACKENDS[self.backend].encodes, self.number)

    @cached_property
    def shards(self) -> Plan | None:
        """Its shards, where they are more than a write unit."""
        fills_shards = BACKENDS[self.backend].fills_shards(sharded=self.spec.sharded)
        return Plan.of(self.spec, source=self.number) if fills_shards else None

    def write_with(self, backend: str, geometry: Geometry) -> None:
        """Take another backend, before anything is made."""
        self.backend, self.geometry = backend, geometry
        for fact in ("plan", "shards"):
            self.__dict__.pop(fact, None)

    def use_ring(self, ring: DaemonRing) -> None:
        """Take frames out of a new ring."""
        self.ring = ring

    def leave_ring(self) -> None:
        """Look at its ring no more: it is let go."""
        self.ring = None

    def resume(self, ring: DaemonRing, now_ns: int) -> None:
        """Go on where another daemon was, or after a failure; ``ring`` has been resumed."""
        progress = ring.progress
        self.ring = ring
        if self.spec.durability == "fsync":
            ring.note_durable()
        self.lost, self.lost_frames = (), 0
        self.done.clear()
        self.next_unit = self.done_below = progress.units
        self.received = progress.frames
        self.gaps = {"skipped": progress.skipped, "dropped": progress.dropped}
        self.written = progress.frames - progress.skipped - progress.dropped
        self.stored_bytes = self._stored_below = progress.stored_bytes
        self.producer_pid = ring.producer or None
        self.is_open = ring.state == STATE_OPEN
        self.incomplete_unit = self.plan.units_complete(self.received)
        self._count(now_ns)
        self.written += self._done_above(progress)
        if not self.is_open:
            self._close("it was stopped")

    def _done_above(self, progress: Progress) -> int:
        """Frames of units that are done beyond the first frame of one that is not: units interleave."""
        if not progress.units:
            return 0
        assert self.ring is not None
        pieces = self.ring.map.pieces(progress.frames, self.plan.last_frame(progress.units - 1) + 1)
        frames = (frame for piece in pieces for frame in range(piece.frame, piece.frame + piece.count))
        return sum(self.plan.unit_of(frame) < progress.units for frame in frames)

    # -- its producer ---------------------------------------------------------------------------

    def producer_came(self, pid: int) -> None:
        self.producer_pid = pid
        if self.ring is not None:
            self.ring.note_producer(pid)

    def producer_left(self) -> None:
        self.producer_pid = None
        if self.ring is not None:
            self.ring.note_producer(0)

    def finish(self) -> None:
        """The dataset is complete: its producer can see it."""
        assert self.ring is not None
        self.ring.finish()

    def tell(self, error: OmewdError, loss: Loss) -> None:
        """Leave a reason for a failure, and what is lost, where the producer finds it at its next call."""
        if self.ring is not None:
            self.ring.fail(error, loss)

    # -- frames in ------------------------------------------------------------------------------

    def poll(self, now_ns: int) -> None:
        """Take note of new frames; with the last declared one it ends. Raises OmewdError ``bad_ring``."""
        if self.ring is None or not self.is_open:
            return
        self.ring.poll()
        self._count(now_ns)
        if self.received == self.plan.frames_total:
            self.stop("", now_ns)

    def listen(self) -> bool:
        """Say at which frame the producer is to ring, once jobs are given out; returns whether it is there already.

        Where units wait for a writer, that one's answer is what is waited for: a wake-up for each frame would only
        take time from it.
        """
        if self.ring is None or not self.is_open:
            return False
        waits = self.next_unit < self.incomplete_unit
        return self.ring.ring_at(UNSET if waits else self.plan.last_frame(self.incomplete_unit) + 1)

    def _count(self, now_ns: int) -> None:
        assert self.ring is not None
        if self.ring.frontier == self.received:
            return
        total = self.plan.frames_total
        if total is not None and self.ring.frontier > total:
            raise OmewdError("bad_ring", f"{self.ring.frontier} frames in the ring, {total} were declared")
        if self.first_frame_ns is None:
            self.first_frame_ns = now_ns
        for _, count, kind in self.ring.gaps(self.received, self.ring.frontier):
            self.gaps[kind] += count
        self.received = self.ring.frontier
        if self.received > self.plan.last_frame(self.incomplete_unit):
            self.incomplete_unit = self.plan.units_complete(self.received)

    def stop(self, why: str, now_ns: int) -> None:
        """Take no more frames; what has been published by now is written."""
        if not self.is_open or self.ring is None:
            return
        self.ring.stop()
        point("daemon: ring stopped")
        self._count(now_ns)
        self._close(why)

    def _close(self, why: str) -> None:
        self.is_open = False
        self.incomplete_unit = self.plan.units_with(self.received)  # the last ones may stay short
        self.ended_by = "all frames received" if self.received == self.plan.frames_total else why

    def fail(self, error: OmewdError, now_ns: int) -> None:
        """Leave the reason where the producer finds it at its next call, and take no more frames."""
        if self.ring is None:
            return
        if self.is_open:
            with contextlib.suppress(OmewdError):  # a damaged ring must not hide the first reason
                self.ring.stop()
                self._count(now_ns)
        self.ring.fail(error)
        self.is_open = False

    # -- units out ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Frames that were handed over and are neither on disk nor given up."""
        return self.received - self.written - sum(self.gaps.values()) - self.lost_frames

    def take_job(self, writers: int) -> WriteUnits | None:
        """The next write units that are complete (or will not get more), as a job.

        One unit; of small ones this writer's share of what is ready, so that they share the disk's latency.
        """
        ready = self.incomplete_unit - self.next_unit
        if ready <= 0:
            return None
        assert self.ring is not None
        units = max(1, min(ready // writers, JOB_BYTES // self.unit_bytes(), _JOB_UNITS))
        unit = self.next_unit
        first, empty = self.plan.first_frame(unit), self._empty_units(unit)
        is_gap = empty > units
        units = empty if is_gap else units
        self.next_unit += units
        last = self.plan.last_frame(unit + units - 1)
        gaps = self.ring.gaps(first, min(last + 1, self.received))
        runs = groupby(gaps, key=itemgetter(2))  # a kind is named where it changes
        kinds = tuple((next(run)[0], kind) for kind, run in islice(runs, _KINDS_IN_JOB))
        return WriteUnits(
            stream=self.stream_id,
            source=self.number,
            unit=unit,
            units=units,
            sequence=self.ring.map.released_below(first),
            sequence_end=self.ring.map.released_below(last + 1),
            frontier=self.received,
            gap_kinds=kinds,
            gap_frames=(first, min(last + 1, self.received)) if is_gap else None,
        )

    def _empty_units(self, unit: int) -> int:
        """How many units from ``unit`` on hold no frame, and make up frame indexes without a hole.

        However long a gap is, it takes one job.
        """
        assert self.ring is not None
        round_units = self.plan.group_units
        next_frame = self.ring.map.next_frame(self.plan.first_frame(unit))
        if unit % round_units:
            return 0
        if next_frame is None and not self.is_open:
            return self.incomplete_unit - unit
        end = self.received if next_frame is None else min(next_frame, self.received)
        return min(self.plan.units_complete(end), self.incomplete_unit) // round_units * round_units - unit

    def written_to_disk(self, job: WriteUnits, frames: int, stored_bytes: int) -> bool:
        """A job's units are on disk; returns whether slots were given back to the producer."""
        assert self.ring is not None
        self.written += frames
        self.stored_bytes += stored_bytes
        self.done[job.unit] = job.unit + job.units, stored_bytes
        while self.done_below in self.done:
            self.done_below, stored = self.done.pop(self.done_below)
            self._stored_below += stored
        return self.ring.release_below(
            self.safe_below,
            durable=self.spec.durability == "fsync",
            units=self.done_below,
            stored_bytes=self._stored_below,
        )

    @property
    def safe_below(self) -> int:
        """All frame indexes below are in units that are done."""
        total = self.plan.units_total
        if total is not None and self.done_below >= total:
            return self.received
        return min(self.plan.first_frame(self.done_below), self.received)

    @property
    def drained(self) -> bool:
        """It takes no more frames, and nothing of it is left to write."""
        return not self.is_open and self.done_below == self.next_unit == self.incomplete_unit

    def find_lost(self) -> None:
        """Of a failed stream: the frames in units that did not get done."""
        if self.ring is None:
            return
        runs: list[tuple[int, int]] = []
        for piece in self.ring.map.pieces(self.safe_below, self.received):
            for frame in range(piece.frame, piece.frame + piece.count):
                unit = self.plan.unit_of(frame)
                if self._is_done(unit):
                    continue
                if runs and sum(runs[-1]) == frame:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((frame, 1))
        self.lost, self.lost_frames = tuple(runs), sum(count for _, count in runs)

    def count_by(self, ledger: Totals) -> None:
        """Of a failed stream: what became of its frames, by its ledger; lines follow pixels that are on disk.

        A writer may have died when it had put frames on record, and before it could say so. Gaps that are only in the
        ring are gaps all the same.
        """
        if self.ring is None:
            return
        self.written = ledger.written
        self.lost_frames = self.received - self.written - sum(self.gaps.values())
        self.lost = tuple(
            run for first, count in ledger.lost for run in self._without_gaps(first, min(first + count, self.received))
        )

    def _without_gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        assert self.ring is not None
        for first, count, _ in self.ring.gaps(start, stop):
            if first > start:
                yield start, first - start
            start = first + count
        if stop > start:
            yield start, stop - start

    def _is_done(self, unit: int) -> bool:
        return unit < self.done_below or any(first <= unit < end for first, (end, _) in self.done.items())

    def unit_bytes(self) -> int:
        return unit_bytes(self.spec, self.plan)

    @property
    def totals(self) -> Totals:
        gaps = sum(self.gaps.values())
        return Totals(self.received, self.written, gaps, self.lost[:_LOST_RUNS], self.lost_frames)
