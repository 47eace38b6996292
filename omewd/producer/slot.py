"""Claimed slots: places in the ring that a camera fills itself; several at once, published in order."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from omewd.errors import OmewdError, ring_full
from omewd.producer.handover import Handover
from omewd.producer.values import Metadata, as_frame, check_mapping, one_metadata

Frame = np.ndarray[Any, Any]


class Slot:
    """A claimed slot: fill ``array``, then :meth:`publish` it, or :meth:`give_back`.

    As a context manager it is published on a clean exit, and given back on an exception. As long as the slot is held,
    its memory stays mapped, also after the producer is closed; but once it is published or given back, other frames
    come to lie in it.
    """

    def __init__(self, claims: Claims, array: Frame, sequence: int | None, waited_ns: int) -> None:
        self._claims = claims
        self._array = array
        self._metadata: Metadata | None = None
        # Where it lies in the ring; None for one that a full ring dropped.
        self.sequence = sequence
        self.waited_ns = waited_ns
        # The metadata as JSON once it is to be published.
        self.ready: bytes | None = None
        self.index: int | None = None
        """The frame index, once the frame is visible and the stream has taken it; None before."""

    @property
    def dropped(self) -> bool:
        """Whether a full ring dropped the frame (policy ``drop``); ``array`` is a scratch buffer then."""
        return self.sequence is None

    @property
    def array(self) -> Frame:
        """The (Y, X) view of the shared memory itself; read-only once the slot is published or given back.

        To assign a frame copies it into the slot; raises OmewdError ``bad_frame`` if it does not fit.
        """
        return self._array

    @array.setter
    def array(self, frame: Frame) -> None:
        if frame is self._array:  # slot.array += 1
            return
        self._claims.check_claimed(self)
        frame = as_frame(frame)
        fits = frame.dtype == self._array.dtype or frame.dtype.newbyteorder() == self._array.dtype
        if frame.shape != self._array.shape or not fits:
            raise OmewdError(
                "bad_frame",
                f"the slot takes a frame of {self._array.shape} {self._array.dtype}, "
                f"this one is {frame.shape} {frame.dtype}",
                "Convert the frame, or fill the slot in place: `slot.array[:] = frame`",
            )
        self._array[:] = frame

    @property
    def address(self) -> int:
        """Where the pixels start in this process, for libraries that take a pointer."""
        address: int = self._array.__array_interface__["data"][0]
        return address

    @property
    def nbytes(self) -> int:
        """How many bytes the pixels have, without padding."""
        return self._array.nbytes

    @property
    def metadata(self) -> Metadata | None:
        """Of this frame, JSON-able, as for :meth:`Producer.append`; read when the slot is published."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Metadata | None) -> None:
        check_mapping(metadata)
        self._metadata = metadata

    def publish(self) -> int | None:
        """Hand the frame over; returns its frame index, None while it waits for a slot that was claimed earlier.

        It becomes visible, and gets its ``index``, when all that were claimed before it are published or given back.
        None also for a frame that a full ring dropped.
        Raises OmewdError ``bad_metadata``, after which it is claimed as before; StreamStoppedError, StreamFailedError
        where the stream has not taken this frame, or one that was waiting for it (``index`` None).
        """
        self._claims.publish(self)
        return self.index

    def give_back(self) -> None:
        """Let go of the slot without a frame. Those that were claimed after it may cost a copy each when published.

        Raises StreamStoppedError, StreamFailedError where the stream has not taken a frame that was waiting for it.
        """
        self._claims.give_back(self)

    def settle(self) -> None:
        self._array.flags.writeable = False

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ready is not None or self not in self._claims:
            return
        if error is not None:
            try:
                self.give_back()
            except OmewdError as second:  # the block's own exception is the one to see
                error.add_note(f"and on giving the slot back: {second}")
            return
        try:
            self.publish()
        except BaseException:
            if self in self._claims:  # its metadata was refused
                self.give_back()
            raise


class Claims:
    """The slots that are claimed and not visible yet, in the order of their claims."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._capacity = handover.ring.geometry.capacity
        self.slots: list[Slot] = []
        self._scratch: Frame | None = None

    def __contains__(self, slot: Slot) -> bool:
        return any(each is slot for each in self.slots)

    def claim(self, timeout: float | None) -> Slot:
        """The slot after the last one claimed; waits for room by the policy."""
        handover = self._handover
        handover.check_open(1, len(self.slots))
        ring = handover.ring
        # Not before the place that it has if no other is given back: none before it moves there, and what has to move
        # only moves to where a slot was that is done with.
        taken = {slot.sequence for slot in self.slots if slot.sequence is not None}
        sequence = ring.published + len(taken)
        while sequence in taken:
            sequence += 1
        needed = sequence - ring.published + 1
        if needed > self._capacity and ring.geometry.backpressure != "drop":
            # Nobody else can make room: to wait for it would be for ever.
            raise ring_full(
                f"the ring of stream {ring.geometry.name!r} has {self._capacity} slots, and the {len(taken)} that are "
                "claimed leave no place for another",
                "Publish or give back the earliest ones first, or start the stream with more `ring_slots`",
            )
        waited_ns = handover.room(needed, timeout)
        if waited_ns is None:
            if self._scratch is None:
                self._scratch = np.empty(handover.slots.shape[1:], handover.slots.dtype)
            slot = Slot(self, self._scratch[:], None, 0)
        else:
            slot = Slot(self, handover.slots[sequence % self._capacity], sequence, waited_ns)
        self.slots.append(slot)
        return slot

    def check_claimed(self, slot: Slot) -> None:
        """Raise OmewdError ``bad_slot`` unless the slot is the caller's to fill."""
        if slot.ready is not None or slot not in self:
            raise OmewdError(
                "bad_slot",
                "this slot was published or given back already",
                "Claim another one: `producer.claim()`",
            )

    def publish(self, slot: Slot) -> None:
        self.check_claimed(slot)
        slot.ready = one_metadata(slot.metadata, self._handover.ring.geometry.metadata_max_bytes)
        slot.settle()
        self._publish_ready()

    def give_back(self, slot: Slot) -> None:
        self.check_claimed(slot)
        slot.settle()
        self.slots = [each for each in self.slots if each is not slot]
        self._publish_ready()

    def give_all_back(self) -> None:
        """Give back what was not published; what was, and waited for one of these, becomes visible now."""
        for slot in self.slots:
            if slot.ready is None:
                slot.settle()
        self.slots = [slot for slot in self.slots if slot.ready is not None]
        self._publish_ready()

    def _publish_ready(self) -> None:
        """Make visible all that wait for no other any more."""
        handover = self._handover
        indexes: dict[Slot, int] = {}
        if not self.slots or self.slots[0].ready is None:
            return
        while self.slots and (text := self.slots[0].ready) is not None:
            slot = self.slots.pop(0)
            if slot.sequence is None:
                handover.drop(1)
                continue
            place, from_place = handover.ring.slot, slot.sequence % self._capacity
            if place != from_place:  # one before it was given back
                handover.slots[place] = handover.slots[from_place]
            indexes[slot] = handover.publish(text, slot.waited_ns)
        taken = handover.announce(len(indexes))
        for slot, index in list(indexes.items())[:taken]:
            slot.index = index
        if taken is not None:
            handover.check_taken(taken, len(indexes))
