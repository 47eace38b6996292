"""The two ends of a ring: what the producer stores and reads, and what the daemon stores and reads.

Nothing here waits or makes a system call. See :mod:`omewd.ring.layout` for the picture.

Stopping a stream and publishing a frame can happen at once. The producer stores ``published``, passes a
fence and reads ``state``; the daemon stores ``state``, passes a fence and reads ``published``. So at least
one of them sees the other: either the daemon counts the frame, or the producer learns that it has to
ask ``FINAL_PUBLISHED`` whether the frame was counted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

from omewd.errors import OmewdError
from omewd.model.dtypes import MAX_FRAMES
from omewd.ring import layout
from omewd.ring.layout import (
    DOORBELL_AT,
    DURABLE,
    FINAL_PUBLISHED,
    FRAME_INDEX,
    FRONTIER,
    GAP_KINDS,
    GAP_KINDS_READ,
    GAP_SKIPPED,
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
    UNSET,
    WAITED_NS,
    WALL_NS,
)
from omewd.ring.segment import Segment
from omewd.ring.sequences import SequenceMap


class _Fence:
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
        self._fence = _Fence()
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
        length = self._words[layout.FAILURE // 8]
        if not 0 < length <= layout.FAILURE_MAX_BYTES:
            return None
        start = layout.FAILURE + 8
        try:
            return OmewdError.from_dict(json.loads(bytes(self._memory[start : start + length])))
        except ValueError:
            return None

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


class DaemonRing:
    """The daemon's end: takes note of what is published, gives slots back, stops and fails."""

    def __init__(self, segment: Segment) -> None:
        self.geometry = segment.geometry
        self._segment = segment
        self._words = segment.words
        self._fence = _Fence()
        self._header_words = self.geometry.slot_header_stride // 8
        self.map = SequenceMap()
        self.frontier = 0
        self._kinds: list[tuple[int, int]] = []

    def format(self) -> None:
        """Write the first state of a new segment; the geometry is last, and makes it valid."""
        words = self._words
        words[FINAL_PUBLISHED] = UNSET
        words[DOORBELL_AT] = 0
        words[STATE] = layout.STATE_OPEN
        head = self.geometry.pack()
        self._segment.memory[: len(head)] = head

    @property
    def released(self) -> int:
        return self._words[RELEASED]

    @property
    def durable(self) -> int:
        return self._words[DURABLE]

    @property
    def producer_waits(self) -> bool:
        return bool(self._words[PRODUCER_WAITS])

    def _index_of(self, sequence: int) -> int:
        header = SLOT_HEADERS // 8 + sequence % self.geometry.capacity * self._header_words
        return self._words[header + FRAME_INDEX]

    def poll(self) -> None:
        """Take in what the producer has published or skipped since the last poll.

        The frontier is read before ``published``: whatever is below it and in no slot is a gap for good.
        Raises OmewdError ``bad_ring`` if the cursors break the ring's rule.
        """
        final = self._words[FINAL_PUBLISHED]
        if final != UNSET:
            return
        frontier = self._words[FRONTIER]
        published = self._words[PUBLISHED]
        if frontier > MAX_FRAMES or not self.map.published <= published <= self.released + self.geometry.capacity:
            raise OmewdError(
                "bad_ring",
                f"the ring's cursors are damaged: frontier {frontier}, published {published}, "
                f"seen {self.map.published}, "
                f"released {self.released}, capacity {self.geometry.capacity}",
            )
        self.map.update(published, self._index_of)
        self.frontier = max(self.frontier, frontier, self.map.frontier)
        self._read_gap_kinds()

    def _read_gap_kinds(self) -> None:
        read, written = self._words[GAP_KINDS_READ], self._words[GAP_KINDS]
        if read == written:
            return
        if not 0 < written - read <= GAP_TABLE_ENTRIES:
            raise OmewdError(
                "bad_ring", f"the ring's gap kinds are damaged: {written} of them, {read} read, {GAP_TABLE_ENTRIES} fit"
            )
        for number in range(read, written):
            entry = GAP_TABLE + number % GAP_TABLE_ENTRIES * 2
            self._kinds.append((self._words[entry], self._words[entry + 1]))
        self._words[GAP_KINDS_READ] = written

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
        """Runs of gaps in [start, stop) as (first frame index, count, "skipped" or "dropped")."""
        for first, count in self.map.gaps(start, stop):
            end = first + count
            while first < end:
                kind, upto = self._kind_at(first)
                run = min(end, upto) - first
                yield first, run, layout.GAP_NAMES.get(kind, "skipped")
                first += run

    def _kind_at(self, frame: int) -> tuple[int, int]:
        """The kind of a gap at a frame index, and the index at which the next kind begins."""
        kind, upto = GAP_SKIPPED, UNSET
        for first, candidate in reversed(self._kinds):
            if first <= frame:
                kind = candidate
                break
            upto = first
        return kind, upto

    def release_below(self, frame: int, *, durable: bool) -> bool:
        """Give back the slots of all frames below ``frame``; returns whether any was."""
        sequence = self.map.released_below(frame)
        if durable:
            self._words[DURABLE] = frame
        if sequence <= self.released:
            return False
        self._words[RELEASED] = sequence
        self._fence()
        self.map.forget_below(sequence)
        while len(self._kinds) > 1 and self._kinds[1][0] <= frame:
            del self._kinds[0]
        return True

    def ring_at(self, frame: int) -> None:
        """Ask the producer to ring once its frontier gets to ``frame``."""
        self._words[DOORBELL_AT] = frame
        self._fence()

    def stop(self) -> None:
        """Take no more frames: what is published by now counts, and nothing after it."""
        if self._words[FINAL_PUBLISHED] != UNSET:
            return
        self._words[STATE] = layout.STATE_STOPPED
        self._fence()
        self.poll()
        self._words[FINAL_PUBLISHED] = self.map.published

    def finish(self) -> None:
        """The dataset is complete: a producer can see it here even when the daemon has gone since."""
        self._words[STATE] = layout.STATE_DONE

    def fail(self, error: OmewdError) -> None:
        """Leave the reason for the producer and take no more frames."""
        text = json.dumps(error.to_dict()).encode()
        kept = max(len(error.message), len(error.remedy))
        while len(text) > layout.FAILURE_MAX_BYTES:
            kept = kept * 3 // 4
            short = type(error)(error.code, _cut(error.message, kept), _cut(error.remedy, min(kept, 400)))
            text = json.dumps(short.to_dict()).encode()
        start = layout.FAILURE + 8
        self._words[layout.FAILURE // 8] = 0
        self._segment.memory[start : start + len(text)] = text
        self._words[layout.FAILURE // 8] = len(text)
        self._words[STATE] = layout.STATE_FAILED
        self._fence()
        if self._words[FINAL_PUBLISHED] == UNSET:
            self._words[FINAL_PUBLISHED] = self._words[PUBLISHED]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + " …"
