"""Reading a dataset back: what is missing from a shard is found, and nothing is read twice or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset import dataset, repair, verify
from omewd.dataset.checks import units
from omewd.dataset.ledger import ledger
from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.shard_index import ABSENT, ENTRY_BYTES, entries_at_end, index_bytes
from tests.conformance.support import usual_frames, write_dataset
from tests.support.frames import among, frame_line, make_spec


def written(root: Path, spec: StreamSpec, gaps: Iterable[int] = ()) -> Path:
    """A dataset with all its frames; the ledger says of some that there was none."""
    folder = write_dataset(spec, root, usual_frames(spec), scratch=root)
    frames = ShardLayout(spec).keys.frames_total or 0
    lines = [frame_line(frame, 0, 0, b"") for frame in range(frames)]
    lines += [ledger.gap_line(frame, 1, "skipped") for frame in gaps]
    (folder / ledger.FOLDER / ledger.FILE).write_bytes(ledger.batch(lines, frames))
    return folder


def take_out(shard: Path, chunk: int, chunks: int) -> None:
    """Rewrite a shard's index without a chunk."""
    content = shard.read_bytes()
    entries = entries_at_end(memoryview(content), chunks).copy()
    assert entries[chunk, 0] != ABSENT
    entries[chunk] = ABSENT
    shard.write_bytes(content[: -chunks * ENTRY_BYTES - 4] + index_bytes(entries))


# Ragged in every way; and a single frame.
DIMS = ["t:10:2:3,c:3:1:2,y:20:7:2,x:20:7:2", "t:7:1:2,y:8,x:8", "y:20:7:2,x:20:7:3"]


@pytest.mark.parametrize("compression", ["none", "blosc-lz4"])
@pytest.mark.parametrize("dims", DIMS)
def test_a_chunk_that_is_missing_from_a_shard_is_found(tmp_path: Path, dims: str, compression: str) -> None:
    spec = make_spec("cam", dims, backend="direct", compression=compression, durability="none")
    folder, layout = written(tmp_path, spec), ShardLayout(spec)
    assert verify.verify(folder).problems == []
    unit = (layout.keys.units_total or 0) - 1
    place = list(layout.shards_in(unit))[-1]
    chunks = np.flatnonzero(layout.with_frames(place, among(np.ones(layout.keys.frames_total or 0, bool))))
    key = layout.key(place)
    take_out(folder / key, int(chunks[-1]), layout.chunks_per_shard)
    report = verify.verify(folder)
    assert report.problems == [f"{key} lacks 1 of {len(chunks)} chunks"]
    assert report.bad_units == {0: [unit]}


def test_a_chunk_without_a_written_frame_may_be_missing(tmp_path: Path) -> None:
    spec = make_spec("cam", "t:8:1:4,y:8,x:8", backend="direct", durability="none")
    folder = written(tmp_path, spec, gaps=[5])
    totals = ["the totals have written 8, but the ledger has 7", "the totals have gaps 0, but the ledger has 1"]
    assert len(verify.verify(folder).problems) == len([*totals, "it holds pixels"])
    take_out(folder / "0/c/1/0/0", 1, 4)
    report = verify.verify(folder)
    assert report.problems == totals
    assert report.bad_units == {}


def test_a_torn_line_is_no_problem_where_every_frame_has_another(tmp_path: Path) -> None:
    spec = make_spec("cam", "t:8:1:4,y:8,x:8", backend="direct", durability="none")
    folder = written(tmp_path, spec)
    path = folder / ledger.FOLDER / ledger.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\n" + whole)
    report = verify.verify(folder)
    assert report.problems == []
    assert report.notes == ["1 line of the ledger can't be read; a killed writer leaves such a line"]
    path.write_bytes(whole[:-20])
    report = verify.verify(folder)
    assert "1 received frames are not in the ledger: 7" in report.problems
    assert len(report.notes) == 1


def test_a_torn_index_is_found(tmp_path: Path) -> None:
    spec = make_spec("cam", "t:8:1:4,y:8,x:8", backend="direct", durability="none")
    folder = written(tmp_path, spec)
    shard = folder / "0/c/1/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    report = verify.verify(folder)
    assert report.problems == ["0/c/1/0/0 has a torn index"]
    assert report.bad_units == {0: [1]}


