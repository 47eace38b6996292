"""What a shard in progress says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.reader.contents import Chunks, ShardContent
from omewd.reader.summary import not_stored
from omewd.store.format.shard_index import ABSENT


def test_a_shard_of_another_size_has_another_tag() -> None:
    """Although its index says the same, as while room is granted for chunks to come."""
    dims = parse_dims("t:8:1:8,y:16:16:1,x:24:24:1")
    layout = ShardLayout(StreamSpec(name="s", dimensions=dims, compression="zstd"))
    entries = np.full((8, 2), ABSENT, np.uint64)
    entries[0] = 0, 100
    chunks = Chunks(entries, np.zeros(8, bool), lambda _: not_stored(Path("s"), "lost"))
    few, many = (ShardContent(layout, None, granted, lambda: chunks, is_final=False) for granted in (4096, 1 << 24))
    assert few.size < many.size
    assert few.etag != many.etag
