"""What one job has for shards, at all resolutions: written side by side, synced together, then put on record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from types import TracebackType

from omewd.process.faultpoints import point
from omewd.store.encoders.base import Pixels
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.sinks.shards import ShardPool, Shards, ShardsPart, results
from omewd.store.stopwatch import Stopwatch


class Batch:
    """Chunks on their way to disk. Leaving the block before they are on record gives back the room that they got.

    ``clock`` gets the time of each stage. Errors are OSError, or what a library raises.
    """

    def __init__(self, publisher: Publisher, clock: Stopwatch, pool: ShardPool) -> None:
        self._publisher, self._clock, self._pool = publisher, clock, pool
        self._parts: list[tuple[Shards, list[ShardsPart]]] = []
        self._futures: list[Future[None]] = []
        self._pooled = ExitStack()
        self._may_be_on_record = False

    def __enter__(self) -> Batch:
        self._pooled.enter_context(self._clock.pooled())
        return self

    def add(self, shards: Shards, blocks: Iterable[tuple[int, Pixels]]) -> None:
        """Have threads write units of chunks, (number, pixels as (…, Y, X) in storage order); returns meanwhile."""
        parts = shards.parts(blocks)
        self._parts.append((shards, parts))
        with self._clock.stage("write"):
            for part in parts:
                part.file.open()
        for part in parts:
            self._futures.extend(shards.write(part))

    def finish(self) -> int:
        """Returns the bytes that they take, once they are on disk, and on record in their shards' tables."""
        self._wait()
        results(self._futures)
        point("writer: chunks written")
        self._sync_all(ShardFile.sync)
        # Another writer may have made a shard and not synced its name yet: who sees one for the first time does.
        if self._publisher.durable and any(shards.sees_first(parts) for shards, parts in self._parts):
            self._publisher.sync_folders([self._publisher.staging])
        for shards, parts in self._parts:
            shards.has_seen(parts)
        point("writer: chunks synced")
        every = [part for _, parts in self._parts for part in parts]
        self._may_be_on_record = True
        with self._clock.stage("write"):
            for part in every:
                for number, entries in part.runs:
                    part.file.note(number, entries)
        self._sync_all(ShardFile.sync_table)
        point("writer: chunks on record")
        self._publisher.direct = all(part.file.direct for part in every)
        return sum(int(entries[:, 1].sum()) for part in every for _, entries in part.runs)

    def _wait(self) -> None:
        """Until no thread is at it any more."""
        wait(self._futures)
        self._pooled.close()

    def _sync_all(self, do: Callable[[ShardFile], None]) -> None:
        files = [part.file for _, parts in self._parts for part in parts]
        if not self._publisher.durable:
            return
        with self._clock.stage("fsync"):
            if len(files) == 1:
                do(files[0])
            else:
                results([self._pool.threads.submit(do, file) for file in files])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait()
        self._futures.clear()  # an error's traceback holds them, they hold the error, and it the frames of the ring
        for _, parts in self._parts:
            for part in parts:
                if not self._may_be_on_record:
                    with suppress(OSError):
                        part.file.give_back()
                part.file.close()
