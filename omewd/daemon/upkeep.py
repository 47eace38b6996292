"""What a stream's dataset needs beside its write units while frames come in: shards sealed, a shape that follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omewd.control.jobs import JobKind
from omewd.daemon.stream import State, Stream

# The shape on disk of an unbounded stream follows its frames at this distance, for those who look.
_GROW_EVERY_NS = 2_000_000_000


@dataclass
class Upkeep:
    """Which such jobs are due; each kind is out at most once at a time. Pure.

    ``sealed``: how many shards are, or will be by the job that is out; ``looked_at``: the frame index that was last
    compared with their ends.
    """

    growing: bool = False
    grown_to: int = 0
    grown_ns: int = 0
    sealing: bool = False
    sealed: int = 0
    looked_at: int = 0

    def due(self, stream: Stream, now_ns: int) -> Iterator[tuple[JobKind, int]]:
        """Jobs to submit now, as (kind, frames)."""
        if stream.state is not State.ACTIVE or stream.paused is not None:
            return
        safe = stream.safe_below
        if stream.shards is not None and not self.sealing and safe > self.looked_at:
            self.looked_at = safe
            # A daemon that takes a stream over seals what the last one may have left, too.
            complete = stream.shards.units_complete(safe)
            if complete > self.sealed:
                self.sealed, self.sealing = complete, True
                yield "seal", safe
        behind = stream.plan.frames_total is None and safe > self.grown_to
        if behind and not self.growing and now_ns >= self.grown_ns + _GROW_EVERY_NS:
            self.grown_ns, self.grown_to, self.growing = now_ns, safe, True
            yield "grow", safe

    def done(self, kind: JobKind) -> None:
        """A job has ended, well or not: what it left undone is done by the next one, or when the stream ends."""
        if kind == "seal":
            self.sealing = False
        else:
            self.growing = False
