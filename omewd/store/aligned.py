"""Arranges bytes for O_DIRECT: in whole blocks, from page-aligned memory."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from omewd.model.plan.memory import PIECE_BYTES
from omewd.store.buffers import Buffers
from omewd.store.encoders.base import Block, Piece
from omewd.store.filesystem import start_write_back

ALIGNMENT = 4096
# Room for a piece after the rest of a block.
_BUFFER_BYTES = PIECE_BYTES + ALIGNMENT
_IOV_MAX = 1024


def aligned(size: int) -> int:
    """Round a size up to whole blocks."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def split(array: Block, limit: int) -> Iterator[Block]:
    """Split an array, in C order, into parts of at most ``limit`` bytes, or of one element."""
    if array.nbytes <= limit or array.ndim == 0:
        yield array
        return
    inner = array.nbytes // array.shape[0]
    if inner > limit:
        for part in array:
            yield from split(part, limit)
        return
    step = limit // inner
    for start in range(0, array.shape[0], step):
        yield array[start : start + step]


def packed(parts: Iterable[Piece], buffers: Buffers) -> Iterator[tuple[memoryview, int]]:
    """Pack parts into blocks, as (block, its bytes without padding). Only the last block is padded.

    A block is valid until the next one is requested. Blocks are multiples of ALIGNMENT, and exceed PIECE_BYTES by at
    most ALIGNMENT. Aligned arrays are not copied.
    """
    buffer, filled = np.empty(0, np.uint8), 0
    for part in parts:
        whole = part if isinstance(part, np.ndarray) else np.frombuffer(part, np.uint8)
        for piece in split(whole, PIECE_BYTES):
            if not filled and piece.nbytes and lies_aligned(piece):
                yield piece.data.cast("B"), piece.nbytes
                continue
            if filled + piece.nbytes > buffer.size < _BUFFER_BYTES:
                larger = buffers.get(min(piece.nbytes if not filled else _BUFFER_BYTES, _BUFFER_BYTES))
                larger[:filled] = buffer[:filled]
                buffer = larger
            if filled + piece.nbytes > buffer.size:
                out = filled // ALIGNMENT * ALIGNMENT
                yield buffer.data[:out], out
                buffer[: filled - out] = buffer[out:filled]
                filled -= out
            target = buffer[filled : filled + piece.nbytes]
            target.view(piece.dtype).reshape(piece.shape)[...] = piece
            filled += piece.nbytes
    if filled:
        end = aligned(filled)
        buffer[filled:end] = 0
        yield buffer.data[:end], filled


def lies_aligned(array: Block) -> bool:
    """Whether an array can be written without a copy: contiguous, page-aligned, in whole blocks."""
    if not array.flags.c_contiguous or array.nbytes % ALIGNMENT:
        return False
    address: int = array.__array_interface__["data"][0]
    return address % ALIGNMENT == 0


def size_of(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.nbytes


def write_at(descriptor: int, block: memoryview, offset: int) -> None:
    """Write a whole block, with O_DIRECT if the file was opened with it and the disk takes it."""
    write_all_at(descriptor, [block], offset)


def write_all_at(descriptor: int, blocks: Sequence[memoryview], offset: int) -> None:
    """Write consecutive blocks, in as few calls as possible."""
    left = list(blocks)
    while left:
        try:
            count = os.pwritev(descriptor, left[:_IOV_MAX], offset)
        except OSError as error:
            # The disk has larger blocks than ours, or a write was cut short within a block.
            if error.errno != errno.EINVAL or not is_direct(descriptor):
                raise
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
            continue
        if not is_direct(descriptor):
            start_write_back(descriptor, offset, count)
        offset += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]


def is_direct(descriptor: int) -> bool:
    """Whether writes to a file bypass the page cache."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
