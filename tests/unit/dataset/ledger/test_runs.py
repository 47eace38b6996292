"""The ledger's record of runs: its format, and that it never says anything else than the lines do."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.ledger import ledger, reading
from omewd.dataset.ledger.account import Ledger
from omewd.dataset.ledger.appending import append_to
from omewd.dataset.ledger.index import FRAME, LedgerIndex
from omewd.dataset.ledger.reading import LedgerReader, make_runs_again
from omewd.dataset.ledger.runs import HEADER_BYTES, RECORD_BYTES, RUNS_FILE, Run, pack, run_starts, unpack
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from tests.support.frames import frame_line

SPEC = StreamSpec(name="s", dimensions=parse_dims("t:inf,y:4,x:5"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / ledger.FOLDER).mkdir()
    return tmp_path


@contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ledger.FOLDER).mkdir()
        yield Path(folder)


def lines_of(dataset: Path) -> Path:
    return dataset / ledger.FOLDER / ledger.FILE


def record_of(dataset: Path) -> Path:
    return dataset / ledger.FOLDER / RUNS_FILE


def job(frames: Sequence[int], gaps: Sequence[tuple[int, int, str]] = (), received: int = 0) -> tuple[bytes, list[Run]]:
    """The lines of frames, then of gaps, and their runs."""
    starts = run_starts(np.array(frames)) if frames else []
    parts = [
        (frames[a], b - a, frames[a + 1] - frames[a] if b - a > 1 else 1, ledger.WRITTEN, frames[a:b])
        for a, b in zip(starts, [*starts[1:], len(frames)], strict=False)
    ]
    texts = ["".join(frame_line(frame, 1, 2, b"") for frame in some) for *_, some in parts]
    texts += [ledger.gap_line(first, count, kind) for first, count, kind in gaps]
    if texts:
        texts[-1] = ledger.with_received(texts[-1].encode(), received).decode()
    told = [part[:4] for part in parts] + [(first, count, 1, ledger.KINDS[kind]) for first, count, kind in gaps]
    runs, offset = [], 0
    for number, (text, (first, count, step, kind)) in enumerate(zip(texts, told, strict=True)):
        of_last = received if number == len(texts) - 1 else 0
        runs.append(Run(len(text), step, 0, kind, first, count, of_last, offset))
        offset += len(text)
    return "".join(texts).encode(), runs


def told(dataset: Path, *, frames: int = 80) -> tuple[list[int], int, int]:
    read = Ledger.read(dataset, 1)
    [account] = read.accounts
    return account.marks.at(np.arange(frames)).tolist(), account.received, read.unreadable_lines


def by_lines(dataset: Path, *, frames: int = 80) -> tuple[list[int], int, int]:
    """What the lines alone tell."""
    with temporary() as alone:
        lines_of(alone).write_bytes(lines_of(dataset).read_bytes())
        return told(alone, frames=frames)


# -- the format ---------------------------------------------------------------------------------------


def test_a_record_is_as_it_is_documented(dataset: Path) -> None:
    append_to(dataset, *job([4]))
    start = lines_of(dataset).stat().st_size
    append_to(dataset, *job([17, 19, 21], [(30, 5, "dropped")], 40))
    header, *records = [record_of(dataset).read_bytes()[n : n + 48] for n in range(0, 4 * 48, 48)]
    assert struct.unpack("<8sHHI32s", header) == (b"OMEWRUNS", 1, 0, 48, bytes(32))
    assert record_of(dataset).stat().st_size == 4 * 48
    lines = lines_of(dataset).read_bytes()
    found = []
    for record in records:
        crc, length, step, source, kind, zero, *numbers = struct.unpack("<IIIHBBQQQQ", record)
        assert crc == zlib.crc32(record[4:])
        first, count, received, offset = numbers
        found.append((step, source, kind, zero, first, count, received, offset))
        rows = [json.loads(line) for line in lines[offset : offset + length].splitlines()]
        assert rows[0]["frame"] == first
    end = start + lines[start:].rindex(b'{"frame":30')
    assert found == [(1, 0, 1, 0, 4, 1, 0, 0), (2, 0, 1, 0, 17, 3, 0, start), (1, 0, 3, 0, 30, 5, 40, end)]


runs = st.builds(
    Run,
    length=st.integers(1, 2**32 - 1),
    step=st.integers(1, 2**32 - 1),
    source=st.integers(0, 2**16 - 1),
    kind=st.integers(0, 3),
    first=st.integers(0, 2**50),
    frames=st.integers(0, 2**29),
    received=st.integers(0, 2**62),
    offset=st.integers(0, 2**61),
)


@given(st.lists(runs, max_size=20))
def test_runs_come_through(given: list[Run]) -> None:
    packed = b"".join(run.pack() for run in given)
    found = unpack(packed, RECORD_BYTES)
    names = ["length", "step", "source", "kind", "first", "count", "received", "offset"]
    assert [Run(*row) for row in found[names].tolist()] == given
    assert pack(found) == packed


@given(runs, st.integers(0, RECORD_BYTES * 8 - 1))
def test_a_record_with_a_bit_that_fell_over_is_none(run: Run, bit: int) -> None:
    packed = bytearray(run.pack())
    packed[bit // 8] ^= 1 << bit % 8
    assert len(unpack(bytes(packed), RECORD_BYTES)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        *({name: -1} for name in ("first", "frames", "received", "offset")),
        *({name: 2**62} for name in ("first", "offset")),
        {"kind": 4},
        {"length": 0},
        {"received": 2**62 + 1},
        {"frames": 2**62, "step": 2},
        {"frames": 2, "step": 0},
    ],
)
def test_a_record_that_makes_no_sense_is_none(fields: dict[str, int]) -> None:
    run = Run(10, 1, 0, 1, 5, 3, 9, 0)
    assert len(unpack(run.pack() + run._replace(**fields).pack(), RECORD_BYTES)) == 1


@given(st.lists(st.integers(0, 60), min_size=1, unique=True).map(sorted), st.randoms())
def test_runs_have_a_constant_step(frames: list[int], rng: random.Random) -> None:
    together = np.array([rng.random() < 0.8 for _ in frames[1:]], bool)
    starts = run_starts(np.array(frames), together)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    for a, b in zip(starts, [*starts[1:], len(frames)], strict=True):
        assert len(set(np.diff(frames[a:b]).tolist())) <= 1
        assert together[a : b - 1].all()
    assert run_starts(np.arange(5, 50, 3)) == [0]
    assert run_starts(np.array([0, 1, 2, 10, 11, 12, 20, 21, 22])) == [0, 3, 6]


# -- the record and the lines -------------------------------------------------------------------------

jobs = st.lists(
    st.tuples(
        st.lists(st.integers(0, 70), max_size=12, unique=True).map(sorted),
        st.lists(
            st.tuples(st.integers(0, 60), st.integers(1, 9), st.sampled_from(["skipped", "dropped", "lost"])),
            max_size=3,
        ),
        st.integers(0, 80),
    ).filter(lambda job: job[0] or job[1]),
    max_size=10,
)


def put(dataset: Path, given: Sequence[tuple[list[int], list[tuple[int, int, str]], int]]) -> None:
    for some in given:
        append_to(dataset, *job(*some), durable=False)


@given(jobs)
def test_the_record_says_what_the_lines_do(given: list[tuple[list[int], list[tuple[int, int, str]], int]]) -> None:
    with temporary() as dataset:
        append_to(dataset, b"", durable=False)
        put(dataset, given)
        read = Ledger.read(dataset, 1)
        assert (read.read_lines, read.misfits) == (0, 0)
        assert told(dataset) == by_lines(dataset)
        assert Ledger.read(dataset, 1, checks=True).misfits == 0


@given(jobs, st.data())
def test_a_power_cut_costs_no_frame(
    given: list[tuple[list[int], list[tuple[int, int, str]], int]], data: st.DataObject
) -> None:
    """Any of the records may be gone, they may be in any order, some may be there twice, the last one in part."""
    with temporary() as dataset:
        append_to(dataset, b"", durable=False)
        put(dataset, given)
        expected = by_lines(dataset)
        if record_of(dataset).exists():
            content = record_of(dataset).read_bytes()
            records = [content[n : n + RECORD_BYTES] for n in range(HEADER_BYTES, len(content), RECORD_BYTES)]
            kept = data.draw(st.lists(st.sampled_from(records), max_size=2 * len(records)))
            left = content[:HEADER_BYTES] + b"".join(kept) + data.draw(st.binary(max_size=RECORD_BYTES - 1))
            record_of(dataset).write_bytes(left[: data.draw(st.sampled_from([None, len(left) // 2, 10]))])
        assert told(dataset) == expected
        before = Ledger.read(dataset, 1, completes=True)
        after = Ledger.read(dataset, 1)
        assert (before.misfits, after.misfits, after.read_lines) == (0, 0, 0)
        assert told(dataset) == expected
        put(dataset, [([75], [], 76)])
        assert told(dataset) == by_lines(dataset)


def test_a_record_whose_header_never_came_to_disk_is_begun_again(dataset: Path) -> None:
    append_to(dataset, *job(range(10), received=10))
    record_of(dataset).write_bytes(bytes(HEADER_BYTES) + record_of(dataset).read_bytes()[HEADER_BYTES:])
    append_to(dataset, *job([20], received=21))
    assert told(dataset) == by_lines(dataset)
    assert Ledger.read(dataset, 1, completes=True).read_lines == 10
    assert Ledger.read(dataset, 1).read_lines == 0


@given(jobs, st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=6), st.booleans(), st.randoms())
def test_damage_to_the_record_changes_nothing(
    given: list[tuple[list[int], list[tuple[int, int, str]], int]],
    damage: list[tuple[int, int]],
    cut: bool,
    rng: random.Random,
) -> None:
    with temporary() as dataset:
        append_to(dataset, b"", durable=False)
        put(dataset, given)
        content = bytearray(record_of(dataset).read_bytes() if record_of(dataset).exists() else bytes(500))
        for place, byte in damage:
            content[place % len(content)] = byte
        if cut:
            del content[rng.randrange(len(content)) :]
        record_of(dataset).write_bytes(content)
        expected = by_lines(dataset)
        assert told(dataset) == expected
        checked = Ledger.read(dataset, 1, checks=True)
        assert checked.accounts[0].marks.at(np.arange(80)).tolist() == expected[0]
        index = LedgerIndex(dataset, SPEC)
        index.read_on()
        for frame, mark in enumerate(expected[0]):
            row = index.row(0, frame)
            assert (row is not None and "gap" not in row) == (mark == ledger.WRITTEN)
        put(dataset, [([75], [], 76)])
        assert told(dataset) == by_lines(dataset)
        make_runs_again(dataset)
        assert Ledger.read(dataset, 1, checks=True).misfits == 0
        assert told(dataset) == by_lines(dataset)


def test_a_batch_that_is_torn_anywhere_costs_what_is_torn_only(dataset: Path) -> None:
    append_to(dataset, *job([0, 1, 2], received=3))
    start = lines_of(dataset).stat().st_size, record_of(dataset).stat().st_size
    append_to(dataset, *job([3, 5, 7, 8], [(9, 2, "skipped")], 11))
    whole = lines_of(dataset).read_bytes(), record_of(dataset).read_bytes()
    for kept in range(start[0], len(whole[0]) + 1):  # then it has no record yet
        lines_of(dataset).write_bytes(whole[0][:kept])
        record_of(dataset).write_bytes(whole[1][: start[1]])
        assert told(dataset) == by_lines(dataset)
        append_to(dataset, *job([20], received=21), durable=False)
        assert told(dataset)[0][20] == ledger.WRITTEN
        assert told(dataset) == by_lines(dataset)
    for kept in range(len(whole[1]) + 1):
        lines_of(dataset).write_bytes(whole[0])
        record_of(dataset).write_bytes(whole[1][:kept])
        assert told(dataset) == by_lines(dataset)
        append_to(dataset, *job([20], received=21), durable=False)
        assert told(dataset) == by_lines(dataset)
        assert (record_of(dataset).stat().st_size - HEADER_BYTES) % RECORD_BYTES == 0


def test_a_record_of_lines_that_are_gone_is_not_believed(dataset: Path) -> None:
    """As after a power cut without fsync: the record reached the disk, and its lines did not."""
    for first in range(0, 60, 10):
        append_to(dataset, *job(range(first, first + 10), received=first + 10))
    content = lines_of(dataset).read_bytes()
    for kept in (0, len(content) // 2, len(content) - 1):
        lines_of(dataset).write_bytes(content[:kept])
        assert told(dataset) == by_lines(dataset)
    lines_of(dataset).write_bytes(b"")
    append_to(dataset, *job([70], received=71))
    assert told(dataset)[0] == [0] * 70 + [1] + [0] * 9
    assert Ledger.read(dataset, 1, checks=True).misfits == 0


def test_lines_that_went_through_an_editor_count_as_they_are(dataset: Path) -> None:
    for first in range(10, 70, 10):
        append_to(dataset, *job(range(first, first + 10), received=first + 10))
    lines = lines_of(dataset).read_bytes().splitlines(keepends=True)
    for gone in (0, 9, 10, 35, 58, 59):
        lines_of(dataset).write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
        assert told(dataset) == by_lines(dataset)
        assert told(dataset)[0][10 + gone] == ledger.UNACCOUNTED
        assert Ledger.read(dataset, 1, checks=True).misfits
    for doubled in (0, 35, 59):
        lines_of(dataset).write_bytes(
            b"".join(lines[:doubled] + lines[doubled : doubled + 1] * 2 + lines[doubled + 1 :])
        )
        assert told(dataset) == by_lines(dataset)


def test_a_line_that_was_changed_in_place_is_found_and_mended(dataset: Path) -> None:
    for first in range(10, 70, 10):
        append_to(dataset, *job(range(first, first + 10), received=first + 10))
    lines = lines_of(dataset).read_bytes()
    lines_of(dataset).write_bytes(lines.replace(b'{"frame":33,', b'{"frame":99,'))
    checked = Ledger.read(dataset, 1, checks=True)
    assert checked.misfits == 1
    assert checked.accounts[0].marks.at(np.array([33, 99])).tolist() == [0, 1]
    make_runs_again(dataset, by_lines=True)
    assert Ledger.read(dataset, 1, checks=True).misfits == 0
    assert told(dataset, frames=100) == by_lines(dataset, frames=100)


# -- other versions -----------------------------------------------------------------------------------


def test_a_later_minor_version_with_longer_records_is_read_and_written(dataset: Path) -> None:
    append_to(dataset, *job(range(10), received=10))
    body = record_of(dataset).read_bytes()[HEADER_BYTES + 4 :] + b"new fields"
    header = struct.pack("<8sHHI32x", b"OMEWRUNS", 1, 7, RECORD_BYTES + 10)
    record_of(dataset).write_bytes(header + struct.pack("<I", zlib.crc32(body)) + body)
    append_to(dataset, *job([20, 22], received=23))
    assert Ledger.read(dataset, 1).read_lines == 0
    assert told(dataset) == by_lines(dataset)
    assert record_of(dataset).stat().st_size == HEADER_BYTES + 2 * (RECORD_BYTES + 10)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<8sHHI32x", b"OMEWRUNS", 2, 0, 48),
        struct.pack("<8sHHI32x", b"OMEWRUNS", 1, 0, 47),
        struct.pack("<8sHHI32x", b"OMEWRUNS", 1, 0, 2**31),
        b"something else".ljust(48),
    ],
)
def test_another_major_version_is_left_alone(dataset: Path, header: bytes) -> None:
    append_to(dataset, *job(range(10), received=10))
    content = header + record_of(dataset).read_bytes()[HEADER_BYTES:]
    record_of(dataset).write_bytes(content)
    append_to(dataset, *job([20], received=21))
    assert record_of(dataset).read_bytes() == content
    assert Ledger.read(dataset, 1).read_lines == 11
    assert told(dataset) == by_lines(dataset)


def test_lines_of_an_older_omewd_before_and_after_are_read(dataset: Path) -> None:
    """An upgrade with an open stream, and the way back."""
    old = b'\n{"frame":0,"wall_ns":7,"monotonic_ns":8,"metadata":{"a":1}}\n{"received":3}\n'
    lines_of(dataset).write_bytes(old)
    append_to(dataset, *job([1, 2], received=3))
    append_to(dataset, job([5, 6])[0])
    append_to(dataset, *job([3], received=7))
    read = Ledger.read(dataset, 1, completes=True)
    assert read.read_lines == 5
    assert told(dataset)[:2] == ([1, 1, 1, 1, 0, 1, 1] + [0] * 73, 7)
    assert Ledger.read(dataset, 1).read_lines == 1  # a blank one
    index = LedgerIndex(dataset, SPEC)
    index.read_on()
    assert (index.row(0, 0) or {})["metadata"] == {"a": 1}
    assert [index.marks[0].last(FRAME, below) for below in (8, 5, 1, 0)] == [6, 3, 0, None]


# -- writers ------------------------------------------------------------------------------------------


def test_a_record_comes_after_its_lines_are_synced_and_is_not_synced_itself(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_to(dataset, *job([0]))
    synced: list[tuple[bytes, int]] = []
    before = record_of(dataset).stat().st_size

    def fdatasync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name.encode(), record_of(dataset).stat().st_size))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    append_to(dataset, *job([1, 2]))
    assert synced == [(ledger.FILE.encode(), before)]
    assert record_of(dataset).stat().st_size == before + RECORD_BYTES


def test_a_writer_that_is_killed_before_its_record_leaves_lines_that_count(dataset: Path) -> None:
    code = (
        "from pathlib import Path; from tests.unit.dataset.ledger.test_runs import *\n"
        f"dataset = Path({str(dataset)!r}); append_to(dataset, *job([0, 1]))\n"
        "os.fdatasync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "append_to(dataset, *job([2, 3]))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    append_to(dataset, *job([4, 5]))
    assert told(dataset)[0][:7] == [1] * 6 + [0]
    assert Ledger.read(dataset, 1, completes=True).read_lines == 2
    assert Ledger.read(dataset, 1).read_lines == 0


def test_a_record_that_can_not_be_written_fails_no_job(dataset: Path) -> None:
    append_to(dataset, b"")
    record_of(dataset).mkdir()
    append_to(dataset, *job([0, 1]))
    record_of(dataset).rmdir()
    assert told(dataset)[0][:3] == [1, 1, 0]


def test_the_writer_of_the_first_lines_keeps_the_records_of_others(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one's later lines may be on disk, and on record, before its own are."""
    append_to(dataset, b"")
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        monkeypatch.undo()
        append_to(dataset, *job([5, 6]))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    append_to(dataset, *job([0, 1]))
    assert Ledger.read(dataset, 1).read_lines == 0
    assert told(dataset) == by_lines(dataset)


