"""The view: how any process looks at the frames of a stream, without copies and without slowing anything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from omewd.client.connection import Connection
from omewd.errors import OmewdError
from omewd.protocol.descriptors import close_all
from omewd.ring import pixels
from omewd.ring.layout import (
    DURABLE,
    FINAL_FRONTIER,
    FRAME_INDEX,
    PUBLISHED,
    RELEASED,
    SLOT_HEADERS,
    STATE,
    STATE_DONE,
)
from omewd.ring.progress import read_progress
from omewd.ring.segment import Segment

if TYPE_CHECKING:
    from omewd.model.spec.spec import StreamSpec
    from omewd.reader.stored import Recorded, StoredFrames

Array = np.ndarray[Any, Any]


def view(name: str, *, source: str | int | None = None, socket: str | os.PathLike[str] | None = None) -> View:
    """Look at a stream, open or ended, from any process that may use the daemon.

    ``source``: the source's name or number, if the stream has several. ``socket``: the daemon's control socket; the
    default is $OMEWD_SOCKET, then the default of ``omewd serve``.
    Raises OmewdError: ``unknown_stream``, ``unknown_source``, ….
    """
    connection = Connection(socket, kind="viewer")
    try:
        status, descriptors = connection.request("view", name=name, source=source)
        if len(descriptors) > 1:
            close_all(descriptors)
            raise OmewdError("bad_message", f"the daemon sent {len(descriptors)} descriptors instead of one")
        segment = None
        if descriptors:
            segment = Segment.open(descriptors[0], owner=connection.daemon_user, writable=False)
    finally:
        connection.close()
    return View(status, segment)


def require_number(seen: View, number: int | None) -> None:
    """Raise OmewdError ``no_frame`` unless a view is of the stream with the daemon's number, if one is given."""
    if number not in (None, seen.number):
        raise OmewdError("no_frame", f"another stream has the name {seen.name!r} by now", "Try again")


