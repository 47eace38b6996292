"""The jobs that a dataset needs during the stream beside its write units: sealing shards, growing the shape. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from omewd.model.plan.plan import Plan
from omewd.protocol.jobs.frames import GrowShape, SealShards

# How often the shape on disk of an unbounded stream grows, for viewers.
_GROW_EVERY_NS = 2_000_000_000
_PAUSE_PARTS = 10


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

    ``sealing``: the sources with a running job that seals shards. ``sealed``: for each source, how many shards are
    sealed, including those of the running job; ``sealed_below``: they only hold frame indexes below this.
    ``looked_at``: for each source, the frame index that was last compared with the ends of shards. At most one job that
    grows the shape runs at a time.
    """

    growing: bool = False
    grown_to: tuple[int, ...] = ()
    began_ns: int = 0
    due_ns: int = _GROW_EVERY_NS
    sealing: set[int] = field(default_factory=set)
    sealed: dict[int, int] = field(default_factory=dict)
    sealed_below: dict[int, int] = field(default_factory=dict)
    looked_at: dict[int, int] = field(default_factory=dict)
    _may_grow: bool = False

    def due(
        self, stream: int, sources: Sequence[Source], changed: Sequence[Source], now_ns: int
    ) -> Iterator[GrowShape | SealShards]:
        """The jobs to submit now. ``stream``: the id of the sources' stream.

        ``changed``: those of the sources whose frames may have been written since the last call.
        """
        for source in changed:
            if self._may_seal(source):
                since = self.sealed_below.get(source.number, 0)
                self.sealed_below[source.number] = source.safe_below
                yield SealShards(stream, source.number, source.safe_below, since)
            self._may_grow |= source.plan.frames_total is None
        if not self._may_grow or self.growing or now_ns < self.due_ns:
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

    def _may_seal(self, source: Source) -> bool:
        number, safe = source.number, source.safe_below
        if source.shards is None or number in self.sealing or safe <= self.looked_at.get(number, 0):
            return False
        self.looked_at[number] = safe
        # A daemon that takes a stream over also seals what the last one may have left unsealed.
        complete = source.shards.units_complete(safe)
        if complete <= self.sealed.get(number, 0):
            return False
        self.sealed[number] = complete
        self.sealing.add(number)
        return True

    def done(self, job: GrowShape | SealShards, now_ns: int) -> None:
        """Note that a job has ended."""
        if isinstance(job, SealShards):
            self.sealing.discard(job.source)
        else:
            self.growing = False
            # A thousand images take a while, and the writer has more urgent work.
            self.due_ns = max(self.began_ns + _GROW_EVERY_NS, now_ns + _PAUSE_PARTS * (now_ns - self.began_ns))

    def failed(self, job: GrowShape | SealShards, now_ns: int) -> None:
        """Note that a job has failed. The next one, or the end of the stream, does what it left undone."""
        if isinstance(job, SealShards):
            self.sealed_below[job.source] = job.since
        self.done(job, now_ns)
