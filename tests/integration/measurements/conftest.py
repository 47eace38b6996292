"""For commands that run daemons of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.shared_memory import in_shared_memory


@pytest.fixture
def nothing_in_shared_memory() -> Iterator[None]:
    before = in_shared_memory()
    yield
    assert in_shared_memory() <= before
