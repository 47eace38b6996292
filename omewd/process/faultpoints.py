"""Named places at which a process can be made to die, for tests of what survives that.

$OMEWD_FAULT is ``NAME;N;FILE``: of all processes that pass the point NAME, the one that does so as the N-th
kills itself; FILE has a byte for each passing. Without the variable a point costs a comparison.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "OMEWD_FAULT"

_wish = os.environ.get(VARIABLE, ";;").split(";", 2)
_name = _wish[0] or None


def point(name: str) -> None:
    """Die here if asked to."""
    if name == _name:
        _pass()


def _pass() -> None:
    count = os.open(_wish[2], os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(count, b".")
        passed = os.lseek(count, 0, os.SEEK_CUR)  # the end of this very write: appending moves it there
    finally:
        os.close(count)
    if passed == int(_wish[1]):
        os.kill(os.getpid(), signal.SIGKILL)
