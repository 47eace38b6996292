"""Ends a process together with the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie_to(parent: int, with_signal: signal.Signals) -> None:
    """Ask the kernel for a signal when ``parent``, which started this process, dies; exit if it is dead already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, with_signal)
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that started this one is dead")
