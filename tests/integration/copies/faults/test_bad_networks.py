"""Copies over a bad network, to a bad server, and with the command killed at any point: exact in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omewd.copier import engine
from omewd.copier.copy import copy
from omewd.copier.verify import verify_copy
from omewd.dataset.copies.manifest import FOLDER, read
from omewd.errors import OmewdError
from omewd.process.faultpoints import VARIABLE
from tests.support.copies import LARGE, Lab, differences, finished
from tests.support.s3 import FAULTS, SECRET, Sometimes

KILLS = int(os.environ.get("OMEWD_COPY_KILLS", "6"))


def copy_until_done(dataset: Path, lab: Lab, most: int = 20) -> None:
    errors = []
    for _ in range(most):
        try:
            copy(dataset, lab.url)
        except OmewdError as error:
            errors.append(error)
        else:
            break
    else:
        raise AssertionError("it never ended")
    assert {error.code for error in errors} <= {"store_error", "copy_differs", "store_refused"}, errors
    assert SECRET not in str(errors)


@pytest.mark.parametrize("kind", FAULTS)
def test_row_33_a_copy_goes_on_through_faults(dataset: Path, lab: Lab, kind: str) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    lab.proxy.faults = faults = Sometimes(1, (kind,), 0.25)
    copy_until_done(dataset, lab)
    lab.proxy.faults = lambda *_: None
    assert faults.happened[kind] > 2
    assert differences(dataset, lab.copy) == []
    assert verify_copy(lab.url, deep=True).problems == []
    assert {path: path.read_bytes() for path in before} == before


def test_row_33_a_large_copy_goes_on_through_faults(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path, dims=LARGE)
    lab.proxy.faults = faults = Sometimes(2, FAULTS, 0.4)
    copy_until_done(dataset, lab)
    lab.proxy.faults = lambda *_: None
    assert faults.happened.total() > 2
    assert differences(dataset, lab.copy) == []
    assert verify_copy(lab.url, deep=True).problems == []


def test_row_33_a_store_that_always_differs_is_an_error_and_nothing_counts(
    dataset: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers and what is read back differ from what was sent."""
    monkeypatch.setattr(engine, "_FIRST_DELAY_S", 0.01)

    def faults(method: str, path: str, _: bytes) -> str | None:
        if method == "PUT" and "zarr.json" not in path:
            return "etag"
        return "garbled" if method == "GET" and "list-type" not in path else None

    lab.proxy.faults = faults
    with pytest.raises(OmewdError) as error:
        copy(dataset, lab.url)
    assert error.value.code == "copy_differs"
    [manifest] = (dataset / FOLDER).glob("*.jsonl")
    found = read(manifest.read_bytes().splitlines(keepends=True))
    assert found is not None
    assert found[1] == {}
    lab.proxy.faults = lambda *_: None
    copy(dataset, lab.url)
    assert differences(dataset, lab.copy) == []


POINTS = ("copier: put", "copier: on record", "copier: phase done")


@pytest.mark.parametrize("point", POINTS)
def test_row_33_a_copy_that_is_killed_at_any_point_goes_on(dataset: Path, lab: Lab, tmp_path: Path, point: str) -> None:
    for turn in (1, 2, 3):
        count = tmp_path / f"passed-{turn}"
        passing = 1 if point == "copier: phase done" else turn  # each run has fewer phases left
        env = {**os.environ, VARIABLE: f"{point};{passing};{count}"}
        command = [sys.executable, "-m", "omewd", "copy", str(dataset), lab.url]
        done = subprocess.run(command, env=env, capture_output=True, timeout=100, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        on_record_is_in_the_store(dataset, lab)
    copy(dataset, lab.url)
    assert differences(dataset, lab.copy) == []
    assert verify_copy(lab.url, deep=True).problems == []


def on_record_is_in_the_store(dataset: Path, lab: Lab) -> None:
    for manifest in (dataset / FOLDER).glob("*.jsonl"):  # none if it was killed before it began
        found = read(manifest.read_bytes().splitlines(keepends=True))
        for path in found[1] if found else ():
            assert (lab.copy / path).read_bytes() == (dataset / path).read_bytes(), path
    if (lab.copy / "zarr.json").exists():  # a copy that opens is complete
        assert differences(dataset, lab.copy) == []


@pytest.mark.timeout(60 + 12 * KILLS)
def test_row_33_kills_and_faults_at_random(tmp_path: Path, lab: Lab) -> None:
    """Kills of copies, each over a bad network; each copy is compared whole in the end."""
    seed = int(os.environ.get("OMEWD_SEED", "1"))
    chance = random.Random(seed)
    dataset = finished(tmp_path, dims="t:60:1:1,y:64,x:64")
    done = copies = 0
    while done < KILLS or not copies:
        lab.proxy.faults = Sometimes(chance.randrange(1 << 30), FAULTS, 0.05)
        command = [sys.executable, "-m", "omewd", "copy", str(dataset), lab.url, "--limit", "300kB/s"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(0.4 + chance.random() * 1.5 if done < KILLS else None)
        except subprocess.TimeoutExpired:
            process.kill()
            done += 1
        process.wait()
        on_record_is_in_the_store(dataset, lab)
        if process.returncode == 0:
            lab.proxy.faults = lambda *_: None
            assert verify_copy(lab.url, deep=True).problems == [], f"seed {seed}"
            copies += 1
            # Then all of it once more, to a place where nothing opens yet.
            for path in (dataset / FOLDER).iterdir():
                path.unlink()
            lab.number += 1
