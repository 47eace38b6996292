"""Evicts keys: removes their files from a dataset, once a copy is confirmed to have them.

A file is removed after the manifest says so, on disk. So whenever a process dies or the power fails, a file is there,
or the record says where its bytes are.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from omewd.dataset.copies.manifest import FOLDER, Copied, Manifest
from omewd.dataset.dataset import replaced, summary_of
from omewd.dataset.keys import Keys
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.runs import RUNS_FILE
from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import point

# Each time takes a sync of the manifest, and a drive should not be filled meanwhile.
_EVERY_S = 1.0
# Their lines, two for each, have room in advance in the manifest.
_AT_ONCE = 256
# As `omewd repair` waits: writers let go of a dataset after its stream has ended.
_LET_GO_S = 30.0
_LOOK_AGAIN_S = 0.05

# Called with the files and bytes that were evicted.
TellEvicted = Callable[[int, int], None]


class Evictor:
    """Evicts keys of a dataset whose copies are on record in an open manifest. To be closed.

    ``hold``: the descriptor that holds a finished dataset (see :func:`ledger.hold`), of which keys are only evicted
    while nobody else holds it: another copy may read them, and a failed stream may go on. None for the stream's own
    copier, which gets keys that nobody writes to any more. ``files``, ``bytes``: what was evicted so far.
    """

    def __init__(
        self, dataset: Path, spec: StreamSpec, manifest: Manifest, tell: TellEvicted, *, hold: int | None = None
    ) -> None:
        self._dataset, self._keys, self._manifest = dataset, Keys(spec), manifest
        self._tell, self._hold = tell, hold
        self.files = self.bytes = 0
        self._waiting: list[Copied] = []
        self._not_before_s = 0.0
        self._is_synced = False
        # The dataset of the manifest, whatever becomes of its path.
        self._root = os.open(dataset, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def add(self, confirmed: Iterable[Copied]) -> None:
        """Let files be evicted that are on record as copied. Those that are no keys stay."""
        self._waiting += (each for each in confirmed if self._keys.units_of(each.path))

    def step(self, now_s: float) -> None:
        """Evict what waits, once in a while, or if it is much."""
        if len(self._waiting) >= _AT_ONCE or (self._waiting and now_s >= self._not_before_s):
            self._evict()
            self._not_before_s = now_s + _EVERY_S

    def finish(self) -> None:
        """Evict all that waits. Raises OmewdError ``busy`` if others hold the dataset for long."""
        until_s = time.monotonic() + _LET_GO_S
        while self._waiting and not self._evict():
            if time.monotonic() > until_s:
                count = len(self._waiting)
                raise OmewdError(
                    "busy",
                    f"{count} files of {self._dataset} are copied, but can't be evicted while others use the dataset",
                    "Wait until its stream, or another copy, has ended, and run the copy again",
                )
            time.sleep(_LOOK_AGAIN_S)

    def _evict(self) -> bool:
        """Evict what waits; returns False if it has to wait for others."""
        with nullcontext(True) if self._hold is None else ledger.alone(self._hold) as may:
            if not may or (self._hold is not None and summary_of(self._dataset).get("state") == "writing"):
                return False
            self._sync()
            while self._waiting:
                self._evict_some(self._waiting[:_AT_ONCE])
                del self._waiting[:_AT_ONCE]
        return True

    def _evict_some(self, copied: list[Copied]) -> None:
        those = [each for each in copied if self._is_there(each)]
        self._manifest.add(replace(each, evicted=True) for each in those if not each.evicted)
        point("copier: eviction on record")
        gone = [each for each in those if self._remove(each)]
        self._manifest.reserve()
        gone_bytes = sum(each.bytes for each in gone)
        self.files, self.bytes = self.files + len(gone), self.bytes + gone_bytes
        if gone:
            self._tell(len(gone), gone_bytes)

    def _sync(self) -> None:
        """Sync what tells of the files, as it has to outlast them: the ledger, and the names of the manifest.

        Raises OmewdError ``dataset_replaced`` if the manifest is not the dataset's.
        """
        if self._is_synced:
            return
        own = f"{FOLDER}/{self._manifest.path.name}"
        if not os.path.samestat(os.stat(own, dir_fd=self._root), self._manifest.path.stat()):
            raise replaced(f"another dataset is in the place of {self._dataset}")
        for name in (f"{ledger.FOLDER}/{ledger.FILE}", f"{ledger.FOLDER}/{RUNS_FILE}", FOLDER, ledger.FOLDER, "."):
            with suppress(FileNotFoundError), ExitStack() as files:
                descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._root)
                files.callback(os.close, descriptor)
                os.fsync(descriptor)
        self._is_synced = True

    def _is_there(self, copied: Copied) -> bool:
        """Whether the file is the very one that was copied."""
        with self._folder_of(copied.path) as folders:
            return _is_same(copied, folders)

    def _remove(self, copied: Copied) -> bool:
        """Remove the file that was copied, and the folders of its unit if they are empty; returns whether it was there.

        A unit's folders are nobody else's. Writers know those above, and put others into them.
        """
        with self._folder_of(copied.path) as folders:
            if not _is_same(copied, folders):
                return False
            *names, name = copied.path.split("/")
            os.unlink(name, dir_fd=folders[-1])
            point("copier: evicted")
            with suppress(OSError):  # it is not empty
                for depth in (-1, -2):
                    os.rmdir(names[depth], dir_fd=folders[depth - 1])
            return True

    @contextmanager
    def _folder_of(self, path: str) -> Iterator[list[int]]:
        """The open folders on the way to a file of the dataset; none is a symbolic link. Empty if one is not there."""
        folders = [self._root]
        with ExitStack() as files:
            for name in path.split("/")[:-1]:
                try:
                    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    folders.append(os.open(name, flags, dir_fd=folders[-1]))
                except (FileNotFoundError, NotADirectoryError):
                    folders.clear()
                    break
                files.callback(os.close, folders[-1])
            yield folders

    def close(self) -> None:
        os.close(self._root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_same(copied: Copied, folders: list[int]) -> bool:
    """Whether the file in the last one of the folders to it is the very one that was copied."""
    if not folders:
        return False
    try:
        found = os.stat(copied.path.rpartition("/")[2], dir_fd=folders[-1], follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (copied.bytes, copied.mtime_ns)
