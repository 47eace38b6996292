"""The sink for plain keys. The files of each unit are written aside in a folder, which is renamed into place."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from omewd.model.plan.shards import ShardLayout, Written
from omewd.process.faultpoints import point
from omewd.store.encoders.base import Cells, Patchwork, Piece
from omewd.store.sinks.base import Batch, Sink, Steps, folder_syncs, results
from omewd.store.sinks.publish import SMALL_FILE_BYTES, Publisher
from omewd.store.tools import Tools

# Names in a folder, and their bytes in pieces.
Files = Iterable[tuple[str, Iterable[Piece]]]


class KeySink(Sink):
    """Writes a dataset's keys (whole shards, or chunks), with one folder for each unit.

    If the folder exists already, because a killed writer left it, the files are moved into it one by one. Two writers
    may not write the same unit.
    """

    def __init__(self, publisher: Publisher, tools: Tools) -> None:
        self._publisher, self._tools = publisher, tools
        super().__init__()

    def _begin(self) -> Batch:
        return KeyBatch(self._publisher, self._tools)

    def seal(self, layout: ShardLayout, below: int, since: int = 0) -> None:
        """Keys are in place once they are durable."""

    def seal_all(self, layouts: Iterable[ShardLayout], written: Sequence[Written] | None = None) -> None:
        """Keys are in place once they are durable."""


class KeyBatch(Batch):
    """Files of units that are being written. Errors are OSError, or whatever a library raises."""

    def __init__(self, publisher: Publisher, tools: Tools) -> None:
        self._publisher, self._tools = publisher, tools
        self._folders: list[tuple[Path, Path]] = []
        self._inner: dict[Path, None] = {}
        self._bytes = 0
        self._futures: list[Future[int]] = []

    def put(self, layout: ShardLayout, unit: int, cells: Cells) -> None:
        """Write the files of a unit aside. Their name there is always the same, so that remains are overwritten.

        Small files are bound by the latency of their syncs, so many are written at once.
        """
        is_small, lasts = layout.key_bytes <= SMALL_FILE_BYTES, isinstance(cells, Patchwork)
        pool = self._tools.files if is_small else self._tools.pieces if lasts else None
        files: Files = ((f"{row}/{column}", pieces) for (row, column), pieces in cells)
        if pool is not None and not lasts:
            files = ((name, [bytes(piece) for piece in self._encoding(pieces)]) for name, pieces in files)
        label = f"unit-{layout.level.number}-{layout.source}-{unit}"
        self.put_folder(layout.folder(unit), label, files, pool)

    def put_folder(self, folder: str, label: str, files: Files, pool: ThreadPoolExecutor | None) -> None:
        """Write the files of a dataset's ``folder`` aside, as ``label``. Nobody else may use either name.

        ``pool``: threads that write the files; without it, they are written one by one before this returns.
        """
        aside = self._publisher.staging / label
        self._folders.append((aside, self._publisher.root / folder))
        made: set[str] = set()
        for name, pieces in files:
            parent = name.rpartition("/")[0]
            if parent not in made:
                self._make_folders(aside, parent)
                made.add(parent)
            path = f"{aside}/{name}"
            if pool is None:
                self._bytes += self._publisher.write_aside(path, self._encoding(pieces))
            else:
                write = self._tools.clock.carried(self._publisher.write_aside)
                self._futures.append(pool.submit(write, path, self._encoding(pieces)))

    def _encoding(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        return self._tools.clock.timed("encode", pieces)

    def _make_folders(self, aside: Path, inner: str) -> None:
        """Create a folder in staging with its parents. All of them are synced together."""
        with self._tools.clock.stage("rename"):
            parents = [aside / inner, *(aside / inner).parents]
            for path in reversed(parents[: parents.index(self._publisher.staging)]):
                if path not in self._inner:
                    path.mkdir(exist_ok=True)
                    self._inner[path] = None

    @property
    def is_written(self) -> bool:
        return all(future.done() for future in self._futures)

    def settle(self) -> None:
        wait(self._futures)

    def commit(self) -> Steps:
        """Put the files, which are synced one by one, in place, with syncs of the folders before and after."""
        if not self._folders:
            return 0
        publisher = self._publisher
        self._bytes += sum(results(self._futures))
        point("writer: files written")
        if publisher.durable:
            yield folder_syncs(self._inner)
        point("writer: files synced")
        unsynced: dict[Path, None] = {}
        with self._tools.clock.stage("rename"):
            for aside, target in self._folders:
                publisher.make_folder(target.parent, unsynced)
                unsynced[target.parent] = None  # also if merged: the other writer may not have synced the folder's name
                try:
                    aside.rename(target)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    _merge(aside, target, unsynced)
                point("writer: folder renamed")
        if publisher.durable:
            yield folder_syncs(unsynced)
        publisher.remember(unsynced)
        return self._bytes

    def give_up(self) -> None:
        wait(self._futures)
        self._futures.clear()  # breaks a cycle: the traceback of an error holds them, and they hold the error


def _merge(aside: Path, target: Path, unsynced: dict[Path, None]) -> None:
    """Move the files of a folder into an existing one."""
    for path in sorted(aside.rglob("*")):  # folders come before their content
        place = target / path.relative_to(aside)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.rename(place)
            point("writer: file merged")
        unsynced[place.parent] = None
    shutil.rmtree(aside)