@pytest.mark.parametrize("at_once", [0, 1, 5000, 1 << 20])
def test_a_unit_that_is_read_in_parts_is_compared_with_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(units, "_READ_BYTES", at_once)
    spec = make_spec("cam", "t:10:2:5,c:3:1:3,y:20:7:2,x:20:7:2", backend="direct", durability="none")
    report = verify.verify(written(tmp_path, spec, gaps=[14, 28]))
    wrong = [problem.partition(" at ")[2] for problem in report.problems if "holds pixels" in problem]
    assert sorted(wrong) == [f"({t}, {c}), where no frame was written" for t, c in ((4, 2), (9, 1))]


@st.composite
def regions(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[int]]:
    """What a unit covers, from a chunk's edge on, and the shape of a chunk."""
    chunk = draw(st.lists(st.integers(1, 5), max_size=3))
    starts = [n * draw(st.integers(0, 4)) for n in chunk]
    return [(start, start + draw(st.integers(1, 13))) for start in starts], chunk


@given(regions(), st.integers(0, 60))
def test_parts_cover_a_region_once(drawn: tuple[list[tuple[int, int]], list[int]], frames: int) -> None:
    region, chunk = drawn
    seen = np.zeros([stop for _, stop in region], int)
    for part in units._parts(region, [*chunk, 64, 64], frames):
        assert 0 < math.prod(stop - start for start, stop in part) <= max(frames, math.prod(chunk))
        for (start, stop), n, (_, end) in zip(part, chunk, region, strict=True):
            assert start % n == 0  # no chunk is read twice
            assert stop % n == 0 or stop == end
        seen[tuple(slice(*ends) for ends in part)] += 1
    inside = np.zeros_like(seen)
    inside[tuple(slice(*ends) for ends in region)] = 1
    assert (seen == inside).all()


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / ledger.FOLDER / "zarr.json").read_text())["attributes"]["omewd"]
    return summary


@pytest.mark.parametrize("asked", ["auto", "direct"])
def test_a_dataset_is_judged_by_the_backend_that_served(tmp_path: Path, asked: str) -> None:
    """zarrs stores no chunks of zeros, which are no fault then; those of others are."""
    spec = make_spec("cam", "t:8:1:4,y:8,x:8", backend="zarrs-python", durability="none")
    folder = write_dataset(spec, tmp_path, lambda _: np.zeros((8, 8), np.uint16), scratch=tmp_path / "scratch")
    (folder / ledger.FOLDER / ledger.FILE).write_bytes(
        ledger.batch([frame_line(frame, 0, 0, b"") for frame in range(8)], 8)
    )
    path = folder / ledger.FOLDER / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["omewd"]["stream"]["backend"] = asked  # another one than the one that served
    path.write_text(json.dumps(document))
    assert verify.verify(folder).problems == []
    assert verify.verify(folder).to_dict()["made_by"] == {"backend": "zarrs-python", "omewd": "1.2"}
    document["attributes"]["omewd"]["made_by"] = {"backend": "direct"}
    path.write_text(json.dumps(document))
    assert "lacks 4 of 4 chunks" in verify.verify(folder).problems[0]
    for unknown in (None, {"backend": ""}, {"backend": 7}, ["?"]):  # an older omewd began it
        document["attributes"]["omewd"]["made_by"] = unknown
        path.write_text(json.dumps(document))
        assert "lacks 4 of 4 chunks" in verify.verify(folder).problems[0]
    document["attributes"]["omewd"]["made_by"] = {"backend": "of a newer omewd", "more": 1}
    path.write_text(json.dumps(document))
    assert verify.verify(folder).problems == []


def test_repair_keeps_what_made_it(tmp_path: Path) -> None:
    spec = make_spec("cam", "t:8:1:4,y:8,x:8", backend="zarr-python", durability="none")
    folder = written(tmp_path, spec)
    (folder / "0/zarr.json").unlink()
    assert repair.repair(folder).after.problems == []
    assert summary_of(folder)["made_by"] == {"backend": "zarr-python", "omewd": "1.2"}
    dataset.finalize_by_ledger(spec, folder, "the machine was restarted")  # as in a recovery
    assert summary_of(folder)["made_by"] == {"backend": "zarr-python", "omewd": "1.2"}
