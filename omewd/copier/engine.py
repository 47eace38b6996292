"""Copies one sealed file and confirms it: the store is seen to hold each of its bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from omewd.copier.access.store import PARTS_AT_ONCE, Found, Target
from omewd.copier.digest import Digest, is_digest, is_whole, part_bytes
from omewd.copier.pace import Pace
from omewd.dataset.copies.manifest import Copied
from omewd.errors import OmewdError
from omewd.process.faultpoints import point

# With what obstore tries by itself, a store may be away for about a minute.
_ATTEMPTS = 5
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 15.0
# Others will happen again.
_MAY_PASS = ("store_error", "copy_differs", "changed")


@dataclass(frozen=True)
class LocalFile:
    """A file of a dataset: its path in it, its size, and when it was written last."""

    path: str
    size: int
    mtime_ns: int

    @property
    def memory_bytes(self) -> int:
        """What copying it takes at most."""
        part = part_bytes(self.size)
        return self.size if self.size <= part else part * (PARTS_AT_ONCE + 2)


def local_file(dataset: Path, path: str) -> LocalFile:
    """Raises OSError."""
    found = (dataset / path).stat()
    return LocalFile(path, found.st_size, found.st_mtime_ns)


def etags_are_whole(copied: Iterable[Copied]) -> bool:
    """Whether it looks as if the store gave an object of several parts the MD5 of the whole as its ETag."""
    return any(each.bytes > part_bytes(each.bytes) and is_digest(each.etag) and is_whole(each.etag) for each in copied)


class Engine:
    """Copies files to a target. Threads may share it. ``stopping``: if set, copies end with ``interrupted``.

    ``whole``: see :func:`etags_are_whole`. If that is wrong, an object is read back, and shows what is right.
    """

    def __init__(self, target: Target, pace: Pace, stopping: Event, *, whole: bool = False) -> None:
        self._target, self._pace, self._stopping, self._whole = target, pace, stopping, whole

    def copy(self, dataset: Path, file: LocalFile, to: str | None = None) -> Copied:
        """Copy a file to its path in the copy, or to another one, and confirm it. It is tried again if that may help.

        Raises OmewdError ``store_error``, ``store_refused``, ``store_missing``, ``copy_differs``, ``changed``,
        ``interrupted``; OSError if the file can't be read.
        """
        delay_s = _FIRST_DELAY_S
        for attempt in range(_ATTEMPTS):
            if self._stopping.is_set():
                raise _interrupted()
            try:
                return self._copy(dataset, local_file(dataset, file.path) if attempt else file, to or file.path)
            except OmewdError as error:
                if error.code not in _MAY_PASS or attempt == _ATTEMPTS - 1:
                    raise
            self._stopping.wait(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        raise AssertionError("unreachable")

    def _copy(self, dataset: Path, file: LocalFile, to: str) -> Copied:
        digest = Digest(file.size, whole=self._whole)
        size = part_bytes(file.size)
        descriptor = os.open(dataset / file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = self._parts(descriptor, file, digest, size)
            if file.size > size:
                self._target.put_parts(to, parts, size)
                stored = self._target.head(to)
                etag = stored.etag if stored is not None and stored.size == file.size else ""
            else:
                etag = self._target.put(to, b"".join(parts))
        finally:
            os.close(descriptor)
        point("copier: put")
        expected = digest.text()
        by = "etag"
        if etag != expected:
            etag, by = self._read_back(to, file.size, expected).etag, "read"
        return Copied(file.path, file.size, file.mtime_ns, expected, etag, by)

    def _read_back(self, path: str, size: int, expected: str) -> Found:
        got = self._target.get(path)
        if got is None:
            raise OmewdError("copy_differs", f"{self._target.url}: {path} was stored, but is not there")
        stored, pieces = got
        digest, as_etag = Digest(size, whole=is_whole(expected)), Digest(size, whole=is_whole(stored.etag))
        may_learn = size > part_bytes(size) and is_digest(stored.etag)
        for piece in self._until_stopped(pieces):
            digest.add(piece)
            if may_learn:
                as_etag.add(piece)
        if (size, expected) != (digest.size, digest.text()):
            raise OmewdError("copy_differs", f"{self._target.url}: {path} has other bytes than the file ({size} bytes)")
        if self._target.head(path) != stored:
            raise OmewdError(
                "copy_differs", f"{self._target.url}: {path} was changed by somebody, or its ETag is unstable"
            )
        if may_learn and stored.etag == as_etag.text():
            self._whole = is_whole(stored.etag)
        return stored

    def _until_stopped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._stopping.is_set():
                raise _interrupted()
            yield piece

    def _parts(self, descriptor: int, file: LocalFile, digest: Digest, size: int) -> Iterator[bytes]:
        """The bytes of a file. They are not kept in the page cache, which recording and viewers need."""
        for offset in range(0, file.size, size):
            wait_s = self._pace.wait_s(min(size, file.size - offset), time.monotonic())
            if self._stopping.wait(wait_s):
                raise _interrupted()
            part = os.pread(descriptor, size, offset)
            os.posix_fadvise(descriptor, offset, len(part), os.POSIX_FADV_DONTNEED)
            digest.add(part)
            yield part
        now = os.fstat(descriptor)
        if (digest.size, now.st_size, now.st_mtime_ns) != (file.size, file.size, file.mtime_ns):
            raise OmewdError("changed", f"{file.path} was changed while it was copied", "Copy the dataset again")


def _interrupted() -> OmewdError:
    return OmewdError("interrupted", "the copy was interrupted", "Run it again to go on")
