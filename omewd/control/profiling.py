"""Profiles of omewd's own processes, switched on by $OMEWD_PROFILE; see ``omewd profile``.

Set to a folder, each process puts a cProfile of its work there. Set to "sampling", it only lets a process of
the same user look into it, which some kernels refuse otherwise.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "OMEWD_PROFILE"
SAMPLING = "sampling"

# Linux, "yama" security module: who may attach to this process beside its ancestors.
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


@contextmanager
def profiled(role: str) -> Iterator[None]:
    """Profile the block if asked to; ``role`` names the process, such as "daemon" or "writer"."""
    wish = os.environ.get(VARIABLE)
    if not wish:
        yield
    elif wish == SAMPLING:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY)
        yield
    else:
        yield from _with_cprofile(Path(wish) / f"{role}-{os.getpid()}-{time.monotonic_ns()}.prof")


def _with_cprofile(path: Path) -> Iterator[None]:
    """Up to Python 3.11 cProfile sees one thread, so each that starts in the block gets a profile of its own.

    Later ones see all threads with one profile, and refuse a second.
    """
    import cProfile
    import pstats

    profiles = [cProfile.Profile()]

    def begin_thread(*_: Any) -> None:
        profiles.append(cProfile.Profile())
        profiles[-1].enable()

    if sys.version_info < (3, 12):
        threading.setprofile(begin_thread)
    profiles[0].enable()
    try:
        yield
    finally:
        profiles[0].disable()
        if sys.version_info < (3, 12):
            threading.setprofile(None)
        stats = pstats.Stats(profiles[0])
        for profile in profiles[1:]:
            if profile.getstats():
                stats.add(profile)
        stats.dump_stats(path)
