"""The line through samples of memory, and whether it is flat."""

from __future__ import annotations

import random

import pytest

from tests.support.trends import trend

MIB = 1 << 20


def test_a_line_is_found_exactly() -> None:
    found = trend(range(10), [3.0 + 2.0 * x for x in range(10)])
    assert found.slope == pytest.approx(2.0)
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert found.span == 9
    assert found.growth == pytest.approx(18.0)


def test_the_error_is_that_of_independent_samples() -> None:
    """Over many draws, the slopes scatter as much as the error says."""
    chance = random.Random(1)
    found = [trend(range(40), [chance.gauss(0, 1) for _ in range(40)]) for _ in range(400)]
    scatter = (sum(t.slope**2 for t in found) / len(found)) ** 0.5
    mean_error = sum(t.error for t in found) / len(found)
    assert 0.8 < mean_error / scatter < 1.3


def test_noise_is_flat_and_a_leak_in_it_is_not() -> None:
    chance = random.Random(2)
    noise = [50 * MIB + chance.gauss(0, 0.5 * MIB) for _ in range(100)]
    assert trend(range(100), noise).is_flat(2 * MIB)
    leak = [y + 4 * MIB * x / 100 for x, y in enumerate(noise)]
    assert not trend(range(100), leak).is_flat(2 * MIB)


def test_what_falls_is_flat() -> None:
    assert trend(range(20), [float(100 - x) for x in range(20)]).is_flat(0)


def test_a_constant_is_flat_without_a_floor() -> None:
    assert trend(range(20), [7.0] * 20).is_flat(0)


def test_a_wide_interval_is_not_flat() -> None:
    """A step in the middle may be the first of many: its samples are not independent."""
    step = [0.0] * 50 + [4.0] * 50
    found = trend(range(100), step)
    assert found.growth == pytest.approx(6.0, abs=0.2)
    assert found.error > 2 * trend(range(100), [4.0 * (x % 2) for x in range(100)]).error
    assert not found.is_flat(8)


def test_too_few_samples_are_no_trend() -> None:
    with pytest.raises(ValueError, match="at least 8 samples"):
        trend(range(7), [0.0] * 7)
    with pytest.raises(ValueError, match="different x"):
        trend([1.0] * 9, [0.0] * 9)
