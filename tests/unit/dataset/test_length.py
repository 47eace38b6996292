"""What reading a dataset costs does not grow with the length of its stream: operations and memory are counted."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omewd.dataset import dataset, strays, verify
from omewd.dataset.checks.report import Report
from omewd.dataset.ledger import index, ledger
from omewd.dataset.ledger.account import Account, Ledger
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.dataset.ledger.index import LedgerIndex
from omewd.dataset.ledger.ledger import WRITTEN
from omewd.dataset.ledger.marks import Marks
from omewd.dataset.ledger.runs import RUN, RUNS_FILE, header, pack
from omewd.dataset.strays import remove_strays
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.reader import stored
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.base import committed
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools
from omewd.store.units import Units, UnitStore
from tests.support.frames import make_spec

SOURCES = 64
FRAMES = 60_000_000
RUN_FRAMES, LINE_BYTES = 1000, 100
EPOCH = 7


def peak_bytes(do: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def cameras() -> StreamSpec:
    return make_spec("cam", f"t:inf:1:100,v:{SOURCES},y:8,x:8", source_dimension="v", durability="none")


@pytest.fixture
def long_stream(tmp_path: Path) -> Path:
    """The ledger of 60 million frames of 64 sources. Of its lines, only the last ones are there."""
    folder, spec = tmp_path / "cam.ome.zarr", cameras()
    dataset.create(spec, folder, tmp_path, epoch=EPOCH)
    runs = np.zeros(FRAMES // RUN_FRAMES, RUN)
    number = np.arange(len(runs))
    runs["length"], runs["step"], runs["count"], runs["kind"] = RUN_FRAMES * LINE_BYTES, 1, RUN_FRAMES, WRITTEN
    runs["source"], runs["first"] = number % SOURCES, number // SOURCES * RUN_FRAMES
    runs["offset"] = number * RUN_FRAMES * LINE_BYTES
    frames = runs["first"][-1] + np.arange(RUN_FRAMES)
    lines = FrameLines.of(spec, int(runs["source"][-1])).text(frames, frames, frames, [b""] * RUN_FRAMES)
    runs["length"][-1] = len(lines)
    with (folder / ledger.FOLDER / ledger.FILE).open("r+b") as file:
        file.seek(int(runs["offset"][-1]) - 1)
        file.write(b"\n" + lines)
    (folder / ledger.FOLDER / RUNS_FILE).write_bytes(header() + pack(runs))
    return folder


def test_the_account_of_a_long_stream_takes_no_byte_for_each_frame(long_stream: Path) -> None:
    found: list[Ledger] = []
    assert peak_bytes(lambda: found.append(Ledger.read(long_stream, SOURCES))) < FRAMES / 3
    assert sum(totals.written for totals in found[0].totals()) == FRAMES
    assert found[0].read_lines == 0


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each pread from now on."""
    read: list[int] = []
    real_pread = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real_pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return read


