"""The fence: no child of an earlier daemon may still be running when a slot is reused.

Each child holds a lock on a file in the state directory, which the kernel drops with the process. Children die with
their daemon (PR_SET_PDEATHSIG); any that don't are killed here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

import structlog

from omewd.errors import OmewdError

log = structlog.get_logger("fence")

_TIMEOUT_S = 10.0


def children_lock(state_dir: Path) -> Path:
    """The file on which children of all roles hold a lock. Its name is older than roles."""
    return state_dir / "writers.lock"


def hold(lock: Path) -> int:
    """A descriptor that holds the lock for a child, until all copies of it are closed."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def fence(state_dir: Path, instance: str) -> None:
    """Wait until no child of an earlier daemon is left; raises OmewdError ``start_failed`` if one does not end."""
    descriptor = os.open(children_lock(state_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            left = _kill_children(instance)
            if time.monotonic() > deadline:
                raise OmewdError(
                    "start_failed",
                    f"children of the last daemon do not end (processes {', '.join(map(str, left)) or 'unknown'})",
                    "They may wait for a disk that does not respond. Start the daemon again when they are gone",
                )
            time.sleep(0.005)
    finally:
        os.close(descriptor)


def _kill_children(instance: str) -> list[int]:
    """Kill the children of an instance, found by their command lines; returns their process ids."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or not _is_child(folder, instance):
            continue
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if _is_child(folder, instance):  # checked again: the pid may have been reused
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    log.warning("killed a child of the last daemon", pid=pid)
                    found.append(pid)
            finally:
                os.close(pidfd)
    return found


def _is_child(process: Path, instance: str) -> bool:
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    scratch = f"/dev/shm/{instance}-scratch-".encode()
    return b"--scratch" in arguments and any(argument.startswith(scratch) for argument in arguments)
