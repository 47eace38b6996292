"""Single lines of long runs: found without reading all of them, however long each is."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.ledger import run_lines
from omewd.dataset.ledger.run_lines import BLOCK_BYTES, RunLines

FIRST, STEP, BEFORE = 70, 3, b"what was there before\n"


class Run:
    """A run in a file, with lines of these lengths at least, and a count of the bytes that are read."""

    def __init__(self, folder: Path, lengths: Sequence[int], step: int = STEP) -> None:
        self.lines = [
            f'{{"frame":{FIRST + number * step},"metadata":"{"x" * length}"}}'.encode()
            for number, length in enumerate(lengths)
        ]
        text = b"".join(line + b"\n" for line in self.lines)
        path = folder / "lines"
        path.write_bytes(BEFORE + text + b'{"frame":1}\n')
        self.descriptor = os.open(path, os.O_RDONLY)
        self.run = RunLines(self.descriptor, len(BEFORE), len(text), FIRST, step, len(lengths))

    def find(self, numbers: Sequence[int]) -> list[bytes]:
        return list(self.run.find(numbers))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each read."""
    sizes: list[int] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return sizes


@given(
    lengths=st.lists(st.sampled_from([0, 1, 9, 40, 200, 3000]), min_size=2, max_size=60),
    block=st.sampled_from([1, 30, 100, 1000]),
    chance=st.randoms(),
)
def test_each_line_is_found_whatever_the_lengths_are(lengths: list[int], block: int, chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lines, "BLOCK_BYTES", block)
        run = Run(Path(folder), lengths)
        for number, line in enumerate(run.lines):
            assert run.find([number]) == [line]
        some = sorted(chance.sample(range(len(lengths)), chance.randint(1, len(lengths))))
        assert run.find(some) == [run.lines[number] for number in some]
        os.close(run.descriptor)


def test_a_line_takes_a_few_blocks(tmp_path: Path, read: list[int]) -> None:
    run = Run(tmp_path, [60 + number % 7 for number in range(200_000)])
    for number in (0, 1, 77_777, 199_999):
        read.clear()
        assert run.find([number]) == [run.lines[number]]
        assert sum(read) <= 4 * BLOCK_BYTES
    os.close(run.descriptor)


def test_a_line_between_very_different_ones_takes_few_blocks(tmp_path: Path, read: list[int]) -> None:
    run = Run(tmp_path, [0] * 100_000 + [3000] * 5000 + [0] * 100_000)
    for number in (99_999, 100_001, 104_999, 105_001, 190_000):
        read.clear()
        assert run.find([number]) == [run.lines[number]]
        assert sum(read) <= 30 * BLOCK_BYTES
    os.close(run.descriptor)


def test_all_lines_are_read_once(tmp_path: Path, read: list[int]) -> None:
    run = Run(tmp_path, [100] * 20_000)
    assert run.find(range(20_000)) == run.lines
    assert sum(read) < 2 * run.run.length
    os.close(run.descriptor)


@pytest.mark.parametrize("damage", ["shorter", "other frames", "no newlines", "another step"])
def test_lines_of_another_run_are_an_error(tmp_path: Path, damage: str) -> None:
    run = Run(tmp_path, [100] * 5000, step=1 if damage == "another step" else STEP)
    path = tmp_path / "lines"
    text = path.read_bytes()
    match damage:
        case "shorter":
            os.truncate(path, len(text) // 3)
        case "other frames":
            path.write_bytes(text.replace(b'"frame":', b'"fr_me":'))
        case "no newlines":
            path.write_bytes(text.replace(b"\n", b" "))
        case "another step":
            run.run = RunLines(run.descriptor, len(BEFORE), run.run.length, FIRST, STEP, 5000)
    with pytest.raises(ValueError, match="is not there"):
        run.find([4000])
    os.close(run.descriptor)
