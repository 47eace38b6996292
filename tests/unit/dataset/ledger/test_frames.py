"""Frames of a dataset as rows and columns, held against what was put on record."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import omewd
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.columns import Column
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.dataset.ledger.frames import LedgerRow
from omewd.dataset.ledger.index import FRAME, GAP, LedgerIndex
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

POSITIONS = {"name": "p", "coords": ["here", "there"]}


def spec_of(dims: str = "t:inf,y:4,x:5", *, positions: bool = False, **fields: Any) -> StreamSpec:
    first, *others = omewd.parse_dims(dims)
    p = [omewd.Dimension.model_validate(POSITIONS)] if positions else []
    return StreamSpec(name="s", dimensions=(first, *p, *others), **fields)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make(tmp_path / "d.ome.zarr", spec_of())


def make(folder: Path, spec: StreamSpec, **fields: Any) -> Path:
    """A dataset that has nothing but its record."""
    (folder / ledger.FOLDER).mkdir(parents=True)
    summary = ledger.summary_json(spec, **{"state": "complete", **fields})
    (folder / ledger.FOLDER / "zarr.json").write_text(json.dumps(summary))
    path_of(folder).write_bytes(b"")
    return folder


def path_of(dataset: Path) -> Path:
    return dataset / ledger.FOLDER / ledger.FILE


def put(dataset: Path, lines: Iterable[str]) -> None:
    with path_of(dataset).open("a") as file:
        file.writelines(lines)


def frames(spec: StreamSpec, numbers: Sequence[int], metadata: Any = None, source: int = 0) -> list[str]:
    """Lines of frames; their times are their indexes and some."""
    said = b"" if metadata is None else json.dumps(metadata).encode()
    made = FrameLines.of(spec, source)
    indexes = np.array(numbers, np.int64)
    return made.text(indexes, indexes + 10**18, indexes + 7, [said] * len(numbers)).decode().splitlines(keepends=True)


# -- rows ---------------------------------------------------------------------------------------------


def test_rows_are_in_order_whatever_the_order_of_the_lines(dataset: Path) -> None:
    spec = spec_of()
    put(dataset, frames(spec, [5, 4], {"a": 1}))
    put(dataset, [ledger.gap_line(1, 2, "skipped")])
    put(dataset, frames(spec, [3, 0]))
    found = omewd.open_ledger(str(dataset))
    assert len(found) == 6
    assert [(row.frame, row.gap) for row in found] == [
        (0, ""),
        (1, "skipped"),
        (2, "skipped"),
        (3, ""),
        (4, ""),
        (5, ""),
    ]
    assert found[0] == LedgerRow(0, 0, 0, {"t": 0}, 10**18, 7, None, "")
    assert found[1] == LedgerRow(1, 0, 0, {"t": 1}, None, None, None, "skipped")
    assert found[-1] == LedgerRow(5, 0, 0, {"t": 5}, 10**18 + 5, 12, {"a": 1}, "")
    assert found[2:4] == [found[2], found[3]]
    assert list(reversed(found)) == list(found)[::-1]
    with pytest.raises(IndexError):
        found[6]


def test_indexes_that_are_not_on_record_have_no_row(dataset: Path) -> None:
    put(dataset, frames(spec_of(), [2, 7]))
    assert [row.frame for row in omewd.open_ledger(dataset)] == [2, 7]


def test_the_last_line_of_an_index_counts(dataset: Path) -> None:
    spec = spec_of()
    put(dataset, frames(spec, [0, 1, 2], "first"))
    put(dataset, frames(spec, [1], "again"))
    put(dataset, [ledger.gap_line(2, 3, "lost"), *frames(spec, [4], "after all")])
    found = [(row.frame, row.metadata, row.gap) for row in omewd.open_ledger(dataset)]
    assert found == [(0, "first", ""), (1, "again", ""), (2, None, "lost"), (3, None, "lost"), (4, "after all", "")]


@pytest.mark.parametrize("dims", ["t:4,c:3,z:2,y:4,x:5", "t:inf,z:2,c:3,y:4,x:5"])
def test_rows_say_where_frames_are_stored(tmp_path: Path, dims: str) -> None:
    spec = spec_of(dims, positions=True)
    dataset = make(tmp_path / "d.ome.zarr", spec)
    put(dataset, frames(spec, range(48)))
    plan = Plan.of(spec)
    for row in omewd.open_ledger(dataset):
        assert row.image == plan.image(row.frame)
        assert list(row.index.items()) == list(zip("tcz", plan.place(row.frame), strict=True))
        assert row.index == json.loads(path_of(dataset).read_text().splitlines()[row.frame])["index"]


def test_a_ledger_of_version_1_says_it_too(tmp_path: Path) -> None:
    spec = spec_of("t:2,c:3,y:4,x:5")
    dataset = make(tmp_path / "d.ome.zarr", spec)
    put(
        dataset, ['\n{"frame":4,"wall_ns":7,"monotonic_ns":8,"metadata":{"a":1}}\n{"received":6}\n', '\n{"frame":5,"wa']
    )
    put(dataset, ['\n{"frame":5,"count":1,"gap":"dropped"}\n{"received":6}\n'])
    assert list(omewd.open_ledger(dataset)) == [
        LedgerRow(4, 0, 0, {"t": 1, "c": 1}, 7, 8, {"a": 1}, ""),
        LedgerRow(5, 0, 0, {"t": 1, "c": 2}, None, None, None, "dropped"),
    ]


def test_frames_of_several_sources(tmp_path: Path) -> None:
    spec = spec_of("t:inf,c:2,y:4,x:5", source_dimension="c")
    dataset = make(tmp_path / "d.ome.zarr", spec)
    put(dataset, frames(spec, [0, 1], "b", source=1))
    put(dataset, [ledger.gap_line(1, 1, "dropped", 0), *frames(spec, [0], "a", source=0)])
    found = omewd.open_ledger(dataset)
    rows = [(row.source, row.frame, row.index, row.gap) for row in found]
    assert rows == [
        (0, 0, {"t": 0, "c": 0}, ""),
        (0, 1, {"t": 1, "c": 0}, "dropped"),
        (1, 0, {"t": 0, "c": 1}, ""),
        (1, 1, {"t": 1, "c": 1}, ""),
    ]
    assert [found[number] for number in range(4)] == list(found)
    columns = found.columns()
    assert list(columns)[:5] == ["frame", "source", "image", "t", "c"]
    assert columns["source"].tolist() == [0, 0, 1, 1]
    assert columns["c"].tolist() == [0, 0, 1, 1]


def test_a_single_frame_without_outer_dimensions(tmp_path: Path) -> None:
    spec = spec_of("y:4,x:5")
    dataset = make(tmp_path / "d.ome.zarr", spec)
    put(dataset, frames(spec, [0], {"a": 1}))
    found = omewd.open_ledger(dataset)
    assert list(found) == [LedgerRow(0, 0, 0, {}, 10**18, 7, {"a": 1}, "")]
    assert list(found.columns()) == ["frame", "image", "wall_ns", "monotonic_ns", "gap", "a"]


def test_a_ledger_is_what_it_was_when_it_was_opened(dataset: Path) -> None:
    spec = spec_of()
    put(dataset, frames(spec, [0, 1]))
    found = omewd.open_ledger(dataset)
    put(dataset, [*frames(spec, [2]), '{"frame":3,"wall'])
    assert [row.frame for row in found] == [0, 1]
    assert [row.frame for row in omewd.open_ledger(dataset)] == [0, 1, 2]
    path_of(dataset).rename(path_of(dataset).with_name("moved"))
    with pytest.raises(omewd.OmewdError, match="can't be read any more") as refusal:
        list(found)
    assert refusal.value.code == "changed"
    put(dataset, frames(spec, [1, 0]))
    with pytest.raises(omewd.OmewdError, match="has changed") as refusal:
        found[0]
    assert refusal.value.code == "changed"


@pytest.mark.parametrize("content", [None, "{}", '{"attributes":[]}', '{"attributes":{"omewd":5}}', "[", "\0"])
def test_what_is_no_dataset_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / ledger.FOLDER).mkdir()
        (tmp_path / ledger.FOLDER / "zarr.json").write_text(content)
    with pytest.raises(omewd.OmewdError) as refusal:
        omewd.open_ledger(tmp_path)
    assert refusal.value.code == "not_a_dataset"


@pytest.mark.parametrize("path", [None, 5, b"here", "nul\0", "not/there"])
def test_what_is_no_path_is_said(path: Any) -> None:
    with pytest.raises(omewd.OmewdError) as refusal:
        omewd.open_ledger(path)
    assert refusal.value.code == "not_a_dataset"


def test_a_dataset_without_its_ledger_is_said(dataset: Path) -> None:
    path_of(dataset).unlink()
    with pytest.raises(omewd.OmewdError, match=r"the ledger of .* can't be read: No such file") as refusal:
        omewd.open_ledger(dataset)
    assert refusal.value.code == "not_a_dataset"


def test_gaps_that_are_too_many_for_rows_are_said(dataset: Path) -> None:
    put(dataset, [ledger.gap_line(0, 2**62, "skipped")])
    with pytest.raises(omewd.OmewdError, match="4611686018427387904 frame indexes") as refusal:
        omewd.open_ledger(dataset)
    assert refusal.value.code == "no_memory"


# -- columns ------------------------------------------------------------------------------------------


def test_columns_have_the_type_of_their_values(dataset: Path) -> None:
    spec = spec_of()
    put(
        dataset,
        frames(spec, [0], {"i": 1, "f": 1, "b": True, "s": "x", "l": [1, 2], "n": None, "big": 2**70, "mix": 1}),
    )
    put(dataset, frames(spec, [1], {"i": -2, "f": 0.5, "b": False, "s": "y", "l": [3, 4], "big": 1, "mix": "1"}))
    columns = omewd.open_ledger(dataset).columns()
    assert list(columns) == ["frame", "image", "t", "wall_ns", "monotonic_ns", "gap", *"ifbsl", "big", "mix"]
    kinds = {name: column.dtype.kind for name, column in columns.items()}
    assert kinds == {
        **dict.fromkeys(columns, "O"),
        **dict.fromkeys(list(columns)[:5], "i"),
        "i": "i",
        "f": "f",
        "b": "b",
    }
    assert not any(isinstance(column, np.ma.MaskedArray) for column in columns.values())
    assert {name: column.tolist() for name, column in columns.items()} == {
        "frame": [0, 1],
        "image": [0, 0],
        "t": [0, 1],
        "wall_ns": [10**18, 10**18 + 1],
        "monotonic_ns": [7, 8],
        "gap": ["", ""],
        "i": [1, -2],
        "f": [1.0, 0.5],
        "b": [True, False],
        "s": ["x", "y"],
        "l": [[1, 2], [3, 4]],
        "big": [2**70, 1],
        "mix": [1, "1"],
    }


def test_what_is_missing_is_masked_or_nan_or_none(dataset: Path) -> None:
    spec = spec_of()
    put(dataset, frames(spec, [0], {"i": 1, "f": 1.5, "b": True, "s": "x"}))
    put(dataset, [ledger.gap_line(1, 1, "dropped"), *frames(spec, [2])])
    columns = omewd.open_ledger(dataset).columns()
    assert columns["wall_ns"].tolist() == [10**18, None, 10**18 + 2]
    assert columns["monotonic_ns"].tolist() == [7, None, 9]
    assert columns["gap"].tolist() == ["", "dropped", ""]
    assert columns["i"].tolist() == [1, None, None]
    assert columns["b"].tolist() == [True, None, None]
    assert columns["s"].tolist() == ["x", None, None]
    np.testing.assert_array_equal(columns["f"], [1.5, np.nan, np.nan])


def test_a_dataset_without_a_frame_has_columns(dataset: Path) -> None:
    columns = omewd.open_ledger(dataset).columns()
    assert {name: (column.dtype.kind, len(column)) for name, column in columns.items()} == {
        **dict.fromkeys(["frame", "image", "t", "wall_ns", "monotonic_ns"], ("i", 0)),
        "gap": ("O", 0),
    }


def test_columns_of_gaps_only(dataset: Path) -> None:
    put(dataset, [ledger.gap_line(0, 3, "skipped")])
    columns = omewd.open_ledger(dataset).columns()
    assert columns["wall_ns"].dtype == np.int64
    assert columns["wall_ns"].tolist() == [None] * 3


def test_names_that_are_taken(tmp_path: Path) -> None:
    """By dimensions that are called as the columns are, and by keys of the metadata."""
    gap = omewd.Dimension.model_validate({"name": "gap", "count": 2, "type": "channel"})
    first, *others = omewd.parse_dims("frame:2,y:4,x:5")
    spec = StreamSpec(name="s", dimensions=(first, gap, *others), storage_order="acquisition")
    dataset = make(tmp_path / "d.ome.zarr", spec)
    put(dataset, frames(spec, range(4), {"frame": "F", "image": "I", "metadata.frame": "M", "index.gap": "G"}))
    columns = {name: column.tolist() for name, column in omewd.open_ledger(dataset).columns().items()}
    assert columns["frame"] == [0, 1, 2, 3]
    assert columns["image"] == [0] * 4
    assert columns["index.frame"] == [0, 0, 1, 1]
    assert columns["index.gap"] == [0, 1, 0, 1]
    assert columns["gap"] == [""] * 4
    assert columns["metadata.frame"] == ["F"] * 4
    assert columns["metadata.image"] == ["I"] * 4
    assert columns["metadata.metadata.frame"] == ["M"] * 4
    assert columns["metadata.index.gap"] == ["G"] * 4


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_columns_that_change_their_type_on_the_way(dataset: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("omewd.dataset.ledger.frames._BLOCK", block)
    spec = spec_of()
    said = [{"a": 1, "b": 1}, {"a": 2}, {"a": 2.5, "b": True}, {}, {"a": 4, "b": [1]}]
    for number, metadata in enumerate(said):
        put(dataset, frames(spec, [number], metadata))
    columns = omewd.open_ledger(dataset).columns()
    np.testing.assert_array_equal(columns["a"], [1, 2, 2.5, np.nan, 4])
    assert columns["b"].tolist() == [1, None, True, None, [1]]


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())


@given(st.lists(st.lists(values, max_size=4), max_size=5))
def test_a_column_gives_back_what_was_put_in(blocks: list[list[Any]]) -> None:
    column, start = Column(), 0
    for block in blocks:
        there = {start + n: value for n, value in enumerate(block) if value is not None}
        column.add(list(there), list(there.values()))
        start += len(block)
    expected = [value for block in blocks for value in block]
    found = column.array(start)
    assert found.shape == (len(expected),)
    missing = [value is None for value in expected]
    if found.dtype.kind == "f":
        np.testing.assert_array_equal(np.isnan(found), missing)
        assert [float(a) for a in found[~np.array(missing, bool)]] == [float(b) for b in expected if b is not None]
    else:
        assert found.tolist() == expected
        types = [type(value) for value in found.tolist()]
        assert types == [type(value) for value in expected]


def test_a_data_frame(dataset: Path) -> None:
    pd = pytest.importorskip("pandas")
    spec = spec_of()
    put(dataset, frames(spec, [0], {"i": 1, "f": 1.5, "b": True, "s": "x"}))
    put(dataset, [ledger.gap_line(1, 1, "dropped")])
    table = omewd.open_ledger(dataset).to_pandas()
    assert table["wall_ns"].dtype == "Int64"
    assert table["wall_ns"][0] == 10**18
    assert table["wall_ns"].isna().tolist() == [False, True]
    assert (table["i"].dtype, table["b"].dtype, table["f"].dtype) == ("Int64", "boolean", "float64")
    assert table["frame"].tolist() == [0, 1]
    assert pd.isna(table["s"][1])


def test_without_pandas_it_is_said(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(omewd.OmewdError, match="pip install pandas") as refusal:
        omewd.open_ledger(dataset).to_pandas()
    assert refusal.value.code == "not_installed"


# -- the index ----------------------------------------------------------------------------------------


def rows_by_index(index: LedgerIndex) -> dict[int, Any]:
    runs = list(index.marks[0].intervals({FRAME, GAP}))
    frames = np.array([frame for run in runs for frame in range(*run)], np.int64)
    rows = index.rows(0, frames)
    assert rows == [index.row(0, frame) for frame in frames.tolist()]
    assert index.row(0, 10**9) is None
    return {frame: row.get("gap", row.get("metadata")) for frame, row in zip(frames.tolist(), rows, strict=True) if row}


def test_an_index_reads_on_from_where_it_was(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of()
    index = LedgerIndex(dataset, spec)
    index.read_on()
    assert rows_by_index(index) == {}
    put(dataset, frames(spec, range(1000), "a"))
    index.read_on()
    put(dataset, [*frames(spec, [3, 1000], "b"), ledger.gap_line(1001, 2, "skipped"), '{"frame":1003,"wall_ns"'])
    read: list[int] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        block = real(descriptor, size, offset)
        read.append(len(block))
        return block

    with monkeypatch.context() as watched:
        watched.setattr(os, "pread", pread)
        index.read_on()
    assert sum(read) < 1000  # not the thousand lines again
    expected = {frame: "b" if frame in (3, 1000) else "a" for frame in range(1001)}
    assert rows_by_index(index) == {**expected, 1001: "skipped", 1002: "skipped"}
    put(dataset, [':1,"monotonic_ns":2,"metadata":"c"}\n'])
    index.read_on()
    assert rows_by_index(index)[1003] == "c"


def test_a_frame_of_a_long_job_is_found_in_a_few_blocks(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the lines of short jobs stand before and after its lines."""
    spec, count = spec_of(), 20_000
    put(dataset, frames(spec, [0, 1], "before"))
    put(dataset, frames(spec, range(2, count), "a"))
    put(dataset, [*frames(spec, [count], "after"), ledger.gap_line(count + 1, 2, "skipped")])
    index = LedgerIndex(dataset, spec)
    index.read_on()
    read: list[int] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    for frame, said in [(0, "before"), (2, "a"), (count // 2, "a"), (count - 1, "a"), (count, "after")]:
        read.clear()
        row = index.row(0, frame)
        assert (row or {})["metadata"] == said
        assert sum(read) <= 4 << 16 < path_of(dataset).stat().st_size / 4
    assert (index.row(0, count + 2) or {})["gap"] == "skipped"
    read.clear()
    assert [(row or {})["frame"] for row in index.rows(0, np.arange(count))] == [*range(count)]
    assert sum(read) < 2 * path_of(dataset).stat().st_size


events = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=12)


@pytest.mark.parametrize("page", [1, 3, 8, 1 << 16])
@given(events=events)
def test_an_index_has_the_last_line_of_each_frame(page: int, events: list[tuple[int, int]]) -> None:
    """Whether gaps are kept one by one, or a long run as one."""
    spec, expected = spec_of(), dict[int, Any]()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("omewd.dataset.ledger.marks.PAGE", page)
        patch.setattr("omewd.dataset.ledger.marks._OPEN_PAGES", 2)
        dataset = make(Path(folder) / "d", spec)
        for number, (first, count) in enumerate(events):
            kind = f"gap {number}"
            put(dataset, [ledger.gap_line(first, count, kind)] if count else frames(spec, [first], number))
            expected |= dict.fromkeys(range(first, first + count), kind) if count else {first: number}
        index = LedgerIndex(dataset, spec)
        index.read_on()
        assert rows_by_index(index) == dict(sorted(expected.items()))
        assert list(rows_by_index(index)) == sorted(expected)
        for below in range(62):
            written = [n for n, said in expected.items() if isinstance(said, int) and n < below]
            assert index.marks[0].last(FRAME, below) == max(written, default=None)


def test_a_gap_of_any_length_takes_no_memory(dataset: Path) -> None:
    spec = spec_of()
    put(dataset, [*frames(spec, [0], "a"), ledger.gap_line(1, 2**60, "skipped"), *frames(spec, [2**60 + 1], "b")])
    index = LedgerIndex(dataset, spec)
    index.read_on()
    said = [index.row(0, frame) or {} for frame in (0, 1, 2**59, 2**60, 2**60 + 1)]
    assert [row.get("gap", row.get("metadata")) for row in said] == ["a", *["skipped"] * 3, "b"]
    assert index.row(0, 2**60 + 2) is None
    assert index.marks[0].last(FRAME, 2**62) == 2**60 + 1
    assert index.marks[0].last(FRAME, 2**60) == 0


def test_what_was_taken_back_is_forgotten(dataset: Path) -> None:
    """A writer without room cuts back what it has appended, which a reader may have seen."""
    spec = spec_of()
    put(dataset, frames(spec, [0, 1], "a"))
    kept = path_of(dataset).stat().st_size
    index = LedgerIndex(dataset, spec)
    for taken_back, instead in [([2, 3], [4]), ([5, 6], [7, 8, 9, 10]), ([11], [])]:
        put(dataset, frames(spec, taken_back, "b"))
        index.read_on()
        assert {*taken_back} < {*rows_by_index(index)}
        os.truncate(path_of(dataset), kept)
        put(dataset, frames(spec, instead, "c"))
        index.read_on()
        assert rows_by_index(index) == {0: "a", 1: "a", **dict.fromkeys(instead, "c")}
        os.truncate(path_of(dataset), kept)


def test_another_ledger_in_its_place_is_read_from_its_start(dataset: Path) -> None:
    spec = spec_of()
    put(dataset, frames(spec, [0, 1], "a"))
    index = LedgerIndex(dataset, spec)
    index.read_on()
    path_of(dataset).rename(path_of(dataset).with_name("old"))
    put(dataset, frames(spec, [1, 5], "b"))
    index.read_on()
    assert rows_by_index(index) == {1: "b", 5: "b"}


@pytest.mark.parametrize("length", [1023, 1024, 1025, 5000, (1 << 20) + 17])
def test_a_line_of_any_length_is_found(dataset: Path, length: int) -> None:
    spec = spec_of()
    put(dataset, [*frames(spec, [0], "a"), *frames(spec, [1], "x" * length), *frames(spec, [2], "c")])
    index = LedgerIndex(dataset, spec)
    index.read_on()
    assert rows_by_index(index) == {0: "a", 1: "x" * length, 2: "c"}


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "5",
        '{"frame":-1}',
        '{"frame":9}',
        '{"frame":8,"count":0,"gap":"lost"}',
        '{"frame":0,"source":1}',
        "\0" * 9,
    ],
)
def test_lines_of_no_frame_of_the_dataset_are_passed_over(tmp_path: Path, line: str) -> None:
    spec = spec_of("t:9,y:4,x:5")
    dataset = make(tmp_path / "d.ome.zarr", spec)
    put(dataset, [*frames(spec, [0], "a"), line + "\n", *frames(spec, [1], "b")])
    index = LedgerIndex(dataset, spec)
    index.read_on()
    assert rows_by_index(index) == {0: "a", 1: "b"}


def test_a_run_that_is_longer_than_the_acquisition_ends_with_it(tmp_path: Path) -> None:
    spec = spec_of("t:9,y:4,x:5")
    dataset = make(tmp_path / "d.ome.zarr", spec)
    put(dataset, [ledger.gap_line(7, 2**62, "skipped")])
    assert [row.frame for row in omewd.open_ledger(dataset)] == [7, 8]
