"""The frames that a benchmark hands over. They are made beforehand and used in turn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Frames = np.ndarray[Any, Any]

# More than any cache holds, because a camera's frames are not in a cache.
POOL_BYTES = 256 << 20
_MAX_FRAMES = 2048
_BLOBS = 40


def make_pool(shape: tuple[int, int], dtype: str, data: str, frames: int, *, pool_bytes: int = POOL_BYTES) -> Frames:
    """Make up to ``frames`` different frames in about ``pool_bytes``, as one (n, Y, X) array.

    ``data="random"``: every bit of integers is noise, which does not compress; floats are in [0, 1).
    ``data="camera"``: fluorescence images as an sCMOS camera sees them, which compress as such images do.
    """
    kind = np.dtype(dtype)
    frame_bytes = math.prod(shape) * kind.itemsize
    count = max(1, min(frames, _MAX_FRAMES, pool_bytes // frame_bytes))
    noise = np.random.default_rng(0)
    pool = np.empty((count, *shape), kind)
    if data == "random":
        if kind.kind == "f":
            for frame in pool:
                frame[...] = noise.random(shape, np.float32)
        else:
            flat = pool.view(np.uint8).reshape(-1)
            flat[:] = np.frombuffer(noise.bytes(flat.size), np.uint8)
        return pool
    photons = _photons(shape, noise)
    spread = np.sqrt(photons + _READ_NOISE**2)
    limit = np.iinfo(kind).max if kind.kind in "iu" else np.inf
    counts = min(1.0, limit / (_OFFSET + 1.5 * _GAIN * float(photons.max())))  # an 8-bit camera has a lower gain
    for frame in pool:
        signal = photons + spread * noise.standard_normal(shape, np.float32)
        frame[...] = np.clip(counts * (_OFFSET + _GAIN * signal), 0, limit)
    return pool


# A common sCMOS camera: an offset of 100 counts, 2.2 counts a photo-electron, 1.6 electrons of read noise.
_OFFSET, _GAIN, _READ_NOISE = 100.0, 2.2, 1.6


def _photons(shape: tuple[int, int], noise: np.random.Generator) -> Frames:
    """The expected photo-electrons of each pixel: a dim background with cells of various sizes and brightness."""
    y, x = np.ogrid[0 : shape[0], 0 : shape[1]]
    photons = np.full(shape, 10.0, np.float32)
    scale = max(shape)
    for _ in range(_BLOBS):
        centre_y, centre_x = noise.random(2) * shape
        radius, brightness = scale * (0.01 + 0.03 * noise.random()), 400 * noise.random() ** 2
        profile_y = np.exp(-(((y - centre_y) / radius) ** 2)).astype(np.float32)
        profile_x = np.exp(-(((x - centre_x) / radius) ** 2)).astype(np.float32)
        photons += brightness * profile_y * profile_x
    return photons
