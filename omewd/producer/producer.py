"""Producer: how a camera process hands its frames over."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from omewd.control.connection import Connection
from omewd.control.faultpoints import point
from omewd.control.messages import close_all
from omewd.errors import OmewdError, ring_full, stream_failed, stream_stopped
from omewd.producer.link import Link
from omewd.ring import pixels
from omewd.ring.layout import GAP_DROPPED, GAP_SKIPPED, STATE_DONE, STATE_FAILED, STATE_OPEN, UNSET
from omewd.ring.ring import ProducerRing
from omewd.ring.segment import Segment

Frame = np.ndarray[Any, Any]

# The doorbell wakes a waiting producer at once; this is how long a lost ring can cost.
_LOOK_AGAIN_MS = 100
# How long to wait for a daemon to come back where there is nothing else to do.
_DAEMON_RETURNS_S = 60.0
_FAILURE_LOOKS = 200
# Each write unit of gaps is put on record: more at once is a mistake of the program.
_MAX_SKIP = 1_000_000
# Seconds since the first frame, seconds, and places in the units of the dimensions in space.
_KNOWN_METADATA = frozenset({"delta_t", "exposure_time", "position_x", "position_y", "position_z"})


def connect(name: str, *, source: str | int | None = None, socket: str | os.PathLike[str] | None = None) -> Producer:
    """Attach to an open stream as its one producer; the ring is mapped and touched when this returns.

    ``source``: name or number of one, for a stream that has several. ``socket``: the daemon's control socket, else
    $OMEWD_SOCKET, else the default of ``omewd serve``.
    Raises OmewdError: ``unknown_stream``, ``unknown_source``, ``producer_exists``, ``stream_stopped``, ….
    """
    connection = Connection(socket)
    try:
        status, descriptors = connection.request("attach", name=name, source=source)
    except BaseException:
        connection.close()
        raise
    if len(descriptors) != 2:
        close_all(descriptors)
        connection.close()
        raise OmewdError("bad_message", f"the daemon sent {len(descriptors)} descriptors instead of 2")
    ring, bell = descriptors
    try:
        segment = Segment.open(ring, owner=connection.daemon_user, writable=True, populate=True)
    except BaseException:
        close_all([bell])
        connection.close()
        raise
    link = Link(connection, bell, segment.geometry, stream_id=status["id"], source=status["source"])
    return Producer(segment, link)


def _plain(value: object) -> object:
    """What JSON does not know of numpy's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON-able")


class Slot:
    """A claimed slot: fill ``array``, the (Y, X) view of the shared memory itself; set ``metadata`` if you like.

    ``index`` is the frame index once the slot is published, None before, and for a frame that a full ring
    dropped (policy ``drop``): its array is then a scratch buffer.
    """

    def __init__(self, array: Frame, *, dropped: bool) -> None:
        self.array = array
        self.metadata: Mapping[str, Any] | None = None
        self.index: int | None = None
        self.dropped = dropped


