"""The rectangles in which a unit's chunks are made: every chunk once, in the order of the shard's index."""

from __future__ import annotations

import pytest

from omewd.model.plan import shards
from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec

# Chunks of 8 × 8 uint16: 128 bytes.
FRAMES = [
    "t:4:1:4,y:32:8:4,x:32:8:4",
    "t:4:1:4,y:32:8:2,x:32:8:2",
    "t:4:1:4,y:30:8:2,x:41:8:4",
    "t:4:2:2,y:9:8:2,x:20:8:3",
    "t:4:1:4,y:64:8:8,x:8",
    "t:4:1:4,y:8,x:64:8:8",
]


@pytest.mark.parametrize("piece", [1, 128, 300, 512, 1024, 1 << 20])
@pytest.mark.parametrize("dims", FRAMES)
def test_patches_have_each_chunk_once(monkeypatch: pytest.MonkeyPatch, dims: str, piece: int) -> None:
    monkeypatch.setattr(shards, "PIECE_BYTES", piece)
    layout = ShardLayout(StreamSpec(name="s", dimensions=parse_dims(dims)))
    found = []
    for which, first, rows, columns in layout.patches:
        chunks = [(row, column) for row in rows for column in columns]
        assert len(chunks) * layout.chunk_bytes <= max(piece, layout.chunk_bytes)
        assert [layout.chunk_places[chunk] for chunk in chunks] == [(which, first + n) for n in range(len(chunks))]
        found += chunks
    assert sorted(found) == sorted(layout.chunk_places)


def test_a_frame_within_a_piece_is_one_patch() -> None:
    layout = ShardLayout(StreamSpec(name="s", dimensions=parse_dims(FRAMES[0])))
    assert layout.patches == ((0, 0, range(4), range(4)),)


@pytest.mark.parametrize(
    ("dims", "order", "runs"),
    [
        ("t:7:1:4,y:8,x:8", None, [4, 3, 2, 1, 3, 2, 1]),
        ("t:inf:2:3,y:8,x:8", None, [3, 2, 1, 3, 2, 1, 3]),
        ("t:4:1:2,y:32:8:4,x:32:8:4", None, [2, 1, 2, 1]),
        ("t:2:1:2,c:3,y:8,x:8", None, [1, 1, 1, 1, 1, 1]),
        ("t:2:1:2,c:3:1:3,y:8,x:8", None, [3, 2, 1, 3, 2, 1]),
        ("t:3:1:3,c:2:1:2,y:8,x:8", ("c", "t"), [1, 1, 1, 1, 1, 1]),
        ("t:4:1:4,y:32:8:2,x:48:8:4", None, [1, 1, 1, 1]),  # a shard is wider than the rest of the frame
        ("t:2:1:2,p:2,y:8,x:8", None, [1, 1, 1, 1]),
    ],
)
def test_units_in_a_run_have_their_chunks_one_behind_the_other(
    dims: str, order: tuple[str, ...] | None, runs: list[int]
) -> None:
    layout = ShardLayout(StreamSpec(name="s", dimensions=parse_dims(dims), storage_order=order or "acquisition"))
    assert [layout.run(unit) for unit in range(len(runs))] == runs
    for unit, units in enumerate(runs):
        of_first = dict(layout.shards_of(unit))
        for further in range(1, units):
            of_this = dict(layout.shards_of(unit + further))
            assert {place: number - further * layout.chunks_of_unit for place, number in of_this.items()} == of_first
