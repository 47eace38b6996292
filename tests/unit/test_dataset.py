"""Making a dataset: whole or not at all, again with the same result, and undone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omewd.errors import OmewdError
from omewd.writer import dataset
from tests.support import make_spec


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_making_it_again_changes_nothing(tmp_path: Path) -> None:
    spec, place = make_spec("cam", "t:5,y:4,x:4"), tmp_path / "cam.ome.zarr"
    dataset.create(spec, place, tmp_path, epoch=7)
    before = listing(tmp_path)
    dataset.create(spec, place, tmp_path, epoch=7)
    assert listing(tmp_path) == before
    with pytest.raises(OmewdError) as caught:
        dataset.create(spec, place, tmp_path, epoch=8)
    assert caught.value.code == "output_exists"
    assert listing(tmp_path) == before


def test_what_was_replaced_comes_back_when_it_is_undone(tmp_path: Path) -> None:
    place = tmp_path / "cam.ome.zarr"
    dataset.create(make_spec("old", "t:5,y:4,x:4"), place, tmp_path, epoch=1)
    (place / "precious").write_text("data")
    before = listing(place)
    dataset.create(make_spec("new", "t:9,y:4,x:4", overwrite=True), place, tmp_path, epoch=2)
    assert json.loads((place / "0" / "zarr.json").read_text())["shape"] == [9, 4, 4]
    assert dataset.has_leftovers(place)
    dataset.undo(place, epoch=2)
    assert listing(place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["cam.ome.zarr"]


def test_what_was_replaced_comes_back_when_making_it_was_cut_off_between_the_renames(tmp_path: Path) -> None:
    place = tmp_path / "cam.ome.zarr"
    dataset.create(make_spec("old", "t:5,y:4,x:4"), place, tmp_path, epoch=1)
    before = listing(place)
    dataset.create(make_spec("new", "t:9,y:4,x:4", overwrite=True), place, tmp_path, epoch=2)
    place.rename(tmp_path / ".cam.ome.zarr.omewd-new-2")  # as it was before the second rename
    for _ in range(2):
        dataset.undo(place, epoch=2)
        assert listing(place) == before
        assert [p.name for p in tmp_path.iterdir()] == ["cam.ome.zarr"]


def test_undoing_leaves_another_streams_dataset_alone(tmp_path: Path) -> None:
    place = tmp_path / "cam.ome.zarr"
    dataset.create(make_spec("cam", "t:5,y:4,x:4"), place, tmp_path, epoch=1)
    before = listing(place)
    dataset.undo(place, epoch=2)
    assert listing(place) == before
    dataset.undo(place, epoch=1)
    assert not list(tmp_path.iterdir())


def test_a_sweep_removes_only_what_is_ours(tmp_path: Path) -> None:
    place = tmp_path / "cam.ome.zarr"
    for epoch in (1, 2, 3):
        dataset.create(make_spec("cam", "t:5,y:4,x:4", overwrite=True), place, tmp_path, epoch=epoch)
    (tmp_path / ".cam.ome.zarr.mine").mkdir()
    dataset.sweep(place)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".cam.ome.zarr.mine", "cam.ome.zarr"]
