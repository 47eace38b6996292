"""Maps the pages of a ring before frames are copied into them or read from them.

The first access to a page of a mapping costs about as much as a copy of the page. Here other threads go on meanwhile,
which they don't during ``mmap.mmap`` with MAP_POPULATE: that holds the GIL, for 0.4 s a GiB on a virtual machine.
"""

from __future__ import annotations

import ctypes
import errno
import os

import numpy as np

from omewd.ring.layout import PAGE
from omewd.ring.segment import Segment

STEP_BYTES = 8 << 20  # some milliseconds, for which a page fault elsewhere or an munmap may have to wait
# madvise(2), from Linux 5.14
_POPULATE_READ = 22
_POPULATE_WRITE = 23

_libc = ctypes.CDLL(None, use_errno=True)  # releases the GIL during calls
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def populate(segment: Segment, start: int, *, writable: bool) -> bool:
    """Map the pages of one step of :data:`STEP_BYTES` from ``start``, in bytes.

    ``writable``: for a mapping that will be written. Returns False if nothing is left to do: past the end, or after the
    segment was closed or cut short.
    """
    size = min(STEP_BYTES, segment.geometry.total_bytes - start)
    if size <= 0 or segment.is_closed:
        return False
    try:
        pages = np.frombuffer(segment.memory, np.uint8, size, start)  # keeps the mapping through the call
    except ValueError:  # closed
        return False
    if _libc.madvise(pages.ctypes.data, size, _POPULATE_WRITE if writable else _POPULATE_READ) == 0:
        return True
    if ctypes.get_errno() != errno.EINVAL or os.fstat(segment.fd).st_size < segment.geometry.total_bytes:
        return False
    pages[::PAGE].max()  # an older kernel: reads a byte of each page
    return True
