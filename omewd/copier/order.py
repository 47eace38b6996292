"""What is copied, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from omewd.copier.access.store import Found
from omewd.copier.engine import LocalFile
from omewd.dataset.copies.manifest import Copied, is_manifest
from omewd.dataset.copies.places import is_of_parts
from omewd.dataset.ledger.ledger import FILE, FOLDER
from omewd.dataset.ledger.runs import RUNS_FILE
from omewd.dataset.strays import is_aside
from omewd.store.format.shard_table import STAGING

_LEDGER = {f"{FOLDER}/{FILE}", f"{FOLDER}/{RUNS_FILE}"}
ROOT = "zarr.json"


def belongs(path: str) -> bool:
    """Whether a file of a dataset belongs into its copies."""
    return not (is_manifest(path) or is_of_parts(path) or is_aside(path) or path.startswith(f"{STAGING}/"))


def is_done(file: LocalFile, copied: Mapping[str, Copied]) -> bool:
    """Whether a file is on record as copied, as it is now."""
    before = copied.get(file.path)
    return before is not None and (before.bytes, before.mtime_ns) == (file.size, file.mtime_ns)


def left_and_done(files: Iterable[LocalFile], copied: Mapping[str, Copied]) -> tuple[list[LocalFile], list[Copied]]:
    """The files that are to be copied, and the records of those that are copied."""
    left, done = [], []
    for file in files:
        if is_done(file, copied):
            done.append(copied[file.path])
        else:
            left.append(file)
    return left, done


def still_in(
    stored: Iterable[Found], copied: Mapping[str, Copied], place: Callable[[str], str] = str
) -> dict[str, Copied]:
    """Those of the records whose objects are still in the copy as they were confirmed.

    ``stored``: what the store lists. ``place``: where a file's path in the dataset is in the copy.
    """
    found = {each.path: each for each in stored}
    return {
        path: each
        for path, each in copied.items()
        if (there := found.get(place(path))) is not None and (there.size, there.etag) == (each.bytes, each.etag)
    }


def not_in_copy(evicted: Mapping[str, tuple[str, Copied]], copied: Mapping[str, Copied]) -> dict[str, str]:
    """The evicted files that a copy does not have as they were, with the URL of a copy that does.

    ``evicted``: see :func:`omewd.dataset.copies.evictions.evicted`. ``copied``: what is in the copy, by its record.
    """
    return {
        path: url for path, (url, gone) in evicted.items() if path not in copied or not _same_bytes(copied[path], gone)
    }


def _same_bytes(one: Copied, other: Copied) -> bool:
    """Whether two records are of the same bytes. Stores may have digests of different kinds."""
    return one.bytes == other.bytes and (one.digest == other.digest or one.mtime_ns == other.mtime_ns)


def phases(files: Iterable[LocalFile]) -> list[list[LocalFile]]:
    """Files in the order in which they are copied; all of a phase are confirmed before the next one.

    Pixels come first, then the ledger, then metadata. The root's zarr.json comes last, so that a copy that opens is
    complete. Large files come first within a phase, so that none is left alone at the end.
    """
    parts: list[list[LocalFile]] = [[], [], [], []]
    for file in files:
        parts[_phase(file.path)].append(file)
    return [sorted(part, key=lambda file: (-file.size, file.path)) for part in parts if part]


def _phase(path: str) -> int:
    if path == ROOT:
        return 3
    if path.rpartition("/")[2] == "zarr.json":
        return 2
    return 1 if path in _LEDGER else 0
