"""A daemon that tests kill and start again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.support import Daemons
from tests.support.shared_memory import shared_memory_names


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    daemons = Daemons(tmp_path)
    try:
        yield daemons
        assert daemons.now.stop() == 0, daemons.now.log()
    finally:
        daemons.now.kill()
        for name in shared_memory_names(daemons.now.instance):  # of a test that failed
            path = Path("/dev/shm") / name
            if path.is_file():
                path.unlink()
