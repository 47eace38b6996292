"""The sink for single chunks of a sharded array: shards in progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from omewd.model.plan.memory import INDEXES_AT_ONCE_BYTES
from omewd.model.plan.shards import ShardLayout, ShardPlace, Written
from omewd.process.faultpoints import point
from omewd.store.format.shard_index import ENTRY_BYTES
from omewd.store.format.shard_table import in_staging, table_of
from omewd.store.sinks.base import Batch, Sink, results
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_batch import SeenShards, ShardBatch, shard_file
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.tools import Tools

# A job that is interrupted has at least sealed the groups before.
_SEALED_AT_ONCE = 256
# Asking for a table by its name takes a few microseconds, and so does each entry of the folder when it is read.
_MOST_BY_NAME = 1000

_Shard = tuple[ShardLayout, ShardPlace]


class ShardSink(Sink):
    """Writes chunks into a dataset's shards in progress, and seals them.

    Any number of writers may have a shard open, each through a sink of its own.
    """

    def __init__(self, publisher: Publisher, tools: Tools) -> None:
        self._publisher, self._tools = publisher, tools
        self._seen = SeenShards()
        super().__init__()

    def _begin(self) -> Batch:
        return ShardBatch(self._publisher, self._tools, self._seen)

    def seal(self, layout: ShardLayout, below: int, since: int = 0) -> None:
        units = range(layout.keys.units_complete(since), layout.keys.units_complete(below))
        if len(units) * len(layout.frame_shards) <= _MOST_BY_NAME:
            places = [
                place
                for unit in units
                for place in layout.shards_in(unit)
                if table_of(self._publisher.staging, layout, place).exists()
            ]
        else:  # after a restart, or a long gap
            there = in_staging(self._publisher.staging).get((layout.level.number, layout.source), [])
            places = [place for place in there if place.unit in units]
        self._seal([(layout, place) for place in places])

    def seal_all(self, layouts: Iterable[ShardLayout], written: Sequence[Written] | None = None) -> None:
        there = in_staging(self._publisher.staging)
        shards = ((layout, there.get((layout.level.number, layout.source), [])) for layout in layouts)
        self._seal([(layout, place) for layout, places in shards for place in places], written)

    def _seal(self, shards: Iterable[_Shard], written: Sequence[Written] | None = None) -> None:
        publisher = self._publisher

        def finish(layout: ShardLayout, place: ShardPlace) -> tuple[Path | None, ShardFile]:
            file = shard_file(publisher, layout, place)
            wanted = None if written is None else layout.with_frames(place, written[layout.source])
            return file.finish(wanted), file

        for some in _groups(shards):
            with self._tools.clock.stage("write"):
                finished = results([self._tools.syncs.submit(finish, *shard) for shard in some])
            point("writer: shards finished")
            publisher.put_in_place(
                [(path, file.final) for path, file in finished if path is not None],
                [file.final for path, file in finished if path is None and file.final.exists()],
                keeps_asides=True,
            )
            point("writer: shards in place")
            for _, file in finished:
                file.forget()
            self._seen.forget((layout.level.number, layout.source, place) for layout, place in some)


def _groups(shards: Iterable[_Shard]) -> Iterator[list[_Shard]]:
    """Shards that are sealed together, with their indexes in memory."""
    group: list[_Shard] = []
    index_bytes = 0
    for shard in shards:
        own_bytes = shard[0].chunks_per_shard * ENTRY_BYTES
        if group and (len(group) == _SEALED_AT_ONCE or index_bytes + own_bytes > INDEXES_AT_ONCE_BYTES):
            yield group
            group, index_bytes = [], 0
        group.append(shard)
        index_bytes += own_bytes
    if group:
        yield group
