"""One open stream as the daemon sees it: its sources and its state.

    STARTING ──► ACTIVE ──► DRAINING ──► FINALIZING ──► DONE
        │           │           │             │
        └───────────┴───────────┴─────────────┴───────► FAILED (with the reason)

STARTING: memory is allocated, the dataset made. ACTIVE: a source takes frames. DRAINING: none does any
more, the units that are there get written. FINALIZING: true shape and metadata. No I/O but the rings'.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from omewd.daemon.streams.source import Source
from omewd.errors import OmewdError, stream_failed
from omewd.model.contrast import MOST_CHANNELS, Contrast
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.model.waits import Histogram, RecentWaits, Waits
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import STATE_FAILED, Geometry

_LOSS = re.compile(r"; (all \d+ received frames are written|\d+ of \d+ received frames are missing: .*)$")
_RUNS_TOLD = 10
_SHOW_CONTRAST_NS = 1_000_000_000
# Each takes a file that is synced; of more images the end is early enough.
_MOST_IMAGES_SHOWN = 64


class State(StrEnum):
    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    FINALIZING = "FINALIZING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass
class Stream:
    """``spec`` is an outline; ``fields`` are what it was made of, and ``details`` are its details (see
    :mod:`omewd.model.spec.outline`).

    ``settled``: nothing more will happen to it, the last metadata is written (or could not be).

    ``backend``: of spec "auto" the one that is hoped for, until a writer has looked at the disk; ``backend_reason``:
    why not that one. ``disk_io``: how bytes get to the disk. ``was_active``: its dataset was made. ``paused``: why no
    new jobs are given out, until one that waits has succeeded. ``contrast``: of what was written since the daemon is
    there; ``contrast_shown``: whether it has been put into the dataset while frames come.
    """

    id: int
    spec: StreamSpec
    backend: str
    dataset: Path
    root: Path
    started_ns: int
    sources: list[Source]
    fields: dict[str, Any] = field(default_factory=dict)
    details: bytes = b""
    state: State = State.STARTING
    settled: bool = False
    was_active: bool = False
    backend_reason: str = ""
    error: OmewdError | None = None
    ended_by: str = ""
    ended_ns: int | None = None
    retries: int = 0
    paused: OmewdError | None = None
    disk_free_bytes: int | None = None
    disk_io: str | None = None
    waits: RecentWaits = field(default_factory=RecentWaits)
    contrast: Contrast = field(default_factory=Contrast)
    contrast_shown: bool = False

    @classmethod
    def of(
        cls,
        number: int,
        spec: StreamSpec,
        backend: str,
        geometry: Geometry,
        dataset: Path,
        root: Path,
        *,
        started_ns: int,
        fields: dict[str, Any] | None = None,
        details: bytes = b"",
    ) -> Stream:
        """A stream with its sources; all of them have a ring of the same ``geometry``."""
        sources = [Source(number, source, spec, backend, geometry) for source in range(spec.sources)]
        return cls(number, spec, backend, dataset, root, started_ns, sources, fields or {}, details)

    @property
    def epoch(self) -> int:
        return self.sources[0].geometry.epoch

    @property
    def ring_bytes(self) -> int:
        """Bytes of all its rings."""
        return sum(source.geometry.total_bytes for source in self.sources)

    @property
    def has_rings(self) -> bool:
        return all(source.ring is not None for source in self.sources)

    def write_with(self, backend: str, geometry: Geometry) -> None:
        """Take another backend, before anything is made."""
        self.backend = backend
        for source in self.sources:
            source.write_with(backend, geometry)

    def resume(self, rings: list[DaemonRing], now_ns: int) -> None:
        """Go on where another daemon was, or after a failure; ``rings`` have been resumed."""
        for source, ring in zip(self.sources, rings, strict=True):
            source.resume(ring, now_ns)
        self.settled, self.error, self.ended_ns, self.paused = False, None, None, None
        self.was_active = True
        self.state = State.ACTIVE
        self._drain_if_ended()
        failed = next((ring for ring in rings if ring.state == STATE_FAILED), None)
        if failed is not None:
            self.state = State.FAILED
            self.error = failed.failure or stream_failed("it failed, and the reason was lost with the last daemon")
            self.ended_by = "failure"
            for source in self.sources:  # the last daemon may have died before it had told all of them
                if source.is_open:
                    source.fail(self.error, now_ns)

    @property
    def has_kept_frames(self) -> bool:
        """It has failed, and what is in its rings may still be wanted: frames that are not on disk.

        Or all are, in a dataset that is not in its place, and has no last metadata yet.
        """
        if self.state is not State.FAILED or not self.has_rings:
            return False
        unfinished = self.error is not None and self.error.code == "dataset_replaced"
        return unfinished or any(source.lost_frames for source in self.sources)

    # -- frames in ------------------------------------------------------------------------------

    @property
    def takes_frames(self) -> bool:
        return self.state is State.ACTIVE

    def poll(self, now_ns: int) -> None:
        """Take note of new frames; with the last declared ones the stream drains. Raises OmewdError ``bad_ring``."""
        if self.takes_frames:
            for source in self.sources:
                source.poll(now_ns)
            self._drain_if_ended()

    def stop(self, why: str, now_ns: int, source: Source | None = None) -> None:
        """Take no more frames, or none of one source; what has been published by now is written."""
        if not self.takes_frames:
            return
        for each in self.sources if source is None else [source]:
            each.stop(why, now_ns)
        self._drain_if_ended()

    def _drain_if_ended(self) -> None:
        if not any(source.is_open for source in self.sources):
            self.state = State.DRAINING
            reasons = dict.fromkeys(source.ended_by for source in self.sources)
            self.ended_by = ", ".join(reasons)

    def fail(self, error: OmewdError, now_ns: int) -> None:
        """End in failure; the reason is left where the producers find it at their next call."""
        if self.state in (State.DONE, State.FAILED):
            return
        for source in self.sources:
            source.fail(error, now_ns)
        self.state = State.FAILED
        self.error = error
        self.ended_by = self.ended_by or "failure"

    # -- units out ------------------------------------------------------------------------------

    @property
    def gives_jobs(self) -> bool:
        """Whether write units may be given to writers."""
        return self.state in (State.ACTIVE, State.DRAINING) and self.paused is None

    def note_waits(self, packed: dict[str, Any], done_ns: int, now_ns: int) -> None:
        """Take in where a job's frames have waited; the job was done at ``done_ns``."""
        waits: Waits = {stage: Histogram.unpack(histogram) for stage, histogram in packed.items()}
        frames = waits["dispatch"].frames
        waits["report"] = Histogram()
        waits["report"].add(now_ns - done_ns, frames)
        self.waits.add(waits, now_ns)

    def may_show_contrast(self, now_ns: int) -> bool:
        """Whether frames of all channels have come, and nobody has put it into the dataset yet.

        Not in the first second: a short stream has it in its last metadata, and no sync more for it.
        """
        if self.contrast_shown or not self.contrast or now_ns - self.started_ns < _SHOW_CONTRAST_NS:
            return False
        channels = next((d.count or 1 for d in self.spec.dimensions[:-2] if d.type == "channel"), 1)
        few = self.spec.images <= _MOST_IMAGES_SHOWN
        every = len(self.contrast) >= min(channels, MOST_CHANNELS)
        return self.state is State.ACTIVE and few and every

    @property
    def drained(self) -> bool:
        """Nothing is left to write of a stream that takes no more frames."""
        return self.state is State.DRAINING and all(source.drained for source in self.sources)

    @property
    def received(self) -> int:
        return sum(source.received for source in self.sources)

    @property
    def written(self) -> int:
        return sum(source.written for source in self.sources)

    @property
    def gaps(self) -> int:
        return sum(sum(source.gaps.values()) for source in self.sources)

    @property
    def in_flight(self) -> int:
        """Frames that were handed over and are neither on disk nor given up."""
        return sum(source.in_flight for source in self.sources)

    @property
    def safe_below(self) -> tuple[int, ...]:
        """For each source: all frame indexes below are in units that are done."""
        return tuple(source.safe_below for source in self.sources)

    def tell_loss(self, by_ledger: Sequence[Totals] | None = None) -> None:
        """Find what is lost of a failed stream, and say so in its error, also to the producers.

        ``by_ledger``: what its ledger says of each source; without that it is what no writer has reported.
        """
        assert self.error is not None
        told = []
        for source in self.sources:
            if by_ledger is None:
                source.find_lost()
            else:
                source.count_by(by_ledger[source.number])
            runs = ", ".join(
                f"{first}-{first + n - 1}" if n > 1 else str(first) for first, n in source.lost[:_RUNS_TOLD]
            )
            if runs:
                more = ", …" if len(source.lost) > _RUNS_TOLD else ""
                told.append(f"{source.name}: {runs}{more}" if source.name else f"{runs}{more}")
        reason = _LOSS.sub("", self.error.message)  # a daemon before this one may have said so already
        text = f"{reason}; all {self.received} received frames are written"
        if told:
            count = sum(source.lost_frames for source in self.sources)
            text = f"{reason}; {count} of {self.received} received frames are missing: {'; '.join(told)}"
        self.error = OmewdError(self.error.code, text, self.error.remedy)
        for source in self.sources:
            if source.ring is not None:
                source.ring.fail(self.error)
