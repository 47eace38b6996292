"""One open stream as the daemon sees it: its ring, which units are done, and what it says of itself.

    STARTING ──► ACTIVE ──► DRAINING ──► FINALIZING ──► DONE
        │           │           │             │
        └───────────┴───────────┴─────────────┴───────► FAILED (with the reason)

STARTING: memory is allocated, the dataset made. ACTIVE: frames are taken. DRAINING: no more frames are
taken, the units that are there get written. FINALIZING: true shape and metadata. No I/O but the ring's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from omewd.control.faultpoints import point
from omewd.control.jobs import Job
from omewd.daemon.config import JOB_BYTES
from omewd.errors import OmewdError, stream_failed
from omewd.model.plan import Plan
from omewd.model.spec import DIRECT, StreamSpec
from omewd.model.waits import Histogram, RecentWaits, Waits, summary
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import STATE_FAILED, STATE_OPEN, UNSET, Geometry

_RUNS_IN_STATUS = 50
_JOB_UNITS = 1024
# What keeps a job within a message; a unit with more changes than this has the last kind to its end.
_KINDS_IN_JOB = 500
_LOSS = re.compile(r"; (all \d+ received frames are written|\d+ of \d+ received frames are missing: .*)$")


class State(StrEnum):
    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    FINALIZING = "FINALIZING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass
class Stream:
    """``settled``: nothing more will happen to it, the last metadata is written (or could not be).

    ``backend``: of spec "auto" the one that is hoped for, until a writer has looked at the disk; ``backend_reason``:
    why not that one. ``disk_io``: how bytes get to the disk. ``was_active``: its dataset was made. ``paused``: why no
    new jobs are given out, until one that waits has succeeded.
    """

    id: int
    spec: StreamSpec
    backend: str
    geometry: Geometry
    dataset: Path
    root: Path
    started_ns: int
    ring: DaemonRing | None = None
    state: State = State.STARTING
    settled: bool = False
    was_active: bool = False
    backend_reason: str = ""
    error: OmewdError | None = None
    ended_by: str = ""
    ended_ns: int | None = None
    first_frame_ns: int | None = None
    producer_pid: int | None = None

    received: int = 0
    written: int = 0
    gaps: dict[str, int] = field(default_factory=lambda: {"skipped": 0, "dropped": 0})
    stored_bytes: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    retries: int = 0
    paused: OmewdError | None = None
    disk_free_bytes: int | None = None
    disk_io: str | None = None
    waits: RecentWaits = field(default_factory=RecentWaits)

    next_unit: int = 0
    incomplete_unit: int = 0
    done_below: int = 0
    done: dict[int, int] = field(default_factory=dict)
    _stored_below: int = 0

    @cached_property
    def plan(self) -> Plan:
        """Its write units."""
        return Plan.of(self.spec, self.backend)

    @cached_property
    def shards(self) -> Plan | None:
        """Its shards, where they are more than a write unit."""
        return Plan.of(self.spec) if self.backend == DIRECT and self.spec.sharded else None

    def write_with(self, backend: str, geometry: Geometry) -> None:
        """Take another backend, before anything is made."""
        self.backend, self.geometry = backend, geometry
        for fact in ("plan", "shards"):
            self.__dict__.pop(fact, None)

    def resume(self, ring: DaemonRing, now_ns: int) -> None:
        """Go on where another daemon was; ``ring`` has been resumed."""
        progress = ring.progress
        self.ring = ring
        if self.spec.durability == "fsync":
            ring.note_durable()
        self.was_active = True
        self.next_unit = self.done_below = progress.units
        self.received = progress.frames
        self.gaps = {"skipped": progress.skipped, "dropped": progress.dropped}
        self.written = progress.frames - progress.skipped - progress.dropped
        self.stored_bytes = self._stored_below = progress.stored_bytes
        self.producer_pid = ring.producer or None
        self.state = State.ACTIVE if ring.state == STATE_OPEN else State.DRAINING
        self.incomplete_unit = self.plan.units_complete(self.received)
        self._count(now_ns)
        if self.state is State.DRAINING:
            self.incomplete_unit = self.plan.units_with(self.received)
            self.ended_by = "all frames received" if self.received == self.plan.frames_total else "it was stopped"
        if ring.state == STATE_FAILED:
            self.state = State.FAILED
            self.error = ring.failure or stream_failed("it failed, and the reason was lost with the last daemon")
            self.ended_by = "failure"

    @property
    def has_kept_frames(self) -> bool:
        """It has failed, and frames that are not on disk are still in its ring."""
        return self.state is State.FAILED and bool(self.lost) and self.ring is not None

    def revive(self, ring: DaemonRing, now_ns: int) -> None:
        """After a failure: try again to write what is in the ring; ``ring`` has been resumed."""
        self.settled, self.error, self.lost, self.ended_ns, self.paused = False, None, (), None, None
        self.done.clear()
        self.resume(ring, now_ns)

    # -- frames in ------------------------------------------------------------------------------

    @property
    def takes_frames(self) -> bool:
        return self.state is State.ACTIVE

    def poll(self, now_ns: int) -> None:
        """Take note of new frames; with the last declared one the stream drains. Raises OmewdError ``bad_ring``."""
        if self.ring is None or not self.takes_frames:
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
        if self.ring is None or not self.takes_frames:
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
        self.incomplete_unit = self.plan.units_complete(self.received)

    def stop(self, why: str, now_ns: int) -> None:
        """Take no more frames; what has been published by now is written."""
        if not self.takes_frames:
            return
        assert self.ring is not None
        self.ring.stop()
        point("daemon: ring stopped")
        self._count(now_ns)
        self.incomplete_unit = self.plan.units_with(self.received)  # the last ones may stay short
        self.state = State.DRAINING
        self.ended_by = "all frames received" if self.received == self.plan.frames_total else why

    def fail(self, error: OmewdError, now_ns: int) -> None:
        """End in failure; the reason is left where the producer finds it at its next call."""
        if self.state in (State.DONE, State.FAILED):
            return
        if self.ring is not None:
            if self.takes_frames and error.code != "bad_ring":
                with contextlib.suppress(OmewdError):  # a damaged ring must not hide the first reason
                    self.ring.stop()
                    self._count(now_ns)
            self.ring.fail(error)
        self.state = State.FAILED
        self.error = error
        self.ended_by = self.ended_by or "failure"

    # -- units out ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Frames that were handed over and are neither on disk nor given up."""
        return self.received - self.written - sum(self.gaps.values()) - sum(count for _, count in self.lost)

    def take_job(self, number: Callable[[], int], writers: int) -> Job | None:
        """The next write units that are complete (or will not get more), as a job.

        One unit; of small ones this writer's share of what is ready, so that they share the disk's latency.
        """
        ready = self.incomplete_unit - self.next_unit
        if self.state not in (State.ACTIVE, State.DRAINING) or ready <= 0 or self.paused is not None:
            return None
        assert self.ring is not None
        units = max(1, min(ready // writers, JOB_BYTES // self.unit_bytes(), _JOB_UNITS))
        unit = self.next_unit
        self.next_unit += units
        first, last = self.plan.first_frame(unit), self.plan.last_frame(unit + units - 1)
        gaps = self.ring.gaps(first, min(last + 1, self.received))
        runs = groupby(gaps, key=itemgetter(2))  # a kind is named where it changes
        kinds = tuple((next(run)[0], kind) for kind, run in islice(runs, _KINDS_IN_JOB))
        return Job(
            id=number(),
            stream=self.id,
            kind="write",
            unit=unit,
            units=units,
            sequence=self.ring.map.released_below(first),
            sequence_end=self.ring.map.released_below(last + 1),
            frontier=self.received,
            gap_kinds=kinds,
        )

    def written_to_disk(self, job: Job, frames: int, stored_bytes: int) -> bool:
        """A job's units are on disk; returns whether slots were given back to the producer."""
        assert self.ring is not None
        self.written += frames
        self.stored_bytes += stored_bytes
        # A job's bytes stand by its last unit: it counts as a whole once that is done.
        self.done.update(dict.fromkeys(range(job.unit, job.unit + job.units), 0))
        self.done[job.unit + job.units - 1] = stored_bytes
        while self.done_below in self.done:
            self._stored_below += self.done.pop(self.done_below)
            self.done_below += 1
        return self.ring.release_below(
            self.safe_below,
            durable=self.spec.durability == "fsync",
            units=self.done_below,
            stored_bytes=self._stored_below,
        )

    def note_waits(self, packed: dict[str, Any], done_ns: int, now_ns: int) -> None:
        """Take in where a job's frames have waited; the job was done at ``done_ns``."""
        waits: Waits = {stage: Histogram.unpack(histogram) for stage, histogram in packed.items()}
        frames = waits["dispatch"].frames
        waits["report"] = Histogram()
        waits["report"].add(now_ns - done_ns, frames)
        self.waits.add(waits, now_ns)

    @property
    def safe_below(self) -> int:
        """All frame indexes below are in units that are done."""
        total = self.plan.units_total
        if total is not None and self.done_below >= total:
            return self.received
        return min(self.plan.first_frame(self.done_below), self.received)

    @property
    def drained(self) -> bool:
        """Nothing is left to write of a stream that takes no more frames."""
        return self.state is State.DRAINING and self.done_below == self.next_unit == self.incomplete_unit

    def find_lost(self) -> None:
        """Of a failed stream: the frames in units that did not get done."""
        assert self.ring is not None
        runs: list[tuple[int, int]] = []
        for piece in self.ring.map.pieces(self.safe_below, self.received):
            for frame in range(piece.frame, piece.frame + piece.count):
                unit = self.plan.unit_of(frame)
                if unit < self.done_below or unit in self.done:
                    continue
                if runs and sum(runs[-1]) == frame:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((frame, 1))
        self.lost = tuple(runs)

    def tell_loss(self) -> None:
        """Find what is lost of a failed stream, and say so in its error, also to the producer."""
        assert self.ring is not None
        assert self.error is not None
        self.find_lost()
        count = sum(n for _, n in self.lost)
        reason = _LOSS.sub("", self.error.message)  # a daemon before this one may have said so already
        text = f"{reason}; all {self.received} received frames are written"
        if count:
            runs = ", ".join(f"{first}-{first + n - 1}" if n > 1 else str(first) for first, n in self.lost[:10])
            more = ", …" if len(self.lost) > 10 else ""
            text = f"{reason}; {count} of {self.received} received frames are missing: {runs}{more}"
        self.error = OmewdError(self.error.code, text, self.error.remedy)
        self.ring.fail(self.error)

    def unit_bytes(self) -> int:
        return self.spec.frame_bytes * _product(self.plan.extents)

    # -- what it says of itself -----------------------------------------------------------------

    def status(self, now_ns: int) -> dict[str, Any]:
        end = self.ended_ns or now_ns
        seconds = (end - self.first_frame_ns) / 1e9 if self.first_frame_ns is not None else 0.0
        written_bytes = self.written * self.spec.frame_bytes
        used = self.ring.map.published - self.ring.released if self.ring is not None else 0
        return {
            "id": self.id,
            "name": self.spec.name,
            "state": self.state.value,
            "settled": self.settled,
            "path": str(self.dataset),
            "dtype": self.spec.dtype,
            "frame_shape": list(self.spec.frame_shape),
            "frame_bytes": self.spec.frame_bytes,
            "backend": self.backend,
            "backend_reason": self.backend_reason,
            "compression": self.spec.compression,
            "backpressure": self.spec.backpressure,
            "durability": self.spec.durability,
            "frames": {
                "declared": self.plan.frames_total,
                "received": self.received,
                "written": self.written,
                "gaps": sum(self.gaps.values()),
                **self.gaps,
                "lost": sum(count for _, count in self.lost),
                "in_flight": self.in_flight,
                "durable": self.safe_below if self.spec.durability == "fsync" else 0,
            },
            "lost": [list(run) for run in self.lost[:_RUNS_IN_STATUS]],
            "kept_in_ring": self.has_kept_frames,
            "ring": {
                "slots": self.geometry.capacity,
                "used": used,
                "bytes": self.geometry.total_bytes,
                "window": self.plan.window_frames,
            },
            "throughput": {
                "seconds": round(seconds, 3),
                "frames_per_s": round(self.written / seconds, 1) if seconds > 0 else 0.0,
                "bytes_per_s": round(written_bytes / seconds) if seconds > 0 else 0,
                "written_bytes": written_bytes,
                "stored_bytes": self.stored_bytes,
            },
            "paused": self.paused.to_dict() if self.paused else None,
            "disk": {
                "free_bytes": self.disk_free_bytes,
                "lasts_s": self._disk_lasts_s(seconds),
                "io": self.disk_io,
            },
            "waits": summary(self.waits.all),
            "recent_waits": summary(self.waits.recent(now_ns)),
            "retries": self.retries,
            "producer": self.producer_pid,
            "ended_by": self.ended_by,
            "error": self.error.to_dict() if self.error else None,
        }

    def _disk_lasts_s(self, seconds: float) -> float | None:
        """How long the disk lasts at the rate of this stream so far."""
        if self.disk_free_bytes is None or not self.stored_bytes or seconds <= 0:
            return None
        return round(self.disk_free_bytes / (self.stored_bytes / seconds), 1)


def _product(numbers: tuple[int, ...]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result
