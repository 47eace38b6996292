"""The stress tests kill daemons, as those of faults do."""

from __future__ import annotations

from tests.faults.conftest import daemons

__all__ = ["daemons"]
