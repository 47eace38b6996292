"""The sink for plain keys. The files of each unit are written aside in a folder, which is renamed into place."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

from omewd.model.plan.shards import ShardLayout, Written
from omewd.process.faultpoints import point
from omewd.store.encoders.base import Cells, Encoded, Patchwork, Piece, by_unit
from omewd.store.sinks.base import Batch, Sink, Steps, folder_syncs, results
from omewd.store.sinks.publish import SMALL_FILE_BYTES, OpenFiles, Publisher
from omewd.store.tools import Tools

# The most that a thread writes, one by one. Measured with 256 files of 128 KiB and 16 threads, on a virtual ext4 disk:
# 0.10 s if each file is a task of its own that also syncs it, 0.03 s in groups of 8 that are synced when all are
# written.
_GROUP_FILES = 64
# All threads together then have few enough open.
_GROUP_FILES_TO_SYNC = 16

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
        self._groups: list[Future[OpenFiles]] = []
        self._left_open = 0

    def put(self, layout: ShardLayout, unit: int, cells: Cells) -> None:
        """Write the files of units aside. Their name there is always the same, so that remains are overwritten.

        Small files are written in groups, several at once, and are synced when all are written: a journal then commits
        them together. Large ones are synced one by one, while the others are written.
        """
        lasts = isinstance(cells, Patchwork)
        for number, own in by_unit(unit, cells):
            self._put_unit(layout, number, own, lasts=lasts)

    def _put_unit(self, layout: ShardLayout, unit: int, cells: Iterable[Encoded], *, lasts: bool) -> None:
        files: Files = ((f"{row}/{column}", pieces) for (row, column), pieces in cells)
        label = f"unit-{layout.level.number}-{layout.source}-{unit}"
        if layout.key_bytes <= SMALL_FILE_BYTES:
            if not lasts:
                files = ((name, [bytes(piece) for piece in self._encoding(pieces)]) for name, pieces in files)
            at_once = min(max(SMALL_FILE_BYTES // layout.key_bytes, 1), _GROUP_FILES)
            self.put_small(layout.folder(unit), label, files, at_once)
        else:
            self.put_folder(layout.folder(unit), label, files, self._tools.pieces if lasts else None)

    def put_small(self, folder: str, label: str, files: Files, at_once: int) -> None:
        """Do what :meth:`put_folder` does, for small files. ``at_once``: how many a thread writes, one by one."""
        write = self._tools.clock.carried(self._write_group)
        paths = self._paths(folder, label, files)
        while group := list(islice(paths, at_once)):
            stays_open = self._leave_open(len(group))
            size = len(group) if stays_open else _GROUP_FILES_TO_SYNC
            for start in range(0, len(group), size):
                some = group[start : start + size]
                self._groups.append(self._tools.files.submit(write, some, stays_open=stays_open))

    def _leave_open(self, count: int) -> bool:
        """Whether so many files may stay open until the batch is over."""
        left = self._tools.left_open
        taken = sum(left.acquire(blocking=False) for _ in range(count))
        if taken == count:
            self._left_open += count
            return True
        if taken:
            left.release(taken)
        return False

    def _write_group(self, files: Iterable[tuple[str, Iterable[Piece]]], *, stays_open: bool) -> OpenFiles:
        clock, publisher = self._tools.clock, self._publisher
        with clock.stage("write"):
            group = publisher.write_open((path, self._encoding(pieces)) for path, pieces in files)
        if publisher.durable and not stays_open:
            try:
                with clock.stage("fsync"):
                    group.sync()
            finally:
                group.close()
        return group

    def put_folder(self, folder: str, label: str, files: Files, pool: ThreadPoolExecutor | None) -> None:
        """Write the files of a dataset's ``folder`` aside, as ``label``. Nobody else may use either name.

        ``pool``: threads that write the files; without it, they are written one by one before this returns.
        """
        for path, pieces in self._paths(folder, label, files):
            if pool is None:
                self._bytes += self._publisher.write_aside(path, self._encoding(pieces))
            else:
                write = self._tools.clock.carried(self._publisher.write_aside)
                self._futures.append(pool.submit(write, path, self._encoding(pieces)))

    def _paths(self, folder: str, label: str, files: Files) -> Iterator[tuple[str, Iterable[Piece]]]:
        """The paths of files aside, whose folders are made, with the files' bytes."""
        aside = self._publisher.staging / label
        self._folders.append((aside, self._publisher.root / folder))
        made: set[str] = set()
        for name, pieces in files:
            parent = name.rpartition("/")[0]
            if parent not in made:
                self._make_folders(aside, parent)
                made.add(parent)
            yield f"{aside}/{name}", pieces

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
        return all(future.done() for future in self._futures) and all(group.done() for group in self._groups)

    def settle(self) -> None:
        wait(self._futures)
        wait(self._groups)

    def commit(self) -> Steps:
        """Put the files in place, with syncs of the small ones and of their folders before, and of folders after."""
        if not self._folders:
            return 0
        publisher = self._publisher
        self._bytes += sum(results(self._futures))
        wait(self._groups)
        groups = list(map(Future.result, self._groups))  # a traceback holds no group then
        self._bytes += sum(group.size for group in groups)
        point("writer: files written")
        if publisher.durable:
            small = {group.path: group.sync for group in groups if group.path and group.descriptors}
            yield {**small, **folder_syncs(self._inner)}
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
        self.settle()
        for group in self._groups:
            if group.exception() is None:
                group.result().close()
        self._groups.clear()  # breaks a cycle: the traceback of an error holds them, and they hold the error
        self._futures.clear()
        if self._left_open:
            self._tools.left_open.release(self._left_open)
            self._left_open = 0


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
