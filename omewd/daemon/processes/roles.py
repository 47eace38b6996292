"""The kinds of children of the daemon. A new kind needs a row here, and a folder with a ``__main__``.

The ``__main__`` calls :func:`omewd.process.child.begin`, sends ``{"ready": …}`` once it can work, and then answers jobs
as described in :mod:`omewd.protocol.jobs.job`, until its channel is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omewd.model.plan.memory import JOBS_IN_FLIGHT
from omewd.protocol.jobs.job import CLEANER, COPIER, MAINTAINER, WRITER

# glibc returns large blocks to the kernel at once, and fresh pages are expensive on a virtual machine: encoding a
# 128 MiB shard with tensorstore took 0.15 s with the defaults, and 0.03 s if the heap keeps its pages. Two arenas limit
# the memory that is kept.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_ARENA_MAX": "2",
}

_COPIERS = 4


@dataclass(frozen=True)
class Role:
    """A kind of child.

    ``module``: the module that it runs. ``on_demand``: there are at most ``children``, and only while there are jobs
    for them; otherwise there are always so many, and the daemon can't work without them. ``threads``: the cores that
    each may use. ``jobs_ahead``: how many small jobs may be queued in a child's socket while it runs another.
    ``environment``: in addition to the daemon's own.
    """

    name: str
    module: str
    children: int = 1
    on_demand: bool = False
    threads: int = 1
    jobs_ahead: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


def roles(writers: int, cores: int) -> tuple[Role, ...]:
    """The roles of a daemon with ``writers`` writers, which share the cores."""
    return (
        Role(
            WRITER,
            "omewd.writer",
            children=writers,
            threads=max(1, cores // writers),
            jobs_ahead=JOBS_IN_FLIGHT - 1,
            environment=ALLOCATOR,
        ),
        # For the long jobs of streams, which would delay frames. It encodes nothing.
        Role(MAINTAINER, "omewd.writer", on_demand=True, environment=ALLOCATOR),
        # For what takes long and nobody waits for, such as removing a dataset. No stream's start or end waits for that.
        Role(CLEANER, "omewd.writer", on_demand=True, environment=ALLOCATOR),
        # Each copies files of one dataset at a time, so that a store that is away holds up no copies to others.
        Role(COPIER, "omewd.copier", children=_COPIERS, on_demand=True),
    )
