"""Row 30 at full length: power cuts at every moment, with every single change missing and alone.

``OMEWD_POWER_CUTS=all python -m pytest tests/stress/test_powercut.py -s``, or a number of trees for each scenario and
mode. ``OMEWD_SEED`` makes another choice, and other random subsets.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.powercut.checker import check, record
from tests.powercut.model import Mode
from tests.powercut.record import can_trace
from tests.powercut.scenarios import SCENARIOS

TREES = os.environ.get("OMEWD_POWER_CUTS", "")
SEED = int(os.environ.get("OMEWD_SEED", "20261128"))


@pytest.mark.stress
@pytest.mark.timeout(24 * 3600)
@pytest.mark.skipif(not TREES, reason="OMEWD_POWER_CUTS is not set: tests/powercut has the short run")
@pytest.mark.skipif(can_trace() is not None, reason=str(can_trace()))
@pytest.mark.parametrize("name", SCENARIOS)
def test_row_30_nothing_durable_is_lost_in_any_power_cut(tmp_path: Path, name: str) -> None:
    recorded = record(name, tmp_path)
    found: list[str] = []
    for mode in Mode:
        most = None if TREES == "all" else int(TREES)
        outcome = check(recorded, mode, seed=SEED, subsets=4, most=most, daemons=5)
        found += outcome.violations
        print(
            f"\n{name}, {mode.value}: {outcome.moments} moments, {outcome.trees} trees, "
            f"{len(outcome.violations)} violations"
        )
    assert found == []
