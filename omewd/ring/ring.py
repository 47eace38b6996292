"""The producer's end of a ring; the daemon's is in :mod:`omewd.ring.daemon_ring`.

Nothing here waits or makes a system call. See :mod:`omewd.ring.layout` for the picture.

Stopping a stream and publishing a frame can happen at once. The producer stores ``published``, passes a
fence and reads ``state``; the daemon stores ``state``, passes a fence and reads ``published``. So at least
one of them sees the other: either the daemon counts the frame, or the producer learns that it has to
ask ``FINAL_PUBLISHED`` whether the frame was counted.
"""

from __future__ import annotations

import json
import threading

from omewd.errors import OmewdError
from omewd.ring import layout
from omewd.ring.layout import (
    DOORBELL_AT,
    DURABLE,
    FINAL_PUBLISHED,
    FRAME_INDEX,
    FRONTIER,
    GAP_KINDS,
    GAP_KINDS_READ,
    GAP_TABLE,
    GAP_TABLE_ENTRIES,
    METADATA,
    METADATA_BYTES,
    MONOTONIC_NS,
    PRODUCER_WAITS,
    PUBLISHED,
    RELEASED,
    SLOT_HEADERS,
    STATE,
    WAITED_NS,
    WALL_NS,
)
from omewd.ring.segment import Segment


class Fence:
    """A full memory barrier: taking and releasing a lock is one (0.3 µs), and Python has no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            pass


class ProducerRing:
    """The producer's end. A new one goes on where the cursors stand: after a crash the claimed slot is reused."""

    def __init__(self, segment: Segment) -> None:
        self.geometry = segment.geometry
        self._words = segment.words
        self._memory = memoryview(segment.memory)
        self._capacity = self.geometry.capacity
        self._fence = Fence()
        self._header_words = self.geometry.slot_header_stride // 8
        self.published: int = self._words[PUBLISHED]
        # A predecessor may have died between the two stores of publish().
        self.next_frame: int = self._words[FRONTIER]
        if self.published:
            newest = self._header(self.published - 1)
            self.next_frame = max(self.next_frame, self._words[newest + FRAME_INDEX] + 1)
        gap_kinds = self._words[GAP_KINDS]
        self._gap_kind = self._words[self._gap_entry(gap_kinds - 1) + 1] if gap_kinds else 0
        self._released = self._words[RELEASED]

    def _header(self, sequence: int) -> int:
        return SLOT_HEADERS // 8 + sequence % self._capacity * self._header_words

    @staticmethod
    def _gap_entry(number: int) -> int:
        return GAP_TABLE + number % GAP_TABLE_ENTRIES * 2

    @property
    def slot(self) -> int:
        """The slot that the next frame goes into."""
        return self.published % self._capacity

    @property
    def has_room(self) -> bool:
        if self.published - self._released < self._capacity:
            return True
        self._released = self._words[RELEASED]
        return self.published - self._released < self._capacity

    @property
    def state(self) -> int:
        return self._words[STATE]

    @property
    def durable(self) -> int:
        return self._words[DURABLE]

    @property
    def final_published(self) -> int:
        return self._words[FINAL_PUBLISHED]

    @property
    def wants_doorbell(self) -> bool:
        return self.next_frame >= self._words[DOORBELL_AT]

    @property
    def failure(self) -> OmewdError | None:
        """The error the daemon left when it failed the stream; None also while it puts a later one in its place."""
        return read_failure(self._words, self._memory)

    def publish(self, monotonic_ns: int, wall_ns: int, metadata: bytes, waited_ns: int = 0) -> int:
        """Make the next slot visible as the next frame; returns its frame index.

        ``waited_ns``: how long the camera waited for the slot. The slot's pixels must be written, and there must
        be room. Check :attr:`state` afterwards.
        """
        words, header, frame = self._words, self._header(self.published), self.next_frame
        if metadata:
            start = header * 8 + METADATA
            self._memory[start : start + len(metadata)] = metadata
        words[header + FRAME_INDEX] = frame
        words[header + MONOTONIC_NS] = monotonic_ns
        words[header + WALL_NS] = wall_ns
        words[header + METADATA_BYTES] = len(metadata)
        words[header + WAITED_NS] = waited_ns
        self.published += 1
        self.next_frame = frame + 1
        words[PUBLISHED] = self.published
        words[FRONTIER] = self.next_frame
        self._fence()
        return frame

    def add_gap(self, count: int, kind: int) -> None:
        """The next ``count`` frame indexes hold no frame.

        What a gap is called goes into a table only when it changes. Should the daemon leave all entries
        unread, the label of the last one stays; that the indexes are gaps is always exact.
        """
        words = self._words
        if kind != self._gap_kind:
            number = words[GAP_KINDS]
            if number - words[GAP_KINDS_READ] < GAP_TABLE_ENTRIES:
                entry = self._gap_entry(number)
                words[entry] = self.next_frame
                words[entry + 1] = kind
                words[GAP_KINDS] = number + 1
                self._gap_kind = kind
        self.next_frame += count
        words[FRONTIER] = self.next_frame
        self._fence()

    def wait_for_room(self, waits: bool) -> None:
        """Ask the daemon to ring when slots are released (or no more)."""
        self._words[PRODUCER_WAITS] = int(waits)
        self._fence()

    def release(self) -> None:
        """Let go of the memory, so that the segment can be unmapped."""
        self._memory.release()


def read_failure(words: memoryview, memory: memoryview) -> OmewdError | None:
    """The error that the daemon left; None if there is none, or if it is just being replaced."""
    length = words[layout.FAILURE // 8]
    if not 0 < length <= layout.FAILURE_MAX_BYTES:
        return None
    start = layout.FAILURE + 8
    try:
        return OmewdError.from_dict(json.loads(bytes(memory[start : start + length])))
    except ValueError:
        return None
