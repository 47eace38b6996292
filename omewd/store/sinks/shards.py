"""The sink for single chunks of a sharded array: shards in progress."""

from __future__ import annotations

from pathlib import Path

from omewd.model.plan.memory import INDEXES_AT_ONCE_BYTES
from omewd.model.plan.shards import ShardLayout, ShardPlace, Written
from omewd.process.faultpoints import point
from omewd.store.format.shard_index import ENTRY_BYTES
from omewd.store.format.shard_table import in_staging
from omewd.store.sinks.base import Batch, Sink, results
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_batch import SeenShards, ShardBatch, shard_file
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.tools import Tools

# A job that is interrupted has at least sealed the groups before.
_SEALED_AT_ONCE = 256


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

    def seal(self, layout: ShardLayout, below: int | None = None, written: Written | None = None) -> None:
        publisher = self._publisher
        places = [
            place
            for place in in_staging(publisher.staging, layout)
            if below is None or layout.keys.last_frame(place.unit) < below
        ]

        def finish(place: ShardPlace) -> tuple[Path | None, ShardFile]:
            file = shard_file(publisher, layout, place)
            return file.finish(None if written is None else layout.with_frames(place, written)), file

        at_once = max(1, min(_SEALED_AT_ONCE, INDEXES_AT_ONCE_BYTES // (layout.chunks_per_shard * ENTRY_BYTES)))
        for some in (places[start : start + at_once] for start in range(0, len(places), at_once)):
            with self._tools.clock.stage("write"):
                finished = results([self._tools.syncs.submit(finish, place) for place in some])
            point("writer: shards finished")
            publisher.put_in_place(
                [(path, file.final) for path, file in finished if path is not None],
                [file.final for path, file in finished if path is None and file.final.exists()],
            )
            point("writer: shards in place")
            for _, file in finished:
                file.forget()
            self._seen.forget((layout.level.number, layout.source, place) for place in some)
