"""How much room an acquisition takes on disk. Pure."""

from __future__ import annotations

import math

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.levels import levels_of
from omewd.model.spec.spec import StreamSpec


def raw_bytes(spec: StreamSpec) -> int | None:
    """The bytes of all declared pixels at all resolutions, in whole chunks, without compression; None if unbounded.

    Metadata, the ledger and shard indexes take little beside that. Gaps, and an early end, make it less.
    """
    counts = [dim.count for dim in spec.disk_dimensions]
    shape = tuple(count for count in counts if count is not None)
    if len(shape) < len(counts):
        return None
    elements = 0
    for level in levels_of(spec):
        chunks = zip(level.shape(shape), level.chunk_shape, strict=True)
        elements += math.prod(-(-count // chunk) * chunk for count, chunk in chunks)
    all_sources = 1 if spec.source_axis is None else spec.dimensions[spec.source_axis].count or 1
    return elements * spec.images * ITEM_BYTES[spec.dtype] * spec.sources // all_sources
