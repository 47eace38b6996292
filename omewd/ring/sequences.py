"""Which frame is in which slot, and which frame indexes are gaps. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from omewd.errors import OmewdError
from omewd.model.dtypes import MAX_FRAMES


@dataclass(frozen=True)
class Piece:
    """A run of ``count`` frames in consecutive slots, from frame index ``frame`` and sequence ``sequence`` on."""

    frame: int
    sequence: int
    count: int


class SequenceMap:
    """The frames of a ring by index, read from slot headers.

    Frame indexes grow by at least one from slot to slot. So ``index - sequence`` never falls, and rises only at a gap:
    without gaps, an update only reads the newest slot.
    """

    def __init__(self, sequence: int = 0, frame: int = 0) -> None:
        """Start at a sequence; all slots from there on hold frame indexes from ``frame`` on."""
        self._first_sequences: list[int] = [sequence]
        self._first_frames: list[int] = [frame]
        self.published = sequence

    @property
    def frontier(self) -> int:
        """One past the highest published frame index; the first index if nothing is published."""
        return self.published - self._first_sequences[-1] + self._first_frames[-1]

    def update(self, published: int, index_of: Callable[[int], int], most: int = MAX_FRAMES) -> None:
        """Take in the slots up to ``published``; ``index_of(sequence)`` reads a slot's frame index.

        Raises OmewdError ``bad_ring`` if the indexes do not grow, or if one reaches ``most``.
        """
        # Read once: the producer could change it between two reads.
        newest = index_of(published - 1) - (published - 1) if published > self.published else 0
        while self.published < published:
            offset = self._first_frames[-1] - self._first_sequences[-1]
            if not offset <= newest < most - (published - 1):
                raise _damaged(published - 1, newest + published - 1, offset + published - 1, most)
            if newest == offset:
                self.published = published
                return
            low, high = self.published, published - 1
            while low < high:
                middle = (low + high) // 2
                if index_of(middle) - middle > offset:
                    high = middle
                else:
                    low = middle + 1
            frame = index_of(low)
            if not offset < frame - low <= newest:
                raise _damaged(low, frame, offset + low + 1, newest + low + 1)
            if low == self._first_sequences[-1]:  # a gap before the first frame of the run
                self._first_frames[-1] = frame
            else:
                self._first_sequences.append(low)
                self._first_frames.append(frame)
            self.published = low + 1

    def next_frame(self, frame: int) -> int | None:
        """The lowest published frame index that is at least ``frame``; None if there is none."""
        return next((piece.frame for piece in self.pieces(frame, MAX_FRAMES)), None)

    def released_below(self, frame: int) -> int:
        """The sequence of the first slot whose frame index is not below ``frame``."""
        run = bisect_right(self._first_frames, frame) - 1
        if run < 0:
            return self._first_sequences[0]
        end = self._first_sequences[run + 1] if run + 1 < len(self._first_sequences) else self.published
        return min(self._first_sequences[run] + frame - self._first_frames[run], end)

    def forget_below(self, sequence: int) -> None:
        """Forget what only concerns slots below ``sequence``."""
        keep = max(bisect_right(self._first_sequences, sequence) - 1, 0)
        del self._first_sequences[:keep]
        del self._first_frames[:keep]

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The published frames with indexes in [start, stop), as runs of consecutive slots."""
        runs = len(self._first_frames)
        for run in range(max(bisect_right(self._first_frames, start) - 1, 0), runs):
            sequence, frame = self._first_sequences[run], self._first_frames[run]
            end = self._first_sequences[run + 1] if run + 1 < runs else self.published
            if frame >= stop:
                return
            first, last = max(frame, start), min(frame + end - sequence, stop)
            if first < last:
                yield Piece(first, sequence + first - frame, last - first)

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The frame indexes in [start, stop) that no slot holds, as (first, count).

        Only valid for indexes that have not been forgotten and are below the producer's frontier.
        """
        at = start
        for piece in self.pieces(start, stop):
            if piece.frame > at:
                yield at, piece.frame - at
            at = piece.frame + piece.count
        if at < stop:
            yield at, stop - at


def _damaged(sequence: int, frame: int, least: int, most: int) -> OmewdError:
    return OmewdError(
        "bad_ring",
        f"the ring is damaged: slot {sequence} holds frame {frame}, but frame indexes must grow, and this one must be "
        f"from {least} to {most - 1}",
        "Correct the camera's program",
    )
