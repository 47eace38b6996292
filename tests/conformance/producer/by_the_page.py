"""A producer written after docs/internals/ring.md and control-protocol.md alone: nothing of omewd is imported.

That it passes the suite shows that the pages say enough. It does what it must and no more.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

PUBLISHED, FRONTIER, GAP_KINDS, PRODUCER_WAITS = (1024 // 8 + word for word in range(4))
RELEASED, DURABLE, STATE, FINAL_PUBLISHED, DOORBELL_AT, GAP_KINDS_READ = (1536 // 8 + word for word in range(6))
FAILURE, GAP_TABLE, SLOT_HEADERS = 2048, 4096, 8192
OPEN, STOPPED, FAILED, DONE = 1, 2, 3, 4
SKIPPED, DROPPED = 1, 2
BLOCK, DROP, FAIL = 0, 1, 2
UNSET = 2**64 - 1


class RefusedError(Exception):
    """What omewd says no to."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Control:
    """A connection to the daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def ask(self, op: str, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        self.socket.send(json.dumps({"op": op, **fields}).encode())
        packet, descriptors, _, _ = socket.recv_fds(self.socket, 128 * 1024, 4)
        if not packet:
            raise ConnectionResetError
        reply = json.loads(packet)
        if "in_memory" in reply:
            memory = descriptors.pop()
            reply = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
            os.close(memory)
        if "error" in reply:
            raise RefusedError(reply["error"]["code"], reply["error"]["message"])
        return reply["ok"], descriptors

    def is_gone(self) -> bool:
        readable, _, _ = select.select([self.socket], [], [], 0)
        return bool(readable) and not self.socket.recv(1, socket.MSG_PEEK)


class ProducerByThePage:
    """One producer of a stream with a single source."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._control = Control(path)
        try:
            status, (self._segment, bell) = self._control.ask("attach", name=name)
        except BaseException:
            self._control.socket.close()
            raise
        self._id, self._bell = status["id"], socket.socket(fileno=bell)
        head = os.pread(self._segment, 188, 0)
        _, _, epoch, capacity, height, width, dtype, *sizes = struct.unpack_from("<8sIxxxxQQQQ16s7Q", head)
        stride, _, slot_stride, pixels, total, policy, frames_total = sizes
        assert head[:8] == b"OMEWDRNG"
        assert zlib.crc32(head[:184]) == struct.unpack_from("<I", head, 184)[0]
        assert os.fstat(self._segment).st_size == total
        self._capacity: int = capacity
        self._epoch, self._policy, self._frames_total = epoch, policy, frames_total
        self._shape, self._dtype = (height, width), np.dtype(dtype.rstrip(b"\0").decode())
        self._header_stride: int = stride
        self._slot_stride, self._pixels = slot_stride, pixels
        self._memory = mmap.mmap(self._segment, total)
        self._words = memoryview(self._memory).cast("Q")
        self._next: int = self._words[FRONTIER]
        if self._words[PUBLISHED]:
            self._next = max(self._next, self._words[self._header(self._words[PUBLISHED] - 1)] + 1)

    def _header(self, sequence: int) -> int:
        slot: int = sequence % self._capacity
        return (SLOT_HEADERS + slot * self._header_stride) // 8

    # -- publishing ------------------------------------------------------------------------------

    def append(self, frame: np.ndarray[Any, Any], metadata: dict[str, Any] | None = None) -> int | None:
        text = b"" if metadata is None else json.dumps(metadata).encode()
        if len(text) > self._header_stride - 64:
            raise RefusedError("bad_metadata", f"{len(text)} bytes")
        if frame.shape != self._shape or frame.dtype != self._dtype:
            raise RefusedError("bad_frame", f"{frame.shape} {frame.dtype}")
        words = self._words
        if words[STATE] != OPEN:
            raise self._ended()
        if self._next >= self._frames_total:
            raise RefusedError("too_many_frames", "all declared frames are there")
        if self._control.is_gone():
            self._reconnect()
        if not self._has_room():
            self._add_gap(1, DROPPED)
            return None
        sequence = words[PUBLISHED]
        place = self._pixels + sequence % self._capacity * self._slot_stride
        self._memory[place : place + frame.nbytes] = frame.tobytes()
        header = self._header(sequence)
        self._memory[header * 8 + 64 : header * 8 + 64 + len(text)] = text
        for word, value in enumerate((self._next, time.monotonic_ns(), time.time_ns(), len(text), 0)):
            words[header + word] = value
        index, self._next = self._next, self._next + 1
        words[PUBLISHED] = sequence + 1
        words[FRONTIER] = self._next
        self._ring_if_wanted()
        if words[STATE] != OPEN:
            while words[FINAL_PUBLISHED] == UNSET:
                time.sleep(0.001)
            if sequence >= words[FINAL_PUBLISHED]:
                raise self._ended()
        return index

    def _has_room(self) -> bool:
        """Whether a frame can be published; False if it is to be dropped."""
        words = self._words
        if words[PUBLISHED] - words[RELEASED] < self._capacity:
            return True
        self._ring()
        if self._policy == DROP:
            return False
        if self._policy == FAIL:
            raise RefusedError("ring_full", "no room")
        words[PRODUCER_WAITS] = 1
        while words[PUBLISHED] - words[RELEASED] >= self._capacity:
            if words[STATE] != OPEN:
                raise self._ended()
            if self._control.is_gone():
                self._reconnect()
            if select.select([self._bell], [], [], 0.1)[0]:
                self._bell.recv(4096)
        words[PRODUCER_WAITS] = 0
        return True

    def skip(self, frames: int) -> None:
        if self._words[STATE] != OPEN:
            raise self._ended()
        self._add_gap(frames, SKIPPED)

    def _add_gap(self, frames: int, kind: int) -> None:
        words = self._words
        number = words[GAP_KINDS]
        last = words[GAP_TABLE // 8 + (number - 1) % 256 * 2 + 1] if number else 0
        if kind != last and number - words[GAP_KINDS_READ] < 256:
            entry = GAP_TABLE // 8 + number % 256 * 2
            words[entry], words[entry + 1] = self._next, kind
            words[GAP_KINDS] = number + 1
        self._next += frames
        words[FRONTIER] = self._next
        self._ring_if_wanted()

    def _ring_if_wanted(self) -> None:
        # A system call is a fence on the page's machine as far as another process can tell; C has mfence.
        os.getppid()
        if self._words[FRONTIER] >= self._words[DOORBELL_AT]:
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._bell.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    @property
    def durable(self) -> int:
        return self._words[DURABLE]

    # -- the end ---------------------------------------------------------------------------------

    def _ended(self) -> RefusedError:
        if self._words[STATE] != FAILED:
            return RefusedError("stream_stopped", "it takes no more frames")
        while True:
            length = self._words[FAILURE // 8]
            try:
                error = json.loads(self._memory[FAILURE + 8 : FAILURE + 8 + length])
            except ValueError:  # it is just being replaced
                time.sleep(0.001)
            else:
                return RefusedError("stream_failed", error["message"])

    def _reconnect(self) -> None:
        try:
            control = Control(self._control.path)
            _, [bell] = control.ask("reattach", name=self._name, id=self._id, source=0, epoch=self._epoch)
        except OSError:
            return
        self._control.socket.close()
        self._bell.close()
        self._control, self._bell = control, socket.socket(fileno=bell)
        self._ring()

    def close(self) -> None:
        try:
            self._control.ask("finish", name=self._name, id=self._id, source=0)
            self._control.ask("wait", name=self._name, id=self._id, source=0)
        finally:
            self.vanish()

    def vanish(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self._segment)
        self._bell.close()
        self._control.socket.close()
