"""A camera's program that does anything to its ring: it publishes as it should, and then damages what it shares.

It knows the layout (``omewd/ring/layout.py``). All of it goes through the segment's descriptor and not through a
mapping, so that a segment that it has cut short harms others and not the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable

import numpy as np

import omewd
from omewd.ring import layout
from omewd.ring.layout import FRONTIER, GAP_KINDS, GAP_TABLE, METADATA, METADATA_BYTES, PUBLISHED, RELEASED
from tests.support.frames import make_frame

_PUNCH_HOLE_KEEP_SIZE = 3
_libc = ctypes.CDLL(None, use_errno=True)
_WORD = struct.Struct("<Q")

METADATA_TEXTS = (
    b"",
    b'{"exposure_time": 0.1}',
    b'{"a":"\xff\xfe"}',
    b'{"a":"' + b"x" * 900,
    b'{"a":NaN}',
    '{"a":1e400,"b":"é"}'.encode(),
    b'{"a":"\\ud800"}',
    b'{"a":\n1}',
    b"\0\0\0",
    b"[" * 900,
    b"[" * 400 + b"]" * 400,
    ('["é",' + "[" * 430 + "]" * 430 + "]").encode(),
    b'{"delta_t":"no number"}',
    b"9" * 900,
)


class HostileCamera:
    """The producer of a stream. ``did``: what it has done, for the message of a test that fails."""

    def __init__(self, producer: omewd.Producer, chance: random.Random) -> None:
        self.did: list[str] = []
        self._chance = chance
        self._locks: list[int] = []
        self.is_harmless = True
        self._take(producer)

    def _take(self, producer: omewd.Producer) -> None:
        self._producer = producer
        self._link, self._fd, self._geometry = producer._link, producer._segment.fd, producer._geometry
        self._published, self._next = producer._ring.published, producer._ring.next_frame

    # -- the segment -----------------------------------------------------------------------------

    def _store(self, word: int, value: int) -> None:
        os.pwrite(self._fd, _WORD.pack(value % 2**64), word * 8)

    def _load(self, word: int) -> int:
        data = os.pread(self._fd, 8, word * 8)
        return _WORD.unpack(data)[0] if len(data) == 8 else 0

    def _header_bytes(self, sequence: int) -> int:
        return layout.SLOT_HEADERS + sequence % self._geometry.capacity * self._geometry.slot_header_stride

    # -- what is right ---------------------------------------------------------------------------

    def publish(self, metadata: bytes = b"", index: int | None = None) -> bool:
        """Publish a frame as the page says; returns False if the ring is full or takes no more."""
        released = self._load(RELEASED)
        if self._published - released >= self._geometry.capacity or self._load(layout.STATE) != layout.STATE_OPEN:
            return False
        geometry, slot = self._geometry, self._published % self._geometry.capacity
        frame = make_frame(self._next % 10**6, (geometry.height, geometry.width), geometry.dtype)
        os.pwrite(self._fd, np.ascontiguousarray(frame).tobytes(), geometry.pixels_offset + slot * geometry.slot_stride)
        start = self._header_bytes(self._published)
        os.pwrite(self._fd, metadata, start + METADATA)
        words = (self._next if index is None else index, 10**9, 10**18, len(metadata), 0)
        os.pwrite(self._fd, struct.pack("<5Q", *words), start)
        self._published += 1
        self._next += 1
        self._store(PUBLISHED, self._published)
        self._store(FRONTIER, self._next)
        self._note_too_many()
        return True

    def _note_too_many(self) -> None:
        total = self._geometry.frames_total
        self.is_harmless &= total is None or self._next <= total

    def publish_some(self) -> None:
        for _ in range(self._chance.choice([1, 3, 8, 30])):
            if not self.publish():
                break
        self._link.ring_doorbell()

    def skip(self) -> None:
        count = self._chance.choice([1, 2, 100, 10**6, 2**29])
        kind = self._chance.choice([layout.GAP_SKIPPED, layout.GAP_DROPPED])
        number = self._load(GAP_KINDS)
        entry = GAP_TABLE + number % layout.GAP_TABLE_ENTRIES * 2
        self._store(entry, self._next)
        self._store(entry + 1, kind)
        self._store(GAP_KINDS, number + 1)
        self._next += count
        self._note_too_many()
        self._store(FRONTIER, self._next)
        self._link.ring_doorbell()

    # -- what is wrong ---------------------------------------------------------------------------

    def _number(self, near: int) -> int:
        chance, capacity = self._chance, self._geometry.capacity
        return chance.choice(
            [
                *(near + step for step in (-1, 1, 2, -capacity, capacity, capacity + 1, 2**30, 2**31, 2**39)),
                *(0, 1, 2**32, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1),
                chance.getrandbits(64),
                chance.randrange(1000),
            ]
        )

    def damage(self) -> None:
        """Do one thing that no producer should."""
        self.is_harmless = False
        ways: dict[str, Callable[[], object]] = {
            "geometry": self._damage_geometry,
            "cursor": self._damage_cursor,
            "daemon's cursor": self._damage_cursors_of_the_daemon,
            "progress": self._damage_progress,
            "slot header": self._damage_slot_header,
            "index": lambda: self.publish(index=self._number(self._next) % 2**64),
            "metadata": lambda: self.publish(self._chance.choice(METADATA_TEXTS)),
            "metadata length": self._damage_metadata_length,
            "failure": self._damage_failure,
            "gap kinds": self._damage_gap_kinds,
            "many gap kinds": self._add_many_gap_kinds,
            "size": self._damage_size,
            "hole": self._punch_a_hole,
            "doorbell": self._damage_doorbell,
            "locks": self._lock,
            "noise": lambda: os.pwrite(self._fd, os.urandom(64), self._chance.randrange(self._geometry.total_bytes)),
        }
        what = self._chance.choice([*ways, "cursor", "slot header", "index", "gap kinds"])
        self.did.append(what)
        ways[what]()
        if self._chance.random() < 0.8:
            self._link.ring_doorbell()

    def _damage_geometry(self) -> None:
        at = self._chance.randrange(200)
        os.pwrite(self._fd, bytes([self._chance.randrange(256)] * self._chance.choice([1, 8])), at)

    def _damage_cursor(self) -> None:
        word = PUBLISHED + self._chance.randrange(4)
        value = self._number(self._load(word))
        self.did[-1] += f" {word - PUBLISHED} := {value}"
        self._store(word, value)

    def _damage_cursors_of_the_daemon(self) -> None:
        word = RELEASED + self._chance.randrange(8)
        value = self._chance.choice([self._number(self._load(word)), self._chance.randrange(6)])
        self.did[-1] += f" {word - RELEASED} := {value}"
        self._store(word, value)

    def _damage_progress(self) -> None:
        """Also with a checksum that fits."""
        place = self._chance.choice(layout.PROGRESS)
        words = [self._load(place + n) for n in range(layout.PROGRESS_WORDS - 1)]
        words[self._chance.randrange(len(words))] = self._number(words[0]) % 2**64
        check = zlib.crc32(struct.pack("<6Q", *words)) | 1 << 32
        self.did[-1] += f" {words}"
        for n, value in enumerate([*words, check if self._chance.random() < 0.8 else 7]):
            self._store(place + n, value)

    def _damage_slot_header(self) -> None:
        word = self._chance.randrange(5)
        slot = self._published - self._chance.choice([1, 1, 2, self._geometry.capacity // 2])
        start = self._header_bytes(slot) + 8 * word
        value = self._number(self._next)
        self.did[-1] += f" {word} of {slot} := {value}"
        os.pwrite(self._fd, _WORD.pack(value % 2**64), start)

    def _damage_metadata_length(self) -> None:
        start = self._header_bytes(self._published - 1) + 8 * METADATA_BYTES
        os.pwrite(self._fd, _WORD.pack(self._number(5) % 2**64), start)

    def _damage_failure(self) -> None:
        self._store(layout.FAILURE // 8, self._number(0))
        text = self._chance.choice([b"{}", b"[", b'{"code":5}', b'{"lost":[[1]]}', b"[" * 1900, os.urandom(100)])
        os.pwrite(self._fd, text, layout.FAILURE + 8)

    def _damage_gap_kinds(self) -> None:
        entry = GAP_TABLE + self._chance.randrange(6) * 2
        self._store(entry, self._number(self._next))
        self._store(entry + 1, self._number(1))
        self._store(GAP_KINDS, self._chance.choice([1, 2, self._number(self._load(GAP_KINDS))]))

    def _add_many_gap_kinds(self) -> None:
        """More and more entries for the same place."""
        for _ in range(20):
            number = self._load(GAP_KINDS)
            for n in range(layout.GAP_TABLE_ENTRIES // 2):
                entry = GAP_TABLE + (number + n) % layout.GAP_TABLE_ENTRIES * 2
                self._store(entry, self._next)
                self._store(entry + 1, 1 + n % 2)
            self._store(GAP_KINDS, number + layout.GAP_TABLE_ENTRIES // 2)
            self._link.ring_doorbell()

    def _damage_size(self) -> None:
        total = self._geometry.total_bytes
        sizes = [0, 1, 4096, 8192, self._geometry.pixels_offset, total - 1, total - 4096, total + 4096, 2 * total]
        first = self._chance.choice(sizes)
        self.did[-1] += f" {first}"
        os.ftruncate(self._fd, first)
        if self._chance.random() < 0.4:
            self._link.ring_doorbell()
            os.ftruncate(self._fd, total)

    def _punch_a_hole(self) -> None:
        start = self._chance.randrange(0, self._geometry.total_bytes, 4096)
        _libc.fallocate(self._fd, _PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(1 << 16))

    def _damage_doorbell(self) -> None:
        bell = self._link._bell
        ways: list[Callable[[], object]] = [
            lambda: [bell.send(b"!", socket.MSG_DONTWAIT) for _ in range(5000)],
            lambda: bell.send(bytes(1 << 20), socket.MSG_DONTWAIT),
            lambda: bell.send(b"!", socket.MSG_OOB | socket.MSG_DONTWAIT),
            lambda: bell.shutdown(socket.SHUT_WR),
            lambda: bell.shutdown(socket.SHUT_RD),
            lambda: socket.send_fds(bell, [b"!"], [self._fd] * 20, socket.MSG_DONTWAIT),
        ]
        with contextlib.suppress(OSError):
            self._chance.choice(ways)()

    def _lock(self) -> None:
        """Lock everything that is not locked, through a descriptor of its own."""
        own = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR)
        self._locks.append(own)
        with contextlib.suppress(OSError):
            fcntl.lockf(own, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, self._chance.choice([0, 1]))

    # -- connections -----------------------------------------------------------------------------

    def die(self) -> None:
        """Close everything, as a process does that is killed."""
        self._link.close()
        os.close(self._fd)
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def disconnect(self) -> None:
        """Close the connection, but stay alive, as far as the daemon can see."""
        self._link._connection.close()
