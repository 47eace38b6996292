"""Files and folders that are made durable together.

Measured with 9,216 small files in as many folders, on a virtual ext4 disk: 0.15 s with one syncfs, 1.2 s with an fsync
each from 16 threads, 3.8 s one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from omewd.process.names import sync_folder
from omewd.store.filesystem import has_syncfs, start_write_back, sync_filesystem

# Up to this many are synced one by one. syncfs also waits for what other programs are writing, but its own cost is that
# of 20 files.
FEW = 64
_AT_ONCE = 16


class Unsynced:
    """Files and folders of one filesystem that are to be synced. All errors are OSError.

    ``place``: a folder of it. To be opened before the first one is written, so that no failed write is missed.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._files: list[str] = []
        self._folders: list[str] = []

    def add(self, files: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
        self._files.extend(files)
        self._folders.extend(folders)

    def sync(self) -> None:
        """Sync all that were added. After an error, none of them counts as synced."""
        files, folders, self._files, self._folders = self._files, self._folders, [], []
        if len(files) + len(folders) <= FEW:
            _sync_few(files, folders)
        elif has_syncfs(self._place):
            sync_filesystem(self._descriptor)
        else:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(_sync_file, files))
                list(pool.map(sync_folder, folders))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def _sync_few(files: Iterable[str], folders: Iterable[str]) -> None:
    with ExitStack() as opened:
        descriptors = []
        for path in files:
            descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            opened.callback(os.close, descriptors[-1])
            start_write_back(descriptors[-1], 0, 0)  # all of it, so that a journal commits all files at the first sync
        for descriptor in descriptors:
            os.fdatasync(descriptor)
    for folder in folders:
        sync_folder(folder)


def _sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
