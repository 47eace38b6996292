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
# Version 1 of cgroups has no word for "no limit", but shows the largest number of pages.
_NO_LIMIT_BYTES = 2**62


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
    for free, where in ((sizes()[1], "in /dev/shm"), (available_memory_bytes(), "of memory")):
        if size_bytes > free:
            raise _no_room(size_bytes, f"{free / 2**20:.1f} MiB are free {where}")


def sizes() -> tuple[int, int]:
    """The size of /dev/shm and what is free there, in bytes; none where there is no /dev/shm."""
    try:
        room = os.statvfs("/dev/shm")
    except OSError:
        return 0, 0
    return room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize


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
    )


def available_memory_bytes() -> int:
    """The kernel's estimate of the memory that can be used without swapping (proc(5), MemAvailable)."""
    return _memory_info("MemAvailable")


def total_memory_bytes() -> int:
    return _memory_info("MemTotal")


def cgroup_bytes(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The lowest memory limit of this process's cgroup and those around it (versions 1 and 2); None if there is none.

    ``own``: see cgroups(7). ``mount``: where the hierarchies are mounted.
    """
    limits = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                root, file = mount, "memory.max"
            elif "memory" in controllers.split(","):
                root, file = mount / "memory", "memory.limit_in_bytes"
            else:
                continue
            place = root / path.lstrip("/")
            for folder in (place, *(parent for parent in place.parents if parent.is_relative_to(root))):
                with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                    limits.append(int((folder / file).read_text()))
    return min((limit for limit in limits if limit < _NO_LIMIT_BYTES), default=None)


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
