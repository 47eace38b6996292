"""Claimed slots, which a camera fills itself. There can be several at once; they are published in order."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from omewd.errors import OmewdError, ring_full
from omewd.producer.handover import Handover
from omewd.producer.values import Metadata, as_frame, check_mapping, one_metadata

Frame = np.ndarray[Any, Any]


class Slot:
    """A claimed slot: fill ``array``, then :meth:`publish` it or :meth:`give_back` it.

    As a context manager, it is published on a clean exit and given back on an exception. Its memory stays mapped while
    this object is held, even after the producer is closed. But once the slot is published or given back, other frames
    may be written into it.
    """

    def __init__(self, claims: Claims, array: Frame, sequence: int | None, waited_ns: int) -> None:
        self._claims = claims
        self._array = array
        self._metadata: Metadata | None = None
        # None for a frame that a full ring dropped.
        self.sequence = sequence
        self.waited_ns = waited_ns
        # The metadata as JSON, once publish() was called.
        self.ready: bytes | None = None
        self.index: int | None = None
        """The frame index; None until the frame is visible and the stream has taken it."""

    @property
    def dropped(self) -> bool:
        """Whether a full ring dropped the frame (policy ``drop``). ``array`` is then a scratch buffer."""
        return self.sequence is None

    @property
    def array(self) -> Frame:
        """The (Y, X) view of the shared memory. It is read-only once the slot is published or given back.

        Assigning a frame copies it into the slot; raises OmewdError ``bad_frame`` if it does not fit.
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
                f"but this one is {frame.shape} {frame.dtype}",
                "Convert the frame, or fill the slot in place: `slot.array[:] = frame`",
            )
        self._array[:] = frame

    @property
    def address(self) -> int:
        """The address of the pixels in this process, for libraries that take a pointer."""
        address: int = self._array.__array_interface__["data"][0]
        return address

    @property
    def nbytes(self) -> int:
        """The size of the pixels in bytes, without padding."""
        return self._array.nbytes

    @property
    def metadata(self) -> Metadata | None:
        """The frame's metadata, as for :meth:`Producer.append`. It is read when the slot is published."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Metadata | None) -> None:
        check_mapping(metadata)
        self._metadata = metadata

    def publish(self) -> int | None:
        """Hand the frame over. Returns its frame index, or None while it waits for a slot that was claimed earlier.

        The frame becomes visible, and gets its ``index``, once all slots claimed before it are published or given back.
        A frame that a full ring dropped has no index.
        Raises OmewdError ``bad_metadata``; the slot is then still claimed. Raises StreamStoppedError or
        StreamFailedError if the stream has not taken this frame or one that waited for it (their ``index`` is None).
        """
        self._claims.publish(self)
        return self.index

    def give_back(self) -> None:
        """Give the slot back without a frame. Publishing slots that were claimed after it may then cost a copy each.

        Raises StreamStoppedError or StreamFailedError if the stream has not taken a frame that waited for this slot.
        """
        self._claims.give_back(self)

    def make_read_only(self) -> None:
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
            except OmewdError as second:  # the block's own exception is the one to raise
                error.add_note(f"giving the slot back also raised: {second}")
            return
        try:
            self.publish()
        except BaseException:
            if self in self._claims:  # its metadata was refused
                self.give_back()
            raise


class Claims:
    """The slots that are claimed but not visible yet, in the order of their claims."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._capacity = handover.ring.geometry.capacity
        self.slots: list[Slot] = []
        self._scratch: Frame | None = None

    def __contains__(self, slot: Slot) -> bool:
        return any(each is slot for each in self.slots)

    def claim(self, timeout: float | None) -> Slot:
        """Claim the next slot; waits for it by the stream's policy."""
        handover = self._handover
        handover.check_open(1, len(self.slots))
        ring = handover.ring
        # The slot's place is the one that it keeps if no earlier slot is given back. If one is, later frames are copied
        # to earlier places, and only to places whose slots are finished with.
        taken = {slot.sequence for slot in self.slots if slot.sequence is not None}
        sequence = ring.published + len(taken)
        while sequence in taken:
            sequence += 1
        needed = sequence - ring.published + 1
        if needed > self._capacity and ring.geometry.backpressure != "drop":
            # Only the caller can free a slot, so waiting would never end.
            raise ring_full(
                f"the ring of stream {ring.geometry.name!r} has {self._capacity} slots, and {len(taken)} claimed ones "
                "leave no room for another",
                "Publish or give back the earliest slots first, or start the stream with more `ring_slots`",
            )
        waited_ns = handover.wait_for_slots(needed, timeout)
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
                "this slot was already published or given back",
                "Claim another one with `producer.claim()`",
            )

    def publish(self, slot: Slot) -> None:
        self.check_claimed(slot)
        slot.ready = one_metadata(slot.metadata, self._handover.ring.geometry.metadata_max_bytes)
        slot.make_read_only()
        self._publish_ready()

    def give_back(self, slot: Slot) -> None:
        self.check_claimed(slot)
        slot.make_read_only()
        self.slots = [each for each in self.slots if each is not slot]
        self._publish_ready()

    def give_all_back(self) -> None:
        """Give back all slots that are not published. Published ones that waited for them become visible."""
        for slot in self.slots:
            if slot.ready is None:
                slot.make_read_only()
        self.slots = [slot for slot in self.slots if slot.ready is not None]
        self._publish_ready()

    def _publish_ready(self) -> None:
        """Make visible all published slots that no longer wait for an earlier one."""
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
            if place != from_place:  # an earlier slot was given back
                handover.slots[place] = handover.slots[from_place]
            indexes[slot] = handover.publish(text, slot.waited_ns)
        taken = handover.announce(len(indexes))
        for slot, index in list(indexes.items())[:taken]:
            slot.index = index
        if taken is not None:
            handover.check_taken(taken, len(indexes))
