"""Row 30: power cuts at any moment of an acquisition. A seeded choice; ``tests/stress/test_powercut.py`` has all.

Both modes of the model, see :mod:`tests.powercut.model`, judge the same record.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.powercut.checker import check, record
from tests.powercut.model import Mode
from tests.powercut.record import Call, can_trace
from tests.powercut.scenarios import SCENARIOS

pytestmark = [
    pytest.mark.skipif(can_trace() is not None, reason=str(can_trace())),
    # A scenario takes 4 to 35 s, and more on a loaded machine.
    pytest.mark.timeout(300),
]
TREES = 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_row_30_nothing_durable_is_lost_in_a_power_cut(tmp_path: Path, name: str) -> None:
    recorded = record(name, tmp_path)
    for mode in Mode:
        outcome = check(recorded, mode, seed=1, most=TREES, daemons=mode is Mode.STRICT)
        assert outcome.violations == []


def is_sync_of(call: Call, path: str) -> bool:
    return call.name == "fsync" and path in call.paths[0]


@pytest.mark.parametrize(
    "left_out",
    ["ledger.jsonl", "omewd/staging/shard", "cam.ome.zarr/0/c", "state/streams", "data/cam.ome.zarr/omewd"],
)
def test_row_30_a_sync_that_is_left_out_is_found(tmp_path: Path, left_out: str) -> None:
    recorded = record("direct, compressed", tmp_path)
    calls = [call for call in recorded.calls if not is_sync_of(call, left_out)]
    assert calls != recorded.calls
    assert check(replace(recorded, calls=calls), Mode.STRICT, subsets=0, most=90).violations


def test_row_30_a_syncfs_that_is_left_out_is_found(tmp_path: Path) -> None:
    recorded = record("direct, many images", tmp_path)
    calls = [call for call in recorded.calls if call.name != "syncfs"]
    assert len(calls) < len(recorded.calls)
    assert check(replace(recorded, calls=calls), Mode.ATOMIC, subsets=0, most=10).violations


def test_row_30_a_rename_in_place_of_a_second_name_is_found(tmp_path: Path) -> None:
    """Even an atomic rename may be on disk before the folders that it leads into have their names."""
    recorded = record("direct", tmp_path)
    links = [call for call in recorded.calls if call.name == "link" and "omewd/staging/shard" in call.paths[0]]
    aside = {call.paths[0] for call in links}
    calls = [
        replace(call, name="rename") if call in links else call
        for call in recorded.calls
        if not (call.name == "unlink" and call.paths[0] in aside)
    ]
    around = {line for link in links for line in range(link.begin, link.begin + 40)}
    assert links
    for mode in Mode:
        assert check(replace(recorded, calls=calls), mode, subsets=0, most=40, lines=around).violations
