"""One source of a stream in the daemon: its ring, and which write units are done. Its only I/O is the ring's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter

from omewd.errors import Loss, OmewdError
from omewd.model.plan.memory import JOB_BYTES, JOB_UNITS, unit_bytes
from omewd.model.plan.plan import Plan
from omewd.model.plan.unfinished import frames_before, runs_of_unfinished
from omewd.model.silence import Silence
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.process.faultpoints import point
from omewd.protocol.jobs.frames import WriteUnits
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import STATE_OPEN, UNSET, Geometry
from omewd.ring.progress import Progress

# The most runs of lost frames that are kept; the ledger shows all of them.
_LOST_RUNS = 1000
# Keeps a job within a message. A unit with more changes of kind than this keeps the last kind to its end.
_KINDS_IN_JOB = 500


@dataclass
class Source:
    """One source. ``is_open``: whether it takes frames. ``ended_by``: why it no longer does.

    ``producer``: the number of its producer's process (see :mod:`omewd.daemon.control.peer_process`), None for none.
    """

    stream_id: int
    number: int
    spec: StreamSpec
    backend: str
    geometry: Geometry
    ring: DaemonRing | None = None
    is_open: bool = True
    ended_by: str = ""
    first_frame_ns: int | None = None
    producer: int | None = None
    silence: Silence = field(default_factory=Silence)

    received: int = 0
    written: int = 0
    gaps: dict[str, int] = field(default_factory=lambda: {"skipped": 0, "dropped": 0})
    stored_bytes: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    lost_frames: int = 0

    # ``rings_at``: the frame index at which the producer is asked to ring.
    rings_at: int | None = None
    next_unit: int = 0
    incomplete_unit: int = 0
    done_below: int = 0
    # Jobs done beyond ``done_below``, by their first unit: the unit after their last one, and the bytes on disk.
    done: dict[int, tuple[int, int]] = field(default_factory=dict)
    _stored_below: int = 0

    @cached_property
    def name(self) -> str:
        """The source's name; empty if it is the only one."""
        return self.spec.source_names[self.number]

    @cached_property
    def plan(self) -> Plan:
        """The source's write units."""
        return Plan.of(self.spec, BACKENDS[self.backend].encodes, self.number)

    @cached_property
    def shards(self) -> Plan | None:
        """The source's shards, if they are larger than its write units."""
        fills_shards = BACKENDS[self.backend].fills_shards(sharded=self.spec.sharded)
        return Plan.of(self.spec, source=self.number) if fills_shards else None

    @property
    def keys(self) -> Plan:
        """The source's keys: a unit is a shard, or a chunk without sharding, across the whole frame."""
        return self.shards or self.plan

    def write_with(self, backend: str, geometry: Geometry) -> None:
        """Change the backend, before anything is created."""
        self.backend, self.geometry = backend, geometry
        for fact in ("plan", "shards", "unit_bytes"):
            self.__dict__.pop(fact, None)

    def use_ring(self, ring: DaemonRing) -> None:
        """Take frames from a new ring."""
        self.ring = ring

    def leave_ring(self) -> None:
        """Stop using the ring, which is released."""
        self.ring = None

    def require_sound(self, ring: DaemonRing) -> None:
        """Raise OmewdError ``bad_ring`` if the units on record in a ring and the frames do not belong together."""
        units, frames, received = ring.progress.units, ring.progress.frames, ring.frontier
        if units <= self.plan.units_with(received):
            is_all = units == self.plan.units_total
            if frames == (received if is_all else min(self.plan.first_frame(units), received)):
                return
        raise OmewdError(
            "bad_ring",
            f"the ring's record of progress is damaged: {units} units and {frames} frames are done of {received}",
        )

    def resume(self, ring: DaemonRing, now_ns: int) -> None:
        """Continue from another daemon, or after a failure. ``ring`` must have been resumed."""
        progress = ring.progress
        self.ring, self.rings_at = ring, None
        if self.spec.durability == "fsync":
            ring.note_durable()
        self.lost, self.lost_frames = (), 0
        self.done.clear()
        self.next_unit = self.done_below = progress.units
        self.received = progress.frames
        self.gaps = {"skipped": progress.skipped, "dropped": progress.dropped}
        self.written = progress.frames - progress.skipped - progress.dropped
        self.stored_bytes = self._stored_below = progress.stored_bytes
        self.producer = ring.producer or None
        self.is_open = ring.state == STATE_OPEN
        self.incomplete_unit = self.plan.units_complete(self.received)
        self._count(now_ns)
        self.written += self._done_above(progress)
        if not self.is_open:
            self._close("it was stopped")

    def _done_above(self, progress: Progress) -> int:
        """The frames of finished units beyond the first frame of an unfinished one: units interleave."""
        if not progress.units:
            return 0
        ranges = self._frames_between(progress.frames, self.plan.last_frame(progress.units - 1) + 1)
        units = range(self.plan.units_complete(progress.frames), progress.units)
        return sum(
            frames_before(self.plan, unit, end) - frames_before(self.plan, unit, first)
            for first, end in ranges
            for unit in units
        )

    # -- producer ------------------------------------------------------------------------------

    def producer_came(self, process: int) -> None:
        self.producer = process
        if self.ring is not None:
            self.ring.note_producer(process)

    def producer_left(self) -> None:
        self.producer = None
        if self.ring is not None:
            self.ring.note_producer(0)

    def finish(self) -> None:
        """Show the producer that the dataset is complete."""
        assert self.ring is not None
        self.ring.finish()

    def tell(self, error: OmewdError, loss: Loss) -> None:
        """Leave the reason of a failure, and the loss, in the ring for the producer's next call."""
        if self.ring is not None:
            self.ring.fail(error, loss)

    # -- frames in ------------------------------------------------------------------------------

    def poll(self, now_ns: int) -> None:
        """Take in new frames; the last declared one ends the source. Raises OmewdError ``bad_ring``."""
        if self.ring is None or not self.is_open:
            return
        self.ring.poll()
        self._count(now_ns)
        if self.received == self.plan.frames_total:
            self.stop("", now_ns)

    def listen(self) -> bool:
        """Ask for the doorbell at the frame that completes the next unit; returns whether it is there already.

        While units wait for a writer, the producer need not ring: the writer's answer wakes the daemon, and a wake-up
        for each frame would only cost time. It rings for the first frame of all, from which rates are counted.
        """
        if self.ring is None or not self.is_open:
            return False
        frame = self.plan.last_frame(self.incomplete_unit) + 1 if self.received else 1
        if self.has_units:
            frame = UNSET
        if frame == self.rings_at:  # it was not there yet, so the producer rings
            return False
        is_there = self.ring.ring_at(frame)
        self.rings_at = None if is_there else frame
        return is_there

    @property
    def newest_frame_ns(self) -> int | None:
        """The producer's time of the newest frame; None before the first one, and once no more are taken."""
        return self.ring.newest_frame_ns if self.ring is not None and self.is_open else None

    def is_silent(self, now_ns: int) -> bool:
        """Whether the camera is there, had begun, and has sent nothing for an unusual time. Its ring has room."""
        newest_ns, limit_ns = self.newest_frame_ns, self.silence.limit_ns(self.spec.expect_fps)
        if self.ring is None or self.producer is None or newest_ns is None or limit_ns is None:
            return False
        is_full = self.ring.map.published - self.ring.released >= self.geometry.capacity
        return now_ns - newest_ns > limit_ns and not is_full

    @property
    def is_behind(self) -> bool:
        """Whether the producer should have rung since the last poll."""
        return self.ring is not None and self.is_open and self.ring.is_behind

    def _count(self, now_ns: int) -> None:
        assert self.ring is not None
        if self.ring.frontier == self.received:
            return
        total = self.plan.frames_total
        if total is not None and self.ring.frontier > total:
            raise OmewdError("bad_ring", f"{self.ring.frontier} frames in the ring, but {total} were declared")
        if self.first_frame_ns is None:
            self.first_frame_ns = now_ns
        self.silence.note(self.ring.frontier - self.received, now_ns)
        for _, count, kind in self.ring.gaps(self.received, self.ring.frontier):
            self.gaps[kind] += count
        self.received = self.ring.frontier
        if self.received > self.plan.last_frame(self.incomplete_unit):
            self.incomplete_unit = self.plan.units_complete(self.received)

    def stop(self, why: str, now_ns: int) -> None:
        """Take no more frames. Those published by now are written."""
        if not self.is_open or self.ring is None:
            return
        self.ring.stop()
        point("daemon: ring stopped")
        self._count(now_ns)
        self._close(why)

    def _close(self, why: str) -> None:
        self.is_open = False
        self.incomplete_unit = self.plan.units_with(self.received)  # the last units may be incomplete
        self.ended_by = "all frames received" if self.received == self.plan.frames_total else why

    def fail(self, error: OmewdError, now_ns: int) -> None:
        """Take no more frames, and leave the error for the producer's next call."""
        if self.ring is None:
            return
        self.ring.fail(error)
        if self.is_open:
            with contextlib.suppress(OmewdError):  # a damaged ring must not hide the first error
                self._count(now_ns)
        self.is_open = False

    # -- units out ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Frames that were received and are neither on disk nor lost."""
        return self.received - self.written - sum(self.gaps.values()) - self.lost_frames

    @property
    def has_units(self) -> bool:
        """Whether there are write units to be given out."""
        return self.next_unit < self.incomplete_unit

    @property
    def ready_bytes(self) -> int:
        """The pixels in the write units to be given out."""
        return (self.incomplete_unit - self.next_unit) * self.unit_bytes

    def take_job(self, writers: int) -> WriteUnits | None:
        """The next job: write units that are complete, or that will get no more frames.

        It is one unit, or several small ones (one writer's share of those that are ready) to share the disk's latency.
        """
        ready = self.incomplete_unit - self.next_unit
        if ready <= 0:
            return None
        assert self.ring is not None
        units = max(1, min(ready // writers, JOB_BYTES // self.unit_bytes, JOB_UNITS))
        unit = self.next_unit
        first, empty = self.plan.first_frame(unit), self._empty_units(unit)
        is_gap = empty > units
        rest = -unit % self.plan.group_units
        if 0 < rest < units:  # end with a group: only from there on, a long gap is seen
            units -= (units - rest) % self.plan.group_units
        units = empty if is_gap else units
        self.next_unit += units
        last = self.plan.last_frame(unit + units - 1)
        gaps = self.ring.gaps(first, min(last + 1, self.received))
        runs = groupby(gaps, key=itemgetter(2))  # a kind is only listed where it changes
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
        """How many units from ``unit`` on hold no frames and cover consecutive frame indexes.

        They make one job, however long the gap is.
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
        """Note that a job's units are on disk; returns whether slots were released to the producer."""
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
        """All frame indexes below this one are in finished units."""
        total = self.plan.units_total
        if total is not None and self.done_below >= total:
            return self.received
        return min(self.plan.first_frame(self.done_below), self.received)

    @property
    def drained(self) -> bool:
        """Whether the source takes no more frames and all its units are written."""
        return not self.is_open and self.done_below == self.next_unit == self.incomplete_unit

    def find_lost(self) -> None:
        """Find a failed stream's lost frames: those in unfinished units. Keeps the first runs of them."""
        if self.ring is None:
            return
        finished = [(0, self.done_below), *((first, end) for first, (end, _) in self.done.items())]
        there = self._frames_between(self.safe_below, self.received)
        self.lost = tuple(islice(runs_of_unfinished(self.plan, there, finished), _LOST_RUNS))
        self.lost_frames = self.received - self.written - sum(self.gaps.values())

    def _frames_between(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The frames in the ring with indexes in [start, stop), as ranges (first, one past the last)."""
        assert self.ring is not None
        return [(piece.frame, piece.frame + piece.count) for piece in self.ring.map.pieces(start, stop)]

    def count_by(self, ledger: Totals) -> None:
        """Count a failed stream's frames by its ledger, whose lines are only written once the pixels are on disk.

        A writer may have died after it wrote the lines and before it could report. Gaps that are only known to the ring
        count, too.
        """
        if self.ring is None:
            return
        self.written = ledger.written
        self.lost_frames = self.received - self.written - sum(self.gaps.values())
        self.lost = tuple(
            run for first, count in ledger.lost for run in self._without_gaps(first, min(first + count, self.received))
        )[:_LOST_RUNS]

    def _without_gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        assert self.ring is not None
        for first, count, _ in self.ring.gaps(start, stop):
            if first > start:
                yield start, first - start
            start = first + count
        if stop > start:
            yield start, stop - start

    @cached_property
    def unit_bytes(self) -> int:
        """The size of a whole write unit at the full resolution."""
        return unit_bytes(self.spec, self.plan)

    @property
    def totals(self) -> Totals:
        gaps = sum(self.gaps.values())
        return Totals(self.received, self.written, gaps, self.lost[:_LOST_RUNS], self.lost_frames)
