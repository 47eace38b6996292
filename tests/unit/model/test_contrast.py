"""Sketches of grey values: merged, they tell what a viewer should show."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from omewd.dataset.omero import full_range, measured
from omewd.model.contrast import FRACTIONS, Contrast, quantile
from omewd.writer.sample import sketch


def constant(value: float) -> list[float]:
    return [value] * len(FRACTIONS)


def test_constant_frames_of_different_brightness() -> None:
    """The frames' own windows are empty: only all of them together have one."""
    sketches = [constant(float(value)) for value in range(10)]
    assert quantile(sketches, 0.01) == 0
    assert quantile(sketches, 0.55) == 5
    assert quantile(sketches, 0.999) == 9


def test_one_bright_frame_among_many_is_seen() -> None:
    sketches = [constant(100.0)] * 49 + [constant(5000.0)]
    assert quantile(sketches, 0.01) == 100
    assert quantile(sketches, 0.97) == 100
    assert quantile(sketches, 0.999) == 5000


def test_frames_of_noise_together() -> None:
    rng = np.random.default_rng(1)
    frames = [rng.normal(1000 + 50 * i, 30, (256, 256)) for i in range(20)]
    sketches = [np.quantile(frame, FRACTIONS).tolist() for frame in frames]
    for fraction in (0.01, 0.5, 0.999):
        assert quantile(sketches, fraction) == pytest.approx(np.quantile(frames, fraction), abs=8)


def test_memory_is_bounded_and_old_frames_count_as_new_ones() -> None:
    contrast = Contrast()
    for value in range(10_000):
        contrast.add([(0, constant(float(value))), (3, constant(7.0))])
    assert all(len(channel.sketches) < 64 for channel in contrast._channels.values())
    first, second = contrast.windows
    assert (first[0], second[0]) == (0, 3)
    assert first[1] == pytest.approx(100, abs=400)
    assert first[2] == pytest.approx(9990, abs=400)
    assert second[1:] == (7, 7, 7, 7)


LARGEST = sys.float_info.max


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.7, 0.999])
def test_the_largest_floats_have_finite_quantiles(fraction: float) -> None:
    of_frame = np.linspace(-1, 1, len(FRACTIONS)) * LARGEST
    several = [of_frame.tolist(), constant(0.0), constant(-LARGEST), constant(LARGEST)]
    for sketches in ([of_frame.tolist()], several):
        assert -LARGEST <= quantile(sketches, fraction) <= LARGEST
    assert quantile([of_frame.tolist()], 0.5) == pytest.approx(0, abs=LARGEST * 1e-9)


@pytest.mark.parametrize("value", [-LARGEST, LARGEST])
def test_a_frame_of_the_largest_floats_has_a_finite_window(value: float) -> None:
    window = measured((0, value, value, value, value), "float64")
    assert -LARGEST <= window["min"] <= window["start"] < window["end"] <= window["max"] <= LARGEST


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint64", "int64", "float32", "float64"])
def test_a_window_is_never_empty_and_in_its_range(dtype: str) -> None:
    for value in (*full_range(dtype), 0.0, 1.0, 77.0):
        window = measured((0, value, value, value, value), dtype)
        assert window["min"] <= window["start"] < window["end"] <= window["max"], (value, window)


def test_a_sketch_is_of_the_frame_in_any_type() -> None:
    values = np.arange(200 * 300).reshape(200, 300)
    found = sketch(values.astype(np.uint16))
    assert found is not None
    assert len(found) == len(FRACTIONS)
    assert found == sorted(found)
    assert found[11] == pytest.approx(30_000, rel=0.1)
    noisy = values.astype(np.float32)
    noisy[::2] = np.nan
    noisy[1, :] = np.inf
    some = sketch(noisy)
    assert some is not None
    assert np.isfinite(some).all()
    assert sketch(np.full((8, 8), np.nan, np.float32)) is None
    assert sketch(np.full((1, 1), 3, np.uint8)) == constant(3.0)
