"""The type of a folder's filesystem, and filesystem calls that Python lacks."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "glusterfs"}
# linux/falloc.h and linux/fs.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


_MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of a folder's filesystem (or its nearest parent's) if it is a network filesystem, else None.

    FUSE and virtiofs count, too, because another program decides what happens to their writes.
    """
    found = filesystem_of(folder.resolve(), mounts)
    return found if is_network(found) else None


def is_network(filesystem: str) -> bool:
    return filesystem in _NETWORK or filesystem.startswith(("fuse", "virtiofs"))


def filesystem_of(place: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the filesystem that an absolute path without symbolic links is on; "" if none is known.

    It reads the table of mounts alone, so a filesystem that hangs does not matter.
    """
    return _mount_of(place, mounts)[0]


def mount_options(place: Path, mounts: Path = _MOUNTS) -> tuple[str, ...]:
    """The options of the filesystem that :func:`filesystem_of` finds, such as "size=64k"."""
    return tuple(_mount_of(place, mounts)[1].split(","))


def _mount_of(place: Path, mounts: Path) -> tuple[str, str]:
    """The type and the options of a path's filesystem (proc_pid_mountinfo(5))."""
    found, length = ("", ""), -1
    for line in filter(None, os.fsdecode(mounts.read_bytes()).split("\n")):
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4]))
        if place.is_relative_to(point) and len(point.parts) >= length:  # a later mount covers an earlier one
            kind, _, rest = after.partition(" ")
            found, length = (kind, rest.rpartition(" ")[2]), len(point.parts)
    return found


@dataclass(frozen=True)
class Room:
    """A filesystem's device number, and what is free there for ordinary users; None if it does not tell."""

    device: int
    free_bytes: int | None


def room_of(place: Path) -> Room:
    """The room at a path, or where its nearest parent is. Raises OSError."""
    while True:
        try:
            device = place.stat().st_dev
            break
        except (FileNotFoundError, NotADirectoryError):
            if place == place.parent:
                raise
            place = place.parent
    room = os.statvfs(place)
    return Room(device, room.f_bavail * room.f_frsize if room.f_blocks else None)


def extend(descriptor: int, start: int, end: int) -> None:
    """Extend a file to ``end`` bytes, and allocate blocks from ``start`` on if the filesystem can.

    Unlike os.posix_fallocate, this does not write to every block if the filesystem can't. Raises OSError.
    """
    if not _fallocate(descriptor, 0, start, end):
        os.ftruncate(descriptor, end)


def reserve(descriptor: int, start: int, end: int) -> None:
    """Allocate blocks beyond the end of a file, whose size stays. Does nothing if the filesystem can't. Raises OSError.

    os.ftruncate to its size gives them back.
    """
    _fallocate(descriptor, _KEEP_SIZE, start, end)


def punch(descriptor: int, start: int, end: int) -> None:
    """Free the blocks of a part of a file, which then reads as zeros. Does nothing if the filesystem can't."""
    _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, end)


def _fallocate(descriptor: int, mode: int, start: int, end: int) -> bool:
    """Call fallocate(2); returns whether the filesystem supports it."""
    error = errno.EINTR
    while error == errno.EINTR:
        if _libc.fallocate(descriptor, mode, start, end - start) == 0:
            return True
        error = ctypes.get_errno()
    if error not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(error, os.strerror(error))
    return False


def start_write_back(descriptor: int, start: int, size: int) -> None:
    """Start writing a part of a file out of the page cache. What piles up there would stall everybody later.

    ``size``: in bytes; 0 for all that follows.
    """
    _libc.sync_file_range(descriptor, start, size, _SYNC_FILE_RANGE_WRITE)  # a hint; errors show at the sync


def sync_filesystem(descriptor: int) -> None:
    """Sync all files and folders of a filesystem. ``descriptor``: any of them, open since before they were written.

    Raises OSError for a write that has failed since it was opened.
    """
    if _libc.syncfs(descriptor):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def has_syncfs(folder: Path) -> bool:
    """Whether :func:`sync_filesystem` does for a folder what fsync does for each file.

    A FUSE filesystem is not told of it, and Linux before 5.8 does not report failed writes.
    """
    major, minor = map(int, re.findall(r"\d+", os.uname().release)[:2])
    return (major, minor) >= (5, 8) and network_filesystem(folder) is None
