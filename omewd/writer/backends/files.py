"""Taking encoded keys out of a scratch folder in memory, for libraries that only write files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from omewd.errors import OmewdError


def take(path: Path) -> Iterator[memoryview]:
    """A file's bytes, mapped; the file is removed afterwards. Raises OmewdError ``backend_error`` without any."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OmewdError("backend_error", f"the backend made no key {path.name}") from error
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            raise OmewdError("backend_error", f"the backend made an empty key {path.name}")
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    finally:
        os.close(descriptor)
    path.unlink()
    yield memoryview(mapped)
