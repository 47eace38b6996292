"""What the daemon tells who watches a stream, and the events that follow from it.

A client asks again with what it knows (:meth:`Watched.known`), and the daemon answers once that is no longer so. So
nothing is queued for a client: however late it asks, it gets one answer, with what holds by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omewd.errors import OmewdError
from omewd.model.record import Record
from omewd.protocol.status import CopyStatus, ErrorStatus


@dataclass(frozen=True, eq=False)
class WatchedSource(Record):
    """``durable``: frames below this index are on disk (durably, unless the stream has ``durability="none"``).

    ``sealed``: all shards, or other files, with frames below this index alone are in their places. ``copied``: frames
    below this index are in the copy's store.
    """

    name: str = ""
    received: int = 0
    durable: int = 0
    sealed: int = 0
    copied: int = 0


@dataclass(frozen=True, eq=False)
class Watched(Record):
    """A stream, for who watches it. ``failure``: the fields of its StreamFailedError, once all of it is known.

    ``copy``: the copy that it wants; None if it wants none.
    """

    id: int = 0
    name: str = ""
    state: str = ""
    settled: bool = False
    paused: ErrorStatus | None = None
    failure: dict[str, Any] | None = None
    sources: tuple[WatchedSource, ...] = ()
    copy: CopyStatus | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen that is told. A failed stream may be resumed, so its copy is not awaited."""
        return self.settled and (self.failure is not None or self.copy is None or self.copy.is_over)

    def known(self, *, frames: bool = True) -> dict[str, Any]:
        """What a client knows by this, as JSON values. ``frames``: it wants to be told of frames, too."""
        known: dict[str, Any] = {
            "id": self.id,
            "settled": self.settled,
            "paused": self.paused.code if self.paused else None,
            "copy": [self.copy.state, self.copy.error.code if self.copy.error else None] if self.copy else None,
        }
        if not frames:
            return known
        return known | {"sources": [[source.durable, source.sealed, source.copied] for source in self.sources]}

    def is_news(self, known: object) -> bool:
        """Whether anything that a client knows is no longer so."""
        now = self.known()
        return not isinstance(known, dict) or any(now.get(name) != value for name, value in known.items())


@dataclass(frozen=True)
class WatchEvent:
    """Something that has happened to ``stream``, which is its name."""

    stream: str


@dataclass(frozen=True)
class FramesDurable(WatchEvent):
    """The frame indexes of a source in [``first``, ``below``) are on disk, or are gaps."""

    source: int
    first: int
    below: int


@dataclass(frozen=True)
class ShardsSealed(WatchEvent):
    """All shards, or other files, of a source that only hold frame indexes below ``below`` are in their places."""

    source: int
    below: int


@dataclass(frozen=True)
class FramesCopied(WatchEvent):
    """The frame indexes of a source in [``first``, ``below``) are in the copy's store, confirmed, or are gaps."""

    source: int
    first: int
    below: int


@dataclass(frozen=True)
class StreamPaused(WatchEvent):
    """Nothing is written for now; ``error`` says why."""

    error: OmewdError


@dataclass(frozen=True)
class StreamGoesOn(WatchEvent):
    """It is no longer paused."""


@dataclass(frozen=True)
class StreamFailed(WatchEvent):
    """It has failed; ``error`` is the :class:`omewd.StreamFailedError`. The last event."""

    error: OmewdError


@dataclass(frozen=True)
class StreamDone(WatchEvent):
    """The dataset is complete, with ``received`` frame indexes in all. The last event, unless it is being copied."""

    received: int


@dataclass(frozen=True)
class CopyWaits(WatchEvent):
    """The copy can't go on for now, and is tried again; ``error`` says why."""

    error: OmewdError


@dataclass(frozen=True)
class CopyFailed(WatchEvent):
    """The copy has failed for good; ``error`` says why, and how to go on with it. The last event."""

    error: OmewdError


@dataclass(frozen=True)
class CopyComplete(WatchEvent):
    """The whole dataset is in the store at ``url``, confirmed. The last event."""

    url: str


def events(before: Watched | None, now: Watched, *, frames: bool = True) -> Iterator[WatchEvent]:
    """What has happened between two answers; with None, up to the first one. Pure. ``frames``: to frames, too."""
    name = now.name
    for number, source in enumerate(now.sources if frames else ()):
        old = before.sources[number] if before and number < len(before.sources) else WatchedSource()
        if source.durable > old.durable:
            yield FramesDurable(name, number, old.durable, source.durable)
        if source.sealed > old.sealed:
            yield ShardsSealed(name, number, source.sealed)
        if source.copied > old.copied:
            yield FramesCopied(name, number, old.copied, source.copied)
    was_paused = before.paused if before else None
    if now.paused and (was_paused is None or was_paused.code != now.paused.code):
        yield StreamPaused(name, OmewdError(now.paused.code, now.paused.message, now.paused.remedy))
    elif was_paused and not now.paused and not now.settled:
        yield StreamGoesOn(name)
    if now.settled and not (before and before.settled):
        if now.failure is not None:
            yield StreamFailed(name, OmewdError.from_dict(now.failure))
        else:
            yield StreamDone(name, sum(source.received for source in now.sources))
    if now.copy is not None:
        yield from _of_copy(name, before.copy if before else None, now.copy)


def _of_copy(name: str, before: CopyStatus | None, now: CopyStatus) -> Iterator[WatchEvent]:
    error = OmewdError(now.error.code, now.error.message, now.error.remedy) if now.error else None
    if before is not None and (before.state, before.error and before.error.code) == (now.state, error and error.code):
        return
    if now.state == "complete":
        yield CopyComplete(name, now.url)
    elif error is not None:
        yield CopyFailed(name, error) if now.state == "failed" else CopyWaits(name, error)
