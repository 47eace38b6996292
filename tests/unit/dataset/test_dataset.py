"""Making a dataset: whole or not at all, again with the same result, and undone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from omewd.copier.copy import copy
from omewd.copier.verify import verify_copy
from omewd.dataset import dataset
from omewd.dataset.beside import has_leftovers, sweep
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Ledger
from omewd.dataset.ledger.appending import append_to
from omewd.dataset.ledger.runs import Run
from omewd.dataset.repair import repair
from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.base import committed
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools
from omewd.store.units import UnitStore
from tests.support.datasets import check_dataset, read_zarr
from tests.support.frames import frame_index, frame_line, make_frame, make_spec
from tests.support.units import singly


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
    assert has_leftovers(place, epoch=2)
    assert not has_leftovers(place, epoch=1)
    dataset.undo(place, epoch=2)
    sweep(place, epoch=2)
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
        sweep(place, epoch=2)
        assert listing(place) == before
        assert [p.name for p in tmp_path.iterdir()] == ["cam.ome.zarr"]


def test_undoing_leaves_another_streams_dataset_alone(tmp_path: Path) -> None:
    place = tmp_path / "cam.ome.zarr"
    dataset.create(make_spec("cam", "t:5,y:4,x:4"), place, tmp_path, epoch=1)
    before = listing(place)
    dataset.undo(place, epoch=2)
    sweep(place, epoch=2)
    assert listing(place) == before
    dataset.undo(place, epoch=1)
    sweep(place, epoch=1)
    assert not list(tmp_path.iterdir())


def test_a_sweep_removes_only_what_is_ours(tmp_path: Path) -> None:
    place = tmp_path / "cam.ome.zarr"
    for epoch in (1, 2, 3):
        dataset.create(make_spec("cam", "t:5,y:4,x:4", overwrite=True), place, tmp_path, epoch=epoch)
    (tmp_path / ".cam.ome.zarr.mine").mkdir()
    sweep(place, epoch=3)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [".cam.ome.zarr.mine", ".cam.ome.zarr.omewd-old-2", "cam.ome.zarr"]
    sweep(place, epoch=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".cam.ome.zarr.mine", "cam.ome.zarr"]


def test_undoing_leaves_alone_what_another_stream_is_making_in_the_same_place(tmp_path: Path) -> None:
    place, aside = tmp_path / "cam.ome.zarr", tmp_path / ".cam.ome.zarr.omewd-new-7"
    aside.mkdir()
    dataset.undo(place, epoch=2)
    sweep(place, epoch=2)
    assert [p.name for p in tmp_path.iterdir()] == [aside.name]


# -- a dataset whose stream has failed, and goes on ------------------------------------------------

GOES_ON = make_spec("cam", "t:8:1:4,y:20:10:1,x:20", backend="direct", compression="blosc-lz4")


@pytest.fixture
def tools() -> Iterator[Tools]:
    with closing(Tools()) as tools:
        yield tools


def store(spec: StreamSpec, place: Path, tools: Tools, frames: Iterable[int], *, on_record: bool = True) -> None:
    """Write frames, each a unit of its own, as a writer does."""
    frames = list(frames)
    publisher = Publisher(place, place / STAGING, durable=True)
    blocks = [(frame, make_frame(frame, spec.frame_shape, spec.dtype)[None]) for frame in frames]
    units = UnitStore(spec, BACKENDS["direct"], publisher, tools, "test")
    committed(units.put(0, singly(blocks)), tools.syncs)
    if on_record:
        lines = [frame_line(frame, 0, 0, b"") for frame in frames]
        append_to(publisher.root, ledger.batch(lines, max(frames) + 1))


def totals(place: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((place / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    return found


@pytest.fixture
def failed(tmp_path: Path, tools: Tools) -> Path:
    """A dataset with frames 0 to 4 of 6 received, finalized when its stream had failed."""
    place = tmp_path / "cam.ome.zarr"
    dataset.create(GOES_ON, place, tmp_path, epoch=7)
    store(GOES_ON, place, tools, range(5))
    dataset.finalize_by_ledger(GOES_ON, place, "test", known_frames=[6])
    assert totals(place)["state"] == "failed"
    assert not (place / STAGING).exists()
    return place


def test_a_dataset_that_is_reopened_is_being_written(failed: Path) -> None:
    dataset.reopen(GOES_ON, failed, epoch=7)
    assert (failed / STAGING).is_dir()
    assert (totals(failed)["state"], totals(failed)["epoch"]) == ("writing", 7)
    assert totals(failed)["stream"] == GOES_ON.model_dump(mode="json")
    before = (failed / "omewd/zarr.json").stat()
    dataset.reopen(GOES_ON, failed, epoch=7)
    assert (failed / "omewd/zarr.json").stat() == before


def test_a_stream_does_not_go_on_into_shards_that_were_evicted(failed: Path, tools: Tools) -> None:
    """A new shard would replace the one in the copy, and have none of its frames."""
    url = f"file://{failed.parent}/copy.ome.zarr"
    copy(failed, url, evict=True)
    before = listing(failed)
    with pytest.raises(OmewdError) as caught:
        dataset.reopen(GOES_ON, failed, epoch=7, below=(5,))
    assert (caught.value.code, url in caught.value.message) == ("evicted", True)
    assert listing(failed) == before
    assert not (failed / STAGING).exists()
    shutil.copytree(failed.parent / "copy.ome.zarr/0/c/1", failed / "0/c/1")
    dataset.reopen(GOES_ON, failed, epoch=7, below=(5,))
    store(GOES_ON, failed, tools, [5])
    assert dataset.recover(GOES_ON, failed, epoch=7) == [Totals(6, 6)]
    assert verify(failed).problems == []
    copy(failed, url)
    check_dataset(failed.parent / "copy.ome.zarr", GOES_ON, 6)
    assert verify_copy(url, deep=True).problems == []


@pytest.mark.parametrize("state", ["writing", "failed"])
@pytest.mark.parametrize("there", ["another stream's", "no summary", "a foreign zarr", "nothing", "a file"])
def test_a_dataset_of_another_is_not_taken_up(failed: Path, there: str, state: str) -> None:
    if state == "writing":
        dataset.reopen(GOES_ON, failed, epoch=7)
    summary = failed / "omewd/zarr.json"
    match there:
        case "no summary":
            summary.unlink()
        case "a foreign zarr":
            shutil.rmtree(failed / "omewd")
        case "nothing":
            shutil.rmtree(failed)
        case "a file":
            shutil.rmtree(failed)
            failed.write_text("mine")
        case _:
            summary.write_text(summary.read_text().replace('"epoch": 7', '"epoch": 8'))
    before = listing(failed.parent)
    with pytest.raises(OmewdError) as caught:
        dataset.reopen(GOES_ON, failed, epoch=7)
    assert caught.value.code == "dataset_replaced"
    assert ("no longer exists" in caught.value.message) == (there == "nothing")
    assert ("the dataset of stream 'cam' is in its place" in caught.value.message) == (there == "another stream's")
    assert listing(failed.parent) == before


def test_a_reopened_dataset_that_loses_its_ring_is_recovered_with_what_was_added(failed: Path, tools: Tools) -> None:
    """Shards that were taken back are in staging: nothing of them may be swept away."""
    dataset.reopen(GOES_ON, failed, epoch=7)
    store(GOES_ON, failed, tools, [5])
    assert not [path for path in (failed / "0/c/1").rglob("*") if path.is_file()]
    assert len(list((failed / STAGING).glob("shard-0-0-1-*-0"))) == 2
    assert dataset.recover(GOES_ON, failed, epoch=7) == [Totals(6, 6)]
    check_dataset(failed, GOES_ON, 6)
    assert totals(failed)["state"] == "complete"


def test_what_is_not_on_record_is_not_recovered(failed: Path, tools: Tools) -> None:
    dataset.reopen(GOES_ON, failed, epoch=7)
    store(GOES_ON, failed, tools, [5], on_record=False)
    store(GOES_ON, failed, tools, [6])
    assert dataset.recover(GOES_ON, failed, epoch=7) == [Totals(7, 6, 0, ((5, 1),), 1)]
    array = read_zarr(failed)
    assert [bool(frame.any()) for frame in array] == [True] * 5 + [False, True]


def test_a_dataset_is_recovered_for_its_own_stream_only(failed: Path, tools: Tools) -> None:
    before = listing(failed)
    assert dataset.recover(GOES_ON, failed, epoch=7) is None
    assert listing(failed) == before
    dataset.reopen(GOES_ON, failed, epoch=7)
    store(GOES_ON, failed, tools, [5])
    before = listing(failed)
    assert dataset.recover(GOES_ON, failed, epoch=9) is None
    assert listing(failed) == before


@pytest.mark.parametrize("state", ["complete", "failed"])
def test_what_is_left_in_staging_of_a_dataset_that_has_its_totals_is_seen_to(
    failed: Path, tools: Tools, state: str
) -> None:
    """A power cut may keep the totals, and what a writer had in staging as well."""
    dataset.reopen(GOES_ON, failed, epoch=7)
    store(GOES_ON, failed, tools, [5])
    summary = failed / "omewd/zarr.json"
    summary.write_text(summary.read_text().replace('"state": "writing"', f'"state": "{state}"'))
    assert dataset.recover(GOES_ON, failed, epoch=8) is None
    assert (failed / STAGING).exists()
    assert dataset.recover(GOES_ON, failed, epoch=7) is None
    assert not (failed / STAGING).exists()
    assert [frame_index(frame) for frame in read_zarr(failed)] == list(range(6))


def test_user_metadata_that_were_half_written_are_a_note_and_are_removed(failed: Path) -> None:
    left = failed / "omewd/user-metadata-0"
    for remove in (lambda: repair(failed), lambda: dataset.recover(GOES_ON, failed, epoch=7)):
        left.write_text("{")
        report = verify(failed)
        assert not [problem for problem in report.problems if "user-metadata" in problem]
        assert report.notes == ["omewd/user-metadata-0 was left by a killed writer; omewd repair removes it"]
        remove()
        assert not left.exists()


# -- the order in which an end becomes durable ------------------------------------------------------

GROWS = make_spec("cam", "t:inf:1:4,y:20:10:1,x:20", backend="direct")


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """("sync", folder) and ("rename", target), in their order."""
    seen: list[tuple[str, str]] = []
    real_rename = os.rename

    def rename(source: Any, target: Any) -> None:
        real_rename(source, target)
        seen.append(("rename", str(target)))

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(("sync", path_of(descriptor))))
    return seen


@pytest.fixture
def grown(tmp_path: Path, tools: Tools) -> Path:
    """A dataset of unknown length with five frames, whose shape is still that of none."""
    place = tmp_path / "cam.ome.zarr"
    dataset.create(GROWS, place, tmp_path, epoch=7)
    store(GROWS, place, tools, range(5))
    return place


def finalize(place: Path) -> None:
    dataset.finalize(GROWS, place, totals=[Totals(5, 5)], ended_by="test", failed=False)


def test_the_state_is_durable_after_all_that_it_tells_of(grown: Path, events: list[tuple[str, str]]) -> None:
    finalize(grown)
    state, shape = (
        events.index(("rename", f"{grown}/omewd/zarr.json")),
        events.index(("rename", f"{grown}/0/zarr.json")),
    )
    assert shape < events.index(("sync", f"{grown}/0"), shape) < state
    assert events.count(("sync", f"{grown}/omewd")) == 1
    assert events.index(("sync", f"{grown}/omewd")) > state


def test_an_end_that_was_cut_off_syncs_what_it_finds_in_place(
    grown: Path, events: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(_: int) -> None:
        if ("rename", f"{grown}/0/zarr.json") in events:
            raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with pytest.raises(OSError, match="cut off"):
            finalize(grown)
    assert ("rename", f"{grown}/0/zarr.json") in events
    assert totals(grown)["state"] == "writing"
    events.clear()
    finalize(grown)
    state = events.index(("rename", f"{grown}/omewd/zarr.json"))
    assert ("rename", f"{grown}/0/zarr.json") not in events
    assert events.index(("sync", f"{grown}/0")) < state


def test_a_line_that_nobody_appended_after_is_cut_off_at_the_end(failed: Path) -> None:
    """As after a restart of the machine."""
    path = failed / ledger.FOLDER / ledger.FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"frame":5,"image":0,"ind')
    dataset.finalize_by_ledger(GOES_ON, failed, "test", known_frames=[6])
    assert path.read_bytes() == whole


def test_a_dataset_that_is_recovered_is_held_against_repair(failed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = dataset.finalize_by_ledger, []

    def finalize(*arguments: Any) -> list[Totals]:
        with pytest.raises(OmewdError) as caught:
            repair(failed)
        refused.append(caught.value.code)
        return real(*arguments)

    dataset.reopen(GOES_ON, failed, epoch=7)
    monkeypatch.setattr(dataset, "finalize_by_ledger", finalize)
    dataset.recover(GOES_ON, failed, epoch=7)
    assert refused == ["busy"]


# -- the ledger's record of runs, in a repair ------------------------------------------------------


def test_a_repair_makes_the_record_again_where_it_has_removed_a_line(failed: Path, tools: Tools) -> None:
    """The spaces in its place belong to the next line, which now starts before its record."""
    dataset.reopen(GOES_ON, failed, epoch=7)
    with (failed / ledger.FOLDER / ledger.FILE).open("ab") as lines:
        lines.write(b'{"frame":5,"ind\n')
    store(GOES_ON, failed, tools, [5, 6, 7])
    dataset.finalize_by_ledger(GOES_ON, failed, "test")
    done = repair(failed)
    assert (len(done.before.notes), done.before.bad_runs) == (1, False)
    assert done.mended == ["removed 1 torn line from the ledger"]
    assert (done.after.problems, done.after.notes) == ([], [])
    assert Ledger.read(failed, 1).read_lines == 0


def test_a_repair_seals_shards_by_the_lines(tmp_path: Path, tools: Tools) -> None:
    """Chunks that are left out are gone for good."""
    place = tmp_path / "cam.ome.zarr"
    dataset.create(GOES_ON, place, tmp_path, epoch=7)
    store(GOES_ON, place, tools, range(8), on_record=False)
    lines = [frame_line(frame, 0, 0, b"").encode() for frame in range(8)]
    offsets = [sum(map(len, lines[:frame])) for frame in range(8)]
    kinds = [ledger.WRITTEN] * 8
    kinds[2] = ledger.SKIPPED
    runs = [Run(len(lines[n]), 1, 0, kinds[n], n, 1, 0, offsets[n]) for n in range(8)]
    append_to(place, b"".join(lines), runs)
    assert repair(place).after.problems == []
    check_dataset(place, GOES_ON, 8)
