"""Finds the file of a shard: in its place, or in staging while it is in progress."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.store.format.shard_table import MAGIC, STAGING, SUFFIX, name_of, read_header

# A shard may be put in its place, or be moved back from there, while it is being looked for.
TRIES = 5


@dataclass(frozen=True)
class FoundShard:
    """An open shard. ``table``: its open table while it is in progress; None once it is sealed."""

    data: int
    table: int | None


def find_shard(dataset: Path, layout: ShardLayout, place: ShardPlace, files: ExitStack) -> FoundShard | None:
    """Open a shard for reading; ``files`` closes it. Takes no lock.

    Returns None if it is neither in progress nor in its place. It may have been moved meanwhile: so look a few times.
    """
    aside = dataset / STAGING / name_of(layout, place)
    table = opened(aside.with_suffix(SUFFIX), files)
    data = None if table is None else opened(aside, files)
    if table is not None and data is not None and read_header(table)[0] == MAGIC:
        # Nothing is read ahead: what follows may just be written past the page cache.
        os.posix_fadvise(data, 0, 0, os.POSIX_FADV_RANDOM)
        return FoundShard(data, table)
    data = opened(dataset / layout.key(place), files)
    return None if data is None else FoundShard(data, None)


def opened(path: Path, files: ExitStack) -> int | None:
    """Open a file for reading; ``files`` closes it. Returns None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    files.callback(os.close, descriptor)
    return descriptor
