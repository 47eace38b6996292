"""The kinds of children that the daemon has. A new one is a row here, and a folder with a ``__main__``.

A ``__main__`` calls :func:`omewd.process.child.begin`, says ``{"ready": …}`` once it can work, and then answers jobs as
:mod:`omewd.protocol.jobs.job` has it, until its channel is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omewd.protocol.jobs.job import MAINTAINER, WRITER

# glibc gives large blocks back to the kernel at once, and a fresh page is dear on a virtual machine: encoding
# a 128 MiB shard with tensorstore took 0.15 s with the defaults, 0.03 s when the heap keeps its pages.
# Two arenas keep what is kept in bounds.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True)
class Role:
    """A kind of child.

    ``module``: what it runs. ``on_demand``: there is one child, and only as long as there are jobs for it; else there
    are ``children`` all the time, and the daemon can't go on without them. ``threads``: cores each may use.
    ``jobs_ahead``: how many small jobs may wait in a child's socket while it is at another one. ``environment``: beside
    the daemon's own.
    """

    name: str
    module: str
    children: int = 1
    on_demand: bool = False
    threads: int = 1
    jobs_ahead: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


def roles(writers: int, cores: int) -> tuple[Role, ...]:
    """The children of a daemon with so many writers, which share the cores."""
    return (
        Role(
            WRITER,
            "omewd.writer",
            children=writers,
            threads=max(1, cores // writers),
            jobs_ahead=1,
            environment=ALLOCATOR,
        ),
        # Takes the jobs that would stand before frames for long. It encodes nothing.
        Role(MAINTAINER, "omewd.writer", on_demand=True, environment=ALLOCATOR),
    )