def test_a_frame_of_a_long_stream_is_found_in_a_few_lines(long_stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = LedgerIndex(long_stream, cameras())
    known.read_on()
    read = count_reads(monkeypatch)
    source = (FRAMES // RUN_FRAMES - 1) % SOURCES
    last = known.marks[source].last(index.FRAME, FRAMES)
    assert last is not None
    row = known.row(source, last)
    assert row is not None
    assert row["frame"] == last
    assert sum(read) <= 2 * RUN_FRAMES * LINE_BYTES
    read.clear()
    for _ in range(10):
        known.read_on()  # nothing has come to it
    assert sum(read) <= 10 * 1024


def test_a_search_looks_at_a_part_of_a_long_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_BLOCK_PARTS", 16)
    parts = index._PartList()
    for number in range(1000):
        parts.add(np.array([(number, 1, 10 * number, 10 * number + 10, 1)], index._PART))
    assert max(map(len, parts._blocks)) == 16
    assert len(parts._blocks) <= 1000 / 16 + 1
    for first, stop in ((0, 1), (5000, 5011), (159, 161), (9999, 20_000), (20_000, 20_001)):
        found = parts.overlapping(first, stop)
        assert found["offset"].tolist() == [n for n in range(1000) if 10 * n < stop and 10 * n + 10 > first]


KEYS = 3000


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, StreamSpec]:
    """A dataset of many keys in one folder each; every other frame is on record."""
    spec, folder = make_spec("cam", f"t:{KEYS},y:8,x:8", durability="none"), tmp_path / "cam.ome.zarr"
    dataset.create(spec, folder, tmp_path, epoch=EPOCH)
    for number in range(KEYS):
        os.makedirs(folder / f"0/c/{number}/0")  # noqa: PTH103
        (folder / f"0/c/{number}/0/0").touch()
    return folder, spec


def test_strays_are_found_without_the_names_of_all_keys(keys: tuple[Path, StreamSpec]) -> None:
    folder, spec = keys
    marks = Marks()
    marks.put(0, KEYS, 1, WRITTEN)
    report = Report(folder, [KEYS])
    assert peak_bytes(lambda: verify._find_strays(folder, spec, [Account(marks, KEYS)], report)) < KEYS * 60 + 200_000
    assert report.strays == []
    marks.put(KEYS - 1, 1, 1, ledger.SKIPPED)
    (folder / "0/notes").touch()
    verify._find_strays(folder, spec, [Account(marks, KEYS)], report)
    assert report.strays == [f"0/c/{KEYS - 1}/0/0", "0/notes"]


def test_strays_are_removed_without_the_names_of_all_keys(
    keys: tuple[Path, StreamSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, spec = keys
    marks = Marks()
    marks.put(0, KEYS - 1, 1, WRITTEN)
    monkeypatch.setattr(strays, "_recorded", lambda *_: [marks])
    assert remove_strays(spec, folder) == [f"0/c/{KEYS - 1}/0/0"]
    assert not (folder / f"0/c/{KEYS - 1}").exists()
    assert peak_bytes(lambda: remove_strays(spec, folder)) < KEYS * 60 + 200_000


def test_the_summary_is_read_once_for_all_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, folder = make_spec("cam", "t:4,y:8,x:8", durability="none"), tmp_path / "cam.ome.zarr"
    dataset.create(spec, folder, tmp_path, epoch=EPOCH)
    for number in range(4):
        (folder / f"0/c/{number}/0").mkdir(parents=True)
        (folder / f"0/c/{number}/0/0").write_bytes(bytes(128))
    parsed: list[Any] = []
    real_loads = json.loads

    def loads(text: str) -> Any:
        parsed.append(text)
        return real_loads(text)

    monkeypatch.setattr(json, "loads", loads)
    frames = stored.StoredFrames(spec, folder, 0, backend="direct", epoch=EPOCH)
    for number in range(4):
        assert not frames.read(number).any()
    assert len(parsed) == 1
    summary = folder / ledger.FOLDER / "zarr.json"
    summary.with_suffix(".new").write_bytes(summary.read_bytes())
    summary.with_suffix(".new").rename(summary)
    frames.read(0)
    assert len(parsed) == 2


def test_a_frame_of_a_large_shard_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, folder = make_spec("cam", "t:200000:1:100000,y:8,x:8", durability="none"), tmp_path / "cam.ome.zarr"
    dataset.create(spec, folder, tmp_path, epoch=EPOCH)
    publisher = Publisher(folder, folder / STAGING, durable=False)
    with closing(Tools()) as tools, closing(UnitStore(spec, BACKENDS["direct"], publisher, tools, "test")) as store:
        pixels = np.arange(1, 5, dtype=np.uint16).reshape(4, 1, 1, 1) * np.ones((1, 1, 8, 8), np.uint16)
        committed(store.put(0, [Units(range(99_000, 99_004), pixels)]), tools.syncs)
        frames = stored.StoredFrames(spec, folder, 0, backend="direct", epoch=EPOCH)
        read = count_reads(monkeypatch)
        for number in range(4):
            assert (frames.read(99_000 + number) == number + 1).all()
        assert sum(read) < 4 * 4096
        store.seal(0, below=100_000)
        read.clear()
        for number in range(4):
            assert (frames.read(99_000 + number) == number + 1).all()
        assert len([size for size in read if size > 4096]) == 1
