"""Datasets that are parts of one acquisition, copied into one dataset of a store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import zarr

import omewd
from omewd.copier.access.store import Found, Target
from omewd.copier.copy import copy
from omewd.copier.parts import joining
from omewd.copier.parts.claims import Step, Verdict
from omewd.copier.verify import verify_copy
from omewd.dataset.dataset import summary_of
from omewd.dataset.keys import files_in
from omewd.dataset.user_metadata import put
from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.process.faultpoints import VARIABLE
from tests.support.copies import Lab
from tests.support.copies import omewd as command
from tests.support.parts import CHANNELS, check_whole, part_spec, recorded

LENGTHS = (9, 4, 13)


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> tuple[str, Path]:
    """The URL of a copy, and the folder where its objects are."""
    if request.param == "s3":
        return lab.url, lab.copy
    return f"file://{tmp_path}/mounted.ome.zarr", tmp_path / "mounted.ome.zarr"


def parts(root: Path) -> list[Path]:
    """One dataset a source."""
    return [
        recorded(root / name, part_spec(name), 101 + number, LENGTHS[number : number + 1])
        for number, name in enumerate(CHANNELS)
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in files_in(str(folder))}


def check(place: tuple[str, Path]) -> None:
    url, folder = place
    check_whole(folder, part_spec(), LENGTHS)
    assert verify_copy(url, deep=True).problems == []
    assert verify(folder).problems == []  # as who downloads it does


def test_the_last_part_completes_the_copy(tmp_path: Path, place: tuple[str, Path]) -> None:
    url, folder = place
    first, second, third = parts(tmp_path)
    assert copy(third, url).missing == ("DAPI", "GFP")
    assert copy(first, url).missing == ("GFP",)
    assert not (folder / "zarr.json").exists()
    report = verify_copy(url, deep=True)
    assert report.problems == ["source 'GFP' is missing: the daemon that has it has not copied all of it yet"]
    assert report.keys > 10
    assert copy(second, url).missing == ()
    check(place)
    summary = summary_of(folder)
    assert [(s["name"], s["written"]) for s in summary["sources"]] == list(zip(CHANNELS, LENGTHS, strict=True))
    assert [(p["epoch"], p["sources"]) for p in summary["parts"]] == [(101, ["DAPI"]), (102, ["GFP"]), (103, ["RFP"])]
    before = content(folder)
    for dataset in (first, second, third):
        outcome = copy(dataset, url)
        assert (outcome.copied_files, outcome.missing) == (0, ())
    assert content(folder) == before
    assert not list(tmp_path.rglob("*.whole"))


def test_users_metadata_and_extra_files_of_parts_are_kept(tmp_path: Path, lab: Lab) -> None:
    """What is added to one part after the copy was complete is in the whole when that part is copied again."""
    first, second, third = parts(tmp_path)
    (second / "notes.txt").write_text("of the second part")
    for dataset in (first, second, third):
        copy(dataset, lab.url)
    put(second, 102, "lab", {"by": "two"}, None, None)
    put(third, 103, "ome.omero", {"channels": {"RFP": {"color": "ABCDEF"}}}, None, None)
    for dataset in (second, third):
        assert (copy(dataset, lab.url).copied_files, verify_copy(lab.url).problems) == (1, [])
    check((lab.url, lab.copy))
    attributes = json.loads((lab.copy / "zarr.json").read_text())["attributes"]
    assert attributes["lab"] == {"by": "two"}
    assert attributes["ome"]["omero"]["channels"][2]["color"] == "ABCDEF"
    assert (lab.copy / "omewd/parts/102/notes.txt.part").read_text() == "of the second part"


def test_a_source_that_is_there_already_is_refused_and_nothing_is_harmed(
    tmp_path: Path, place: tuple[str, Path]
) -> None:
    url, folder = place
    first, second, third = parts(tmp_path)
    copy(first, url)
    before = content(folder)
    for number, own in enumerate([("DAPI",), ("GFP", "DAPI")]):
        again = recorded(tmp_path / f"again{number}", part_spec(*own), 7 + 200 * number, [3] * len(own))
        with pytest.raises(OmewdError, match="source 'DAPI' is copied there by a dataset of epoch 101") as error:
            copy(again, url)
        assert error.value.code == "output_exists"
        assert content(folder) == before
    for dataset in (second, third):
        copy(dataset, url)
    check(place)


def test_another_acquisition_is_refused_and_nothing_is_harmed(tmp_path: Path, place: tuple[str, Path]) -> None:
    url, folder = place
    first, second, third = parts(tmp_path)
    copy(first, url)
    before = content(folder)
    other = recorded(tmp_path / "other", part_spec("GFP", dims="t:inf:1:2,c:3,y:16:8:2,x:16"), 5, [3])
    with pytest.raises(OmewdError, match=r"dimensions\[0\].shard_size_chunks is 2 here and 4 there") as error:
        copy(other, url)
    assert error.value.code == "output_exists"
    whole = recorded(tmp_path / "whole", part_spec(), 6, [3, 3, 3])
    with pytest.raises(OmewdError, match="something else"):
        copy(whole, url)
    assert content(folder) == before
    for dataset in (second, third):
        copy(dataset, url)
    check(place)


def test_a_part_does_not_join_what_is_no_copy_of_parts(tmp_path: Path, lab: Lab) -> None:
    copy(recorded(tmp_path / "whole", part_spec(), 6, [3, 3, 3]), lab.url)
    before = content(lab.copy)
    with pytest.raises(OmewdError, match="something else"):
        copy(parts(tmp_path)[0], lab.url)
    assert content(lab.copy) == before


def test_one_who_claims_at_the_same_time_decides_who_waits(tmp_path: Path, lab: Lab) -> None:
    """A claim that has not settled: the lower epoch waits for it, and goes on when it is gone."""
    first, *_ = parts(tmp_path)
    copy(first, f"file://{tmp_path}/elsewhere.ome.zarr")
    text = (tmp_path / "elsewhere.ome.zarr" / "omewd/parts/claims/101.json").read_bytes()
    target = Target(Address.parse(lab.url))
    target.put("omewd/parts/claims/900.json", text.replace(b'"epoch": 101', b'"epoch": 900'))
    with pytest.raises(OmewdError, match="not decided") as error:
        copy(first, lab.url)
    assert error.value.code == "busy"
    target.remove("omewd/parts/claims/900.json")
    assert copy(first, lab.url).missing == ("GFP", "RFP")


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_conditional_puts_keep_two_apart_if_listings_lag(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Neither sees the claim of the other, and the store takes what settles only once."""

    def once(path: str) -> str | None:
        return "412" if (lab.folder / unquote(path).lstrip("/")).exists() else None

    lab.proxy.conditional = once
    url = lab.url if scheme == "s3" else f"file://{tmp_path}/mounted.ome.zarr"
    monkeypatch.setattr(joining, "_claims", lambda _: iter(()))
    monkeypatch.setattr(joining, "decide", lambda *_: Verdict(Step.SETTLE))
    target = Target(Address.parse(url), create=True)
    joining.join(target, part_spec("GFP", "RFP"), 101)
    for spec in (part_spec("DAPI", "GFP"), part_spec("GFP"), part_spec("DAPI", levels=1)):
        with pytest.raises(OmewdError) as error:
            joining.join(target, spec, 7)
        assert error.value.code == "output_exists"
        assert dict(joining.owners_in(target, range(3))) == {1: 101, 2: 101}
        assert target.read("omewd/parts/claims/7.json", 1 << 20) is None
    joining.join(target, part_spec("DAPI"), 7)
    joining.join(target, part_spec("GFP", "RFP"), 101)
    assert dict(joining.owners_in(target, range(3))) == {0: 7, 1: 101, 2: 101}


