"""Pages of rings are mapped beside the jobs, whatever becomes of the rings meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from omewd.ring import prefault
from omewd.ring.prefault import STEP_BYTES, populate
from omewd.ring.segment import Segment
from omewd.writer.prefault import Prefault
from tests.support.processes import wait_for
from tests.unit.rings import make_geometry, open_segment

FRAMES = 3 * STEP_BYTES // (256 << 10)  # of 256 KiB, so that there are several steps and a part of one

pytestmark = pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (5, 14), reason="this kernel has no MADV_POPULATE_READ"
)


@pytest.fixture
def segment() -> Iterator[Segment]:
    """A ring as a writer maps it."""
    with open_segment(make_geometry(FRAMES, frame_shape=(512, 256), dtype="uint16")) as made:
        os.posix_fallocate(made.fd, 0, made.geometry.total_bytes)
        opened = Segment.open(os.dup(made.fd), owner=os.geteuid(), writable=False)
        yield opened
        if not is_closed(opened):
            opened.close()


def is_closed(segment: Segment) -> bool:
    return segment.is_closed


def mapped_bytes(segment: Segment) -> int:
    """How much of a mapping has its pages (smaps of proc(5))."""
    at = f"{np.frombuffer(segment.memory, np.uint8).ctypes.data:x}-"
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if line.startswith(at):
                return next(1024 * int(found.split()[1]) for found in lines if found.startswith("Rss:"))
    raise AssertionError("no such mapping")


def test_all_pages_of_a_ring_get_mapped(segment: Segment) -> None:
    assert segment.geometry.total_bytes > 3 * STEP_BYTES
    assert mapped_bytes(segment) < STEP_BYTES
    thread = Prefault()
    thread.begin(segment)
    wait_for(lambda: mapped_bytes(segment) >= segment.geometry.total_bytes)
    thread.end()


def test_a_ring_that_is_closed_meanwhile_ends_its_steps(segment: Segment) -> None:
    steps: list[int] = []
    closed = threading.Event()

    def step(of: Segment, start: int) -> bool:
        if steps:
            closed.wait(30)
        steps.append(start)
        return populate(of, start, writable=False)

    thread = Prefault(step)
    thread.begin(segment)
    wait_for(lambda: bool(steps))
    segment.close()
    closed.set()
    thread.end()
    assert steps == [0, STEP_BYTES]


def test_a_ring_that_is_closed_during_a_step_is_unmapped_after_it() -> None:
    thread = Prefault(close_within)
    maps = Path("/proc/self/maps")
    with open_segment(make_geometry(FRAMES, frame_shape=(512, 256), dtype="uint16")) as made:
        mapped = maps.read_text().count("memfd:ring")
        thread.begin(Segment.open(os.dup(made.fd), owner=os.geteuid(), writable=False))
        wait_for(lambda: maps.read_text().count("memfd:ring") == mapped)
        thread.end()
        assert maps.read_text().count("memfd:ring") == mapped


def close_within(segment: Segment, start: int) -> bool:
    """A step in which the ring is closed."""
    pages = np.frombuffer(segment.memory, np.uint8, STEP_BYTES, start)
    segment.close()
    del pages
    return populate(segment, start + STEP_BYTES, writable=False)


def test_a_ring_cut_short_by_another_process_does_no_harm(segment: Segment) -> None:
    os.truncate(segment.fd, STEP_BYTES)
    assert populate(segment, 0, writable=False)
    assert not populate(segment, 2 * STEP_BYTES, writable=False)


@pytest.mark.parametrize("writable", [False, True])
def test_on_older_kernels_a_byte_of_each_page_is_read(
    segment: Segment, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    def unknown(_address: int, _size: int, _advice: int) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    monkeypatch.setattr(prefault, "_libc", SimpleNamespace(madvise=unknown))
    assert populate(segment, STEP_BYTES, writable=writable)
    assert STEP_BYTES <= mapped_bytes(segment) < 2 * STEP_BYTES
    assert not populate(segment, segment.geometry.total_bytes, writable=writable)


def test_it_ends_in_the_middle_of_a_ring(segment: Segment) -> None:
    begun = threading.Event()

    def step(_segment: Segment, _start: int) -> bool:
        begun.set()
        return True

    thread = Prefault(step)
    thread.begin(segment)
    assert begun.wait(30)
    thread.end()
