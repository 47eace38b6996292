"""Bytes for O_DIRECT: whole blocks of exactly what plain concatenation gives."""

from __future__ import annotations

import errno
import math
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omewd.store import aligned
from omewd.store.aligned import (
    ALIGNMENT,
    is_direct,
    lies_aligned,
    packed,
    size_of,
    split,
    write_all_at,
    write_at,
)
from omewd.store.buffers import Buffers
from omewd.store.encoders.base import Block, Piece

PIECE_BYTES = 3 * ALIGNMENT
DTYPES = ("uint8", "uint16", "float32", "uint64")


def some_array(shape: tuple[int, ...], dtype: str, seed: int) -> Block:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)


def page_aligned(array: Block) -> Block:
    """The same array, from the start of a page."""
    memory = np.frombuffer(mmap.mmap(-1, array.nbytes or ALIGNMENT), array.dtype)[: array.size].reshape(array.shape)
    memory[...] = array
    return memory


def every_other(array: Block) -> Block:
    wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), 77, array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    edges = [edge + d for edge in (ALIGNMENT, PIECE_BYTES, PIECE_BYTES + ALIGNMENT) for d in (-8, -1, 0, 1, 8)]
    size = draw(st.integers(0, 60) | st.sampled_from(edges) | st.integers(0, 3 * PIECE_BYTES))
    seed = draw(st.integers(0, 9))
    dtype = draw(st.sampled_from(DTYPES))
    rows = draw(st.integers(1, 40))
    array = some_array((rows, size // rows // np.dtype(dtype).itemsize), dtype, seed)
    match draw(st.sampled_from(["bytes", "memoryview", "contiguous", "columns first", "every other", "aligned"])):
        case "bytes":
            return some_array((size,), "uint8", seed).tobytes()
        case "memoryview":
            return some_array((size,), "uint8", seed).data
        case "columns first":
            return np.asfortranarray(array)
        case "every other":
            return every_other(array)
        case "aligned":
            return page_aligned(some_array((-(-size // ALIGNMENT), ALIGNMENT), "uint8", seed))
    return array


def views(arrays: list[Block]) -> list[memoryview]:
    return [memoryview(array.tobytes()) for array in arrays]


def concatenated(parts: list[Any]) -> bytes:
    return b"".join(part.tobytes() if hasattr(part, "tobytes") else part for part in parts)


@given(st.lists(pieces(), max_size=6))
@example([page_aligned(np.empty((0, 3), np.uint16)), b"after"])
def test_packed_is_concatenation_in_whole_blocks(parts: list[Piece]) -> None:
    buffers = Buffers()
    buffers.get(PIECE_BYTES + ALIGNMENT)[:] = 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aligned, "PIECE_BYTES", PIECE_BYTES)
        patch.setattr(aligned, "_BUFFER_BYTES", PIECE_BYTES + ALIGNMENT)
        blocks = []
        for block, used in packed(parts, buffers):
            assert np.frombuffer(block, np.uint8).__array_interface__["data"][0] % ALIGNMENT == 0
            assert 0 < used <= len(block) <= PIECE_BYTES + ALIGNMENT
            blocks.append((bytes(block), used))
    expected = concatenated(parts)
    whole = b"".join(block for block, _ in blocks)
    assert all(len(block) % ALIGNMENT == 0 for block, _ in blocks)
    assert all(used == len(block) for block, used in blocks[:-1])
    assert sum(used for _, used in blocks) == sum(map(size_of, parts)) == len(expected)
    assert whole == expected + bytes(-len(expected) % ALIGNMENT)


def test_packed_takes_no_more_memory_than_it_needs() -> None:
    buffers = Buffers()
    assert [used for _, used in packed([b"1" * 5000], buffers)] == [5000]
    assert buffers.get(1).size == 2 * ALIGNMENT


def test_what_lies_aligned_is_packed_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligned, "PIECE_BYTES", PIECE_BYTES)
    array = page_aligned(some_array((8, ALIGNMENT // 2), "uint16", 1))
    blocks = [np.frombuffer(block, np.uint8) for block, _ in packed([array], Buffers())]
    assert [block.nbytes for block in blocks] == [PIECE_BYTES, PIECE_BYTES, 2 * ALIGNMENT]
    assert all(np.shares_memory(block, array) for block in blocks)
    behind = [np.frombuffer(block, np.uint8) for block, _ in packed([b"before", array], Buffers())]
    assert not any(np.shares_memory(block, array) for block in behind)


def test_each_thread_has_a_buffer_of_its_own() -> None:
    buffers, others = Buffers(), []
    mine = buffers.get(5000)
    thread = threading.Thread(target=lambda: others.append(buffers.get(5000)))
    thread.start()
    thread.join()
    assert buffers.get(1) is mine
    assert not np.shares_memory(mine, others[0])


@given(st.lists(st.integers(0, 9), max_size=4), st.sampled_from(DTYPES), st.integers(8, 3000), st.booleans())
def test_split_covers_an_array_in_order(shape: list[int], dtype: str, limit: int, reverse: bool) -> None:
    array = some_array(tuple(shape), dtype, seed=1)
    array = array.T if reverse else array
    parts = list(split(array, limit))
    assert b"".join(part.tobytes() for part in parts) == array.tobytes()
    assert all(part.nbytes <= limit for part in parts)
    assert all(np.shares_memory(part, array) for part in parts if part.size)


@pytest.mark.parametrize("most", [1, 7, ALIGNMENT, 5000, 10**6])
def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    arrays = [some_array(shape, "uint16", seed) for seed, shape in enumerate([(3, 5), (40, 60), (1,), (0,), (2000,)])]
    real_write = os.pwrite

    def write_some(descriptor: int, views: list[memoryview], offset: int) -> int:
        return real_write(descriptor, b"".join(views)[:most], offset)

    monkeypatch.setattr(os, "pwritev", write_some)
    with (tmp_path / "file").open("w+b") as file:
        write_all_at(file.fileno(), views(arrays), 100)
        assert file.read() == bytes(100) + concatenated(arrays)
        write_at(file.fileno(), memoryview(b"abcdefghij"), 50)
        file.seek(0)
        assert file.read(100) == bytes(50) + b"abcdefghij" + bytes(40)


def test_more_arrays_than_one_call_takes(tmp_path: Path) -> None:
    arrays = [some_array((3,), "uint8", seed) for seed in range(aligned._IOV_MAX + 5)]
    with (tmp_path / "file").open("w+b") as file:
        write_all_at(file.fileno(), views(arrays), 0)
        assert file.read() == concatenated(arrays)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "int64"])
def test_what_can_be_written_as_it_is(tmp_path: Path, dtype: str) -> None:
    memory = page_aligned(np.zeros(4 * ALIGNMENT, np.uint8))
    array = memory[: 2 * ALIGNMENT].view(dtype).reshape(2, -1)
    assert lies_aligned(array)
    assert lies_aligned(array[1:])
    assert not lies_aligned(array.T)
    assert not lies_aligned(array[:, ::2])
    assert not lies_aligned(array[:1, :-8])
    assert not lies_aligned(memory[512 : 512 + ALIGNMENT])
    array[...] = 3
    with (tmp_path / "file").open("w+b") as file:
        write_all_at(file.fileno(), [array.data.cast("B")], 0)
        assert file.read() == array.tobytes()


# -- round the page cache, where the disk takes it -------------------------------------------------


@pytest.fixture
def direct_file(tmp_path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    except OSError:
        pytest.skip("no O_DIRECT here")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def write_backs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The parts of files, (start, size), that the page cache was told to write out."""
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(aligned, "start_write_back", lambda _, start, size: seen.append((start, size)))
    return seen


def test_whole_blocks_go_round_the_page_cache(
    tmp_path: Path, direct_file: int, write_backs: list[tuple[int, int]]
) -> None:
    array = page_aligned(some_array((2, ALIGNMENT), "uint8", 1))
    write_at(direct_file, array.data.cast("B"), ALIGNMENT)
    assert is_direct(direct_file)
    assert write_backs == []
    assert (tmp_path / "file").read_bytes() == bytes(ALIGNMENT) + array.tobytes()


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_disk_that_takes_no_direct_write_gets_it_through_the_page_cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    direct_file: int,
    write_backs: list[tuple[int, int]],
    taken: int,
) -> None:
    """It refuses at once, or after ``taken`` blocks."""
    real_write = os.pwritev
    refused: list[int] = []

    def write(descriptor: int, blocks: list[memoryview], offset: int) -> int:
        if not is_direct(descriptor):
            return real_write(descriptor, blocks, offset)
        if offset < taken * ALIGNMENT:
            return real_write(descriptor, blocks[:1], offset)
        refused.append(offset)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "pwritev", write)
    array = page_aligned(some_array((4, ALIGNMENT), "uint8", 1))
    write_all_at(direct_file, [row.data for row in array], 0)
    write_at(direct_file, memoryview(b"more"), 4 * ALIGNMENT)
    assert refused == [taken * ALIGNMENT]
    assert not is_direct(direct_file)
    assert (tmp_path / "file").read_bytes() == array.tobytes() + b"more"
    assert write_backs == [(taken * ALIGNMENT, (4 - taken) * ALIGNMENT), (4 * ALIGNMENT, 4)]


def test_the_rest_of_a_write_that_was_cut_short_within_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct_file: int
) -> None:
    real_write, calls = os.pwritev, iter([100, 10**6])

    def write(descriptor: int, blocks: list[memoryview], offset: int) -> int:
        return (
            min(real_write(descriptor, blocks, offset), next(calls))
            if is_direct(descriptor)
            else real_write(descriptor, blocks, offset)
        )

    monkeypatch.setattr(os, "pwritev", write)
    array = page_aligned(some_array((2, ALIGNMENT), "uint8", 1))
    write_at(direct_file, array.data.cast("B"), 0)
    assert (tmp_path / "file").read_bytes() == array.tobytes()


@pytest.mark.parametrize(("error", "direct"), [(errno.EINVAL, False), (errno.EIO, True), (errno.ENOSPC, True)])
def test_other_errors_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct_file: int, error: int, direct: bool
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pwritev", fail)
    with (tmp_path / "cached").open("w+b") as cached, pytest.raises(OSError, match=os.strerror(error)):
        write_at(direct_file if direct else cached.fileno(), memoryview(bytes(ALIGNMENT)), 0)
    assert is_direct(direct_file)
