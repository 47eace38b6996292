"""How far a source's frames are on their way: in files that are in their places, and in the store of the copy. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omewd.daemon.datasets.copy import CopyPhase

if TYPE_CHECKING:
    from omewd.daemon.streams.source import Source
    from omewd.daemon.streams.stream import Stream


def sealed_below(stream: Stream, source: Source) -> int:
    """All files that only hold a source's frame indexes below this one are in their places."""
    durable = source.safe_below
    if source.shards is None or (stream.settled and stream.error is None):
        return durable
    return min(stream.dataset.maintenance.sealed_until(source.number), durable)


def copied_below(stream: Stream, source: Source) -> int:
    """All of a source's frame indexes below this one are in the copy's store, confirmed."""
    copy = stream.dataset.copy
    if copy is None:
        return 0
    units, total = copy.copied[source.number], source.keys.units_total
    if copy.phase is CopyPhase.COMPLETE or (total is not None and units >= total):
        return source.received
    return min(source.keys.first_frame(units), source.received)
