"""The table of a shard in progress, which says which chunks are in the shard's staging file, and where.

    staging/shard-L-S-U-R-C          the later shard: chunks in any order, with gaps between them
    staging/shard-L-S-U-R-C.table    header: magic, end of the granted room; then the later index:
                                     (offset, length) of each chunk, with length 0 while it is absent

L is the resolution and S the source; U, R and C are the shard's :class:`omewd.model.plan.shards.ShardPlace`.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np

from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.store.aligned import ALIGNMENT
from omewd.store.format.shard_index import ENTRY_BYTES, Entries

STAGING = "omewd/staging"
SUFFIX = ".table"
MAGIC = b"OMEWDSHD"
HEADER = struct.Struct("<8sQ")
_ENTRY = struct.Struct("<QQ")
_TABLE = re.compile(r"shard-(\d+)-(\d+)-(\d+)-(\d+)-(\d+)\.table")


def name_of(layout: ShardLayout, place: ShardPlace) -> str:
    """The name of a shard in progress, in staging."""
    return f"shard-{layout.level.number}-{layout.source}-{place.unit}-{place.row}-{place.column}"


def table_of(staging: Path, layout: ShardLayout, place: ShardPlace) -> Path:
    """The table of a shard in progress."""
    return staging / f"{name_of(layout, place)}{SUFFIX}"


def has_fixed_places(layout: ShardLayout) -> bool:
    """Whether a chunk's offset follows from its number: all chunks have the same size, in whole blocks."""
    return layout.is_raw and layout.chunk_bytes % ALIGNMENT == 0


def in_staging(staging: Path) -> dict[tuple[int, int], list[ShardPlace]]:
    """The shards in progress, by resolution and source. Reads the folder once."""
    found: dict[tuple[int, int], list[ShardPlace]] = {}
    with os.scandir(staging) as entries:
        for entry in entries:
            if match := _TABLE.fullmatch(entry.name):
                level, source, *place = map(int, match.groups())
                found.setdefault((level, source), []).append(ShardPlace(*place))
    return found


def read_header(table: int) -> tuple[bytes, int]:
    """(magic, end of the granted room) of an open table; (b"", 0) if the table is cut short."""
    head = os.pread(table, HEADER.size, 0)
    return HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0)


def table_entry(table: int, chunk: int) -> tuple[int, int]:
    """The (offset, length) of a chunk by an open table; length 0 if it is absent. Reads no more than that."""
    found = os.pread(table, _ENTRY.size, HEADER.size + chunk * ENTRY_BYTES)
    offset, length = _ENTRY.unpack(found) if len(found) == _ENTRY.size else (0, 0)
    return offset, length


def table_entries(table: int, chunks: int) -> Entries:
    """The entries of an open table: (offset, length) of each chunk, shape (chunks, 2); length 0 for absent chunks."""
    found = os.pread(table, chunks * ENTRY_BYTES, HEADER.size)
    entries = np.zeros((chunks, 2), np.uint64)
    entries.reshape(-1)[: len(found) // 8] = np.frombuffer(found, "<u8", len(found) // 8)
    return entries
