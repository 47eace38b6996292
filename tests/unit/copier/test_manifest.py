"""The manifest of a copy: what is on record survives, and nothing else counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.copies.manifest import (
    FOLDER,
    Copied,
    Header,
    Manifest,
    line,
    lines_in,
    path_for,
    read,
    reserve_lines,
)
from omewd.errors import OmewdError

URL = "s3://lab/run.ome.zarr"


def on_record(dataset: Path, url: str = URL, epoch: int = 7) -> set[str]:
    manifest = Manifest(dataset, url, epoch)
    try:
        return set(manifest.copied)
    finally:
        manifest.close()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset with a manifest of two files."""
    (tmp_path / "omewd").mkdir()
    manifest = Manifest(tmp_path, URL, 7)
    assert manifest.is_new
    manifest.begin()
    manifest.add([Copied("a", 1, 2, "d", "e", "etag")])
    manifest.add([Copied("b/ü", 3)])
    manifest.close()
    return tmp_path


def test_what_was_added_is_there(dataset: Path) -> None:
    manifest = Manifest(dataset, URL, 7)
    assert not manifest.is_new
    assert manifest.copied["a"].to_json() == Copied("a", 1, 2, "d", "e", "etag").to_json()
    manifest.add([Copied("a", 9)])
    manifest.close()
    again = Manifest(dataset, URL, 7)
    assert (again.copied["a"].bytes, again.copied["b/ü"].bytes) == (9, 3)  # the last line counts
    assert read(again.lines(["a"])) is not None
    again.close()


def test_what_is_evicted_is_said_in_the_dataset_and_not_in_the_copy(dataset: Path) -> None:
    manifest = Manifest(dataset, URL, 7)
    manifest.add([replace(manifest.copied["a"], evicted=True)])
    manifest.close()
    again = Manifest(dataset, URL, 7)
    assert [path for path, each in again.copied.items() if each.evicted] == ["a"]
    assert again.path.read_bytes().count(b'"evicted":true') == again.path.read_bytes().count(b"evicted") == 1
    stored = read(again.lines(["a", "b/ü"]))
    assert stored is not None
    assert not any(each.evicted for each in stored[1].values())
    again.close()


def test_room_is_reserved_for_lines_and_given_back(dataset: Path) -> None:
    def allocated() -> int:
        return (dataset / path_for(URL)).stat().st_blocks * 512

    fresh = dataset / path_for("s3://lab/another")
    fresh.touch()
    reserve_lines(fresh)
    assert (fresh.stat().st_size, fresh.stat().st_blocks * 512) >= (0, 256 << 10)
    another = Manifest(dataset, "s3://lab/another", 7)
    assert another.is_new
    another.close()
    assert fresh.stat().st_blocks * 512 >= 256 << 10  # opening it has not given it back
    manifest = Manifest(dataset, URL, 7)
    content = manifest.path.read_bytes()
    manifest.reserve()
    assert allocated() >= 256 << 10
    assert manifest.path.read_bytes() == content
    manifest.add([Copied("c", 1)])
    assert set(manifest.copied) == {"a", "b/ü", "c"}
    manifest.trim()
    assert allocated() <= 8192
    manifest.close()
    assert on_record(dataset) == {"a", "b/ü", "c"}


def test_room_for_more_is_no_part_of_it(dataset: Path) -> None:
    [path] = (dataset / FOLDER).iterdir()
    before = path.read_bytes()
    manifest = Manifest(dataset, URL, 7)
    manifest.trim()
    assert path.read_bytes() == before
    manifest.add([Copied("c", 1)])
    manifest.close()
    assert on_record(dataset) == {"a", "b/ü", "c"}


def test_a_torn_line_is_cut_off_wherever_it_was_torn(dataset: Path) -> None:
    [path] = (dataset / FOLDER).iterdir()
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        manifest = Manifest(dataset, URL, 7)
        assert set(manifest.copied) == {"a"}
        manifest.add([Copied("c", 1)])
        manifest.close()
        assert on_record(dataset) == {"a", "c"}


def test_a_torn_first_line_is_no_record(dataset: Path) -> None:
    [path] = (dataset / FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:20])
    manifest = Manifest(dataset, URL, 7)
    assert manifest.is_new
    manifest.begin()
    manifest.close()
    assert on_record(dataset) == set()


def test_a_damaged_line_does_not_count(dataset: Path) -> None:
    [path] = (dataset / FOLDER).iterdir()
    path.write_bytes(path.read_bytes().replace(b'"path":"a"', b'"path":"x"'))
    assert on_record(dataset) == {"b/ü"}


def test_another_url_or_stream_has_nothing_on_record(dataset: Path) -> None:
    assert on_record(dataset, url="s3://lab/other") == set()
    assert on_record(dataset) == {"a", "b/ü"}
    assert on_record(dataset, epoch=8) == set()


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../x", "a//x", "./x", "a\0x", "a\nx", "a\udc80x"])
def test_no_path_leads_out_of_a_dataset(path: str) -> None:
    found = read([line(Header()), line(Copied("a")), line(Copied(path))])
    assert found is not None
    assert set(found[1]) == {"a"}


def test_a_later_major_version_is_refused() -> None:
    with pytest.raises(OmewdError) as error:
        read([line(Header(major=2))])
    assert error.value.code == "other_version"
    assert read([line(Header(minor=9, url="u"))]) is not None


@given(data=st.binary(max_size=200), cut=st.integers(1, 50))
def test_lines_do_not_depend_on_how_bytes_are_cut(data: bytes, cut: int) -> None:
    chunks = [data[start : start + cut] for start in range(0, len(data), cut)]
    assert b"".join(lines_in(chunks)) == data
    assert read(lines_in(chunks)) is None or data.startswith(b"0")


def test_no_line_is_kept_that_is_longer_than_any_may_be() -> None:
    endless = (b"x" * (1 << 20) for _ in range(50))
    assert max(map(len, lines_in(endless))) < 3 << 20
