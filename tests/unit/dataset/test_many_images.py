"""Datasets of many images: what they have in common is made once, and their files are synced together."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omewd.dataset import dataset, metadata, omero, user_metadata
from omewd.dataset.ledger import ledger
from omewd.model.contrast import Window
from omewd.model.plan import images
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.store import filesystem, unsynced
from omewd.store.format import array_document
from tests.support.frames import make_spec

MANY = 150
LEVELS = 3
WINDOW = (0, 10.0, 20.0, 0.0, 30.0)


def positions(count: int, **fields: Any) -> StreamSpec:
    return make_spec("plate", f"t:inf,p:{count},y:16,x:16", levels=LEVELS, **fields)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the disk is asked for what."""
    found: Counter[str] = Counter()

    def counted(name: str, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            found[name] += 1
            real(descriptor)

        return call

    monkeypatch.setattr(os, "fsync", counted("fsync", os.fsync))
    monkeypatch.setattr(os, "fdatasync", counted("fdatasync", os.fdatasync))
    monkeypatch.setattr(unsynced, "sync_filesystem", counted("syncfs", filesystem.sync_filesystem))
    return found


def end(spec: StreamSpec, place: Path, frames: int, windows: tuple[Window, ...] = ()) -> None:
    totals = [Totals(received=frames, written=0, gaps=frames)]
    dataset.finalize(spec, place, totals=totals, ended_by="stop-stream", failed=False, windows=windows)


def test_the_files_of_many_images_are_synced_together(tmp_path: Path, syncs: Counter[str]) -> None:
    spec, place = positions(MANY), tmp_path / "plate.ome.zarr"
    dataset.create(spec, place, tmp_path, epoch=1)
    assert syncs == {"syncfs": 1, "fsync": 1}  # all files, and then the dataset's name
    syncs.clear()
    dataset.grow(spec, place, [MANY * 2])
    assert syncs == {"syncfs": 2}  # the files aside, and then their names
    syncs.clear()
    end(spec, place, MANY * 3, (WINDOW,))
    assert syncs["syncfs"] == 2
    assert syncs.total() < 20
    arrays = [metadata.read(place / str(image) / str(level) / "zarr.json") for image in range(MANY) for level in (0, 2)]
    assert {tuple(array["shape"]) for array in arrays} == {(3, 16, 16), (3, 4, 4)}
    groups = [metadata.attributes_of(metadata.read(place / str(image) / "zarr.json")) for image in range(MANY)]
    assert {group["ome"]["omero"]["channels"][0]["window"]["end"] for group in groups} == {20.0}
    assert not (place / ledger.FOLDER / "staging").exists()


def test_each_file_of_a_few_images_is_synced(tmp_path: Path, syncs: Counter[str]) -> None:
    spec, place = positions(2), tmp_path / "plate.ome.zarr"
    dataset.create(spec, place, tmp_path, epoch=1)
    files = [path for path in place.rglob("*") if path.is_file()]
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    assert syncs == {"fdatasync": len(files), "fsync": len(folders) + 1}


def test_each_file_is_synced_where_the_filesystem_does_not_hear_of_all(
    tmp_path: Path, syncs: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsynced, "has_syncfs", lambda _: False)
    spec, place = positions(MANY), tmp_path / "plate.ome.zarr"
    dataset.create(spec, place, tmp_path, epoch=1)
    assert syncs["syncfs"] == 0
    assert syncs["fdatasync"] == sum(path.is_file() for path in place.rglob("*"))


def test_without_durability_nothing_is_synced(tmp_path: Path, syncs: Counter[str]) -> None:
    spec, place = positions(MANY, durability="none"), tmp_path / "plate.ome.zarr"
    dataset.create(spec, place, tmp_path, epoch=1)
    dataset.grow(spec, place, [MANY])
    end(spec, place, MANY, (WINDOW,))
    assert syncs == {}


@pytest.mark.parametrize("count", [2, MANY], ids=["a few", "many"])
def test_a_dataset_that_can_not_be_synced_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(unsynced, "sync_filesystem", fail)
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        dataset.create(positions(count), tmp_path / "plate.ome.zarr", tmp_path, epoch=1)
    assert not list(tmp_path.iterdir())


def test_many_files_that_can_not_be_synced_replace_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, place = positions(MANY), tmp_path / "plate.ome.zarr"
    dataset.create(spec, place, tmp_path, epoch=1)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(unsynced, "sync_filesystem", fail)
        with pytest.raises(OSError, match="Input/output error"):
            dataset.grow(spec, place, [MANY])
    assert {metadata.read(place / str(n) / "0/zarr.json")["shape"][0] for n in range(MANY)} == {0}
    dataset.grow(spec, place, [MANY])
    assert {metadata.read(place / str(n) / "0/zarr.json")["shape"][0] for n in range(MANY)} == {1}


def test_nothing_is_made_twice_for_images_that_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Counter[str] = Counter()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            made[name] += 1
            return real(*args, **fields)

        return call

    monkeypatch.setattr(metadata, "array_document", counted("array", array_document.array_document))
    monkeypatch.setattr(metadata, "text_of", counted("text", metadata.text_of))
    monkeypatch.setattr(metadata, "_axes", counted("axes", metadata._axes))
    monkeypatch.setattr(images, "shape_on_disk", counted("shape", images.shape_on_disk))
    counts = []
    for count in (10, 1000):
        made.clear()
        found = dict(metadata.documents(positions(count), [count + count // 2]))
        assert len(found) == count * (LEVELS + 1) + 2
        assert len({document.text for path, document in found.items() if document.is_array}) == 2 * LEVELS
        counts.append(dict(made))
    assert counts[0] == counts[1]


def test_users_metadata_of_an_image_stays_with_it(tmp_path: Path) -> None:
    """Images share what they have in common: what one of them gets, the others don't."""
    spec, place = positions(MANY), tmp_path / "plate.ome.zarr"
    dataset.create(spec, place, tmp_path, epoch=1)
    user_metadata.put(place, 1, "mine", {"of": "one, \ud800"}, 7, None)
    user_metadata.put(place, 1, omero.NAMESPACE, {"channels": [{"window": {"start": 1, "end": 2}}]}, 8, None)
    user_metadata.put_windows(place, 1, [WINDOW])
    end(spec, place, MANY, (WINDOW,))
    groups = [metadata.attributes_of(metadata.read(place / str(image) / "zarr.json")) for image in range(MANY)]
    assert [image for image, group in enumerate(groups) if "mine" in group] == [7]
    assert groups[7]["mine"] == {"of": "one, \ud800"}
    ends = [group["ome"]["omero"]["channels"][0]["window"]["end"] for group in groups]
    assert [image for image, value in enumerate(ends) if value != 20.0] == [8]
