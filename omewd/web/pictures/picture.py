"""A frame as a picture for the eye: fewer pixels, and values between two percentiles."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, Any]

# What falls outside is black or white.
_PERCENTILES = (0.1, 99.9)
# Percentiles of so many pixels are close enough.
_SAMPLED = 1 << 16
# So many are made to grey values at a time.
_ROWS = 64


@dataclass(frozen=True)
class Picture:
    """``low``, ``high``: the pixel values that are black and white. ``png``: the file."""

    low: float
    high: float
    png: bytes


def step_of(shape: tuple[int, ...], most: int) -> int:
    """The step between pixels of a frame (Y, X) of which at most ``most`` along each side are drawn."""
    return max(1, -(-max(shape[:2]) // most))


def picture(frame: Pixels, *, most: int, low: float | None = None, high: float | None = None) -> Picture:
    """Draw a frame, (Y, X) in grey or (Y, X, 3) in colour, with at most ``most`` pixels along each side.

    ``low``, ``high``: the values for black and white; None for the percentiles 0.1 and 99.9. NaN is black.
    """
    step = step_of(frame.shape, most)
    pixels = frame[::step, ::step]
    sample = pixels.reshape(-1)[:: max(1, pixels.size // _SAMPLED)].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    found = np.percentile(sample, _PERCENTILES) if sample.size else (0.0, 1.0)
    low, high = float(found[0]) if low is None else low, float(found[1]) if high is None else high
    scale = 255.0 / (high - low) if high > low else 0.0
    values = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), _ROWS):  # the whole may be large
        band = pixels[start : start + _ROWS].astype(np.float32)
        band -= low
        band *= scale
        values[start : start + _ROWS] = np.clip(np.nan_to_num(band, copy=False), 0, 255, out=band)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=1)
    return Picture(low, high, file.getvalue())
