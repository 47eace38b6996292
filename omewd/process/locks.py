"""Locks on single bytes of a file, which tell who is alive without pids: the kernel drops them with their holder.

They belong to the open file (fcntl(2), "Open file description locks"). A copy of the descriptor in another process
keeps them; closing the last copy releases them.
"""

from __future__ import annotations

import fcntl
import os
import struct

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
_FLOCK = struct.Struct("hhqqi4x")


def _request(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def lock(fd: int, byte: int, *, shared: bool = False) -> None:
    """Wait for the lock on a byte. ``shared``: others may share it. Otherwise ``fd`` must be open for writing."""
    fcntl.fcntl(fd, F_OFD_SETLKW, _request(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, byte))


def unlock(fd: int, byte: int) -> None:
    fcntl.fcntl(fd, F_OFD_SETLK, _request(fcntl.F_UNLCK, byte))


def try_lock(fd: int, byte: int) -> bool:
    """Take the lock on a byte if it is free; returns whether it was. ``fd`` must be open for writing."""
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, _request(fcntl.F_WRLCK, byte))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(fd: int, byte: int) -> bool:
    """Whether another open file holds the lock on a byte."""
    answer = fcntl.fcntl(fd, F_OFD_GETLK, _request(fcntl.F_WRLCK, byte))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
