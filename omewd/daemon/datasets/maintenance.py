"""What a dataset needs beside its write units while frames come in: shards sealed, a shape that follows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from omewd.model.plan.plan import Plan
from omewd.protocol.jobs.frames import GrowShape, SealShards

# The shape on disk of an unbounded stream follows its frames at this distance, for those who look.
_GROW_EVERY_NS = 2_000_000_000
_PAUSE_PARTS = 10


class Source(Protocol):
    """A source whose frames are written into the dataset, as far as maintenance looks at it."""

    number: int

    @property
    def plan(self) -> Plan: ...

    @property
    def shards(self) -> Plan | None: ...

    @property
    def safe_below(self) -> int: ...


@dataclass
class Maintenance:
    """Which jobs are due.

    ``sealing``: sources that have such a job out. ``sealed``: how many shards of each source are, or will be by that
    job; ``looked_at``: the frame index of each that was last compared with their ends. Of jobs that grow the shape one
    is out at most.
    """

    growing: bool = False
    grown_to: tuple[int, ...] = ()
    began_ns: int = 0
    due_ns: int = _GROW_EVERY_NS
    sealing: set[int] = field(default_factory=set)
    sealed: dict[int, int] = field(default_factory=dict)
    looked_at: dict[int, int] = field(default_factory=dict)

    def due(self, stream: int, sources: Sequence[Source], now_ns: int) -> Iterator[GrowShape | SealShards]:
        """Jobs to submit now; ``stream``: the id of the stream that has the sources."""
        for source in sources:
            if self._may_seal(source):
                yield SealShards(stream, source.number, source.safe_below)
        safe = tuple(source.safe_below for source in sources)
        endless = any(source.plan.frames_total is None for source in sources)
        behind = endless and safe != (self.grown_to or (0,) * len(safe))
        if behind and not self.growing and now_ns >= self.due_ns:
            self.began_ns, self.grown_to, self.growing = now_ns, safe, True
            yield GrowShape(stream, safe)

    def _may_seal(self, source: Source) -> bool:
        number, safe = source.number, source.safe_below
        if source.shards is None or number in self.sealing or safe <= self.looked_at.get(number, 0):
            return False
        self.looked_at[number] = safe
        # A daemon that takes a stream over seals what the last one may have left, too.
        complete = source.shards.units_complete(safe)
        if complete <= self.sealed.get(number, 0):
            return False
        self.sealed[number] = complete
        self.sealing.add(number)
        return True

    def done(self, job: GrowShape | SealShards, now_ns: int) -> None:
        """A job has ended, well or not: what it left undone is done by the next one, or when the stream ends."""
        if isinstance(job, SealShards):
            self.sealing.discard(job.source)
        else:
            self.growing = False
            # Of a thousand images that takes a while: a writer has better things to do.
            self.due_ns = max(self.began_ns + _GROW_EVERY_NS, now_ns + _PAUSE_PARTS * (now_ns - self.began_ns))