def test_a_store_that_knows_no_conditional_puts(tmp_path: Path, lab: Lab) -> None:
    lab.proxy.conditional = lambda _: "501"
    for dataset in parts(tmp_path):
        copy(dataset, lab.url)
    check((lab.url, lab.copy))


def test_a_copy_that_somebody_has_removed_is_no_copy(tmp_path: Path) -> None:
    """The record says that all is there. It has to be removed, too."""
    url, folder = f"file://{tmp_path}/mounted.ome.zarr", tmp_path / "mounted.ome.zarr"
    first, *_ = parts(tmp_path)
    copy(first, url)
    shutil.rmtree(folder)
    with pytest.raises(OmewdError, match="omewd/copies"):
        copy(first, url)
    shutil.rmtree(folder)
    shutil.rmtree(first / "omewd" / "copies")
    assert copy(first, url).missing == ("GFP", "RFP")


def test_others_may_begin_while_one_looks_whether_the_place_is_free(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = parts(tmp_path)
    really = Target.listed

    def listed(target: Target, folder: str | None = None) -> Iterator[Found]:
        found = list(really(target, folder))
        with monkeypatch.context() as patch:
            patch.setattr(Target, "listed", really)
            copy(second, lab.url)
        return iter(found)

    monkeypatch.setattr(Target, "listed", listed)
    assert copy(first, lab.url).missing == ("RFP",)


def test_parts_that_are_copied_at_once_make_one_copy(tmp_path: Path, place: tuple[str, Path]) -> None:
    datasets = parts(tmp_path)
    with ThreadPoolExecutor(3) as threads:
        outcomes = list(threads.map(lambda dataset: copy(dataset, place[0]), datasets))
    assert any(outcome.missing == () for outcome in outcomes)
    check(place)


def test_two_that_complete_it_at_once_make_the_same(
    tmp_path: Path, place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All parts are there, and all are copied again at the same time."""
    from omewd.copier import copy as module

    datasets = parts(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "complete", lambda *_: ())
        for dataset in datasets:
            copy(dataset, place[0])
    assert verify_copy(place[0]).problems == [
        "omewd/copies/this.jsonl is missing: run omewd copy again for any of the parts, which are all there"
    ]
    with ThreadPoolExecutor(3) as threads:
        outcomes = list(threads.map(lambda dataset: copy(dataset, place[0]), datasets))
    assert [outcome.missing for outcome in outcomes] == [(), (), ()]
    check(place)


POINTS = (
    "copier: claimed",
    "copier: claim settled",
    "copier: put",
    "copier: phase done",
    "copier: manifest stored",
    "copier: phase of the whole done",
)


@pytest.mark.parametrize("point", POINTS)
def test_row_35_a_part_that_is_killed_at_any_point_goes_on(tmp_path: Path, lab: Lab, point: str) -> None:
    """The last one dies; then it or, if its part was complete, another one goes on."""
    first, second, third = parts(tmp_path)
    copy(first, lab.url)
    copy(second, lab.url)
    env = {**os.environ, VARIABLE: f"{point};1;{tmp_path}/passed"}
    run = [sys.executable, "-m", "omewd", "copy", str(third), lab.url]
    done = subprocess.run(run, env=env, capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (lab.copy / "zarr.json").exists() or point == POINTS[-1]
    was_complete = point in ("copier: manifest stored", "copier: phase of the whole done")
    assert copy(first if was_complete else third, lab.url).missing == ()
    check((lab.url, lab.copy))


def test_on_the_command_line(tmp_path: Path, lab: Lab) -> None:
    first, second, third = parts(tmp_path)
    for dataset, missing in ((first, ["GFP", "RFP"]), (second, ["RFP"])):
        assert json.loads(command("copy", str(dataset), lab.url, "--json").stdout)["missing"] == missing
    shown = command("copy", str(second), lab.url).stdout
    assert "it opens once it has source RFP, which other daemons copy" in shown
    checked = command("verify", lab.url)
    assert (checked.returncode, "source 'RFP' is missing" in checked.stdout) == (5, True)
    assert "once" not in command("copy", str(third), lab.url).stdout
    assert command("verify", lab.url, "--deep").stdout.splitlines()[-1] == "all is well"


def test_a_part_that_is_not_what_its_manifest_says_is_not_joined(tmp_path: Path, lab: Lab) -> None:
    first, second, third = parts(tmp_path)
    copy(first, lab.url)
    copy(second, lab.url)
    ledger = lab.copy / "omewd/parts/101/omewd/ledger.jsonl.part"
    kept = ledger.read_bytes()
    ledger.write_bytes(kept.replace(b'"frame":0', b'"frame":1'))
    with pytest.raises(OmewdError, match="the part of DAPI") as error:
        copy(third, lab.url)
    assert error.value.code == "changed"
    assert not (lab.copy / "zarr.json").exists()
    ledger.write_bytes(kept)
    assert copy(third, lab.url).missing == ()
    check((lab.url, lab.copy))


def test_parts_whose_files_are_evicted(tmp_path: Path, lab: Lab) -> None:
    """Evicted or not, and copied again afterwards: the copy has all."""
    for dataset in parts(tmp_path):
        assert copy(dataset, lab.url, evict=True).evicted_files > 0
        assert not list(files_in(str(dataset / "0" / "c")))
        assert copy(dataset, lab.url).copied_files == 0
        assert verify(dataset).problems == []
    check((lab.url, lab.copy))


def test_sources_of_positions(tmp_path: Path, lab: Lab) -> None:
    """Each source has an image of its own."""
    fields = {"dims": "t:inf:1:2,p:3,y:16,x:16", "source_dimension": "p"}
    for number in (2, 0, 1):
        copy(
            recorded(tmp_path / str(number), part_spec(str(number), **fields), 11 + number, [LENGTHS[number]]), lab.url
        )
    check_whole(lab.copy, part_spec(**fields), LENGTHS)
    assert verify_copy(lab.url, deep=True).problems == []
    assert verify(lab.copy).problems == []


def test_a_part_without_frames(tmp_path: Path, lab: Lab) -> None:
    copy(recorded(tmp_path / "a", part_spec("DAPI", "RFP"), 11, [5, 0]), lab.url)
    copy(recorded(tmp_path / "b", part_spec("GFP"), 12, [0]), lab.url)
    check_whole(lab.copy, part_spec(), (5, 0, 0))
    assert verify_copy(lab.url, deep=True).problems == []
    array = zarr.open_group(omewd.open_copy(lab.url), mode="r")["0"]
    assert isinstance(array, zarr.Array)
    assert array.shape == (5, 3, 16, 16)
    assert not np.asarray(array[:, 1]).any()
