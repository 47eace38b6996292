"""What readers and copies learn of evicted keys from the manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from omewd.copier.engine import LocalFile
from omewd.copier.order import left_and_done, not_in_copy
from omewd.dataset.copies import evictions
from omewd.dataset.copies.evictions import Evictions, evicted, require_for_writing
from omewd.dataset.copies.manifest import FOLDER, Copied, Manifest, line, parse, path_for
from omewd.errors import OmewdError
from tests.support.frames import make_spec

URL, OTHER = "s3://lab/run.ome.zarr", "s3://lab/other.ome.zarr"
SPEC = make_spec("cam", "t:inf:1:4,c:2,y:32:16,x:32:16", levels=2, source_dimension="c")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "omewd").mkdir()
    return tmp_path


def add(dataset: Path, *entries: Copied, url: str = URL) -> None:
    manifest = Manifest(dataset, url, 7)
    manifest.begin()
    manifest.add(entries)
    manifest.close()


def gone(path: str) -> Copied:
    return Copied(path, 1, 2, "d", "e", "etag", evicted=True)


def test_a_reader_learns_of_what_is_appended(dataset: Path) -> None:
    found = Evictions(dataset, SPEC)
    assert found.url_of("0/c/3/1/0/1") is None
    add(dataset, replace(gone("0/c/3/1/0/1"), evicted=False))
    assert found.url_of("0/c/3/1/0/1") is None
    add(dataset, gone("0/c/3/1/0/1"), gone("0/notes"), gone("zarr.json"))
    assert found.url_of("0/c/3/1/0/1") == URL
    others = ("0/c/3/1/1/1", "0/c/3/0/0/1", "1/c/3/1/0/0", "0/c/4/1/0/1", "0/notes", "zarr.json", "0/c/3/1/0/01")
    assert [found.url_of(key) for key in others] == [None] * len(others)
    add(dataset, *(gone(f"1/c/{t}/{c}/0/0") for t in range(300) for c in (0, 1)))
    assert {found.url_of(f"1/c/{t}/{c}/0/0") for t in range(300) for c in (0, 1)} == {URL}
    assert found.url_of("1/c/300/0/0/0") is None
    add(dataset, replace(gone("0/c/3/1/0/1"), evicted=False))  # it was there again, and copied again
    assert found.url_of("0/c/3/1/0/1") is None
    add(dataset, gone("0/c/3/1/0/1"), url=OTHER)
    assert found.url_of("0/c/3/1/0/1") == OTHER
    with pytest.raises(OmewdError) as error:
        found.require_here("0/c/3/1/0/1")
    assert (error.value.code, OTHER in error.value.message) == ("evicted", True)
    assert Evictions(dataset, SPEC).among(["0/c/3/1/0/1", "0/c/9/0/0/0"]) == {"0/c/3/1/0/1": OTHER}


def test_only_what_is_appended_is_read(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(dataset, *(gone(f"0/c/{t}/0/0/0") for t in range(100)))
    found = Evictions(dataset, SPEC)
    assert found.url_of("0/c/0/0/0/0") == URL
    taken: list[bytes] = []

    def counted(lines: Iterable[bytes]) -> Iterator[dict[str, object]]:
        taken.extend(those := list(lines))
        return parse(those)

    monkeypatch.setattr(evictions, "parse", counted)
    assert found.url_of("0/c/200/0/0/0") is None
    assert taken == []
    add(dataset, gone("0/c/200/0/0/0"))
    assert found.url_of("0/c/200/0/0/0") == URL
    assert len(taken) == 1


def test_a_manifest_that_was_cut_off_is_read_anew(dataset: Path) -> None:
    """The last lines were never synced, and another copier has cut them off and goes on."""
    path = dataset / path_for(URL)
    add(dataset, gone("0/c/0/0/0/0"))
    found = Evictions(dataset, SPEC)
    whole = path.read_bytes()
    path.write_bytes(whole + line(gone("0/c/1/0/0/0")) + line(gone("0/c/2/0/0/0"))[:20])
    assert found.url_of("0/c/1/0/0/0") == URL
    with path.open("r+b") as file:
        file.truncate(len(whole))
    add(dataset, gone("0/c/5/0/0/0"), gone("0/c/6/0/0/0"))
    assert [found.url_of(f"0/c/{t}/0/0/0") for t in (0, 1, 2, 5, 6)] == [URL, None, None, URL, URL]
    path.unlink()
    assert found.url_of("0/c/0/0/0/0") is None


def test_a_torn_line_counts_once_it_is_whole(dataset: Path) -> None:
    add(dataset, gone("0/c/0/0/0/0"))
    path, text = dataset / path_for(URL), line(gone("0/c/1/0/0/0"))
    found = Evictions(dataset, SPEC)
    for at in range(len(text)):
        with path.open("ab") as file:
            file.write(text[at : at + 1])
        assert found.url_of("0/c/1/0/0/0") == (URL if at == len(text) - 1 else None)


def test_what_is_no_manifest_says_nothing(dataset: Path, tmp_path: Path) -> None:
    folder = dataset / FOLDER
    folder.mkdir()
    (folder / "empty.jsonl").touch()
    (folder / "damaged.jsonl").write_bytes(b"not a line\n" * 3)
    (folder / "this.jsonl").write_bytes(line(gone("0/c/0/0/0/0")))
    os.mkfifo(folder / "fifo.jsonl")
    (folder / "link.jsonl").symlink_to(tmp_path / "nowhere")
    assert Evictions(dataset, SPEC).url_of("0/c/0/0/0/0") is None
    assert evicted(dataset) == {}


def test_a_file_that_is_there_is_not_gone(dataset: Path) -> None:
    add(dataset, gone("0/c/0/0/0/0"), gone("0/c/1/0/0/0"))
    (dataset / "0/c/0/0/0").mkdir(parents=True)
    (dataset / "0/c/0/0/0/0").touch()
    assert {path: url for path, (url, _) in evicted(dataset).items()} == {"0/c/1/0/0/0": URL}
    assert Evictions(dataset, SPEC).among(["0/c/0/0/0/0", "0/c/1/0/0/0"]) == {"0/c/1/0/0/0": URL}


@pytest.mark.parametrize(
    ("below", "refused"), [((8, 8), False), ((8, 3), False), ((7, 8), True), ((0, 0), True), ((), True)]
)
def test_a_stream_goes_on_only_if_it_writes_to_nothing_that_was_evicted(
    dataset: Path, below: tuple[int, ...], refused: bool
) -> None:
    """Source 0 has evicted shards with the frames 0 to 7."""
    require_for_writing(SPEC, dataset, below)
    add(dataset, gone("0/c/0/0/0/0"), gone("1/c/1/0/0/0"))
    if not refused:
        require_for_writing(SPEC, dataset, below)
        return
    with pytest.raises(OmewdError) as error:
        require_for_writing(SPEC, dataset, below)
    assert (error.value.code, URL in error.value.message) == ("evicted", True)
    for path in ("0/c/0/0/0/0", "1/c/1/0/0/0"):  # downloaded
        (dataset / path).parent.mkdir(parents=True)
        (dataset / path).touch()
    require_for_writing(SPEC, dataset, below)


def test_what_is_left_what_is_done_and_what_a_copy_lacks() -> None:
    copied = {"a": Copied("a", 1, 2, "d1"), "b": Copied("b", 3, 4, "d2"), "c": Copied("c", 5, 6, "d3")}
    left, done = left_and_done([LocalFile("a", 1, 2), LocalFile("b", 3, 9), LocalFile("x", 1, 1)], copied)
    assert ([file.path for file in left], [each.path for each in done]) == (["b", "x"], ["a"])
    elsewhere = {
        path: (OTHER, Copied(path, size, 0, digest)) for path, size, digest in (("c", 5, "d3"), ("b", 3, "other"))
    }
    assert not_in_copy({**elsewhere, "y": (URL, Copied("y"))}, copied) == {"b": OTHER, "y": URL}
