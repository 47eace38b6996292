"""When the suite runs in parallel, and that a test which must be alone is."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from tests.support.places import REPOSITORY
from tests.support.scheduling import MAX_WORKERS, worker_count


def test_folders_run_in_parallel_and_named_tests_do_not(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert worker_count([folder, folder], captures_output=True, cores=2) == 3
    assert worker_count([folder], captures_output=True, cores=64) == MAX_WORKERS
    assert worker_count([folder], captures_output=False, cores=2) == 0
    for named in (f"{folder}/test_x.py", f"{folder}/test_x.py::test_y"):
        assert worker_count([folder, named], captures_output=True, cores=2) == 0


# Notes when it begins and when it ends; says whether another one was in between.
TEST_PROGRAM = """
import os, time
from pathlib import Path
import pytest

log = Path(os.environ["LOG"])

@pytest.fixture(autouse=True)
def _nothing_left_behind():
    pass

def note(text):
    with log.open("a") as file:
        file.write(text + "\\n")

@pytest.mark.parametrize("number", range(8))
def test_beside_others(number):
    note("begin"); time.sleep(0.05); note("end")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(4))
def test_alone(number):
    note("alone"); time.sleep(0.05); note("still alone")
"""


def test_a_test_that_must_be_alone_is(tmp_path: Path) -> None:
    """In a suite of two processes, with this suite's own hooks."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(TEST_PROGRAM)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
    command += ["-c", str(REPOSITORY / "pyproject.toml"), f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'base'}"]
    done = subprocess.run(
        [*command, str(tmp_path)],
        env={**os.environ, "LOG": str(log), "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = log.read_text().splitlines()
    assert len(lines) == 24
    running = 0
    for place, line in enumerate(lines):
        if line == "alone":
            assert running == 0
            assert lines[place + 1] == "still alone"
        running += {"begin": 1, "end": -1}.get(line, 0)
    assert any(pair == ("begin", "begin") for pair in pairwise(lines))
