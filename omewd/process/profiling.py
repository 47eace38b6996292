"""Profiles omewd's own processes, if $OMEWD_PROFILE is set; see ``omewd profile``.

If it is a folder, each process puts a profile of its work there, for pstats. If it is "sampling", each process only
allows other processes of the user to inspect it, which some kernels refuse by default.
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

VARIABLE = "OMEWD_PROFILE"
SAMPLING = "sampling"

# Linux, "yama" security module: which processes may attach to this one, besides its ancestors.
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


@contextmanager
def profiled(role: str, *, threads: bool = False) -> Iterator[None]:
    """Profile the block if the environment asks for it. ``role``: the process, such as "daemon" or "writer".

    ``threads``: include threads that start in the block; without it, there must be none.
    """
    setting = os.environ.get(VARIABLE)
    if not setting:
        yield
    elif setting == SAMPLING:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY)
        yield
    else:
        path = Path(setting) / f"{role}-{os.getpid()}-{time.monotonic_ns()}.prof"
        yield from _with_threads(path) if threads else _with_cprofile(path)


def _with_cprofile(path: Path) -> Iterator[None]:
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        profile.dump_stats(path)


def _with_threads(path: Path) -> Iterator[None]:
    from omewd.process.thread_profile import ThreadProfile

    profiles: list[ThreadProfile] = []

    def begin() -> ThreadProfile:
        profiles.append(ThreadProfile())
        sys.setprofile(profiles[-1])
        return profiles[-1]

    # Called with the first event in a thread.
    threading.setprofile(lambda *event: begin()(*event))
    begin()
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        import pstats

        for profile in profiles:
            profile.create_stats()
        measured = [profile for profile in profiles if profile.stats]
        pstats.Stats(*measured).dump_stats(path)  # type: ignore[arg-type]
