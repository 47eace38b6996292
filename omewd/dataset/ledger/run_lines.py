"""Finds single lines in a long run of written frames, without reading all of them: each line says which one it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omewd.dataset.ledger.ledger import parse

# What is read at once: some hundred lines. More if a line is longer, because it has much metadata.
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class RunLines:
    """The lines of ``count`` frame indexes, ``first``, ``first + step``, …, in ``length`` bytes at ``offset``."""

    descriptor: int
    offset: int
    length: int
    first: int
    step: int
    count: int

    def find(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """The lines with these numbers, which ascend from 0 to below ``count``.

        Raises ValueError if the lines are others; OSError.
        """
        known: list[bytes] = []
        begin, place = 0, self.offset  # the number of the first known line, and where the line after them begins
        for number in numbers:
            if number >= begin + len(known):
                begin, known, place = self._block_with(number, begin + len(known), place)
            yield known[number - begin]

    def _block_with(self, number: int, low: int, start: int) -> tuple[int, list[bytes], int]:
        """The lines of a block that has the line with this number; the number of the first one, and where they end.

        The line with number ``low``, which is no higher, begins at ``start``. The number of lines before the sought one
        says where it is if all are equally long. Where that fails, the bytes are halved.
        """
        high, stop = self.count, self.offset + self.length
        size, tries = BLOCK_BYTES, 0
        while low <= number < high and start < stop:
            size, tries = min(size, stop - start), tries + 1
            share = (1, 2) if tries % 3 == 0 else (number - low, high - low)
            middle = start + (stop - start) * share[0] // share[1]
            at = min(max(middle - size // 2, start), stop - size)
            lines, begin = self._whole_lines(at, size, is_start=at == start)
            if not lines:
                if size == stop - start:
                    break
                size *= 4
                continue
            found = low if at == start else self._number_of(lines[0])
            end = begin + sum(len(line) + 1 for line in lines)
            if not low <= found <= high - len(lines):
                break
            if found <= number < found + len(lines):
                return found, lines, end
            if number < found:
                high, stop = found, begin
            else:
                low, start = found + len(lines), end
        raise ValueError(f"line {number} of {self.count} at byte {self.offset} is not there")

    def _whole_lines(self, at: int, size: int, *, is_start: bool) -> tuple[list[bytes], int]:
        """The whole lines in a block, and where the first one begins. ``is_start``: a line begins with the block."""
        before, *lines = os.pread(self.descriptor, size, at).split(b"\n")
        if is_start:
            return [before, *lines][:-1], at
        return lines[:-1], at + len(before) + 1

    def _number_of(self, line: bytes) -> int:
        row = parse(line)
        number, rest = divmod((row or {}).get("frame", -1) - self.first, self.step)
        return -1 if rest else int(number)
