"""Making and removing ring segments (POSIX shared memory). Only the daemon does; others get descriptors from it."""

from __future__ import annotations

import contextlib
import os

import posix_ipc

from omewd.errors import OmewdError
from omewd.ring.layout import Geometry

# Allocating a page of shared memory takes about 0.4 µs: a step of 8 MiB keeps the daemon's loop responsive.
ALLOCATE_STEP_BYTES = 8 << 20


def create(name: str, geometry: Geometry) -> int:
    """Make an empty segment that only this user can open; returns its descriptor. Memory comes with allocate()."""
    try:
        shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=0)
    except posix_ipc.ExistentialError as error:
        raise OmewdError(
            "ring_exists", f"shared memory {name} is already there", "Is another daemon running?"
        ) from error
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


def allocate(fd: int, geometry: Geometry, done_bytes: int) -> int:
    """Allocate the next step of a segment's memory; returns the bytes that are allocated now.

    Raises OmewdError ``no_shared_memory`` when /dev/shm is full: a clean error now, not a SIGBUS later.
    """
    step = min(ALLOCATE_STEP_BYTES, geometry.total_bytes - done_bytes)
    try:
        os.posix_fallocate(fd, done_bytes, step)
    except OSError as error:
        room = os.statvfs("/dev/shm")
        raise OmewdError(
            "no_shared_memory",
            f"/dev/shm can't hold the ring of {geometry.total_bytes / 2**20:.1f} MiB: {error.strerror} "
            f"after {done_bytes / 2**20:.1f} MiB, {room.f_bavail * room.f_frsize / 2**20:.1f} MiB free",
            "Free shared memory, make /dev/shm larger, or ask for fewer ring slots",
        ) from error
    return done_bytes + step


def reopen(name: str) -> int:
    """A second, independent descriptor of a segment: locks taken through it are its own."""
    fd: int = posix_ipc.SharedMemory(name).fd
    os.set_inheritable(fd, False)
    return fd


def unlink(name: str) -> None:
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)
