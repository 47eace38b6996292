"""Creates and removes ring segments (POSIX shared memory). Only the daemon does; others get descriptors from it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import posix_ipc

from omewd.errors import OmewdError
from omewd.ring.layout import Geometry

# Allocating a page of shared memory takes about 0.4 µs: a step of 8 MiB keeps the daemon's loop responsive.
ALLOCATE_STEP_BYTES = 8 << 20


def create(name: str, geometry: Geometry) -> int:
    """Create an empty segment that only this user can open; returns its descriptor. allocate() gives it memory."""
    try:
        shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=0)
    except posix_ipc.ExistentialError as error:
        raise OmewdError("ring_exists", f"shared memory {name} exists already", "Is another daemon running?") from error
    fd: int = shared.fd
    try:
        os.fchmod(fd, 0o600)
        os.set_inheritable(fd, False)
        os.ftruncate(fd, geometry.total_bytes)
    except OSError as error:
        os.close(fd)
        unlink(name)
        raise OmewdError("ring_creation", f"shared memory {name} can't be set up: {error.strerror}") from error
    return fd


def check_room(size_bytes: int) -> None:
    """Raise OmewdError ``no_shared_memory`` if rings of this size can't fit.

    Exceeding the machine's memory would not raise an error, but start the kernel's out-of-memory killer.
    """
    room = os.statvfs("/dev/shm")
    for free, where in ((room.f_bavail * room.f_frsize, "in /dev/shm"), (available_memory_bytes(), "of memory")):
        if size_bytes > free:
            raise _no_room(size_bytes, f"{free / 2**20:.1f} MiB are free {where}")


def allocate(fd: int, geometry: Geometry, done_bytes: int) -> int:
    """Allocate the next step of a segment's memory; returns the bytes that are allocated so far.

    Raises OmewdError ``no_shared_memory`` if /dev/shm is full: a clean error now instead of a SIGBUS later.
    """
    step = min(ALLOCATE_STEP_BYTES, geometry.total_bytes - done_bytes)
    try:
        os.posix_fallocate(fd, done_bytes, step)
    except OSError as error:
        raise _no_room(geometry.total_bytes, f"{error.strerror} after {done_bytes / 2**20:.1f} MiB") from error
    return done_bytes + step


def _no_room(size_bytes: int, why: str) -> OmewdError:
    return OmewdError(
        "no_shared_memory",
        f"a ring of {size_bytes / 2**20:.1f} MiB does not fit into shared memory: {why}",
        "Free memory, enlarge /dev/shm, or pass a smaller `ring_slots=…`",
    )


def available_memory_bytes() -> int:
    """The kernel's estimate of the memory that can be used without swapping (proc(5), MemAvailable)."""
    return _memory_info("MemAvailable")


def total_memory_bytes() -> int:
    return _memory_info("MemTotal")


def cgroup_bytes() -> int | None:
    """The memory limit of this process's cgroup (version 2); None if there is none."""
    try:
        own = next(line[3:].strip() for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::")
        return int(Path(f"/sys/fs/cgroup{own}/memory.max").read_text())
    except (OSError, StopIteration, ValueError):  # no cgroups here, or "max"
        return None


def _memory_info(field: str) -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def reopen(name: str) -> int:
    """A second descriptor of a segment, which is independent: it has its own locks. Raises OSError."""
    try:
        fd: int = posix_ipc.SharedMemory(name).fd
    except posix_ipc.ExistentialError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no shared memory of this name", name) from error
    except posix_ipc.PermissionsError as error:
        raise PermissionError(errno.EACCES, "it belongs to another user", name) from error
    os.set_inheritable(fd, False)
    return fd


def unlink(name: str) -> None:
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)
