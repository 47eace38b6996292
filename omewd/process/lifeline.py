"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie_to(parent: int, with_signal: signal.Signals) -> None:
    """Have the kernel send this process a signal when ``parent``, which started it, dies; leave if it has already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, with_signal)
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that started this one is dead")
