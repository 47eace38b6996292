"""How the suite runs: in parallel where that is safe, and the tests that must be alone one at a time.

Tests are told apart by markers. ``root`` needs root, ``stress`` kills or loads for a long time, ``alone`` measures, or
looks at what every process on the machine has in /dev/shm.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import pytest

# A test with a daemon uses about two thirds of a core, and the rings some hundred MiB of /dev/shm.
MAX_WORKERS = 4


def worker_count(arguments: Sequence[str], *, captures_output: bool, cores: int) -> int:
    """How many test processes to start, 0 for this one: named files and tests, and output to watch, need no more."""
    if not captures_output or not all(Path(argument).is_dir() for argument in arguments):
        return 0
    return min(cores + cores // 2, MAX_WORKERS)


def order(item: pytest.Item) -> int:
    """Long tests come first and short ones late, so that no process waits for another's last one; then those alone."""
    if item.get_closest_marker("alone"):
        return 3
    if item.get_closest_marker("stress"):
        return 0
    return 2 if "unit" in item.path.parts else 1


def skip_without_root(item: pytest.Item) -> None:
    marker = item.get_closest_marker("root")
    if marker is not None and os.geteuid() != 0:
        pytest.skip(f"needs root: {marker.args[0]}")


@contextlib.contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait until no test that must be alone is running; one that must be alone waits for all others, too.

    ``folder``: one that all test processes of a run share. The gate keeps a test that must be alone from waiting
    for ever: while it waits, no other test begins.
    """
    with (folder / "gate").open("w") as gate, (folder / "running").open("w") as running:
        _lock(gate, exclusive=alone)
        _lock(running, exclusive=alone)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield  # closing the files gives the locks back


def _lock(file: TextIO, *, exclusive: bool) -> None:
    fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