class ViewedFrame:
    """A frame as it was found. ``array``: shape (Y, X), read-only.

    A frame from the ring is a view of its slot, which the producer uses again later. So look at the pixels first, and
    then ask :attr:`is_intact` whether the slot still holds this frame; or take a :meth:`copy`.
    """

    def __init__(self, index: int, array: Array, view: View, sequence: int | None, recorded: Recorded | None) -> None:
        self.index, self.array = index, array
        self._view, self._sequence, self._recorded = view, sequence, recorded

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The metadata that the producer gave; None if it gave none.

        For a frame from the dataset, this looks in the ledger; the first look of a view reads all of it. Raises
        OmewdError ``not_stored`` if the ledger can't be read.
        """
        return self._record()[0]

    @property
    def wall_ns(self) -> int | None:
        """The wall-clock time at which the frame was published, in ns; None for a gap. Found as the metadata is."""
        return self._record()[1]

    def _record(self) -> Recorded:
        if self._recorded is None:
            self._recorded = self._view._dataset().recorded(self.index)
        return self._recorded

    @property
    def in_ring(self) -> bool:
        """Whether the frame is from the ring; otherwise it is from the dataset."""
        return self._sequence is not None

    @property
    def is_intact(self) -> bool:
        """Whether ``array`` still holds this frame."""
        return self._sequence is None or self._view._holds(self._sequence, self.index)

    def copy(self, step: int = 1) -> Array:
        """A copy of the pixels, or of each ``step``-th along both sides.

        Raises OmewdError ``overwritten`` if the slot was used again.
        """
        pixels = np.array(self.array[::step, ::step])
        if not self.is_intact:
            raise OmewdError(
                "overwritten", f"frame {self.index} has left the ring", "Ask for it again, or for a later one"
            )
        return pixels

    def at_level(self, level: int) -> Array:
        """A copy of the pixels at one of the dataset's resolutions, which halves both sides ``level`` times.

        Planes of a stack are not mixed. Raises OmewdError ``overwritten`` as :meth:`copy` does.
        """
        pixels = self.copy()
        if level:
            from omewd.store.pyramid import halve

            for _ in range(level):
                pixels, _ = halve(pixels, [axis for axis in (0, 1) if pixels.shape[axis] > 1], self._view.downsample)
        return pixels


class View:
    """The frames of one source of a stream: from its ring while they are there, and from the dataset once durable.

    A view also works after the stream has ended. It never writes, locks or waits. ``number``: the daemon's for the
    stream, which another stream of the name does not have.
    """

    def __init__(self, status: dict[str, Any], segment: Segment | None) -> None:
        self.name: str = status["name"]
        self.number: int = status["id"]
        self.path = Path(status["path"])
        self.shape: tuple[int, int] = tuple(status["frame_shape"])
        self.dtype = np.dtype(status["dtype"])
        self.source: int = status["source"]
        self._spec, self._details = status["spec"], status.get("attachment", b"")
        self.downsample: str = self._spec.get("downsample", "mean")
        self._is_durable = status["durability"] == "fsync"
        self.backend: str = status["backend"]
        self.epoch: int = status["epoch"]
        self._segment = segment
        self._slots = None if segment is None else pixels.slots(segment)
        self._ended_with: int = status["sources"][self.source]["frames"]["received"]
        self._stored: StoredFrames | None = None

    # -- frames --------------------------------------------------------------------------------

    @property
    def has_ring(self) -> bool:
        """Whether the ring was there when the view was opened."""
        return self._segment is not None

    @property
    def stored(self) -> int:
        """All frame indexes below this one are in the dataset, durably unless the stream has ``durability="none"``."""
        if self._segment is None:
            return self._ended_with
        words = self._segment.words
        if words[STATE] == STATE_DONE:
            return words[FINAL_FRONTIER]
        return words[DURABLE] if self._is_durable else read_progress(words)[0].frames

    def latest(self) -> ViewedFrame | None:
        """The newest frame, from the ring, or from the dataset once the ring is gone; None if there is none yet."""
        if self._segment is None:
            index = self._dataset().last_written(self.stored)
            return None if index is None else self.frame(index)
        while True:
            published = self._segment.words[PUBLISHED]
            if not published:
                return None
            sequence = published - 1
            index = self._index_at(sequence)
            if self._holds(sequence, index):
                return self._of_slot(sequence, index)

    def frame(self, index: int) -> ViewedFrame:
        """The frame of an index, from the ring if it is there, else from the dataset.

        A gap in the dataset reads as zeros. Raises OmewdError ``no_frame`` if the frame is in neither of them,
        ``not_stored`` if the dataset has lost it or is gone, ``evicted`` if a copy alone has it.
        """
        if self._segment is not None:
            sequence = self._sequence_of(index)
            if sequence is not None and self._holds(sequence, index):
                return self._of_slot(sequence, index)
        if not 0 <= index < self.stored:
            raise OmewdError(
                "no_frame",
                f"frame {index} of stream {self.name!r} is neither in the ring nor in the dataset, "
                f"which has the frames below {self.stored}",
                "It is still to come, on its way to the disk, or a gap",
            )
        return ViewedFrame(index, self._dataset().read(index), self, None, None)

    def _dataset(self) -> StoredFrames:
        if self._stored is None:
            from omewd.reader.stored import StoredFrames

            spec = self.stream_spec()
            self._stored = StoredFrames(spec, self.path, self.source, backend=self.backend, epoch=self.epoch)
        return self._stored

    def stream_spec(self) -> StreamSpec:
        """The stream's specification, which is only read if it is needed."""
        from omewd.model.spec.outline import join
        from omewd.model.spec.stored import stored_spec

        return stored_spec(join(self._spec, self._details))

    # -- the ring ------------------------------------------------------------------------------

    def _index_at(self, sequence: int) -> int:
        assert self._segment is not None
        geometry = self._segment.geometry
        header = (SLOT_HEADERS + sequence % geometry.capacity * geometry.slot_header_stride) // 8
        return self._segment.words[header + FRAME_INDEX]

    def _holds(self, sequence: int, index: int) -> bool:
        """Whether a slot still holds a frame: the producer only fills it again once it is released."""
        assert self._segment is not None
        words, capacity = self._segment.words, self._segment.geometry.capacity
        same = self._index_at(sequence) == index
        return same and (words[PUBLISHED] < sequence + capacity or words[RELEASED] <= sequence)

    def _sequence_of(self, index: int) -> int | None:
        """The sequence that holds a frame index, or None, by bisection: frame indexes only grow."""
        assert self._segment is not None
        words, capacity = self._segment.words, self._segment.geometry.capacity
        while True:
            published = words[PUBLISHED]
            low, high = max(published - capacity, 0), published
            while low < high:
                middle = (low + high) // 2
                if self._index_at(middle) < index:
                    low = middle + 1
                else:
                    high = middle
            if low < published and self._index_at(low) == index:
                return low
            if words[PUBLISHED] == published:  # else slots may have been overwritten during the search
                return None

    def _of_slot(self, sequence: int, index: int) -> ViewedFrame:
        assert self._segment is not None
        assert self._slots is not None
        _, _, wall_ns, text = pixels.header(self._segment, sequence)
        array = self._slots[sequence % self._segment.geometry.capacity]
        try:
            metadata = json.loads(text) if text else None
        except ValueError:  # it is being overwritten
            metadata = None
        return ViewedFrame(index, array, self, sequence, (metadata, wall_ns))

    # -- ending --------------------------------------------------------------------------------

    def close(self) -> None:
        """Release the ring. Arrays that are still held keep their memory."""
        self._slots = None
        if self._segment is not None:
            self._ended_with = self.stored
            self._segment.close()
            self._segment = None

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
