"""Fault points: named places at which tests can let a process die.

$OMEWD_FAULT is ``NAME;N;FILE``: the process that is the N-th to pass the point NAME, counted over all processes, kills
itself. FILE gets a byte for each passing. Without the variable, a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "OMEWD_FAULT"

_setting = os.environ.get(VARIABLE, ";;").split(";", 2)
_name = _setting[0] or None


def point(name: str) -> None:
    """Die here if the environment asks for it."""
    if name == _name:
        _pass()


def _pass() -> None:
    count = os.open(_setting[2], os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(count, b".")
        passed = os.lseek(count, 0, os.SEEK_CUR)  # an append leaves the offset at the end of its own write
    finally:
        os.close(count)
    if passed == int(_setting[1]):
        os.kill(os.getpid(), signal.SIGKILL)
