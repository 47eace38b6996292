"""The pixel slots and slot headers of a ring as numpy arrays, for the producer and the writers."""

from __future__ import annotations

from typing import Any

import numpy as np

from omewd.ring.layout import FRAME_INDEX, METADATA, METADATA_BYTES, MONOTONIC_NS, SLOT_HEADERS, WALL_NS
from omewd.ring.segment import Segment


def slots(segment: Segment) -> np.ndarray[Any, Any]:
    """All slots as one (capacity, Y, X) view of the shared memory, which stays mapped while the view is held."""
    geometry = segment.geometry
    dtype = np.dtype(geometry.dtype)
    return np.ndarray(
        (geometry.capacity, geometry.height, geometry.width),
        dtype,
        # ndarray would release its buffer at once, and the mapping could be closed under it; frombuffer keeps it.
        buffer=np.frombuffer(segment.memory, np.uint8),
        offset=geometry.pixels_offset,
        strides=(geometry.slot_stride, geometry.width * dtype.itemsize, dtype.itemsize),
    )


def header(segment: Segment, sequence: int) -> tuple[int, int, int, bytes]:
    """A slot's (frame index, monotonic ns, wall-clock ns, metadata as JSON)."""
    geometry = segment.geometry
    start = SLOT_HEADERS + sequence % geometry.capacity * geometry.slot_header_stride
    word = start // 8
    words = segment.words
    length = min(words[word + METADATA_BYTES], geometry.metadata_max_bytes)
    metadata = bytes(memoryview(segment.memory)[start + METADATA : start + METADATA + length]) if length else b""
    return words[word + FRAME_INDEX], words[word + MONOTONIC_NS], words[word + WALL_NS], metadata
