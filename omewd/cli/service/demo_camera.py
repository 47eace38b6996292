"""The simulated camera of ``omewd demo``, a process that draws cells under the letters OMEWD.

Usage: python -m omewd.cli.service.demo_camera STREAM SOCKET FRAMES FPS
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

import omewd

_LETTERS = {
    "O": (0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110),
    "M": (0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001),
    "E": (0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111),
    "W": (0b10001, 0b10001, 0b10001, 0b10101, 0b10101, 0b11011, 0b10001),
    "D": (0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110),
}
_PREPARED = 25


def draw(size: int, phase: float, noise: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Draw a (size, size) uint16 frame at ``phase`` in [0, 1): drifting nuclei and the letters, with shot noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    photons = np.full((size, size), 80.0)
    for cell in range(9):
        angle = 2 * np.pi * (phase + cell / 9)
        centre_y = 0.68 + 0.2 * np.sin(angle + cell)
        centre_x = 0.5 + 0.38 * np.cos(angle)
        photons += (600 + 120 * cell) * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (0.0012 + 0.0002 * cell))
    pixel = size // 36
    for number, letter in enumerate("OMEWD"):
        for row, bits in enumerate(_LETTERS[letter]):
            for column in range(5):
                if bits >> (4 - column) & 1:
                    top, left = (4 + row) * pixel, (4 + number * 6 + column) * pixel
                    photons[top : top + pixel, left : left + pixel] += 1500
    frame: np.ndarray[Any, np.dtype[np.uint16]] = noise.poisson(photons).astype(np.uint16)
    return frame


def main() -> None:
    stream, socket, frames, fps = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    noise = np.random.default_rng(0)
    with omewd.connect(stream, socket=socket) as producer:
        size = producer.shape[0]
        pictures = [draw(size, k / _PREPARED, noise) for k in range(min(_PREPARED, frames))]
        started = time.monotonic()
        for index in range(frames):
            if fps:
                time.sleep(max(0.0, started + index / fps - time.monotonic()))
            producer.append(pictures[index % len(pictures)], metadata={"exposure_time": 1 / fps if fps else 0.0})


if __name__ == "__main__":
    main()
