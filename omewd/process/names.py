"""Names of files, and how they survive a power cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# link(2): of filesystems without hard links, and of files with as many as they may have.
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def sync_folder(folder: Path | str) -> None:
    """Sync a folder, so that the names in it are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_second_name(path: Path, name: Path) -> None:
    """Give a file a second name: a hard link, or the new name alone where the filesystem has no hard links.

    The two halves of a rename may become durable apart, so a power cut may leave the file with neither name. With two
    names, the first one can be removed once the second one is durable. Raises OSError, such as FileExistsError.
    """
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        path.rename(name)
