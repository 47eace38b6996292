"""The steps of handing frames over: wait for free slots, publish, and find out whether a stopped stream took them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from omewd.errors import OmewdError, StreamFailedError, StreamStoppedError, ring_full, stream_stopped
from omewd.process.faultpoints import point
from omewd.producer.link import Link
from omewd.ring import pixels
from omewd.ring.layout import GAP_DROPPED, STATE_DONE, STATE_FAILED, STATE_OPEN, UNSET
from omewd.ring.ring import ProducerRing
from omewd.ring.segment import Segment

# The doorbell wakes a waiting producer at once; if a ring of it is lost, the wait takes this much longer.
_POLL_MS = 100
# How long to wait for a daemon to come back if there is nothing else to do.
_DAEMON_TIMEOUT_S = 60.0
_FAILURE_READS = 200


class Handover:
    """A producer's end of the ring, together with its link to the daemon."""

    def __init__(self, segment: Segment, link: Link) -> None:
        self.link = link
        self.ring = ProducerRing(segment)
        self.slots = pixels.slots(segment)
        self.closing = False
        self._geometry = segment.geometry
        self._name = segment.geometry.name
        self._frames_total = segment.geometry.frames_total

    # -- free slots ----------------------------------------------------------------------------

    def check_open(self, frames: int, claimed: int = 0) -> None:
        """Raise if the stream does not take ``frames`` more frames after the ``claimed`` ones."""
        ring = self.ring
        if ring.state == STATE_FAILED:
            raise self.ended()
        total = self._frames_total
        if total is not None and ring.next_frame + claimed + frames > total:
            has = f"{ring.next_frame} and {claimed} claimed slots" if claimed else str(ring.next_frame)
            raise StreamStoppedError(
                "too_many_frames",
                f"stream {self._name!r} was declared with {total} frames and has {has}: {frames} more do not fit",
                "Declare more frames, or an unbounded first dimension such as `t:inf`",
            )
        if ring.state != STATE_OPEN:
            raise self.ended()
        if self.link.is_gone:
            self.reconnect()

    def wait_for_slots(self, slots: int, timeout: float | None) -> int | None:
        """Wait for free slots, by the stream's policy; returns how many ns that took, or None to drop the frames."""
        if self.ring.free(slots) >= slots:
            return 0
        self.link.ring()
        policy, capacity = self._geometry.backpressure, self._geometry.capacity
        if policy == "drop":
            return None
        if policy == "fail":
            raise ring_full(
                f"the ring of stream {self._name!r} is full: {capacity} frames wait for the disk",
                "Use a faster disk, less compression, a larger ring (`ring_slots`, omewd serve --memory), "
                "or `backpressure='block'`",
            )
        return self._wait(slots, timeout)

    def _wait(self, slots: int, timeout: float | None) -> int:
        started_ns = time.monotonic_ns()
        self.ring.wait_for_room(True)
        try:
            while self.ring.free(slots) < slots:
                if self.ring.state != STATE_OPEN:
                    raise self.ended()
                if timeout is not None and time.monotonic_ns() - started_ns >= timeout * 1e9:
                    raise ring_full(
                        f"the ring of stream {self._name!r} stayed full for {timeout:g} s: "
                        f"{self._geometry.capacity} frames wait for the disk",
                        "The disk may be stalled: see omewd status",
                    )
                wait_ms = _POLL_MS if timeout is None else int(min(_POLL_MS, max(1, timeout * 1000)))
                self.link.wait(wait_ms)
                if self.link.is_gone:
                    self.reconnect()
        finally:
            self.ring.wait_for_room(False)
        return time.monotonic_ns() - started_ns

    def drop(self, frames: int) -> None:
        self.ring.add_gap(frames, GAP_DROPPED)

    # -- publishing ----------------------------------------------------------------------------

    def publish(self, metadata: bytes | Sequence[bytes], waited_ns: int) -> int:
        """Publish the next slot, or with a sequence as ``metadata`` one slot for each element, all at once.

        Returns the (first) frame index. Call :meth:`announce` afterwards.
        """
        point("producer: filled")
        frame = self.ring.publish(time.monotonic_ns(), time.time_ns(), metadata, waited_ns)
        point("producer: published")
        return frame

    def announce(self, slots: int) -> int | None:
        """Ring the doorbell. Returns None if the stream is open, and so takes the last ``slots`` slots.

        Otherwise returns how many of them it has taken: pass that to :meth:`check_taken`.
        """
        ring = self.ring
        if ring.wants_doorbell:
            self.link.ring()
        return None if ring.state == STATE_OPEN else self._taken(slots)

    def _taken(self, slots: int) -> int:
        """How many of the last ``slots`` slots the daemon has counted, if it stopped the stream meanwhile."""
        # The daemon stores FINAL_PUBLISHED microseconds after the state; if it dies in between, the next daemon does.
        deadline = time.monotonic() + _DAEMON_TIMEOUT_S
        while self.ring.final_published == UNSET:
            if time.monotonic() > deadline:
                raise self.daemon_gone()
            time.sleep(0.0005)
        return min(max(self.ring.final_published - (self.ring.published - slots), 0), slots)

    def check_taken(self, taken: int, frames: int) -> None:
        """Raise if the stream has taken fewer than ``frames`` frames, or has failed."""
        if taken < frames or self.ring.state == STATE_FAILED:
            raise self.ended(taken, frames)

    # -- the stream's end, and the daemon's ------------------------------------------------------

    def reconnect(self) -> bool:
        """Look for a new daemon; returns whether one has taken the stream over.

        Raises the error of the stream's end if the new daemon does not go on with the stream. Until there is a new
        daemon, frames go into the ring as before, and it finds them there.
        """
        try:
            return self.link.reconnect()
        except OmewdError as error:
            if self.ring.state == STATE_OPEN:
                raise
            if self.closing:  # the stream has ended meanwhile, which is what close() waits for
                return False
            raise self.ended() from error

    def ended(self, taken: int = 0, frames: int = 1) -> OmewdError:
        """The error that says why the stream has ended, and whether it took the frames at hand."""
        if self.ring.state == STATE_FAILED:
            for _ in range(_FAILURE_READS):  # the daemon may be replacing the error
                failure = self.ring.failure
                if failure is not None:
                    return failure.error
                time.sleep(0.001)
            unread = OmewdError("reason_lost", f"stream {self._name!r} has failed", "See omewd status")
            return StreamFailedError.of(unread, None)
        lost = "this frame was not taken" if frames == 1 else f"{frames - taken} of {frames} frames were not taken"
        return stream_stopped(
            f"stream {self._name!r} was stopped and takes no more frames; {lost}",
            "See omewd status for the reason",
        )

    def daemon_gone(self) -> OmewdError:
        return OmewdError(
            "daemon_gone",
            f"the daemon of stream {self._name!r} is gone; the frames below index {self.ring.durable} are on disk, "
            f"and those from there to {self.ring.next_frame} in shared memory",
            "Start the daemon again before this machine restarts: it then writes them",
        )

    def end_in_ring(self) -> dict[str, object] | None:
        """The end of the stream as the ring shows it, for when the daemon is gone or has forgotten the stream.

        Returns the status of a complete stream, None for an open one; raises the error of a failed one.
        """
        if self.ring.state == STATE_FAILED:
            raise self.ended()
        return {"name": self._name, "state": "DONE"} if self.ring.state == STATE_DONE else None

    def await_daemon(self, deadline: float | None) -> None:
        """Wait until a daemon has taken over or ended the stream; raises OmewdError ``daemon_gone`` if none does."""
        limit = time.monotonic() + _DAEMON_TIMEOUT_S if deadline is None else deadline
        while self.ring.state not in (STATE_DONE, STATE_FAILED) and not self.reconnect():
            if time.monotonic() > limit:
                raise self.daemon_gone()
            time.sleep(0.02)

    def let_go(self) -> None:
        """Release the memory, so that the segment can be unmapped."""
        self.ring.release()
        del self.slots