class Producer:
    """Puts frames into one source's ring. For one thread at a time.

    As a context manager it waits on leaving until the dataset is complete on disk; with other sources still at work,
    until all frames of this one are.
    """

    def __init__(self, segment: Segment, link: Link) -> None:
        self._segment = segment
        self._link = link
        self._ring = ProducerRing(segment)
        self._slots = pixels.slots(segment)
        self._geometry = segment.geometry
        self._claimed = False
        self._waited_ns = 0
        self._last_durable = 0
        self._scratch: Frame | None = None
        self._closed = False
        self.name = segment.geometry.name
        self.shape: tuple[int, int] = (segment.geometry.height, segment.geometry.width)
        self.dtype = np.dtype(segment.geometry.dtype)
        self.frames_total = segment.geometry.frames_total

    # -- handing frames over -------------------------------------------------------------------

    def append(
        self, frame: Frame, *, metadata: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> int | None:
        """Copy a frame into the ring and publish it; returns its frame index, None if a full ring dropped it.

        ``frame``: (Y, X) array of the stream's dtype; another byte order and any strides are converted on
        the way. ``metadata``: JSON-able, kept beside the frame; ``delta_t`` and ``exposure_time`` are in seconds, and
        ``position_x``, ``position_y`` and ``position_z`` in the units of space. ``timeout``: how many seconds to wait
        for room (policy ``block``), None for ever.

        Raises before anything is published: OmewdError ``bad_frame``, ``bad_metadata``; RingFullError;
        StreamStoppedError; StreamFailedError. A daemon that is killed is no error: the frames go into the ring, and the
        next daemon finds them; a full ring waits for it.
        """
        if type(frame) is not np.ndarray:
            frame = np.asarray(frame)
        if frame.shape != self.shape or (frame.dtype != self.dtype and frame.dtype.newbyteorder() != self.dtype):
            raise OmewdError(
                "bad_frame",
                f"stream {self.name!r} takes frames of {self.shape} {self.dtype}, "
                f"this one is {frame.shape} {frame.dtype}",
                "Convert the frame, or start the stream with the camera's shape and dtype",
            )
        text = self._encode(metadata) if metadata else b""
        if not self._room(1, timeout):
            return None
        self._slots[self._ring.slot] = frame
        return self._publish(text)

    @contextlib.contextmanager
    def claim(self, *, timeout: float | None = None) -> Iterator[Slot]:
        """Reserve the next slot and publish it on a clean exit of the block; an exception gives it back.

        Errors as for :meth:`append`.
        """
        room = self._room(1, timeout)
        if not room:
            if self._scratch is None:
                self._scratch = np.empty(self.shape, self.dtype)
            yield Slot(self._scratch, dropped=True)
            return
        slot = Slot(self._slots[self._ring.slot], dropped=False)
        self._claimed = True
        try:
            yield slot
            text = self._encode(slot.metadata) if slot.metadata else b""
        finally:
            self._claimed = False
        slot.index = self._publish(text)

    def skip(self, frames: int = 1) -> None:
        """The next ``frames`` frame indexes hold no frame; they read as the fill value and are on record."""
        if not 1 <= frames <= _MAX_SKIP:
            raise OmewdError("bad_frame", f"skip takes a number of frames from 1 to {_MAX_SKIP}, not {frames}")
        self._check_open(frames)
        self._ring.add_gap(frames, GAP_SKIPPED)
        if self._ring.wants_doorbell:
            self._link.ring()

    @property
    def durable(self) -> int:
        """All frame indexes below this one are safely on disk; stays 0 with ``durability="none"``."""
        return self._last_durable if self._closed else self._ring.durable

    @property
    def metadata_max_bytes(self) -> int:
        """How long a frame's metadata may be as JSON."""
        return self._geometry.metadata_max_bytes

    @property
    def next_index(self) -> int:
        """The frame index that the next frame will have."""
        return self._ring.next_frame

    # -- the steps of it -----------------------------------------------------------------------

    def _check_open(self, frames: int) -> None:
        """Raise if the stream does not take ``frames`` more frames."""
        if self._closed:
            raise stream_stopped(f"the producer of stream {self.name!r} is closed")
        if self._claimed:
            raise OmewdError("bad_frame", "a slot is claimed already", "Leave the claim's block first")
        if self._ring.state == STATE_FAILED:
            raise self._ended()
        total = self.frames_total
        if total is not None and self._ring.next_frame + frames > total:
            raise OmewdError.from_dict(
                {
                    "code": "too_many_frames",
                    "message": f"stream {self.name!r} was declared with {total} frames and has {self._ring.next_frame}",
                    "remedy": "Declare more, or count:inf in the first dimension",
                }
            )
        if self._ring.state != STATE_OPEN:
            raise self._ended()
        if self._link.is_gone:
            self._reconnect()

    def _reconnect(self) -> bool:
        """Look for the daemon after it has gone; raises what the stream's end is if it does not go on with it.

        Until it is there again frames go into the ring as before; it finds them there.
        """
        try:
            return self._link.reconnect()
        except OmewdError as error:
            if self._ring.state == STATE_OPEN:
                raise
            if self._closed:  # it came to its end meanwhile, and that is what close() waits for
                return False
            raise self._ended() from error

    def _room(self, frames: int, timeout: float | None) -> bool:
        """Whether there is room for a frame, waiting for it by the policy; False: it was dropped."""
        self._check_open(frames)
        self._waited_ns = 0
        if self._ring.has_room:
            return True
        self._link.ring()
        policy = self._geometry.backpressure
        if policy == "drop":
            self._ring.add_gap(1, GAP_DROPPED)
            return False
        if policy == "fail":
            raise ring_full(
                f"the ring of stream {self.name!r} is full: {self._geometry.capacity} frames wait for the disk",
                "Use a faster disk, less compression, a larger ring (omewd serve --memory), or `backpressure='block'`",
            )
        self._wait_for_room(timeout)
        return True

    def _wait_for_room(self, timeout: float | None) -> None:
        started_ns = time.monotonic_ns()
        self._ring.wait_for_room(True)
        try:
            while not self._ring.has_room:
                if self._ring.state != STATE_OPEN:
                    raise self._ended()
                if timeout is not None and time.monotonic_ns() - started_ns >= timeout * 1e9:
                    raise ring_full(
                        f"the ring of stream {self.name!r} stayed full for {timeout} s: "
                        f"{self._geometry.capacity} frames wait for the disk",
                        "See omewd status; the disk may be stalled",
                    )
                wait_ms = _LOOK_AGAIN_MS if timeout is None else min(_LOOK_AGAIN_MS, max(1, int(timeout * 1000)))
                self._link.wait(wait_ms)
                if self._link.is_gone:
                    self._reconnect()
        finally:
            self._ring.wait_for_room(False)
            self._waited_ns = time.monotonic_ns() - started_ns

    def _publish(self, metadata: bytes) -> int:
        sequence = self._ring.published
        point("producer: filled")
        frame = self._ring.publish(time.monotonic_ns(), time.time_ns(), metadata, self._waited_ns)
        point("producer: published")
        if self._ring.wants_doorbell:
            self._link.ring()
        if self._ring.state != STATE_OPEN:
            self._check_taken(sequence)
        return frame

    def _check_taken(self, sequence: int) -> None:
        """The stream was stopped while a frame was on its way: raise unless the daemon has counted it."""
        # The daemon stores this microseconds after it has stopped the stream, or another one does if it died then.
        deadline = time.monotonic() + _DAEMON_RETURNS_S
        while self._ring.final_published == UNSET:
            if time.monotonic() > deadline:
                raise self._daemon_gone()
            time.sleep(0.0005)
        if self._ring.state == STATE_FAILED or sequence >= self._ring.final_published:
            raise self._ended()

    def _encode(self, metadata: Mapping[str, Any]) -> bytes:
        for key in _KNOWN_METADATA & metadata.keys():
            value = metadata[key]
            if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
                raise OmewdError("bad_metadata", f"a frame's {key} is a number, this is {value!r:.80}")
        try:
            text = json.dumps(metadata, separators=(",", ":"), allow_nan=False, default=_plain).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise OmewdError("bad_metadata", f"a frame's metadata must be JSON-able: {error}") from error
        limit = self._geometry.metadata_max_bytes
        if len(text) > limit:
            raise OmewdError(
                "bad_metadata",
                f"a frame's metadata of {len(text)} bytes is over the limit of {limit}",
                "Keep less of it",
            )
        return text

    def _ended(self) -> OmewdError:
        if self._ring.state == STATE_FAILED:
            for _ in range(_FAILURE_LOOKS):  # the daemon may just be putting a longer one in its place
                cause = self._ring.failure
                if cause is not None:
                    return stream_failed(cause.message, cause.remedy)
                time.sleep(0.001)
            return stream_failed(f"stream {self.name!r} has failed", "See omewd status")
        return stream_stopped(
            f"stream {self.name!r} was stopped and takes no more frames; this frame was not taken",
            "See omewd status for what ended it",
        )

    def _daemon_gone(self) -> OmewdError:
        return OmewdError(
            "daemon_gone",
            f"the daemon of stream {self.name!r} is gone; frames below index {self._ring.durable} are on disk, "
            f"those up to {self._ring.next_frame} in shared memory",
            "Start it again before this machine is restarted: it writes them",
        )

    # -- ending --------------------------------------------------------------------------------

    def close(self, *, wait: bool = True, timeout: float | None = None) -> dict[str, Any]:
        """End the stream, or this source of it: no more frames; returns the stream's status then. May be called again.

        With ``wait``, until the dataset is complete on disk, or all of this source is while others go on (``timeout``
        in seconds, None for ever). A daemon that has gone is waited for, up to ``timeout`` or a minute: what it had not
        written is in shared memory, and is written when it is started again.
        Raises StreamFailedError if it failed; OmewdError ``timeout``, ``daemon_gone``.
        """
        if self._closed:
            return {}
        self._closed = True
        deadline = None if timeout is None else time.monotonic() + max(timeout, 0.001)
        try:
            while True:
                try:
                    return self._finish(wait=wait, deadline=deadline)
                except OmewdError as error:
                    if error.code not in ("unreachable", "no_daemon", "unknown_stream"):
                        raise
                    if (status := self._end_in_ring()) is not None:
                        return status
                    self._await_daemon(deadline)
        except TimeoutError as error:
            raise OmewdError("timeout", f"stream {self.name!r} was not done after {timeout} s") from error
        finally:
            self._let_go()

    def _finish(self, *, wait: bool, deadline: float | None) -> dict[str, Any]:
        """Ask the daemon to end the stream, and wait for that."""
        status = self._link.request("finish")
        if wait:
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            status = self._link.request("wait", timeout=left_s)
        return status

    def _end_in_ring(self) -> dict[str, Any] | None:
        """The stream was complete, or had failed, before the daemon went or forgot it: the ring says so."""
        if self._ring.state == STATE_FAILED:
            raise self._ended()
        return {"name": self.name, "state": "DONE"} if self._ring.state == STATE_DONE else None

    def _await_daemon(self, deadline: float | None) -> None:
        """Until a daemon has taken the stream over, or ended it; raises OmewdError ``daemon_gone`` if none does."""
        limit = time.monotonic() + _DAEMON_RETURNS_S if deadline is None else deadline
        while self._ring.state not in (STATE_DONE, STATE_FAILED) and not self._reconnect():
            if time.monotonic() > limit:
                raise self._daemon_gone()
            time.sleep(0.02)

    def _let_go(self) -> None:
        self._last_durable = self._ring.durable
        self._ring.release()
        del self._slots
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
        # What was handed over is still written; the block's own exception is the one to see.
        try:
            self.close()
        except OmewdError as second:
            error.add_note(f"and on closing stream {self.name!r}: {second}")
