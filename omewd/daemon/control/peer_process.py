"""Which process a client is, even if it is in a PID namespace that the daemon can't see, as in another container."""

from __future__ import annotations

import os
import socket

_SO_PEERPIDFD = 77  # Linux 6.5
# The numbers of processes that the daemon can't see are from here on. No process id is so large (proc(5), pid_max).
UNSEEN = 1 << 62


def process_of(channel: socket.socket, pid: int) -> int:
    """The number of the process at the other end. ``pid``: as SO_PEERCRED has it, which is 0 if it can't be seen.

    That of a process that can't be seen is :data:`UNSEEN` and the inode of its pidfd, which no other process has
    (pidfs, Linux 6.9). Older kernels don't tell such processes apart.
    """
    if pid:
        return pid
    try:
        pidfd = channel.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return UNSEEN
    try:
        return UNSEEN + os.fstat(pidfd).st_ino % UNSEEN
    finally:
        os.close(pidfd)


def in_words(process: int | None) -> str:
    """A process, for people."""
    return "a process in another PID namespace" if (process or 0) >= UNSEEN else f"process {process}"
