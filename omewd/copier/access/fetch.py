"""Downloads objects of a copy, several at once, and compares them with what was copied."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from omewd.copier.access.store import Target
from omewd.copier.digest import Digest, digest_of, is_digest, is_whole
from omewd.dataset.copies.manifest import Copied

OBJECTS_AT_ONCE = 8
_READ_BYTES = 1 << 20
_One = TypeVar("_One")
_Answer = TypeVar("_Answer")


def fetch(target: Target, copied: Copied, to: Path) -> str:
    """Download an object to a file, unless there is none; returns how it differs from what was copied, or ""."""
    got = target.get(copied.path)
    if got is None:
        return ""
    digest = Digest(copied.bytes, whole=is_whole(copied.digest))
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("wb") as file:
        for piece in got[1]:
            digest.add(piece)
            file.write(piece)
    return difference(copied, digest.size, digest.text())


def same_as(target: Target, path: str, file: Path) -> Copied | None:
    """The object at a path, if it has the bytes of a file."""
    size = file.stat().st_size
    found = target.head(path)
    if found is None or found.size != size or (got := target.get(path)) is None:
        return None
    found, pieces = got
    whole = is_digest(found.etag) and is_whole(found.etag)
    with file.open("rb") as ours:
        mine = digest_of(iter(partial(ours.read, _READ_BYTES), b""), size, whole=whole)
    if digest_of(pieces, size, whole=whole) != mine:
        return None
    return Copied(path, size, 0, mine[1], found.etag, "etag" if found.etag == mine[1] else "read")


def difference(copied: Copied, size: int, digest: str) -> str:
    """How an object with this size and digest differs from what was copied, or ""."""
    same = (size, digest) == (copied.bytes, copied.digest)
    return "" if same else f"{copied.path} has other bytes than those that were copied"


def each(
    threads: ThreadPoolExecutor, do: Callable[[_One], _Answer], some: Iterable[_One]
) -> Iterator[tuple[_One, _Answer]]:
    """Each one with its answer, in order, and with only a few on the way. Raises the first error."""
    running: deque[tuple[_One, Future[_Answer]]] = deque()
    for one in some:
        running.append((one, threads.submit(do, one)))
        if len(running) == 2 * OBJECTS_AT_ONCE:
            first, answer = running.popleft()
            yield first, answer.result()
    for first, answer in running:
        yield first, answer.result()
