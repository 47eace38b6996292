"""``verify`` and ``repair`` where files are not what they should be: pixels are judged, and metadata made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omewd.dataset.repair import repair
from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from tests.support.datasets import check_dataset
from tests.support.frames import make_spec
from tests.unit.dataset.test_verify import written

DIMS = {
    "direct": "t:10:1:4,y:20:10:2,x:24:8:3",
    "tensorstore": "t:10:1:4,y:20:10:2,x:24:8:3",
    "plain": "t:10,y:20,x:24",
}
FRAMES = 10

Change = Callable[[Path, dict[str, Any]], object]


def put(**fields: Any) -> Change:
    """Write the document with other fields."""
    return lambda path, document: path.write_text(json.dumps({**document, **fields}))


def text(content: str) -> Change:
    return lambda path, _: path.write_text(content)


def chunks(*shape: int) -> Change:
    return put(chunk_grid={"name": "regular", "configuration": {"chunk_shape": shape}})


DAMAGES: dict[str, Change] = {
    "missing": lambda path, _: path.unlink(),
    "empty": text(""),
    "not JSON": text("{"),
    "not UTF-8": lambda path, _: path.write_bytes(b"\xff\xfe{}"),
    "a list": text("[]"),
    "nested deeply": text("[" * 100_000),
    "a group": text('{"zarr_format": 3, "node_type": "group"}'),
    "shape too small": put(shape=[3, 20, 24]),
    "nothing in it": put(shape=[0, 20, 24]),
    "shape too large": put(shape=[11, 20, 24]),
    "frame too small": put(shape=[10, 7, 24]),
    "huge": put(shape=[2**62, 20, 24]),
    "negative": put(shape=[-1, 20, 24]),
    "no integers": put(shape=["10", 20.5, None]),
    "rank too low": put(shape=[10, 480]),
    "rank too high": put(shape=[10, 1, 20, 24]),
    "all of another rank": lambda path, document: path.write_text(
        json.dumps(
            {**document, "shape": [10], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}}}
        )
    ),
    "other chunks": chunks(5, 20, 24),
    "chunks of zero": chunks(0, 20, 24),
    "huge chunks": chunks(2**40, 2**40, 2**40),
    "another dtype": put(data_type="float64"),
    "no dtype": put(data_type="complex7"),
    "no codec": put(codecs=[]),
    "unknown codec": put(codecs=[{"name": "magic"}]),
    "other codec": put(codecs=[{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}]),
    "other keys": put(chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}),
}


@pytest.mark.parametrize("way", DIMS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_array_whose_metadata_is_wrong_is_read_all_the_same(tmp_path: Path, damage: str, way: str) -> None:
    backend = "tensorstore" if way == "plain" else way
    spec = make_spec("cam", DIMS[way], backend=backend, durability="none")
    folder = written(tmp_path, spec)
    assert verify(folder).problems == []
    path = folder / "0/zarr.json"
    DAMAGES[damage](path, json.loads(path.read_text()))
    report = verify(folder)
    assert any(problem.startswith("0/zarr.json ") for problem in report.problems), report.problems
    assert report.bad_units == {}  # the pixels are fine
    assert report.strays == []
    result = repair(folder)
    assert result.after.problems == []
    check_dataset(folder, spec, FRAMES)


def test_pixels_that_are_gone_are_found_where_the_metadata_is_wrong_too(tmp_path: Path) -> None:
    spec = make_spec("cam", DIMS["tensorstore"], backend="tensorstore", durability="none")
    folder = written(tmp_path, spec)
    key = folder / "0/c/1/0/0"
    key.write_bytes(key.read_bytes()[:-7])
    DAMAGES["shape too small"](folder / "0/zarr.json", json.loads((folder / "0/zarr.json").read_text()))
    assert verify(folder).bad_units == {0: [1]}
    after = repair(folder).after
    assert (after.written, after.bad_units) == (6, {})


def test_the_shape_that_is_wrong_is_told(tmp_path: Path) -> None:
    spec = make_spec("cam", DIMS["plain"], backend="tensorstore", durability="none")
    folder = written(tmp_path, spec)
    DAMAGES["rank too low"](folder / "0/zarr.json", json.loads((folder / "0/zarr.json").read_text()))
    wrong = "0/zarr.json is not what the stream makes: its shape is [10, 480], the frames make [10, 20, 24]"
    assert wrong in verify(folder).problems


SUMMARIES: dict[str, Change] = {
    **{name: DAMAGES[name] for name in ("missing", "empty", "not JSON", "not UTF-8", "a list", "nested deeply")},
    "no totals": put(attributes={}),
    "attributes are a list": put(attributes=["omewd"]),
    "totals are a list": put(attributes={"omewd": []}),
    "totals are a text": put(attributes={"omewd": "x"}),
}
FIELDS: dict[str, Any] = {
    "state": None,
    "ended_by": 3,
    "stream": {},
    "received": -1,
    "written": "many",
    "lost": 5,
    "sources": [],
    "gaps": float("inf"),
}
HUGE = {"received": 2**61}


@pytest.mark.parametrize("change", [*SUMMARIES, *FIELDS, "received is huge", "state is missing"])
def test_a_summary_that_can_not_be_read_is_an_error_of_omewd(tmp_path: Path, change: str) -> None:
    spec = make_spec("cam", DIMS["plain"], backend="tensorstore", durability="none")
    folder = written(tmp_path, spec)
    path = folder / "omewd/zarr.json"
    document = json.loads(path.read_text())
    if change in SUMMARIES:
        SUMMARIES[change](path, document)
    else:
        totals = document["attributes"]["omewd"]
        if change == "state is missing":
            del totals["state"]
        else:
            totals |= HUGE if change == "received is huge" else {change: FIELDS[change]}
        path.write_text(json.dumps(document))
    for look in (verify, repair):
        with pytest.raises(OmewdError) as caught:
            look(folder)
        assert caught.value.code == "not_a_dataset"


@pytest.mark.parametrize("where", ["0/zarr.json", "zarr.json", "0/c/2", "0/c/2/0/0"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_folders_and_files_that_have_changed_places(tmp_path: Path, where: str, kind: str) -> None:
    """Found, and either mended or told as an error of omewd."""
    spec = make_spec("cam", DIMS["plain"], backend="tensorstore", durability="none")
    folder = written(tmp_path, spec)
    path = folder / where
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text("something else")
    assert verify(folder).problems
    error: OmewdError | None = None
    try:
        repair(folder)
    except OmewdError as told:
        error = told
    assert error is None or (error.code == "disk_error" and error.remedy)
    report = verify(folder)
    assert where.endswith("json") or report.written == (9 if where.startswith("0/c") else 10)


def test_attributes_that_are_no_mapping_do_not_stand_in_the_way(tmp_path: Path) -> None:
    spec = make_spec("cam", DIMS["plain"], backend="tensorstore", durability="none")
    folder = written(tmp_path, spec)
    path = folder / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attributes": ["mine"]}))
    assert verify(folder).problems
    assert repair(folder).after.problems == []
