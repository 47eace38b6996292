"""Reads any key of a dataset that is being written, or is finished, as a Zarr store gives it.

Only what is durable is there: arrays have the shape that is filled with durable frames, a shard has the chunks that are
durable, and other keys are absent. A gap is absent, too, and reads as the fill value. What is lost is an error, and so
is what was evicted, because a copy has it.
Files are opened for reading only, and no lock is taken that a writer waits for.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omewd.dataset.copies.evictions import Evictions
from omewd.dataset.keys import GRID, InArray, Keys
from omewd.dataset.ledger.ledger import totals_in, totals_of
from omewd.dataset.made_by import MadeBy
from omewd.dataset.strays import is_aside
from omewd.errors import OmewdError
from omewd.model.plan.images import shape_on_disk, whole_shape
from omewd.model.plan.levels import levels_of
from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.backend import BACKENDS, first_choice
from omewd.model.spec.spec import StreamSpec
from omewd.reader.contents import Content, FileContent, TextContent
from omewd.reader.keys_of_pixels import Durable, PixelKeys
from omewd.reader.record import Record
from omewd.reader.summary import Summary, not_stored
from omewd.reader.view import require_number, view
from omewd.reader.watermarks import OfLedger, OfRings, Watermarks
from omewd.store.format.shard_table import STAGING

_DOCUMENT = "zarr.json"
# Errors of opening something that is not there, or is a symbolic link.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}


class KeyedReader:
    """The keys of a dataset. Any number of threads may share it.

    ``epoch``: tells the dataset from another one at the same path. ``watermarks``: how far the frames are durable while
    it is written; None for the ledger's word. Raises OmewdError ``not_stored`` for what is lost or can't be read, and
    for a dataset that is gone or was replaced; ``evicted``; OSError.
    """

    def __init__(
        self, dataset: Path, spec: StreamSpec, *, backend: str, epoch: int, watermarks: Watermarks | None = None
    ) -> None:
        self.dataset, self.spec, self.epoch = dataset, spec, epoch
        record = Record(dataset, spec, BACKENDS[backend])
        self._watermarks = watermarks or OfLedger(record)
        self._summary = Summary(dataset, epoch)
        self._keys = Keys(spec)
        self._levels = levels_of(spec)
        self._layouts = [[ShardLayout(spec, level, source) for source in range(spec.sources)] for level in self._levels]
        self._pixels = PixelKeys(dataset, record, Evictions(dataset, spec), sharded=spec.sharded)

    @classmethod
    def of_dataset(cls, dataset: Path, epoch: int | None = None) -> KeyedReader:
        """Read the dataset at a path. ``epoch``: which one it must be; None for any.

        Raises OmewdError ``not_a_dataset``; ``not_stored`` for another dataset.
        """
        summary, spec = totals_of(dataset)
        backend = MadeBy.of(summary).backend
        known = backend if backend in BACKENDS else first_choice(spec.backend).name
        return cls(dataset, spec, backend=known, epoch=Summary(dataset, epoch).read()["epoch"])

    @classmethod
    def of_stream(
        cls, name: str, *, number: int | None = None, socket: str | os.PathLike[str] | None = None
    ) -> KeyedReader:
        """Read the dataset of a stream, open or ended, by the watermarks in its rings.

        ``number``: the daemon's for the stream; None for the newest one of the name. Raises the errors of
        :func:`omewd.view`; ``no_frame`` if another stream has the name by now.
        """
        with ExitStack() as undo:
            views = [undo.enter_context(view(name, source=0, socket=socket))]
            require_number(views[0], number)
            first, spec = views[0], views[0].stream_spec()
            for source in range(1, spec.sources):
                views.append(undo.enter_context(view(name, source=source, socket=socket)))
            rings = OfRings(views) if all(each.has_ring and each.epoch == first.epoch for each in views) else None
            reader = cls(first.path, spec, backend=first.backend, epoch=first.epoch, watermarks=rings)
            if rings is not None:
                undo.pop_all()  # the reader closes them
            return reader

    def open(self, key: str) -> Content | None:
        """Open a key, such as ``0/zarr.json`` or ``0/c/3/0/0``; returns None if it is not there."""
        while True:
            summary = self._summary.read()
            with ExitStack() as undo:
                content = self._opened(key, self._durable(summary))
                if content is not None:
                    undo.callback(content.close)
                if self._summary.read() is summary:  # else it was finalized or replaced meanwhile
                    undo.pop_all()
                    return content

    def list_folder(self, folder: str) -> Iterator[tuple[str, bool]]:
        """What is in a folder of the dataset, "" for the dataset itself: names, and whether each is a folder.

        A folder of keys is listed if durable frames may be in it.
        """
        path = folder.strip("/")
        array, durable = self._keys.array_of(path), self._durable(self._summary.read())
        if array is not None and array.rest[:1] == (GRID,):
            yield from self._list_grid(path, array, durable)
            return
        for name, is_folder in sorted(self._list_on_disk(path)):
            if array is None or name != GRID:
                yield name, is_folder
        if array is not None and not array.rest and 0 not in self._shape(array, durable):
            yield GRID, True

    def close(self) -> None:
        self._watermarks.close()

    # -- what is durable --------------------------------------------------------------------------

    def _durable(self, summary: dict[str, Any]) -> Durable:
        if summary["state"] == "writing":
            return Durable(tuple(self._watermarks.frames()), ended=False)
        return Durable(tuple(totals.received for totals in totals_in(summary)), ended=True)

    def _shape(self, array: InArray, durable: Durable) -> tuple[int, ...]:
        return shape_on_disk(self.spec, durable.frames, array.image, self._levels[array.level])

    # -- opening ----------------------------------------------------------------------------------

    def _opened(self, key: str, durable: Durable) -> Content | None:
        array = self._keys.array_of(key)
        if array is not None and array.rest[:1] == (GRID,):
            found = self._keys.find(array)
            if found is None:
                return None
            source, place = found
            return self._pixels.open(self._layouts[array.level][source], place, durable)
        with ExitStack() as files:
            descriptor = self._open_beneath(key, os.O_RDONLY, files)
            if descriptor is None or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            file = FileContent(descriptor, is_final=False)
            if array is None or array.rest != (_DOCUMENT,) or durable.ended:
                return file.owning(files)
            try:
                document = json.loads(file.read_all())
                document["shape"] = whole_shape(self.spec, durable.frames, array.image, self._levels[array.level])
            except (ValueError, TypeError) as error:
                raise not_stored(self.dataset, f"{key} is damaged") from error
        return TextContent(json.dumps(document, indent=2).encode())

    def _open_beneath(self, path: str, flags: int, files: ExitStack) -> int | None:
        """Open a file or folder of the dataset without leaving it, not even by a symbolic link; None if it isn't there.

        What only writers need is not there.
        """
        parts = path.split("/") if path else []
        is_secret = f"{path}/".startswith(f"{STAGING}/") or is_aside(path)
        if is_secret or any(part in ("", ".", "..") or "\0" in part for part in parts):
            return None
        try:
            at = os.open(self.dataset, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            files.callback(os.close, at)
            for number, part in enumerate(parts or ["."], 1):
                how = flags | os.O_NONBLOCK if number == max(len(parts), 1) else os.O_PATH | os.O_DIRECTORY
                at = os.open(part, how | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                files.callback(os.close, at)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise
        return at

    # -- listing ----------------------------------------------------------------------------------

    def _list_on_disk(self, folder: str) -> list[tuple[str, bool]]:
        with ExitStack() as files:
            descriptor = self._open_beneath(folder, os.O_RDONLY | os.O_DIRECTORY, files)
            if descriptor is None:
                return []
            inside = f"{folder}/" if folder else ""
            with os.scandir(descriptor) as entries:
                return [
                    (entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in entries
                    if (entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False))
                    and f"{inside}{entry.name}" != STAGING
                    and not is_aside(f"{inside}{entry.name}")
                ]

    def _list_grid(self, folder: str, array: InArray, durable: Durable) -> Iterator[tuple[str, bool]]:
        shape, keys = self._shape(array, durable), self._levels[array.level].key_shape
        axis = len(array.rest) - 1
        if axis >= len(shape) or 0 in shape:
            return
        for place in range(-(-shape[axis] // keys[axis])):
            if axis < len(shape) - 1:
                yield str(place), True
            elif self._is_there(f"{folder}/{place}"):
                yield str(place), False

    def _is_there(self, key: str) -> bool:
        try:
            content = self.open(key)
        except OmewdError as error:
            if error.code != "evicted":
                raise
            return True
        if content is not None:
            content.close()
        return content is not None
