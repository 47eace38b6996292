"""Pure tests: no daemon, no named shared memory, so nothing has to be looked for afterwards."""

from __future__ import annotations

import pytest
from hypothesis import settings

# No deadline: shared cores make single examples slow at times. Loaded here, because a test takes its settings
# when it is defined.
settings.register_profile("unit", deadline=None, max_examples=70)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> None:
    """Instead of the search of the other tests."""
