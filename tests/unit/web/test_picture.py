"""Frames as pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omewd.web.pictures.picture import picture


def pixels_of(png: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_grey_values_lie_between_two_percentiles(dtype: str) -> None:
    frame = np.linspace(0, 100, 64 * 48).reshape(48, 64).astype(dtype)
    drawn = picture(frame, most=64)
    seen = pixels_of(drawn.png)
    assert seen.shape == (48, 64)
    assert (seen[0, 0], seen[-1, -1]) == (0, 255)
    assert abs(int(seen[24, 0]) - 127) < 6
    assert 0 <= drawn.low < 2
    assert 98 < drawn.high <= 100


def test_black_and_white_may_be_given() -> None:
    frame = np.array([[0, 10, 20, 30]], np.uint16)
    assert pixels_of(picture(frame, most=16, low=10, high=20).png).tolist() == [[0, 0, 255, 255]]


def test_it_has_at_most_so_many_pixels_a_side() -> None:
    assert pixels_of(picture(np.zeros((2048, 1001), np.uint16), most=512).png).shape == (512, 251)
    assert pixels_of(picture(np.zeros((513, 4), np.uint16), most=512).png).shape == (257, 2)


def test_a_colour_frame_is_in_colour() -> None:
    frame = np.zeros((4, 1, 3), np.uint8)
    frame[..., 1] = 255
    assert pixels_of(picture(frame, most=8, low=0, high=255).png).tolist() == frame.tolist()


@pytest.mark.parametrize("value", [0, 7])
def test_a_uniform_frame_is_black(value: int) -> None:
    assert not pixels_of(picture(np.full((8, 8), value, np.uint16), most=8).png).any()


def test_what_is_no_number_is_black() -> None:
    frame = np.array([[np.nan, 0.0, 1.0, np.inf, -np.inf]], np.float32)
    assert pixels_of(picture(frame, most=8).png).tolist() == [[0, 0, 255, 255, 0]]
    assert not pixels_of(picture(np.full((2, 2), np.nan, np.float32), most=8).png).any()
