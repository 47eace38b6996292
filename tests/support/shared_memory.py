"""What daemons have in /dev/shm."""

from __future__ import annotations

from pathlib import Path

# The names by which the shared memory of this test run's daemons is known: others may run beside it.
started_instances: set[str] = set()


def shared_memory_names(*instances: str) -> set[str]:
    """What is in /dev/shm of these daemons."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(instances)}


def in_shared_memory() -> set[str]:
    """All that any omewd has in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("omewd-")}
