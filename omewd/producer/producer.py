"""The producer: how a camera process hands its frames over."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from omewd.client.connection import Connection
from omewd.errors import OmewdError, ring_full, stream_stopped
from omewd.producer.handover import Handover
from omewd.producer.link import Link
from omewd.producer.slot import Claims, Slot
from omewd.producer.values import (
    Metadata,
    as_frame,
    block_metadata,
    one_metadata,
    skip_count,
    source_of,
    timeout_seconds,
)
from omewd.protocol.descriptors import close_all
from omewd.ring.layout import GAP_SKIPPED
from omewd.ring.prefault import STEP_BYTES, populate
from omewd.ring.segment import Segment

Frame = np.ndarray[Any, Any]

# A block is published in pieces of about this size, so that the writers start before all of it is copied.
_PIECE_BYTES = 1 << 24


def connect(name: str, *, source: str | int | None = None, socket: str | os.PathLike[str] | None = None) -> Producer:
    """Attach to an open stream as the producer of one source. The ring is mapped and prefaulted when this returns.

    ``source``: the source's name or number, if the stream has several. ``socket``: the daemon's control socket; the
    default is $OMEWD_SOCKET, then the default of ``omewd serve``.
    Raises OmewdError: ``unknown_stream``, ``unknown_source``, ``producer_exists``, ``stream_stopped``, ….
    """
    source = source_of(source)
    connection = Connection(socket, kind="producer")
    try:
        status, descriptors = connection.request("attach", name=name, source=source, brief=True)
    except BaseException:
        connection.close()
        raise
    if len(descriptors) != 2:
        close_all(descriptors)
        connection.close()
        raise OmewdError("bad_message", f"the daemon sent {len(descriptors)} descriptors instead of 2")
    ring, bell = descriptors
    try:
        segment = Segment.open(ring, owner=connection.daemon_user, writable=True)
    except BaseException:
        close_all([bell])
        connection.close()
        raise
    at = 0
    while populate(segment, at, writable=True):
        at += STEP_BYTES
    link = Link(connection, bell, segment.geometry, stream_id=status["id"], source=status["source"])
    return Producer(segment, link, samples=status.get("samples", 1))


class Producer:
    """Puts frames into one source's ring. Use it from one thread at a time.

    As a context manager, it waits at the end of the block until the dataset is complete on disk, or, while other
    sources go on, until all frames of this source are.
    """

    def __init__(self, segment: Segment, link: Link, *, samples: int = 1) -> None:
        self._segment = segment
        self._link = link
        self._handover = Handover(segment, link)
        self._ring = self._handover.ring
        self._slots = self._handover.slots
        self._claims = Claims(self._handover)
        self._geometry = segment.geometry
        self._samples = samples
        self._last_durable = self._last_copied = 0
        self._end: dict[str, Any] | OmewdError | None = None
        self._closed = False
        self.name = segment.geometry.name
        self.shape: tuple[int, int] = (segment.geometry.height, segment.geometry.width)
        self.dtype = np.dtype(segment.geometry.dtype)
        self.frames_total = segment.geometry.frames_total

    # -- handing frames over -------------------------------------------------------------------

    def append(
        self,
        frame: Frame,
        *,
        metadata: Metadata | Sequence[Metadata | None] | None = None,
        timeout: float | None = None,
    ) -> int | list[int | None] | None:
        """Copy a frame, or a block of frames, into the ring and publish it.

        ``frame``: an array of the stream's dtype with shape (Y, X), or (N, Y, X) for a block of N frames. Its byte
        order and strides may differ; the copy converts them. Colour streams with S samples a pixel also take (Y, X, S)
        and (N, Y, X, S): the S planes of a colour frame become S consecutive frames, and are taken together or not at
        all.

        Returns the frame index, or None if a full ring dropped the frame (policy ``drop``). For a colour frame it is
        the index of the first plane; for a block, a list with one entry for each frame.

        ``metadata``: a JSON-able mapping that is stored with the frame, for colour frames with each plane. ``delta_t``
        and ``exposure_time`` are in seconds; ``position_x``, ``position_y`` and ``position_z`` are in the units of the
        space dimensions. A block takes one mapping for all frames, or a sequence with one for each. ``timeout``: how
        many seconds to wait for a free slot (policy ``block``); None waits for ever.

        Raises before anything is published: OmewdError ``bad_frame``, ``bad_metadata``, ``bad_timeout``; RingFullError;
        StreamStoppedError; StreamFailedError. Only for a block may some frames have been taken before the time-out
        passed or the stream ended; the message says how many. A killed daemon is not an error: frames go into the ring
        until it is full, and the next daemon finds them there.
        """
        if type(frame) is not np.ndarray:
            frame = as_frame(frame)
        if frame.shape != self.shape or (frame.dtype != self.dtype and frame.dtype.newbyteorder() != self.dtype):
            return self._append_many(frame, metadata, timeout_seconds(timeout))
        text = b"" if metadata is None else one_metadata(metadata, self._geometry.metadata_max_bytes)
        self._check_open(1)
        waited_ns = self._handover.wait_for_slots(1, None if timeout is None else timeout_seconds(timeout))
        if waited_ns is None:
            self._handover.drop(1)
            return None
        self._slots[self._ring.slot] = frame
        index = self._handover.publish(text, waited_ns)
        taken = self._handover.announce(1)
        if taken is not None:
            self._handover.check_taken(taken, 1)
        return index

    def claim(self, *, timeout: float | None = None) -> Slot:
        """Reserve the next slot, which the camera fills itself. Several slots may be claimed at once.

        ``with producer.claim() as slot:`` publishes the slot on a clean exit of the block and gives it back on an
        exception. :meth:`Slot.publish` and :meth:`Slot.give_back` do the same without a block. Slots become visible in
        the order of their claims. The ring must hold the claimed slots in addition to the frames of a write unit. In a
        colour stream, a slot is one plane.

        Raises the errors of :meth:`append`; RingFullError also if all slots of the ring are claimed already.
        """
        if self._closed:
            raise self._is_closed()
        return self._claims.claim(timeout_seconds(timeout))

    def skip(self, frames: int = 1) -> None:
        """Leave the next ``frames`` frame indexes without a frame. They are on record, and read as the fill value.

        A colour frame counts as many frame indexes as it has samples. Raises OmewdError ``bad_frame`` unless
        ``frames`` is a whole number from 1 to 1,000,000.
        """
        count = skip_count(frames)
        self._check_open(count)
        self._ring.add_gap(count, GAP_SKIPPED)
        if self._ring.wants_doorbell:
            self._link.ring_doorbell()

    @property
    def durable(self) -> int:
        """All frame indexes below this one are safely on disk; stays 0 with ``durability="none"``."""
        return self._last_durable if self._closed else self._ring.durable

    @property
    def copied(self) -> int:
        """All frame indexes below this one are in the store of the stream's copy, confirmed; 0 if there is none.

        After the producer was closed, it no longer moves: see ``omewd.Client.wait(name, copied=True)``.
        """
        return self._last_copied if self._closed else self._ring.copied

    @property
    def metadata_max_bytes(self) -> int:
        """The longest metadata that a frame may have, in bytes of JSON."""
        return self._geometry.metadata_max_bytes

    @property
    def next_index(self) -> int:
        """The frame index that the next frame will have."""
        return self._ring.next_frame

    # -- the steps -----------------------------------------------------------------------------

    def _check_open(self, frames: int) -> None:
        """Raise if the stream does not take ``frames`` more frames."""
        if self._closed:
            raise self._is_closed()
        if claimed := len(self._claims.slots):
            raise OmewdError(
                "bad_frame",
                f"{claimed} {'slot is' if claimed == 1 else 'slots are'} claimed, and frames keep the order of claims",
                "Publish or give back the claimed slots first, for example by leaving the claim's block",
            )
        self._handover.check_open(frames)

    def _is_closed(self) -> OmewdError:
        return stream_stopped(f"the producer of stream {self.name!r} is closed", "Connect again if the stream is open")

    def _append_many(self, frame: Frame, metadata: object, timeout: float | None) -> int | list[int | None] | None:
        """Append a colour frame, or a block of frames."""
        planes, is_block = self._planes(frame)
        limit = self._geometry.metadata_max_bytes
        count, samples = planes.shape[:2]
        texts = block_metadata(metadata, count, limit) if is_block else [one_metadata(metadata, limit)]
        self._check_open(count * samples)
        capacity = self._geometry.capacity
        if samples > capacity or (
            self._geometry.backpressure == "fail" and self._ring.free(count * samples) < count * samples
        ):
            self._link.ring_doorbell()
            raise ring_full(
                f"the ring of stream {self.name!r} has {capacity} slots, {self._ring.free()} of them are free, "
                f"but {count * samples} frames came at once",
                "Use smaller blocks, a larger ring (`ring_slots`), or `backpressure='block'`",
            )
        indexes: list[int | None] = []
        try:
            self._put(planes, texts, timeout, indexes)
        except OmewdError as error:
            if not is_block:
                raise
            taken = sum(index is not None for index in indexes)
            message = f"{error.message} ({taken} of the block's {count} frames were taken)"
            raise error.with_text(message, error.remedy) from error
        return indexes if is_block else indexes[0]

    def _planes(self, frame: Frame) -> tuple[Frame, bool]:
        """An (N, S, Y, X) view of a colour frame or a block, and whether it is a block; raises ``bad_frame``."""
        samples, shape = self._samples, self.shape
        if frame.dtype == self.dtype or frame.dtype.newbyteorder() == self.dtype:
            if samples > 1 and frame.shape == (*shape, samples):
                return np.moveaxis(frame, -1, 0)[None], False
            if samples > 1 and frame.ndim == 4 and frame.shape[1:] == (*shape, samples):
                return np.moveaxis(frame, -1, 1), True
            if frame.ndim == 3 and frame.shape[1:] == shape:
                return frame[:, None], True
        colour = f", of {(*shape, samples)} in colour," if samples > 1 else ""
        raise OmewdError(
            "bad_frame",
            f"stream {self.name!r} takes frames of {shape} {self.dtype}{colour} and blocks of them, "
            f"but this one is {frame.shape} {frame.dtype}",
            "Convert the frame, or start the stream with the camera's shape and dtype",
        )

    def _put(self, planes: Frame, texts: list[bytes], timeout: float | None, indexes: list[int | None]) -> None:
        """Publish an array of shape (N, S, Y, X) in pieces; adds an entry to ``indexes`` for each finished frame."""
        deadline = None if timeout is None else time.monotonic() + timeout
        handover, ring, slots, capacity = self._handover, self._ring, self._slots, self._geometry.capacity
        count, samples = planes.shape[:2]
        piece = max(1, _PIECE_BYTES // (samples * self._geometry.frame_bytes))
        while (done := len(indexes)) < count:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            waited_ns = handover.wait_for_slots(samples, left)
            if waited_ns is None:
                handover.drop(samples)
                indexes.append(None)
                continue
            frames = min(piece, count - done)
            frames = min(frames, ring.free(frames * samples) // samples)
            first = ring.published
            for place, plane in enumerate(planes[done + n, s] for n in range(frames) for s in range(samples)):
                slots[(first + place) % capacity] = plane
            index = handover.publish([text for text in texts[done : done + frames] for _ in range(samples)], waited_ns)
            taken = handover.announce(frames * samples)
            new = frames * samples
            indexes += range(index, index + (new if taken is None else taken), samples)
            if taken is not None:
                handover.check_taken(taken, new)

    # -- ending --------------------------------------------------------------------------------

    def close(self, *, wait: bool = True, timeout: float | None = None) -> dict[str, Any]:
        """End the stream, or this source of it, and return the stream's final status.

        With ``wait``, the status lists this source only; its totals are of all sources.
        Slots that are claimed but not published are given back. Further calls return or raise what the first one did.

        With ``wait``, this waits until the dataset is complete on disk, or, while other sources go on, until all frames
        of this source are; for ``timeout`` seconds at most, None for ever. If the daemon is gone, this waits for a new
        one, up to ``timeout`` or a minute: the frames that are not on disk are in shared memory, and a new daemon
        writes them.
        Raises StreamFailedError if the stream failed; OmewdError ``timeout``, ``daemon_gone``.
        """
        if self._closed:
            if isinstance(self._end, OmewdError):
                raise self._end
            return {**self._end} if self._end else {}
        timeout = timeout_seconds(timeout)
        self._closed = self._handover.closing = True
        try:
            try:
                self._claims.give_all_back()
            finally:
                self._end = self._await_end(wait, timeout)
        except OmewdError as error:
            self._end = error
            raise
        finally:
            self._let_go()
        return {**self._end}

    def _await_end(self, wait: bool, timeout: float | None) -> dict[str, Any]:
        deadline = None if timeout is None else time.monotonic() + max(timeout, 0.001)
        try:
            while True:
                try:
                    return self._finish(wait=wait, deadline=deadline)
                except OmewdError as error:
                    if error.code not in ("unreachable", "no_daemon", "unknown_stream"):
                        raise
                    if (status := self._handover.end_in_ring()) is not None:
                        return status
                    self._handover.await_daemon(deadline)
        except TimeoutError as error:
            raise OmewdError("timeout", f"stream {self.name!r} was not done after {timeout:g} s") from error

    def _finish(self, *, wait: bool, deadline: float | None) -> dict[str, Any]:
        """Ask the daemon to end the stream, and with ``wait`` wait until it has."""
        status = self._link.request("finish", brief=wait)
        if wait:
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            status = self._link.request("wait", brief=True, timeout=left_s)
        return status

    def _let_go(self) -> None:
        self._last_durable, self._last_copied = self._ring.durable, self._ring.copied
        del self._slots
        self._handover.let_go()
        self._segment.close()
        self._link.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # Published frames are still written. The block's own exception is the one to raise.
        try:
            self.close()
        except OmewdError as second:
            if second is error:
                return
            error.add_note(f"closing stream {self.name!r} also raised: {second}")
