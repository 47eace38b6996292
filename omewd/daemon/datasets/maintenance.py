"""The jobs that a dataset needs during the stream beside its write units: sealing shards, growing the shape. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from omewd.model.plan.plan import Plan
from omewd.protocol.jobs.frames import GrowShape, SealShards

# How often the shape on disk of an unbounded stream grows, for viewers.
_GROW_EVERY_NS = 2_000_000_000
_PAUSE_PARTS = 10
# Sealing a shard takes half a millisecond of a core, so writers share the work if there are many: a source's jobs that
# run at once, and the units that make another job worth it. Measured with 1,536 positions of 5 resolutions that end
# together and two writers: 9.5 s until all is done with one job at a time, 7.4 s so.
_SEALING_AT_ONCE = 4
_MANY_UNITS = 64


class Source(Protocol):
    """A source, as far as maintenance needs it."""

    number: int

    @property
    def plan(self) -> Plan: ...

    @property
    def shards(self) -> Plan | None: ...

    @property
    def safe_below(self) -> int: ...


@dataclass
class Maintenance:
    """Decides which jobs are due.

    ``sealing``: for each source, how many jobs that seal shards are running. ``sealed``: how many units of shards are
    sealed, including those of the running jobs; ``sealed_below``: they only hold frame indexes below this.
    ``unsealed``: for each source, the frame indexes from which on shards are not sealed by a job that is running, or
    has failed. ``looked_at``: for each source, the frame index below which no unit is left to seal. At most one job
    that grows the shape runs at a time.
    """

    growing: bool = False
    grown_to: tuple[int, ...] = ()
    began_ns: int = 0
    due_ns: int = _GROW_EVERY_NS
    sealing: dict[int, int] = field(default_factory=dict)
    sealed: dict[int, int] = field(default_factory=dict)
    sealed_below: dict[int, int] = field(default_factory=dict)
    unsealed: dict[int, list[int]] = field(default_factory=dict)
    looked_at: dict[int, int] = field(default_factory=dict)
    _may_grow: bool = False

    def due(
        self,
        stream: int,
        sources: Sequence[Source],
        changed: Sequence[Source],
        now_ns: int,
        *,
        is_ending: bool = False,
    ) -> Iterator[GrowShape | SealShards]:
        """The jobs to submit now. ``stream``: the id of the sources' stream.

        ``changed``: those of the sources whose frames may have been written since the last call. ``is_ending``: whether
        the stream takes no more frames. Then its end does what no other writer would make faster.
        """
        for source in changed:
            for since, below in self._to_seal(source, is_ending=is_ending):
                yield SealShards(stream, source.number, below, since)
            self._may_grow |= source.plan.frames_total is None
        if is_ending or not self._may_grow or self.growing or now_ns < self.due_ns:
            return
        self._may_grow = False
        safe = tuple(source.safe_below for source in sources)
        if safe != (self.grown_to or (0,) * len(safe)):
            self.began_ns, self.grown_to, self.growing = now_ns, safe, True
            yield GrowShape(stream, safe)

    @property
    def grows_ns(self) -> int | None:
        """When the shape may grow next; None while it need not, or while it does."""
        return self.due_ns if self._may_grow and not self.growing else None

    def _to_seal(self, source: Source, *, is_ending: bool) -> Iterator[tuple[int, int]]:
        """The jobs that seal shards of a source, as (since, below) in frame indexes."""
        number, safe = source.number, source.safe_below
        if source.shards is None or safe <= self.looked_at.get(number, 0):
            return
        # A daemon that takes a stream over also seals what the last one may have left unsealed.
        complete = source.shards.units_complete(safe)
        share = max(_MANY_UNITS, -(-(complete - self.sealed.get(number, 0)) // _SEALING_AT_ONCE))
        while (units := min(complete - self.sealed.get(number, 0), share)) > 0:
            running = self.sealing.get(number, 0)
            if running == _SEALING_AT_ONCE or (units < _MANY_UNITS and (running or is_ending)):
                return
            since = self.sealed_below.get(number, 0)
            upto = self.sealed[number] = self.sealed.get(number, 0) + units
            below = bisect_left(range(safe), upto, lo=since, key=source.shards.units_complete)
            self.sealed_below[number] = safe if upto == complete else below
            self.sealing[number] = running + 1
            self.unsealed.setdefault(number, []).append(since)
            yield since, self.sealed_below[number]
        self.looked_at[number] = safe

    def sealed_until(self, source: int) -> int:
        """The frame index below which all shards of a source that hold no others are sealed."""
        return min([*self.unsealed.get(source, []), self.sealed_below.get(source, 0)])

    def done(self, job: GrowShape | SealShards, now_ns: int) -> None:
        """Note that a job has ended."""
        if isinstance(job, SealShards):
            self.sealing[job.source] -= 1
            if job.since in (running := self.unsealed.get(job.source, [])):
                running.remove(job.since)
        else:
            self.growing = False
            # A thousand images take a while, and the writer has more urgent work.
            self.due_ns = max(self.began_ns + _GROW_EVERY_NS, now_ns + _PAUSE_PARTS * (now_ns - self.began_ns))

    def failed(self, job: GrowShape | SealShards, now_ns: int) -> None:
        """Note that a job has failed. The next one, or the end of the stream, does what it left undone."""
        is_for_later = isinstance(job, SealShards) and self.sealing[job.source] > 1
        if isinstance(job, SealShards) and not is_for_later:  # no two may seal the same shard
            self.sealed_below[job.source] = job.since
        self.done(job, now_ns)
        if isinstance(job, SealShards) and is_for_later:  # the end of the stream does it
            self.unsealed.setdefault(job.source, []).append(job.since)