def test_several_writers_records_stay_whole(dataset: Path) -> None:
    append_to(dataset, b"")
    code = (
        "from pathlib import Path; from tests.unit.dataset.ledger.test_runs import *\n"
        f"dataset = Path({str(dataset)!r})\n"
        "for first in range({start}, {start} + 180, 3): append_to(dataset, *job(range(first, first + 3)))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code.format(start=1000 * number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0] * 3
    read = Ledger.read(dataset, 1, checks=True)
    assert (read.misfits, read.read_lines) == (0, 540)
    assert Ledger.read(dataset, 1).read_lines == 0
    assert list(read.accounts[0].marks.intervals({1})) == [(1000 * n, 1000 * n + 180) for n in range(3)]


def test_reading_on_takes_no_line_twice(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of records that come late, the lines have been read already."""
    monkeypatch.setattr(reading, "_RECORDS_AT_ONCE", 2)
    append_to(dataset, *job([0, 1], received=2))
    reader = LedgerReader(dataset)
    assert [runs["first"].tolist() for runs in reader.read()] == [[0]]
    text, late = job([2, 3], received=4)
    start = lines_of(dataset).stat().st_size
    append_to(dataset, text)
    append_to(dataset, *job([4, 5], received=6))
    assert [frame for runs in reader.read() for frame in runs["first"].tolist()] == [2, 4]
    with record_of(dataset).open("ab") as file:
        file.write(b"".join(run.pack(start) for run in late))
    append_to(dataset, *job([6], received=7))
    assert reader.goes_on()
    assert [frame for runs in reader.read() for frame in runs["first"].tolist()] == [6]
    assert told(dataset) == by_lines(dataset)
