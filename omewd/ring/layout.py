"""The layout of a ring segment, version 2.1. All numbers are little-endian u64 unless said otherwise.

    0      ┌───────────────────────────────────────────────────────────────┐
           │ geometry: magic, version, epoch, sizes, dtype, name, CRC-32   │ written once, at creation
    1024   ├───────────────────────────────────────────────────────────────┤
           │ producer's cursors: published, frontier, gap kinds, waiting   │ stored by the producer only
    1536   ├───────────────────────────────────────────────────────────────┤
           │ daemon's cursors: released, durable, state, final, doorbell,  │ stored by the daemon only
           │   producer, copied; then two records of its progress, in turn │
    2048   ├───────────────────────────────────────────────────────────────┤
           │ failure: length, then the error as JSON                       │ daemon, before it sets FAILED
    4096   ├───────────────────────────────────────────────────────────────┤
           │ gap kinds: 256 × (first frame index, kind)                    │ producer, before "gap kinds"
    8192   ├───────────────────────────────────────────────────────────────┤
           │ slot headers: capacity × slot_header_stride                   │ producer, before "published"
           │   frame index, monotonic ns, wall-clock ns, metadata length,  │
           │   ns waited for room; then the frame's metadata as JSON       │
    pixels ├───────────────────────────────────────────────────────────────┤ page-aligned
           │ slots: capacity × slot_stride; a frame, C order, native bytes │ producer, before "published"
           └───────────────────────────────────────────────────────────────┘

The truth is in the cursors. ``0 <= published - released <= capacity`` always holds; slot = sequence % capacity.
Each cursor is stored by one process only, with one aligned 8-byte store. x86-64 keeps stores in order, so a process
that sees ``published`` also sees the slot. Other machines are refused (see :func:`require_x86_64`).
"""

from __future__ import annotations

import platform
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

from omewd.errors import OmewdError
from omewd.model.dtypes import ITEM_BYTES
from omewd.protocol.versions import RING, Version

MAGIC = b"OMEWDRNG"
PAGE = 4096
GEOMETRY_MAX_BYTES = 1024  # the producer's cursors follow

# Indexes of 8-byte words, for memoryview(...).cast("Q").
PUBLISHED = 1024 // 8  # slots published so far, which is also the next sequence
FRONTIER = PUBLISHED + 1  # all frame indexes below are published or gaps
GAP_KINDS = PUBLISHED + 2  # entries in the gap-kind table so far
PRODUCER_WAITS = PUBLISHED + 3  # 1: ring the producer's doorbell when "released" moves

RELEASED = 1536 // 8  # sequences below may be overwritten
DURABLE = RELEASED + 1  # frame indexes below are safely on disk
STATE = RELEASED + 2  # one of the states below
FINAL_PUBLISHED = RELEASED + 3  # sequences from here on were not taken; UNSET until the stream is stopped
DOORBELL_AT = RELEASED + 4  # the producer rings once its frontier gets here
GAP_KINDS_READ = RELEASED + 5  # entries of the gap-kind table that the daemon is done with
FINAL_FRONTIER = RELEASED + 6  # the frontier when the stream was stopped; stored before FINAL_PUBLISHED
PRODUCER = RELEASED + 7  # process id of the attached producer, 0 for none; from 2**62 on if it can't be seen
COPIED = RELEASED + 8  # frame indexes below are in the copy's store, confirmed; from version 2.1 on, 0 before
# Two progress records hold what a new daemon can't see in the slots. They are written in turn, so that one is whole
# whenever the daemon dies.
PROGRESS = (RELEASED + 16, RELEASED + 32)

FAILURE = 2048  # u64 length, then JSON
FAILURE_MAX_BYTES = 2000

GAP_TABLE = 4096 // 8
GAP_TABLE_ENTRIES = 256

SLOT_HEADERS = 8192
# Words of a slot header.
FRAME_INDEX, MONOTONIC_NS, WALL_NS, METADATA_BYTES, WAITED_NS = range(5)
METADATA = 64  # bytes from the start of a slot header to its metadata

PROGRESS_WORDS = 7  # the fields of ring.progress.Progress, and their checksum

UNSET = 2**64 - 1

STATE_OPEN, STATE_STOPPED, STATE_FAILED, STATE_DONE = 1, 2, 3, 4
GAP_SKIPPED, GAP_DROPPED = 1, 2
GAP_NAMES = {GAP_SKIPPED: "skipped", GAP_DROPPED: "dropped"}
POLICIES = ("block", "drop", "fail")

