"""Halved blocks: exactly what Python's own numbers give, pixel by pixel."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omewd.store import pyramid
from omewd.store.encoders.base import Block
from omewd.store.pyramid import halve

INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATS = ("float16", "float32", "float64")
ULPS = 4
AXES = ((1, 2), (0, 1, 2), (2,), (1,), (0,), ())


def mean_of(pixels: Sequence[Any], dtype: np.dtype[Any]) -> Any:
    if dtype.kind != "f":
        return (2 * sum(int(pixel) for pixel in pixels) + len(pixels)) // (2 * len(pixels))
    if not np.isfinite(pixels).all():
        with np.errstate(invalid="ignore"):
            return np.sum(np.array(pixels, np.float64))
    return float(sum(Fraction(float(pixel)) for pixel in pixels) / len(pixels))


def slow(block: Block, axes: Sequence[int], method: str, present: Block | None) -> tuple[Block, Block]:
    """The same by the definition, a pixel at a time."""
    if present is None:
        present = np.ones(block.shape[:-2], bool)
    shape = [-(-size // 2) if axis in axes else size for axis, size in enumerate(block.shape)]

    def inputs(index: tuple[int, ...]) -> list[tuple[int, ...]]:
        ranges = [
            range(2 * at, min(2 * at + 2, size)) if axis in axes else range(at, at + 1)
            for axis, (at, size) in enumerate(zip(index, block.shape, strict=False))
        ]
        indices = list(itertools.product(*ranges))
        return indices[:1] if method == "nearest" else indices

    become: dict[str, Any] = {"nearest": lambda pixels, _: pixels[0], "mean": mean_of, "min": np.min, "max": np.max}

    out, kept = np.zeros(shape, block.dtype), np.zeros(shape[:-2], bool)
    for index in np.ndindex(*kept.shape):
        kept[index] = any(present[at] for at in inputs(index))
    for index in np.ndindex(*shape):
        pixels = [block[at] for at in inputs(index) if present[at[:-2]]]
        if pixels:
            out[index] = (
                become[method](pixels, block.dtype) if method in ("nearest", "mean") else become[method](pixels)
            )
    return out, kept


def check(block: Block, axes: Sequence[int], method: str, present: Block | None = None) -> None:
    before = block.copy()
    out, kept = halve(block, axes, method, present)
    expected, expected_kept = slow(block, axes, method, present)
    assert block.tobytes() == before.tobytes()
    assert out.dtype == block.dtype
    assert out.shape == expected.shape
    assert out.flags.c_contiguous
    assert not np.shares_memory(out, block)
    assert (kept is None) == expected_kept.all()
    if kept is not None:
        assert present is not None
        assert not np.shares_memory(kept, present)
        np.testing.assert_array_equal(kept, expected_kept)
    if block.dtype.kind != "f" or method != "mean":
        np.testing.assert_array_equal(out, expected)
        return
    whole = np.isfinite(expected)
    np.testing.assert_array_equal(out[~whole], expected[~whole])
    # Of terms that cancel, rounding shows against the largest of them.
    finite = np.abs(block[np.isfinite(block)].astype(np.float64))
    scale = float(finite.max(initial=0))
    error = np.abs(out[whole].astype(np.float64) - expected[whole].astype(np.float64))
    assert (error <= ULPS * scale * float(np.finfo(block.dtype).eps)).all()


def some_block(shape: tuple[int, ...], dtype: str, seed: int) -> Block:
    """Pixels that are any, but every other one at or next to an end of the range."""
    rng, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return np.asarray(rng.normal(scale=1000, size=shape).astype(kind))
    ends = np.iinfo(kind)
    block = rng.integers(ends.min, ends.max, shape, kind, endpoint=True)
    extremes = np.array([ends.min, ends.min + 1, ends.max - 1, ends.max], kind)
    return np.where(rng.random(shape) < 0.5, extremes[rng.integers(0, 4, shape)], block)


def strided(block: Block, layout: str) -> Block:
    """The same pixels in another layout, not to be written to."""
    if layout == "fortran":
        block = np.asfortranarray(block)
    elif layout == "padded":
        larger = np.zeros([size + 3 for size in block.shape], block.dtype)
        inner = larger[tuple(slice(1, size + 1) for size in block.shape)]
        inner[...] = block
        block = inner
    elif layout == "backwards":
        block = block[..., ::-1].copy()[..., ::-1]
    elif layout == "unaligned":
        raw = np.zeros(block.nbytes + 1, np.uint8)
        moved = raw[1:].view(block.dtype).reshape(block.shape)
        moved[...] = block
        block = moved
    block.flags.writeable = False
    return block


@st.composite
def blocks(draw: st.DrawFn, most: int = 4) -> tuple[Block, tuple[int, ...], Block | None]:
    outer = draw(st.lists(st.integers(1, 3), max_size=2))
    shape = (*outer, draw(st.integers(1, most)), draw(st.integers(1, 2 * most)))
    axes = draw(st.sets(st.integers(0, len(shape) - 1)))
    if draw(st.booleans()):
        axes |= {len(shape) - 2, len(shape) - 1}
    dtype, seed = draw(st.sampled_from(INTEGERS + FLOATS)), draw(st.integers(0, 1000))
    layout = draw(st.sampled_from(("as it is", "fortran", "padded", "backwards", "unaligned")))
    present = None
    if draw(st.booleans()):
        present = np.random.default_rng(seed).random(shape[:-2]) < draw(st.sampled_from((0.0, 0.5, 1.0)))
    return strided(some_block(shape, dtype, seed), layout), tuple(axes), present


@settings(max_examples=400, deadline=None)
@given(blocks(), st.sampled_from(("mean", "nearest", "min", "max")), st.sampled_from((1, 40, 1 << 20)))
def test_any_block_is_halved_as_by_definition(
    case: tuple[Block, tuple[int, ...], Block | None], method: str, band_bytes: int
) -> None:
    block, axes, present = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "BAND_BYTES", band_bytes)
        check(block, axes, method, present)


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("method", ["mean", "nearest"])
def test_every_dtype(dtype: str, axes: tuple[int, ...], method: str) -> None:
    check(some_block((3, 5, 7), dtype, 1), axes, method)
    check(some_block((3, 6, 8), dtype, 2), axes, method, np.array([True, False, True]))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_sum_of_small_and_of_extreme_pixels(dtype: str) -> None:
    ends = np.iinfo(dtype)
    near_zero = range(-3 if ends.min else 0, 4)
    values = {ends.min, ends.min + 1, *near_zero, ends.max // 2, ends.max - 1, ends.max}
    quads = np.array(list(itertools.product(sorted(values), repeat=4)), dtype)
    out, _ = halve(quads.reshape(-1, 2, 2), (1, 2), "mean")
    assert out.ravel().tolist() == [(2 * sum(quad) + 4) // 8 for quad in quads.tolist()]


def test_ties_go_up() -> None:
    out, _ = halve(np.array([[[0, 1], [1, 0]], [[-1, 0], [0, -1]], [[-1, -2], [-2, -1]]], np.int16), (1, 2), "mean")
    assert out.ravel().tolist() == [1, 0, -1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_the_largest_floats_do_not_overflow(dtype: str) -> None:
    largest = np.finfo(dtype).max
    block = np.full((2, 3, 4), largest, dtype)
    block[0, 0, 0] = -largest
    check(block, (0, 1, 2), "mean")
    check(block, (1, 2), "mean")


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_reach_their_mean_alone(dtype: str) -> None:
    block = np.ones((1, 2, 10), dtype)
    block[0, 0, [0, 2, 4, 5]] = np.nan, np.inf, np.inf, -np.inf
    block[0, 1, 7] = -np.inf
    out, _ = halve(block, (1, 2), "mean")
    np.testing.assert_array_equal(out, np.array([[[np.nan, np.inf, np.nan, -np.inf, 1]]], dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_smallest_floats_keep_their_digits(dtype: str) -> None:
    smallest = np.finfo(dtype).smallest_subnormal
    out, _ = halve(np.full((3, 3, 3), smallest, dtype), (0, 1, 2), "mean")
    assert (out == smallest).all()


def test_means_of_float16_are_rounded_once() -> None:
    out, _ = halve(np.array([[2048, 1], [1, 1]], np.float16), (0, 1), "mean")
    assert out.item() == np.float16(2051 / 4) == 513


def test_what_an_absent_frame_holds_counts_for_nothing() -> None:
    block = np.array([10, 99, 99, 20, 99, 99, 30], np.uint16)[:, None, None] * np.ones((2, 2), np.uint16)
    present = np.array([1, 0, 0, 1, 0, 0, 1], bool)
    out, kept = halve(block, (0, 1, 2), "mean", present)
    assert out.ravel().tolist() == [10, 20, 0, 30]
    assert kept is not None
    assert kept.tolist() == [True, True, False, True]
    out, kept = halve(block, (0, 1, 2), "nearest", present)
    assert out.ravel().tolist() == [10, 0, 0, 30]
    assert kept is not None
    assert kept.tolist() == [True, False, False, True]
    out, kept = halve(block, (1, 2), "mean", present)
    assert out.ravel().tolist() == [10, 0, 0, 20, 0, 0, 30]
    assert kept is not None
    assert kept.tolist() == present.tolist()


@pytest.mark.parametrize("method", ["mean", "nearest"])
def test_none_is_absent_once_every_halved_frame_is_there(method: str) -> None:
    present = np.array([1, 0, 1, 0, 1], bool)
    assert halve(np.ones((5, 2, 2), np.uint8), (0, 1, 2), method, present)[1] is None
    assert halve(np.ones((5, 2, 2), np.uint8), (1, 2), method, np.ones(5, bool))[1] is None


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0), (0, 0)])
@pytest.mark.parametrize("method", ["mean", "nearest"])
def test_blocks_without_a_pixel(shape: tuple[int, ...], method: str) -> None:
    check(np.zeros(shape, np.uint16), tuple(range(len(shape))), method)
    check(np.zeros(shape, np.uint16), (len(shape) - 2, len(shape) - 1), method)


def test_a_frame_on_its_own() -> None:
    check(some_block((5, 4), "uint16", 3), (0, 1), "mean")
    check(some_block((5, 4), "uint16", 3), (0, 1), "mean", np.array(False))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "uint64"])
def test_frames_of_many_bands(dtype: str) -> None:
    """Larger than one band, and odd; against sums that are exact in float64, or small enough."""
    block = np.random.default_rng(0).integers(0, 100, (3, 1001, 999)).astype(dtype)
    even = np.pad(block, ((0, 0), (0, 1), (0, 1)), "edge").astype(np.float64)
    mean = even.reshape(3, 501, 2, 500, 2).sum((2, 4)) / 4
    out, _ = halve(block, (1, 2), "mean")
    np.testing.assert_array_equal(out, mean if dtype == "float32" else np.floor(mean + 0.5))


def test_threads_do_not_disturb_each_other() -> None:
    inputs = [some_block((2, 300, 301), "uint16", seed) for seed in range(4)]
    expected = [halve(block, (0, 1, 2), "mean")[0] for block in inputs]
    wrong: list[int] = []

    def work(at: int) -> None:
        for _ in range(20):
            if not np.array_equal(halve(inputs[at], (0, 1, 2), "mean")[0], expected[at]):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("dtype", "axes", "method", "error"),
    [
        ("uint8", (1, 2), "median", ValueError),
        ("uint8", (1, 3), "mean", ValueError),
        ("uint8", (-1,), "mean", ValueError),
        ("complex64", (1, 2), "mean", TypeError),
        ("bool", (1, 2), "nearest", TypeError),
    ],
)
def test_what_cannot_be_halved(dtype: str, axes: tuple[int, ...], method: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        halve(np.zeros((1, 2, 2), dtype), axes, method)
