"""The histogram of waits: exact counts, quantiles within its resolution, cheap to send and to add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.model.waits import OCTAVES, STAGES, Histogram, RecentWaits, StageCounts, histogram_of, summary

RESOLUTION = 2 ** (1 / 32)
WAITS = st.lists(st.integers(0, 2**60), min_size=1, max_size=200)


def one_by_one(waits: list[int]) -> Histogram:
    histogram = Histogram()
    for wait in waits:
        histogram.add(wait, 1)
    return histogram


@given(WAITS)
def test_an_array_makes_the_same_histogram_as_its_single_waits(waits: list[int]) -> None:
    assert histogram_of(np.array(waits)).frames == len(waits)
    for fraction in (0.1, 0.5, 0.99, 1.0):  # numpy's log2 may differ from math's in the last bit: a bucket further
        one, all_at_once = one_by_one(waits).quantile_ns(fraction), histogram_of(np.array(waits)).quantile_ns(fraction)
        assert one == pytest.approx(all_at_once, rel=RESOLUTION**4 - 1, abs=1)


@given(WAITS, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_the_resolution(waits: list[int], fraction: float) -> None:
    histogram = one_by_one(waits)
    exact = float(np.quantile(waits, fraction, method="inverted_cdf"))
    if exact > 1:
        assert histogram.quantile_ns(fraction) == pytest.approx(exact, rel=RESOLUTION**1.2 - 1, abs=1)
    assert histogram.longest_ns == max(waits)


@given(WAITS)
def test_counts_by_octave_are_those_of_the_waits(waits: list[int]) -> None:
    limits = [2**octave for octave in OCTAVES]
    counted = StageCounts.of(one_by_one(waits))
    below = [sum(wait < limit for wait in waits) for limit in limits] + [len(waits)]
    near = [sum(wait < limit * RESOLUTION for wait in waits) for limit in limits] + [len(waits)]  # log2 is rounded
    assert all(few <= n <= many for few, n, many in zip(below, np.cumsum(counted.counts), near, strict=True))
    assert counted.sum_ns == pytest.approx(sum(waits), rel=RESOLUTION**1.2 - 1, abs=len(waits))


@given(WAITS, WAITS)
def test_merging_is_adding_all(first: list[int], second: list[int]) -> None:
    merged = one_by_one(first)
    merged.merge(Histogram.unpack(one_by_one(second).pack()))
    assert merged == one_by_one(first + second)


def test_no_frames_and_no_wait() -> None:
    assert Histogram().quantile_ns(0.5) == 0
    histogram = histogram_of(np.array([0, 0, -5]))
    assert (histogram.frames, histogram.quantile_ns(0.99), histogram.longest_ns) == (3, 0, 0)
    histogram.add(100, 0)
    assert histogram.frames == 3


def test_recent_waits_forget_and_all_do_not() -> None:
    waits = RecentWaits()
    second = 1_000_000_000
    waits.add({"write": one_by_one([7])}, 100 * second)
    assert waits.recent(104 * second)["write"].frames == 1
    waits.add({"write": one_by_one([9])}, 106 * second)
    assert waits.recent(107 * second)["write"].frames == 2
    assert waits.recent(112 * second)["write"].frames == 1
    assert waits.recent(150 * second) == {}
    assert waits.all["write"].frames == 2


def test_the_summary_is_in_the_order_of_the_stages() -> None:
    waits = {stage: one_by_one([1000]) for stage in reversed(STAGES)}
    assert list(summary(waits)) == list(STAGES)
    assert summary(waits)["fsync"].max_ns == 1000
