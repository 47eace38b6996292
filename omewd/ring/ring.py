"""The producer's end of a ring; the daemon's end is in :mod:`omewd.ring.daemon_ring`.

Nothing here waits or makes a system call. :mod:`omewd.ring.layout` draws the layout.

The daemon may stop a stream while the producer publishes a frame. The producer stores ``published``, passes a fence
and reads ``state``; the daemon stores ``state``, passes a fence and reads ``published``. So at least one of them sees
the other's store: either the daemon counts the frame, or the producer learns that it has to look at
``FINAL_PUBLISHED`` to find out whether the frame was counted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from omewd.model.dtypes import MAX_FRAMES
from omewd.ring import layout
from omewd.ring.failure import Failure
from omewd.ring.layout import (
    COPIED,
    DOORBELL_AT,
    DURABLE,
    FINAL_PUBLISHED,
    FRAME_INDEX,
    FRONTIER,
    GAP_KINDS,
    GAP_KINDS_READ,
    GAP_NAMES,
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
    """A full memory barrier. Python has none, but taking and releasing a lock is one (0.3 µs)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            pass


class ProducerRing:
    """The producer's end. A new one continues from the cursors, and reuses slots that a crashed one had claimed."""

    def __init__(self, segment: Segment) -> None:
        self.geometry = segment.geometry
        self._words = segment.words
        self._memory = memoryview(segment.memory)
        self._capacity = self.geometry.capacity
        self._metadata_max_bytes = self.geometry.metadata_max_bytes
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
        """The slot for the next frame."""
        return self.published % self._capacity

    def free(self, wanted: int = 1) -> int:
        """How many slots are free. Reads ``released`` again only if fewer than ``wanted`` were free before."""
        free = self._capacity - self.published + self._released
        if free < wanted:
            self._released = self._words[RELEASED]
            free = self._capacity - self.published + self._released
        return free

    @property
    def state(self) -> int:
        return self._words[STATE]

    @property
    def durable(self) -> int:
        return self._words[DURABLE]

    @property
    def copied(self) -> int:
        return self._words[COPIED]

    @property
    def final_published(self) -> int:
        return self._words[FINAL_PUBLISHED]

    @property
    def wants_doorbell(self) -> bool:
        return self.next_frame >= self._words[DOORBELL_AT]

    @property
    def failure(self) -> Failure | None:
        """The failure that the daemon left; None if there is none, or while it is being replaced."""
        return read_failure(self._words, self._memory)

    def publish(self, monotonic_ns: int, wall_ns: int, metadata: bytes | Sequence[bytes], waited_ns: int = 0) -> int:
        """Publish the next slot as the next frame; returns its frame index.

        A sequence as ``metadata`` publishes one slot for each of its elements, all at once; returns the first frame
        index. ``waited_ns``: how long the camera waited for the (first) slot. The pixels must be written and the slots
        must be free. Check :attr:`state` afterwards.
        """
        frame = self.next_frame
        if isinstance(metadata, bytes):
            frames = 1
            self._write_header(self.published, frame, monotonic_ns, wall_ns, metadata, waited_ns)
        else:
            frames = len(metadata)
            for place, text in enumerate(metadata):
                waited = 0 if place else waited_ns
                self._write_header(self.published + place, frame + place, monotonic_ns, wall_ns, text, waited)
        if frame + frames > MAX_FRAMES:
            raise ValueError(f"{frames} frames from index {frame} on go over the limit of {MAX_FRAMES}")
        self.published += frames
        self.next_frame = frame + frames
        self._words[PUBLISHED] = self.published
        self._words[FRONTIER] = self.next_frame
        self._fence()
        return frame

    def _write_header(
        self, sequence: int, frame: int, monotonic_ns: int, wall_ns: int, metadata: bytes, waited_ns: int
    ) -> None:
        words, header = self._words, self._header(sequence)
        if metadata:
            if len(metadata) > self._metadata_max_bytes:
                raise ValueError(f"{len(metadata)} bytes of metadata, {self._metadata_max_bytes} bytes fit into a slot")
            start = header * 8 + METADATA
            self._memory[start : start + len(metadata)] = metadata
        words[header + FRAME_INDEX] = frame
        words[header + MONOTONIC_NS] = monotonic_ns
        words[header + WALL_NS] = wall_ns
        words[header + METADATA_BYTES] = len(metadata)
        words[header + WAITED_NS] = waited_ns

    def add_gap(self, count: int, kind: int) -> None:
        """Make the next ``count`` frame indexes a gap.

        The table gets an entry only when the kind of gap changes. If it is full of entries that the daemon has not
        read, the gap keeps the last kind; that it is a gap is always exact.
        Raises TypeError or ValueError before a cursor changes, so that no other kind of number gets into it.
        """
        if type(count) is not int:
            raise TypeError(f"a gap is an int of frames, not a {type(count).__name__}")
        if not 0 < count <= MAX_FRAMES - self.next_frame or kind not in GAP_NAMES:
            raise ValueError(f"invalid gap: {count} frames of kind {kind} at frame index {self.next_frame}")
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
        """Ask the daemon to ring when slots are released, or to stop doing so."""
        self._words[PRODUCER_WAITS] = int(waits)
        self._fence()

    def release(self) -> None:
        """Release the memory, so that the segment can be unmapped."""
        self._memory.release()


def read_failure(words: memoryview, memory: memoryview) -> Failure | None:
    """The failure that the daemon left; None if there is none, or while it is being replaced."""
    length = words[layout.FAILURE // 8]
    if not 0 < length <= layout.FAILURE_MAX_BYTES:
        return None
    start = layout.FAILURE + 8
    try:
        return Failure.unpack(bytes(memory[start : start + length]))
    except ValueError:
        return None
