"""Power cuts at any moment of ``omewd copy --evict``: a file is there, or the record says that it was evicted."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from omewd.dataset.copies.manifest import path_for, read
from tests.powercut.model import History, Mode
from tests.powercut.record import Call, can_trace, read_trace, strace
from tests.powercut.trees import Cut, contents, cuts, moments, on_disk

pytestmark = [
    pytest.mark.skipif(can_trace() is not None, reason=str(can_trace())),
    pytest.mark.timeout(300),
]
SCRIPT = """
import os, sys
from pathlib import Path
from omewd.copier.copy import copy
from omewd.process.names import sync_folder
from tests.support.copies import finished
disk = Path(sys.argv[1])
dataset = finished(disk / "data", dims="t:3:1:1,y:8:4,x:8")
for path in sorted(dataset.rglob("*"), reverse=True):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
sync_folder(dataset)
sync_folder(disk / "data")
os.write(os.open(disk / "marks", os.O_WRONLY | os.O_CREAT), b"begun")
copy(dataset, sys.argv[2], evict=True)
"""
DATASET = "data/cam.ome.zarr"


class Recorded:
    """A command that has evicted all keys, and the files that it had found."""

    def __init__(self, folder: Path) -> None:
        disk, store = folder / "disk", folder / "store"
        (disk / "data").mkdir(parents=True)
        store.mkdir()
        self.url = f"file://{store}/copy.ome.zarr"
        command = [sys.executable, "-c", SCRIPT, str(disk), self.url]
        done = subprocess.run(strace(folder / "trace", command), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.calls, [begun] = read_trace(folder / "trace", disk, ("data",), disk / "marks")
        self.begun = begun.at
        history = History.of(self.calls, Mode.STRICT, ["data"])
        last = max(effect.end for effect in history.effects)
        made = contents(history.tree(last, history.pending(last)))
        assert made == {path: data for path, data in on_disk(disk).items() if path != "marks"}
        copied = {path: data for path, data in on_disk(store / "copy.ome.zarr").items() if data is not None}
        self.keys = {f"{DATASET}/{path}": data for path, data in copied.items() if "/c/" in path}
        assert len(self.keys) == 3 * (2 + 1)
        assert not self.keys.keys() & made.keys()

    def faults(self, calls: Sequence[Call], mode: Mode) -> Iterator[str]:
        history, chance = History.of(calls, mode, ["data"]), random.Random(1)
        for at in moments(history):
            for cut in cuts(history, at, chance, subsets=3) if at >= self.begun else ():
                yield from self._faults_of(cut)

    def _faults_of(self, cut: Cut) -> Iterator[str]:
        tree = contents(cut.tree)
        text = tree.get(f"{DATASET}/{path_for(self.url)}") or b""
        found = read(text.splitlines(keepends=True))
        copied = found[1] if found is not None else {}
        for key, data in self.keys.items():
            record = copied.get(key.removeprefix(f"{DATASET}/"))
            if tree.get(key, b"") != data and key in tree:
                yield f"{cut}: {key} has other bytes"
            if key not in tree and not (record is not None and record.evicted):
                yield f"{cut}: {key} is gone without a record"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("evicted"))


@pytest.mark.parametrize("mode", Mode)
def test_row_30_what_is_evicted_is_on_record_after_a_power_cut(recorded: Recorded, mode: Mode) -> None:
    assert list(recorded.faults(recorded.calls, mode)) == []


@pytest.mark.parametrize("left_out", ["omewd/copies/", f"{DATASET}/omewd/copies", f"{DATASET}/omewd"])
def test_row_30_a_sync_before_an_eviction_that_is_left_out_is_found(recorded: Recorded, left_out: str) -> None:
    """Of the manifest; of its folder; and of the folder above, which has the name of that."""
    is_folder = not left_out.endswith("/")
    calls = [
        call
        for call in recorded.calls
        if not (
            call.name == "fsync"
            and call.begin > recorded.begun
            and (call.paths[0] == left_out if is_folder else left_out in call.paths[0])
        )
    ]
    assert len(calls) < len(recorded.calls)
    assert list(recorded.faults(calls, Mode.STRICT))


def test_row_30_a_file_that_goes_before_its_record_is_found(recorded: Recorded) -> None:
    first = next(call for call in recorded.calls if call.name == "unlink" and call.paths[0] in recorded.keys)
    early = [replace(first, begin=recorded.begun + 1, end=recorded.begun + 1), *recorded.calls]
    calls = sorted((call for call in early if call is not first), key=lambda call: call.end)
    assert list(recorded.faults(calls, Mode.STRICT))
