"""Keys that are on no record go; all others, and foreign files, stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.keys import keys_of
from omewd.dataset.strays import remove_strays
from omewd.model.plan.levels import levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout
from tests.support.frames import make_spec

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("t:6,c:2,y:20:10,x:24:7", {}),
    "unbounded": ("t:inf:2:2,y:20:10,x:24", {}),
    "positions": ("p:3,t:4,y:20:10,x:24", {"levels": 3}),
    "positions inside": ("t:4,p:3,z:4:2,y:20,x:24", {"levels": 2}),
    "sources": ("t:6,c:2,y:20,x:24", {"source_dimension": "c", "levels": 2}),
    "positions are sources": ("p:2,t:6,y:20,x:24", {"source_dimension": "p"}),
    "shards": ("t:24:2:2,y:20:4:2,x:24:4:3", {}),
}
FOREIGN = (
    "0/c/0/0/00",
    "0/c/-1/0/0",
    "0/c/0/0/x",
    "0/c/notes/0/0",
    "0/c/0/0/99",  # out of the frame
    "0/c/0/99/0",
    "0/c/5/0/0/0/0/0/0",
    "7/c/0/0/0",
    "c/0/0/0",
    "0/d/0/0/0",
)


def put(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"pixels")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_on_no_record_goes(tmp_path: Path, way: str) -> None:
    dims, fields = WAYS[way]
    spec = make_spec("cam", dims, backend="tensorstore", **fields)
    received = 6
    flags = [np.arange(received) % 3 != 1 for _ in range(spec.sources)]
    lost = [4 if source == 0 else None for source in range(spec.sources)]  # a frame on record as lost
    rows: list[dict[str, object]] = [
        {"frame": 4, "count": 1, "gap": "lost"},
        {"frame": 1, "count": 1, "gap": "skipped"},
    ]
    rows += [
        {"frame": frame, "source": source}
        for source in range(spec.sources)
        for frame in np.flatnonzero(flags[source]).tolist()
    ]
    put(tmp_path, "omewd/ledger.jsonl")
    (tmp_path / "omewd/ledger.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    kept: set[str] = set()
    strays: set[str] = set()
    for source in range(spec.sources):
        plan = Plan.of(spec, source=source)
        total = plan.units_total or 9
        for level in levels_of(spec):
            layout = ShardLayout(spec, level, source)
            for unit in range(total):
                frames = [f for f in range(received) if plan.unit_of(f) == unit]
                known = any(flags[source][f] or f == lost[source] for f in frames)
                (kept if known else strays).update(keys_of(layout, unit))
    assert kept
    assert strays
    foreign = {name for name in FOREIGN if name not in kept | strays}
    for name in kept | strays | foreign:
        if not any(parent in kept | strays for parent in map(str, Path(name).parents)):
            put(tmp_path, name)
    image = "0/" if spec.position_dimensions else ""
    (tmp_path / image / "0/c/3/0").mkdir(parents=True, exist_ok=True)
    before = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    removed = remove_strays(spec, tmp_path)
    after = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(removed) == before - after == strays
    assert not (tmp_path / image / "0/c/3/0").exists() or any((tmp_path / image / "0/c/3/0").iterdir())
    assert remove_strays(spec, tmp_path) == []


@given(st.sampled_from(sorted(WAYS)), st.integers(0, 40), st.integers(0, 1))
def test_a_unit_is_found_by_its_place(way: str, unit: int, source: int) -> None:
    dims, fields = WAYS[way]
    spec = make_spec("cam", dims, **fields)
    plan = Plan.of(spec, source=source % spec.sources)
    unit %= plan.units_total or 41
    assert plan.unit_at(plan.image_of(unit), plan.block_on_disk(unit)) == unit
    others = [Plan.of(spec, source=n) for n in range(spec.sources) if n != plan.source]
    assert [other.unit_at(plan.image_of(unit), plan.block_on_disk(unit)) for other in others] == [None] * len(others)


def ledger_of(tmp_path: Path, *lines: str) -> None:
    put(tmp_path, "omewd/ledger.jsonl")
    (tmp_path / "omewd/ledger.jsonl").write_text("\n".join(lines))


def test_lines_that_can_not_be_read_protect_nothing_and_harm_nothing(tmp_path: Path) -> None:
    spec = make_spec("cam", "t:4,y:8,x:8", backend="tensorstore")
    put(tmp_path, "0/c/3/0/0")
    ledger_of(tmp_path, '{"frame": -5, "count": 2, "gap": "lost"}', '{"frame": 1}', '{"fra')
    assert remove_strays(spec, tmp_path) == ["0/c/3/0/0"]


def test_nothing_goes_if_much_of_the_ledger_can_not_be_read(tmp_path: Path) -> None:
    spec = make_spec("cam", "t:40,y:8,x:8", backend="tensorstore")
    put(tmp_path, "0/c/3/0/0")
    ledger_of(tmp_path, *['{"frame": 3, "wall'] * 30)
    assert remove_strays(spec, tmp_path) == []
    assert (tmp_path / "0/c/3/0/0").exists()
