"""The daemon's end of a ring.

:mod:`omewd.ring.ring` is the producer's end, and says how the two agree on which frames count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter

from omewd.errors import Loss, OmewdError
from omewd.model.dtypes import MAX_FRAMES
from omewd.ring import layout
from omewd.ring.failure import Failure
from omewd.ring.layout import (
    COPIED,
    DOORBELL_AT,
    DURABLE,
    FINAL_FRONTIER,
    FINAL_PUBLISHED,
    FRAME_INDEX,
    FRONTIER,
    GAP_KINDS,
    GAP_KINDS_READ,
    GAP_SKIPPED,
    GAP_TABLE,
    GAP_TABLE_ENTRIES,
    MONOTONIC_NS,
    PRODUCER,
    PRODUCER_WAITS,
    PUBLISHED,
    RELEASED,
    SLOT_HEADERS,
    STATE,
    UNSET,
)
from omewd.ring.progress import Progress, read_progress, write_progress
from omewd.ring.ring import Fence, read_failure
from omewd.ring.segment import Segment
from omewd.ring.sequences import SequenceMap

# No producer skips or drops more frame indexes than this between two polls: at a million a second it takes 18 minutes.
MAX_JUMP = 2**30
# A few entries take a producer as long as reading the cursor takes the daemon.
_TABLES_WHILE_READING = 10
# Far more changes than a camera's units have in flight. Of gaps beyond them, only the kind may be that of the last one.
_MOST_KINDS = 100_000
_MAGIC_WORD = int.from_bytes(layout.MAGIC, "little")


class DaemonRing:
    """The daemon's end: takes in what is published, releases slots, and stops or fails the stream.

    A new one continues from what the last daemon left in the segment.
    """

    def __init__(self, segment: Segment) -> None:
        self.geometry = segment.geometry
        self._segment = segment
        self._words = segment.words
        self._fence = Fence()
        self._header_words = self.geometry.slot_header_stride // 8
        self.progress, self._records = read_progress(self._words)
        self.map = SequenceMap(self.progress.released, self.progress.frames)
        self.frontier = self.progress.frames
        self._kinds: list[tuple[int, int]] = []
        self._last_kind_at = 0
        # The daemon keeps its own cursors here and only stores them in the segment, where others may overwrite them.
        self._released = self._words[RELEASED]
        self._kinds_read = self._words[GAP_KINDS_READ]
        self._is_final = self._words[FINAL_PUBLISHED] != UNSET
        self._doorbell_at = UNSET

    def resume(self) -> None:
        """Take over another daemon's ring; raises OmewdError ``bad_ring`` if the cursors are damaged."""
        words, progress = self._words, self.progress
        if not progress.is_sound:
            raise OmewdError(
                "bad_ring",
                f"the ring's record of progress is damaged: {progress.frames} frames, of which {progress.released} "
                f"were in slots, {progress.skipped} skipped and {progress.dropped} dropped; {progress.units} units of "
                f"{progress.stored_bytes} bytes",
            )
        if not progress.released - self.geometry.capacity <= self.released <= progress.released:
            raise OmewdError(
                "bad_ring", f"the ring's cursors are damaged: released {self.released}, on record {progress.released}"
            )
        self._released = words[RELEASED] = progress.released  # the record is written first, so it is the newer one
        # Read the table again: entries that the last daemon has read stay until they are overwritten, maybe just now.
        # The producer may add entries in the meantime. Each time, it gets through a table at most; a damaged cursor is
        # found when they are read.
        self._kinds_read = words[GAP_KINDS_READ] = 0
        for _ in range(_TABLES_WHILE_READING):
            written = words[GAP_KINDS]
            if written - self._kinds_read < GAP_TABLE_ENTRIES:
                break
            self._kinds_read = words[GAP_KINDS_READ] = written - GAP_TABLE_ENTRIES + 1
        self._read_gap_kinds()
        final = words[FINAL_PUBLISHED]
        if final == UNSET:
            if self.state == layout.STATE_OPEN:
                self.poll()
            else:
                failed = self.state == layout.STATE_FAILED
                self._close(layout.STATE_FAILED if failed else layout.STATE_STOPPED)
        else:
            if self.state == layout.STATE_OPEN:  # a daemon stores the state first
                raise OmewdError("bad_ring", "the ring's cursors are damaged: it is open, and has a final cursor")
            self._take_in(final, words[FINAL_FRONTIER])
            self._is_final = True

    @property
    def state(self) -> int:
        return self._words[STATE]

    @property
    def is_complete(self) -> bool:
        """Whether the last daemon has marked the dataset as complete.

        Raises OmewdError ``bad_ring`` if someone else did: frames are not on disk.
        """
        if self.state != layout.STATE_DONE:
            return False
        final, done = self._words[FINAL_FRONTIER], self.progress.frames
        if not self._is_final or done != final:
            raise OmewdError(
                "bad_ring", f"the ring is damaged: it says that the dataset is complete, with {done} of {final} frames"
            )
        return True

    @property
    def failure(self) -> Failure | None:
        with memoryview(self._segment.memory) as memory:
            return read_failure(self._words, memory)

    @property
    def producer(self) -> int:
        """The number of the attached producer's process, 0 for none."""
        return self._words[PRODUCER]

    def note_producer(self, process: int) -> None:
        """Put the number of the producer's process on record, 0 for none."""
        self._words[PRODUCER] = process

    def format(self) -> None:
        """Initialise a new segment. The geometry is written last, and makes the segment valid."""
        words = self._words
        words[FINAL_PUBLISHED], self._is_final = UNSET, False
        words[DOORBELL_AT] = 0
        words[STATE] = layout.STATE_OPEN
        head = self.geometry.pack()
        self._segment.memory[: len(head)] = head

    @property
    def released(self) -> int:
        return self._released

    @property
    def durable(self) -> int:
        return self._words[DURABLE]

    @property
    def copied(self) -> int:
        return self._words[COPIED]

    def note_copied(self, frame: int) -> None:
        """Show the producer that all frame indexes below ``frame`` are in the copy's store."""
        self._words[COPIED] = frame

    @property
    def producer_waits(self) -> bool:
        return bool(self._words[PRODUCER_WAITS])

    @property
    def newest_frame_ns(self) -> int | None:
        """The monotonic time at which the producer published the newest frame that was taken in; None if there is none.

        It is what the producer has written: any number.
        """
        newest = self.map.published - 1
        return self._words[self._header_of(newest) + MONOTONIC_NS] if newest >= 0 else None

    def _index_of(self, sequence: int) -> int:
        return self._words[self._header_of(sequence) + FRAME_INDEX]

    def _header_of(self, sequence: int) -> int:
        """The word at which the header of a sequence's slot starts."""
        return SLOT_HEADERS // 8 + sequence % self.geometry.capacity * self._header_words

    def poll(self) -> None:
        """Take in what the producer has published or skipped since the last poll.

        The frontier is read before ``published``, so that every index below it that is in no slot is a gap for good.
        Raises OmewdError ``bad_ring`` if the cursors break the ring's invariant, or if the segment was truncated.
        """
        if not self._is_final:
            frontier = self._words[FRONTIER]
            self._take_in(self._words[PUBLISHED], frontier)

    def _take_in(self, published: int, frontier: int) -> None:
        if not self._segment.is_whole or self._words[0] != _MAGIC_WORD:
            raise OmewdError(
                "bad_ring",
                "the ring was cut short or its header overwritten, by the program that shares it",
                "Correct the camera's program",
            )
        most = min(self.frontier + MAX_JUMP, MAX_FRAMES)
        if frontier > most or not self.map.published <= published <= self._released + self.geometry.capacity:
            raise OmewdError(
                "bad_ring",
                f"the ring's cursors are damaged: frontier {frontier}, before {self.frontier}, "
                f"published {published}, seen {self.map.published}, released {self._released}, "
                f"capacity {self.geometry.capacity}",
                "Correct the camera's program",
            )
        self.map.update(published, self._index_of, most)
        if frontier > self.map.frontier and not self._words[GAP_KINDS]:  # a gap's kind is stored before the gap
            raise OmewdError(
                "bad_ring",
                f"the ring is damaged: frames {self.map.frontier} to {frontier - 1} are in no slot, and no gap is "
                "recorded",
                "Correct the camera's program",
            )
        self.frontier = max(self.frontier, frontier, self.map.frontier)
        self._read_gap_kinds()

    def _read_gap_kinds(self) -> None:
        read, written = self._kinds_read, self._words[GAP_KINDS]
        if read == written:
            return
        if not 0 < written - read <= GAP_TABLE_ENTRIES:
            raise OmewdError(
                "bad_ring",
                f"the ring's gap kinds are damaged: {written} written, {read} read, room for {GAP_TABLE_ENTRIES}",
            )
        for number in range(read, written):
            entry = GAP_TABLE + number % GAP_TABLE_ENTRIES * 2
            first, kind = self._words[entry], self._words[entry + 1]
            if not self._last_kind_at <= first <= MAX_FRAMES:
                raise OmewdError("bad_ring", f"the ring's gap kinds are damaged: one starts at frame {first}")
            self._last_kind_at = first
            self._note_kind(first, kind)
        self._kinds_read = self._words[GAP_KINDS_READ] = written

    def _note_kind(self, first: int, kind: int) -> None:
        """Note that gaps from a frame index on are of a kind. Only changes are kept, and not without end."""
        if self._kinds and self._kinds[-1][0] == first:
            self._kinds.pop()
        if len(self._kinds) < _MOST_KINDS and not (self._kinds and self._kinds[-1][1] == kind):
            self._kinds.append((first, kind))

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
        """The kind of gap at a frame index, and the index at which the next kind starts."""
        place = bisect_right(self._kinds, frame, key=itemgetter(0))
        kind = self._kinds[place - 1][1] if place else GAP_SKIPPED
        return kind, self._kinds[place][0] if place < len(self._kinds) else UNSET

    def release_below(self, frame: int, *, durable: bool, units: int = 0, stored_bytes: int = 0) -> bool:
        """Release the slots of all frames below ``frame``; returns whether there were any.

        ``units``: how many write units are stored by then. ``stored_bytes``: their size on disk.
        """
        sequence = self.map.released_below(frame)
        before = self.progress
        if (units, frame) != (before.units, before.frames):
            gaps = {"skipped": before.skipped, "dropped": before.dropped}
            for _, count, kind in self.gaps(before.frames, frame):
                gaps[kind] += count
            self.progress = Progress(units, frame, sequence, gaps["skipped"], gaps["dropped"], stored_bytes)
            self._records += 1
            write_progress(self._words, self.progress, self._records)
        if durable:
            self._words[DURABLE] = frame
        del self._kinds[: max(bisect_right(self._kinds, frame, key=itemgetter(0)) - 1, 0)]
        if sequence <= self._released:
            return False
        self._released = self._words[RELEASED] = sequence
        self._fence()
        self.map.forget_below(sequence)
        return True

    def ring_at(self, frame: int) -> bool:
        """Ask for the doorbell once the frontier reaches ``frame``; returns whether it has reached it already."""
        self._doorbell_at = self._words[DOORBELL_AT] = frame
        self._fence()
        return self._words[FRONTIER] >= frame

    @property
    def is_behind(self) -> bool:
        """Whether the frontier has reached the frame of the doorbell, or the table of gap kinds fills up."""
        words = self._words
        return words[FRONTIER] >= self._doorbell_at or words[GAP_KINDS] - self._kinds_read >= GAP_TABLE_ENTRIES // 2

    def stop(self) -> None:
        """Take no more frames. What is published by now counts; nothing after it does."""
        if not self._is_final:
            self._close(layout.STATE_STOPPED)

    def _close(self, state: int) -> None:
        self._words[STATE] = state
        self._fence()
        self.poll()
        self._words[FINAL_FRONTIER] = self.frontier
        self._words[FINAL_PUBLISHED] = self.map.published
        self._is_final = True

    def finish(self) -> None:
        """Mark the dataset as complete. A producer sees it here even after the daemon is gone."""
        self._words[STATE] = layout.STATE_DONE

    def note_durable(self) -> None:
        """Move ``durable`` up to the record: the last daemon may have died before it did."""
        self._words[DURABLE] = max(self._words[DURABLE], self.progress.frames)

    def revive(self) -> None:
        """Let a failed stream go on with what is in the ring. It takes no more frames."""
        self._words[layout.FAILURE // 8] = 0
        self._words[STATE] = layout.STATE_STOPPED
        self._fence()

    def fail(self, reason: OmewdError, loss: Loss | None = None) -> None:
        """Take no more frames, and leave the reason for the producer, with the loss once it is known."""
        text = Failure(reason, loss).pack()
        start = layout.FAILURE + 8
        self._words[layout.FAILURE // 8] = 0
        self._segment.memory[start : start + len(text)] = text
        self._words[layout.FAILURE // 8] = len(text)
        if self._is_final:
            self._words[STATE] = layout.STATE_FAILED
            return
        try:
            self._close(layout.STATE_FAILED)
        except OmewdError:  # a damaged ring must not hide the reason
            self._words[FINAL_FRONTIER] = self.frontier
            self._words[FINAL_PUBLISHED] = self._words[PUBLISHED]
            self._is_final = True