_GEOMETRY = struct.Struct("<8s I I Q Q Q Q 16s Q Q Q Q Q Q Q 64s")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Geometry:
    """The name, sizes and policy of one ring. ``frames_total``: None if unbounded."""

    name: str
    epoch: int
    capacity: int
    height: int
    width: int
    dtype: str
    slot_header_stride: int
    backpressure: str
    frames_total: int | None

    @classmethod
    def plan(
        cls,
        *,
        name: str,
        epoch: int,
        capacity: int,
        frame_shape: tuple[int, int],
        dtype: str,
        backpressure: str,
        frames_total: int | None,
    ) -> Geometry:
        height, width = frame_shape
        frame_bytes = height * width * ITEM_BYTES[dtype]
        return cls(
            name, epoch, capacity, height, width, dtype, slot_header_stride(frame_bytes), backpressure, frames_total
        )

    @cached_property
    def frame_bytes(self) -> int:
        return self.height * self.width * ITEM_BYTES[self.dtype]

    @cached_property
    def slot_stride(self) -> int:
        return slot_stride(self.frame_bytes)

    @cached_property
    def pixels_offset(self) -> int:
        return _pages(SLOT_HEADERS + self.capacity * self.slot_header_stride)

    @cached_property
    def total_bytes(self) -> int:
        return self.pixels_offset + self.capacity * self.slot_stride

    @property
    def metadata_max_bytes(self) -> int:
        return self.slot_header_stride - METADATA

    def pack(self) -> bytes:
        """The header at the start of the segment, with its checksum."""
        fields = _GEOMETRY.pack(
            MAGIC,
            RING.packed,
            _GEOMETRY.size,
            self.epoch,
            self.capacity,
            self.height,
            self.width,
            self.dtype.encode(),
            self.slot_header_stride,
            self.frame_bytes,
            self.slot_stride,
            self.pixels_offset,
            self.total_bytes,
            POLICIES.index(self.backpressure),
            UNSET if self.frames_total is None else self.frames_total,
            self.name.encode(),
        )
        return fields + _CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, head: bytes, segment_bytes: int) -> Geometry:
        """Read and check the header of a segment; raises OmewdError ``bad_ring`` with the reason."""
        if len(head) < _GEOMETRY.size + _CRC.size:
            raise _bad(f"{len(head)} bytes are too few for a header")
        fields = head[: _GEOMETRY.size]
        magic, version, size, epoch, capacity, height, width, dtype, stride, *rest = _GEOMETRY.unpack(fields)
        frame_bytes, slot, pixels, total, policy, frames_total, name = rest
        if magic != MAGIC:
            raise _bad(f"it starts with {magic!r}, not {MAGIC!r}")
        if not RING.reads(Version.unpack(version)):
            raise _bad(
                f"it has version {Version.unpack(version)}, and this omewd reads version {RING.major}",
                "Start the omewd that made it, with the same --state-dir: it continues with the ring",
            )
        # A newer minor version may have added fields at the end of the geometry.
        if not _GEOMETRY.size <= size <= min(GEOMETRY_MAX_BYTES, len(head)) - _CRC.size:
            raise _bad(f"its header of {size} bytes should have {_GEOMETRY.size} or more")
        if _CRC.unpack_from(head, size)[0] != zlib.crc32(head[:size]):
            raise _bad("its header is damaged: the checksum is wrong")
        dtype_name = dtype.rstrip(b"\0").decode(errors="replace")
        if dtype_name not in ITEM_BYTES or policy >= len(POLICIES):
            raise _bad(f"dtype {dtype_name!r} or policy {policy} is unknown")
        geometry = cls(
            name.rstrip(b"\0").decode(errors="replace"),
            epoch,
            capacity,
            height,
            width,
            dtype_name,
            stride,
            POLICIES[policy],
            None if frames_total == UNSET else frames_total,
        )
        derived = (geometry.frame_bytes, geometry.slot_stride, geometry.pixels_offset, geometry.total_bytes)
        if derived != (frame_bytes, slot, pixels, total) or capacity < 1 or frame_bytes < 1:
            raise _bad(f"its sizes {(frame_bytes, slot, pixels, total)} should be {derived}")
        if stride < METADATA or stride % 8:
            raise _bad(f"its slot headers have {stride} bytes, which are too few or not whole words")
        if segment_bytes != total:
            raise _bad(f"the segment has {segment_bytes} bytes, but its header says {total}")
        return geometry


def slot_stride(frame_bytes: int) -> int:
    """Bytes from one slot to the next: whole pages, so that O_DIRECT can write from a slot."""
    return _pages(frame_bytes)


def slot_header_stride(frame_bytes: int) -> int:
    """Bytes of a slot header: room for a camera's metadata, but less for small frames."""
    return 4096 if frame_bytes >= 2**16 else 1024


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _bad(what: str, remedy: str = "") -> OmewdError:
    return OmewdError("bad_ring", f"not a usable ring: {what}", remedy)


def require_x86_64() -> None:
    """Refuse machines whose memory ordering the ring is not proven for."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise OmewdError(
            "unsupported_machine",
            f"omewd's ring relies on the memory ordering of x86-64, and this machine is {platform.machine()}",
            "Run omewd on an x86-64 machine",
        )
