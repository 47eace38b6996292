"""How much room an acquisition takes: the size of all its chunks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from omewd.dataset import metadata
from omewd.model.plan.size import raw_bytes
from omewd.model.spec.spec import StreamSpec


@pytest.mark.parametrize(
    ("fields", "size_bytes"),
    [
        ({"dims": "t:10,y:100,x:200"}, 10 * 100 * 200 * 2),
        ({"dims": "t:10,y:100,x:200", "dtype": "float64"}, 10 * 100 * 200 * 8),
        ({"dims": "y:4,x:4"}, 32),
        ({"dims": "t:10:4,y:100:64,x:200:64"}, 12 * 128 * 256 * 2),
        ({"dims": "t:10:1:16,y:100:64:2,x:200:64:4"}, 10 * 128 * 256 * 2),
        ({"dims": "p:3,t:10,c:2,y:10,x:10"}, 3 * 10 * 2 * 100 * 2),
        ({"dims": "t:10,y:64,x:64", "color": "rgb", "dtype": "uint8"}, 10 * 3 * 64 * 64),
        ({"dims": "t:10,y:64,x:64", "levels": 3}, 10 * (64 * 64 + 32 * 32 + 16 * 16) * 2),
        ({"dims": "v:2,t:10,y:64,x:64", "source_dimension": "v"}, 20 * 64 * 64 * 2),
        ({"dims": "t:inf,y:64,x:64"}, None),
    ],
)
def test_the_size_of_all_chunks(fields: dict[str, Any], size_bytes: int | None) -> None:
    assert raw_bytes(StreamSpec.parse({"name": "s", **fields})) == size_bytes


def test_it_is_the_size_of_the_arrays_that_the_metadata_describe() -> None:
    import json

    spec = StreamSpec.parse({"name": "s", "dims": "p:2,t:7:3,c:2,z:5:4,y:100:64,x:90:32", "levels": 3})
    total = 0
    for path, document in metadata.documents(spec, [2 * 7 * 2 * 5]):
        node = json.loads(document.text)
        if node["node_type"] == "array" and not str(Path(path)).startswith("omewd"):
            chunk = node["chunk_grid"]["configuration"]["chunk_shape"]
            total += math.prod(-(-n // c) * c for n, c in zip(node["shape"], chunk, strict=True)) * 2
    assert raw_bytes(spec) == total
