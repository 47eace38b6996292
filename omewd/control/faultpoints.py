"""Named places at which a process can be made to die, for tests of what survives that.

$OMEWD_FAULT is ``NAME;N;FILE``: the process that passes the point NAME for the N-th time kills itself, once:
the first to do so makes FILE. Without the variable a point costs a comparison.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "OMEWD_FAULT"

_wish = os.environ.get(VARIABLE, ";;").split(";", 2)
_name = _wish[0] or None
_left = int(_wish[1] or 0)


def point(name: str) -> None:
    """Die here if asked to."""
    if name == _name:
        _pass()


def _pass() -> None:
    global _left
    _left -= 1
    if _left:
        return
    try:
        os.close(os.open(_wish[2], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
