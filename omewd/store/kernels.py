"""Which kernels write one file from several threads at once, and what to do on the others. Pure."""

from __future__ import annotations

import re

# Linux 6.3, "ext4: dio take shared inode lock when overwriting preallocated blocks". Before, an O_DIRECT write into
# blocks that are allocated but were never written holds the inode's lock alone until the disk has answered. Measured
# with a disk that takes 20 ms for each write, eight threads in one such file, for each write and thread: ext4 on 6.1
# 227 ms, ext4 on 6.12 34 ms, XFS on 6.1 28 ms, XFS on 6.12 24 ms.
_EXT4_SIDE_BY_SIDE = (6, 3)


def writes_one_by_one(filesystem: str, release: str) -> bool:
    """Whether O_DIRECT writes into one shard wait for each other.

    ``release``: the kernel's, as in "6.1.0-44-amd64"; one that can't be read counts as new.
    """
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return filesystem == "ext4" and numbers is not None and (int(numbers[1]), int(numbers[2])) < _EXT4_SIDE_BY_SIDE


def advice(place: str, filesystem: str, release: str) -> str | None:
    """What a user should know about a folder for datasets on this kernel; None if there is nothing to say."""
    if not writes_one_by_one(filesystem, release):
        return None
    return (
        f"{place} is on ext4, and with kernel {release} writes into one shard wait for each other there: "
        "for the full speed of a fast disk, use XFS, or kernel 6.3 or newer"
    )
