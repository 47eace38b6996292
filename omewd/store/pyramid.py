"""Image pyramids: halves blocks of frames along some of their axes, exactly and within the CPU's cache."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

Block = np.ndarray[Any, Any]

# Pixels are gathered in bands of this size, with as much again for the results. Measured with frames of 2048 x 2048
# uint16 on one core with 2 MiB of L2: 4.0 GB/s of input with 64 KiB, 5.6 with 128, 6.5 with 256, 6.6 with 512, 6.3 with
# 1024.
BAND_BYTES = 512 << 10
# By the size of an integer: a type that holds two of them side by side, and the sum of 256.
_PAIRS: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint16, 2: np.uint32, 4: np.uint64}
_EXTREMES: dict[str, np.ufunc] = {"min": np.minimum, "max": np.maximum}
_METHODS = ("mean", "nearest", *_EXTREMES)
_local = threading.local()


def halve(block: Block, axes: Sequence[int], method: str, present: Block | None = None) -> tuple[Block, Block | None]:
    """Halve frames (..., y, x) along ``axes``; returns them, and which of them hold pixels (None for all).

    An axis of length n becomes ceil(n / 2) long. ``present``: which frames hold pixels, a bool array of shape
    ``block.shape[:-2]``, or None for all. The other frames are ignored, and results made only of them are 0.

    "mean" is the mean of the 2 ** len(axes) pixels, or of as many as there are. It is exact for integers (rounded to
    nearest, half up), and has the floats' own precision, float32 for float16. "min" and "max" are over the same pixels.
    With any of the three, a NaN among the pixels results in NaN. "nearest" takes the pixel at the even index along each
    axis, and so mixes no labels. The result is new memory, in C order.

    Raises ValueError for an unknown method or axes that the block lacks, TypeError for pixels that are not numbers.
    """
    if method not in _METHODS:
        raise ValueError(f"unknown method: {method!r}")
    if block.ndim < 2 or not set(axes) <= set(range(block.ndim)):
        raise ValueError(f"cannot halve axes {tuple(axes)} of shape {block.shape}")
    if block.dtype.kind not in "uif":
        raise TypeError(f"cannot halve {block.dtype}")
    factors = tuple(2 if axis in axes else 1 for axis in range(block.ndim))
    if method == "nearest":
        even = tuple(slice(None, None, factor) for factor in factors)
        out, kept = block[even].copy(), None if present is None else present[even[:-2]].copy()
    else:
        out = np.empty([-(-size // factor) for size, factor in zip(block.shape, factors, strict=True)], block.dtype)
        kept = _put_all(block, factors, method, present, out)
    if kept is None or kept.all():
        return out, None
    out[~kept] = 0
    return out, kept


def _put_all(block: Block, factors: tuple[int, ...], method: str, present: Block | None, out: Block) -> Block | None:
    """Fill all frames of ``out`` that are made of present frames; returns which these are (None for all)."""
    if 2 not in factors[:-2]:
        # Consecutive small frames go together, because a call of numpy costs as much as 10 KB of pixels.
        for index in np.ndindex(block.shape[:-3]) if out.size else ():
            frames = block[index].reshape(-1, *block.shape[-2:])
            _put([frames], factors[-2:], method, out[index].reshape(-1, *out.shape[-2:]))
        return None if present is None else present.copy()
    kept = np.zeros(out.shape[:-2], bool)
    for index in np.ndindex(kept.shape):
        axes = zip(index, factors, block.shape, strict=False)
        inputs = itertools.product(*(range(at * by, min(at * by + by, size)) for at, by, size in axes))
        planes = [block[at][None] for at in inputs if present is None or present[at]]
        kept[index] = bool(planes)
        if planes and out.size:
            _put(planes, factors[-2:], method, out[index][None])
    return kept


def _put(planes: Sequence[Block], factors: tuple[int, ...], method: str, out: Block) -> None:
    """Combine planes, each of shape (frame, y, x), and the pixels that become one, into ``out``."""
    (length, width), (by_y, by_x) = out.shape[1:], factors
    count = len(planes) * by_y * by_x
    kind, dtype = out.dtype.kind, out.dtype.newbyteorder("=")
    become: Callable[[Block, Block, int, int], Block] = _mean_of_pairs
    if method in _EXTREMES:
        become = partial(_extreme, _EXTREMES[method])
    elif kind == "f":
        dtype, become = np.promote_types(dtype, np.float32), _mean_of_floats
    elif by_x == 1 or dtype.itemsize not in _PAIRS or count > 256:
        dtype, become = np.dtype(np.uint64 if kind == "u" else np.int64), _mean_of_integers
    row_bytes = count * width * dtype.itemsize
    rows = min(length, max(1, BAND_BYTES // row_bytes))
    frames = max(1, BAND_BYTES // (length * row_bytes))
    for frame, y in itertools.product(range(0, len(out), frames), range(0, length, rows)):
        target = out[frame : frame + frames, y : y + rows]
        shape = len(planes), len(target), target.shape[1] * by_y, width * by_x
        size = math.prod(shape) * dtype.itemsize
        # The first touch of new memory costs more than the arithmetic.
        band, spare = _warm(2 * size).view(dtype).reshape(2, *shape)
        for part, plane in zip(band, planes, strict=True):
            source = plane[frame : frame + frames, y * by_y : (y + rows) * by_y]
            _, height, columns = source.shape
            part[:, :height, :columns] = source
            # At an odd end a pixel counts twice, which changes nothing.
            part[:, height:, :columns] = source[:, -1:]
            part[..., columns:] = part[..., columns - 1 : columns]
        np.copyto(target, become(band, spare, by_y, by_x), casting="unsafe")


def _warm(size: int) -> Block:
    """``size`` bytes of this thread's memory, which the thread's next call overwrites."""
    memory: Block | None = getattr(_local, "memory", None)
    if memory is None or memory.size < size:
        memory = _local.memory = np.empty(size, np.uint8)
    return memory[:size]


def _mean_of_pairs(band: Block, spare: Block, by_y: int, by_x: int) -> Block:
    """The mean of integers of at most 32 bits with ``by_x`` 2: reads each pair as one integer of twice the width."""
    bits, signed = band.itemsize * 8, band.dtype.kind == "i"
    low, high = band.view(_PAIRS[band.itemsize]), spare.view(_PAIRS[band.itemsize])
    if signed:
        # Counted from the lowest value, the integers are unsigned, and so is their mean.
        band ^= np.iinfo(band.dtype).min
    np.right_shift(low, bits, out=high)
    low &= (1 << bits) - 1
    low += high
    count = len(band) * by_y * by_x
    total = _sum(low, by_y, 1)
    total += count // 2
    total //= count
    if signed:
        total ^= 1 << (bits - 1)
    return total


def _mean_of_integers(band: Block, spare: Block, by_y: int, by_x: int) -> Block:
    """The mean of any integers, by a sum of quotients and one of remainders: their own sum may overflow."""
    count = len(band) * by_y * by_x
    np.remainder(band, count, out=spare)
    band //= count
    left = _sum(spare, by_y, by_x) + count // 2
    total: Block = _sum(band, by_y, by_x) + left // count
    return total


def _mean_of_floats(band: Block, _: Block, by_y: int, by_x: int) -> Block:
    """The mean of floats. They are only divided first if their sum overflows, which costs the smallest ones digits."""
    count = len(band) * by_y * by_x
    with np.errstate(all="ignore", over="raise"):
        try:
            mean: Block = _sum(band, by_y, by_x) / count
        except FloatingPointError:
            mean = _sum(band / count, by_y, by_x)
    return mean


def _extreme(of: np.ufunc, band: Block, spare: Block, by_y: int, by_x: int) -> Block:
    """The minimum or maximum over planes, and over the rows and columns that become one."""
    total: Block = band[0]
    for plane in band[1:]:
        total = of(total, plane, out=band[0])
    if by_y == 2:
        room = spare[0].reshape(-1)[: total.size // 2].reshape(len(total), -1, total.shape[-1])
        total = of(total[:, ::2], total[:, 1::2], out=room)
    return of(total[..., ::2], total[..., 1::2]) if by_x == 2 else total


def _sum(band: Block, by_y: int, by_x: int) -> Block:
    """The sum over planes, and over the rows and columns that become one."""
    total: Block = band[0] if len(band) == 1 else band.sum(axis=0, dtype=band.dtype)
    if by_y == 2:
        total = total[:, ::2] + total[:, 1::2]
    return total[..., ::2] + total[..., 1::2] if by_x == 2 else total
