"""ome-writers' own tests, with its OME-Zarr written by omewd: what they read back has to be what they wrote.

They are not in this repository, nor in ome-writers' wheel. To run them:

    pip download --no-binary :all: --no-deps ome-writers==0.3.2 && tar xf ome_writers-0.3.2.tar.gz
    OMEWD_OME_WRITERS_SUITE=ome_writers-0.3.2 python -m pytest tests/peers
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = os.environ.get("OMEWD_OME_WRITERS_SUITE")
HERE = Path(__file__).parent

# Tests that do not pass, and why.
KNOWN = {
    "tests/test_global_metadata.py::test_zarr_single_position_root_mirror_aliased*": (
        "looks into the classes of ome-writers' own backends"
    ),
}


@pytest.mark.skipif(SUITE is None, reason="OMEWD_OME_WRITERS_SUITE names no source distribution of ome-writers")
@pytest.mark.timeout(1800)
def test_ome_writers_own_tests_pass_through_omewd(tmp_path: Path) -> None:
    assert SUITE is not None
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pytest", "-p", "omewd_for_ome_writers", "-p", "no:cacheprovider", "--tb=short"]
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMEWD_PEER_REPORT": str(report)}
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'theirs'}"],
        cwd=SUITE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-10_000:] + done.stderr[-10_000:]
    found = json.loads(report.read_text())
    failed = {test for test, outcome in found["outcomes"].items() if outcome == "failed"}
    unknown = {test for test in failed if not any(fnmatch.fnmatchcase(test, pattern) for pattern in KNOWN)}
    assert not unknown, done.stdout
    through = found["through_omewd"]
    passed = [test for test in through if found["outcomes"][test] == "passed"]
    print(f"\n{len(passed)} of {len(through)} tests that wrote through omewd passed, {len(found['outcomes'])} in all")
    assert len(passed) > 0.9 * len(through) > 0
