"""The layout of a ring segment: what is where, and what is refused on attaching."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from omewd.errors import OmewdError
from omewd.process.locks import is_locked, try_lock
from omewd.ring import layout, pixels
from omewd.ring.layout import (
    DOORBELL_AT,
    FINAL_PUBLISHED,
    GAP_NAMES,
    GAP_TABLE_ENTRIES,
    PAGE,
    PUBLISHED,
    RELEASED,
    Geometry,
)
from omewd.ring.segment import PRODUCER_BYTE, Segment
from tests.unit.rings import anonymous_memory, make_geometry, open_ring, open_segment


def refused(descriptor: int) -> OmewdError:
    with pytest.raises(OmewdError) as error:
        Segment.open(descriptor, owner=os.geteuid(), writable=True)
    assert error.value.code == "bad_ring"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    return error.value


def segment_with(head: bytes, size: int) -> int:
    descriptor = anonymous_memory(size)
    os.pwrite(descriptor, head, 0)
    return descriptor


@pytest.mark.parametrize("frames_total", [None, 0, 1, 2**62])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
@pytest.mark.parametrize("backpressure", layout.POLICIES)
def test_a_geometry_comes_back_as_it_was_written(frames_total: int | None, dtype: str, backpressure: str) -> None:
    geometry = make_geometry(
        5, name="n" * 64, epoch=2**63, dtype=dtype, backpressure=backpressure, frames_total=frames_total
    )
    with open_segment(geometry) as segment, second_mapping(segment) as opened:
        assert opened.geometry == geometry


@contextlib.contextmanager
def second_mapping(segment: Segment) -> Iterator[Segment]:
    """A segment as another process has it."""
    opened = Segment.open(os.dup(segment.fd), owner=os.geteuid(), writable=False)
    try:
        yield opened
    finally:
        opened.close()


def test_another_mapping_sees_the_same_frames() -> None:
    with open_ring() as ends, second_mapping(ends.segment) as other:
        ends.publish(2, metadata=b"{}")
        assert pixels.header(other, 1) == (1, 11, 22, b"{}")
        assert (pixels.slots(other)[1] == 1).all()


def test_row_16_any_damaged_byte_of_the_header_is_refused() -> None:
    geometry = make_geometry()
    head = geometry.pack()
    for place in range(len(head)):
        damaged = bytearray(head)
        damaged[place] ^= 0x41
        with pytest.raises(OmewdError, match="not a usable ring"):
            Geometry.unpack(bytes(damaged), geometry.total_bytes)


_FIELDS = {
    "version": (8, "I"),
    "size": (12, "I"),
    "capacity": (24, "Q"),
    "height": (32, "Q"),
    "width": (40, "Q"),
    "dtype": (48, "16s"),
    "slot_header_stride": (64, "Q"),
    "frame_bytes": (72, "Q"),
    "slot_stride": (80, "Q"),
    "pixels_offset": (88, "Q"),
    "total_bytes": (96, "Q"),
    "policy": (104, "Q"),
}
_VALUES: dict[str, list[Any]] = {
    "dtype": [b"", b"uint17", b"uint32", b"\xff" * 16],
    "version": [0, 1, 3, 2**32 - 1],
    "size": [0, 1, 2**32 - 1],
    "policy": [3, 2**64 - 1],
    "slot_header_stride": [0, 8, 63, 1021, 4096, 2**63],
}


@pytest.mark.parametrize("field", _FIELDS)
def test_sizes_that_do_not_fit_together_are_refused_even_with_a_good_checksum(field: str) -> None:
    geometry = make_geometry()
    head = geometry.pack()
    offset, form = _FIELDS[field]
    for value in _VALUES.get(field, [0, 1, 5, 4095, 2**31, 2**63, 2**64 - 1]):
        fields = bytearray(head[:-4])
        struct.pack_into("<" + form, fields, offset, value)
        forged = bytes(fields) + struct.pack("<I", zlib.crc32(fields))
        with pytest.raises(OmewdError) as error:
            Geometry.unpack(forged, geometry.total_bytes)
        assert error.value.code == "bad_ring"


def test_a_newer_minor_version_with_more_fields_is_read() -> None:
    geometry = make_geometry()
    fields = bytearray(geometry.pack()[:-4]) + bytes(range(16))
    struct.pack_into("<II", fields, 8, 2 | 7 << 16, len(fields))
    newer = bytes(fields) + struct.pack("<I", zlib.crc32(fields))
    assert Geometry.unpack(newer, geometry.total_bytes) == geometry
    damaged = bytearray(newer)
    damaged[len(fields) - 1] ^= 1
    with pytest.raises(OmewdError, match="checksum"):
        Geometry.unpack(bytes(damaged), geometry.total_bytes)


def test_a_newer_major_version_is_refused_with_its_number() -> None:
    geometry = make_geometry()
    fields = bytearray(geometry.pack()[:-4])
    struct.pack_into("<I", fields, 8, 3 | 1 << 16)
    with pytest.raises(OmewdError, match=r"version 3\.1, and this omewd reads version 2"):
        Geometry.unpack(bytes(fields) + struct.pack("<I", zlib.crc32(fields)), geometry.total_bytes)


def test_a_frame_without_pixels_is_refused() -> None:
    head = make_geometry(frame_shape=(0, 0)).pack()
    with pytest.raises(OmewdError, match="not a usable ring"):
        Geometry.unpack(head, make_geometry(frame_shape=(0, 0)).total_bytes)


@pytest.mark.parametrize("extra", [-1, 1, -PAGE, PAGE])
def test_a_segment_of_another_size_is_refused(extra: int) -> None:
    geometry = make_geometry()
    size = geometry.total_bytes + extra
    assert str(size) in refused(segment_with(geometry.pack(), size)).message


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_segment_too_small_for_a_header_is_refused(size: int) -> None:
    assert "too few" in refused(segment_with(b"\0" * size, size)).message


def test_an_empty_segment_is_refused() -> None:
    assert "starts with" in refused(anonymous_memory(make_geometry().total_bytes)).message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_segment_that_others_may_open_is_refused(mode: int) -> None:
    geometry = make_geometry()
    descriptor = segment_with(geometry.pack(), geometry.total_bytes)
    os.fchmod(descriptor, mode)
    assert f"{mode:o}" in refused(descriptor).message


def test_a_descriptor_that_is_no_memory_is_refused() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    assert "not shared memory" in refused(reader).message


def test_a_machine_whose_store_order_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    geometry = make_geometry()
    descriptor = segment_with(geometry.pack(), geometry.total_bytes)
    with pytest.raises(OmewdError, match="aarch64"):
        Segment.open(descriptor, owner=os.geteuid(), writable=True)


# -- the layout itself -----------------------------------------------------------------------------


def test_cursors_of_different_processes_share_no_cache_line() -> None:
    producer = [layout.PUBLISHED, layout.FRONTIER, layout.GAP_KINDS, layout.PRODUCER_WAITS]
    daemon = [RELEASED, layout.DURABLE, layout.STATE, FINAL_PUBLISHED, DOORBELL_AT, layout.GAP_KINDS_READ]
    assert len({*producer, *daemon}) == len(producer) + len(daemon)
    assert not {word * 8 // 128 for word in producer} & {word * 8 // 128 for word in daemon}


def test_no_part_of_the_layout_overlaps_another() -> None:
    head = len(make_geometry(name="n" * 64).pack())
    parts = [
        (0, head),
        (PUBLISHED * 8, layout.PRODUCER_WAITS * 8 + 8),
        (RELEASED * 8, layout.GAP_KINDS_READ * 8 + 8),
        (layout.FAILURE, layout.FAILURE + 8 + layout.FAILURE_MAX_BYTES),
        (layout.GAP_TABLE * 8, layout.GAP_TABLE * 8 + GAP_TABLE_ENTRIES * 16),
        (layout.SLOT_HEADERS, make_geometry().pixels_offset),
    ]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(parts))


@pytest.mark.parametrize("frame_shape", [(1, 1), (2, 3), (64, 64), (256, 256), (1, 2049)])
def test_slots_are_whole_pages_and_hold_a_frame(frame_shape: tuple[int, int]) -> None:
    geometry = make_geometry(3, frame_shape=frame_shape)
    assert geometry.slot_stride % PAGE == geometry.pixels_offset % PAGE == 0
    assert geometry.slot_stride >= geometry.frame_bytes
    assert geometry.pixels_offset >= layout.SLOT_HEADERS + 3 * geometry.slot_header_stride
    assert geometry.total_bytes == geometry.pixels_offset + 3 * geometry.slot_stride


def test_gap_names_are_those_of_the_interface() -> None:
    assert set(GAP_NAMES.values()) == {"skipped", "dropped"}


# -- locks -----------------------------------------------------------------------------------------


def test_a_lock_is_seen_by_others_and_goes_with_its_holder() -> None:
    first = anonymous_memory(PAGE)
    path = f"/proc/self/fd/{first}"
    second, third = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    try:
        assert try_lock(second, PRODUCER_BYTE)
        assert is_locked(third, PRODUCER_BYTE)
        assert not try_lock(third, PRODUCER_BYTE)
        assert not is_locked(third, PRODUCER_BYTE + 1)
        copy = os.dup(second)
        os.close(second)
        assert is_locked(third, PRODUCER_BYTE), "a copy of the descriptor, as in another process, keeps the lock"
        os.close(copy)
        assert not is_locked(third, PRODUCER_BYTE)
    finally:
        os.close(first)
        os.close(third)


def test_closing_a_segment_with_a_view_still_held_is_no_error() -> None:
    geometry = make_geometry()
    segment = Segment(anonymous_memory(geometry.total_bytes), geometry, writable=True)
    view = pixels.slots(segment)
    view[0] = 5
    segment.close()
    assert (view[0] == 5).all()
