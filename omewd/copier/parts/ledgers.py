"""The ledger of an acquisition: the lines of its parts one after another, with the sources' numbers in all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from omewd.dataset.ledger.ledger import FILE, FOLDER, MOST_LINE_BYTES, WRITTEN, parse
from omewd.dataset.ledger.reading import LedgerReader, make_runs_again
from omewd.dataset.ledger.runs import RUNS_FILE, header, pack

_BLOCK_BYTES = 1 << 20
# How omewd begins a line of a stream with several sources.
_START = re.compile(rb'^(\{"frame":\d+,"source":)(\d+)(?=,)', re.MULTILINE)


def join_ledgers(parts: Iterable[tuple[Path, Sequence[int]]], folder: Path) -> None:
    """Write the ledger of a dataset in ``folder``, with its record of runs.

    ``parts``: the dataset of each part, of which ``omewd`` is enough, and the numbers of its sources in the whole.
    Raises OSError.
    """
    own = folder / FOLDER
    own.mkdir(parents=True, exist_ok=True)
    fits = True
    with (own / FILE).open("wb") as ledger, (own / RUNS_FILE).open("wb") as record:
        record.write(header())
        for dataset, numbers in parts:
            start = ledger.tell()
            with (dataset / FOLDER / FILE).open("rb") as file:
                for lines in _whole_lines(file):
                    ledger.write(renumbered(lines, numbers))
            fits = fits and _move_runs(dataset, numbers, start, record) == ledger.tell()
    if not fits:
        make_runs_again(folder)


def _move_runs(dataset: Path, numbers: Sequence[int], start: int, record: BinaryIO) -> int | None:
    """Write the records of a part's lines, which begin at ``start`` in the whole; returns where the lines end then.

    Reading all lines again would take ten times as long. None, or another end than that of the lines: some of them are
    not as omewd writes them, and have to be read.
    """
    end = 0
    to = np.array(numbers)
    longer = np.array([len(str(number)) - len(str(source)) for source, number in enumerate(numbers)])
    for runs in LedgerReader(dataset).read():
        ends = runs["offset"] + runs["length"]
        if runs["source"].max() >= len(numbers) or (runs["offset"] != np.concatenate([[end], ends[:-1]])).any():
            return None
        lines = np.where(runs["kind"] == WRITTEN, np.maximum(runs["count"], 1), 1)
        lengths = runs["length"] + lines * longer[runs["source"]]
        moved = runs.copy()
        moved["offset"], moved["length"] = start + np.cumsum(lengths) - lengths, lengths
        moved["source"] = to[runs["source"]]
        record.write(pack(moved))
        start, end = start + int(lengths.sum()), int(ends[-1])
    return start


def renumbered(lines: bytes, numbers: Sequence[int]) -> bytes:
    """Whole lines with other numbers for their sources."""
    texts = {b"%d" % source: b"%d" % number for source, number in enumerate(numbers)}
    try:
        text, count = _START.subn(lambda found: found[1] + texts[found[2]], lines)
    except KeyError:
        count = -1
    if count == lines.count(b"\n"):
        return text
    return b"".join(_renumbered(line, numbers) for line in lines.split(b"\n"))


def _renumbered(line: bytes, numbers: Sequence[int]) -> bytes:
    """A line that may not be as omewd writes them; b"" for one that can't be read, which says nothing."""
    row = parse(line)
    if row is None or row.get("source", 0) >= len(numbers):
        return b""
    number = numbers[row.get("source", 0)]
    text, count = _START.subn(lambda found: b"%b%d" % (found[1], number), line)
    return (text if count else json.dumps({**row, "source": number}, separators=(",", ":")).encode()) + b"\n"


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a ledger in blocks, each with its newline; one that is too long is left out."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        whole, newline, after = block.rpartition(b"\n")
        if not newline:
            rest = (rest + block)[: MOST_LINE_BYTES + 1]
            continue
        if len(rest) > MOST_LINE_BYTES:
            rest, (_, _, whole) = b"", whole.partition(b"\n")
            yield whole + newline if whole else b""
        else:
            yield rest + whole + newline
        rest = after
    if rest and len(rest) <= MOST_LINE_BYTES:
        yield rest + b"\n"
