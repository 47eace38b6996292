"""Appending to the ledger: several writers, one that dies or has no room in the middle, and mending what is torn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omewd.dataset.ledger import appending, ledger, reading
from omewd.dataset.ledger.account import Ledger
from omewd.dataset.ledger.appending import append_to, mend
from tests.support.frames import frame_line

PATH = f"{ledger.FOLDER}/{ledger.FILE}"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / ledger.FOLDER).mkdir()
    return tmp_path


def job(first: int, frames: int = 3) -> bytes:
    """The lines of some frames."""
    return ledger.batch([frame_line(frame, 1, 2, b'{"a":{"b":1}}') for frame in range(first, first + frames)], 99)


def append(dataset: Path, lines: bytes) -> None:
    append_to(dataset, lines)


def python(dataset: Path, code: str, **options: object) -> subprocess.Popen[bytes]:
    """A process that appends, with ``append(lines)`` and ``job(first)`` at hand."""
    program = (
        "import os, resource, signal, sys; from functools import partial; from pathlib import Path\n"
        "from tests.unit.dataset.ledger import test_ledger_file as tests\n"
        "from tests.unit.dataset.ledger.test_ledger_file import job\n"
        f"append = partial(tests.append, Path({str(dataset)!r}))\n{code}"
    )
    return subprocess.Popen([sys.executable, "-c", program], **options)  # type: ignore[call-overload,no-any-return]


def frames(dataset: Path) -> list[int]:
    """What any program reads, without a special case."""
    with (dataset / PATH).open() as lines:
        return [json.loads(line)["frame"] for line in lines]


def test_lines_of_several_writers_stay_whole(dataset: Path) -> None:
    append(dataset, b"")
    code = "for n in range(60): append(job(1000 * {number} + 3 * n))"
    writers = [python(dataset, code.format(number=number)) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    found = frames(dataset)
    for number in range(4):
        expected = list(range(1000 * number, 1000 * number + 180))
        assert [frame for frame in found if frame // 1000 == number] == expected


def test_what_a_killed_writer_has_left_of_a_line_is_cut_off_by_the_next(dataset: Path) -> None:
    append(dataset, job(0))
    for kept in range(len(job(3))):
        (dataset / PATH).write_bytes(job(0) + job(3)[:kept])
        append(dataset, job(6))
        found = frames(dataset)
        assert found[:3] == [0, 1, 2]
        assert found[-3:] == [6, 7, 8]
        whole = job(3)[: kept + 1].count(b"}\n")  # all but its newline is whole, too
        assert found[3:-3] == [3, 4, 5][:whole]


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("before", [b"", job(0)], ids=["first", "later"])
def test_a_torn_line_of_any_length_is_cut_off(dataset: Path, before: bytes, length: int) -> None:
    (dataset / PATH).write_bytes(before + b"[" * length)
    append(dataset, job(3))
    assert (dataset / PATH).read_bytes() == before + job(3)


def test_a_last_line_that_has_lost_its_newline_to_an_editor_stays(dataset: Path) -> None:
    (dataset / PATH).write_bytes(job(0)[:-1])
    append(dataset, job(3))
    assert frames(dataset) == [0, 1, 2, 3, 4, 5]


def test_a_writer_that_is_killed_in_the_middle_gives_the_lock_up(dataset: Path) -> None:
    append(dataset, job(0))
    code = (
        "write = os.write\n"
        "def half(descriptor, data):\n"
        "    write(descriptor, bytes(data)[:len(data) // 2]); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.write = half\nappend(job(3))"
    )
    assert python(dataset, code).wait(60) == -signal.SIGKILL
    assert not (dataset / PATH).read_bytes().endswith(b"\n")
    append(dataset, job(6))
    assert frames(dataset) == [0, 1, 2, 3, 6, 7, 8]


@pytest.mark.parametrize("room", [1, 120, 250])
def test_a_writer_without_room_takes_back_what_it_has_written(dataset: Path, room: int) -> None:
    """The kernel writes a part, as far as the file may grow, and refuses the rest."""
    append(dataset, job(0))
    before = (dataset / PATH).read_bytes()
    limit = len(before) + room
    code = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\nappend(job(3))"
    writer = python(dataset, code, stderr=subprocess.PIPE)
    assert b"File too large" in writer.communicate(timeout=60)[1]
    assert writer.returncode == 1
    assert (dataset / PATH).read_bytes() == before
    append(dataset, job(3))
    assert frames(dataset) == [0, 1, 2, 3, 4, 5]


def test_an_error_that_can_not_be_taken_back_is_left_to_the_next(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(dataset, job(0))
    real, calls = os.write, iter([20, 0])

    def short(descriptor: int, data: memoryview) -> int:
        if not (length := next(calls)):
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:length])

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", short)
        broken.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="No space left"):
            append(dataset, job(3))
    assert (dataset / PATH).read_bytes() == job(0) + job(3)[:20]
    append(dataset, job(3))
    assert frames(dataset) == [0, 1, 2, 3, 4, 5]


def test_nobody_waits_for_a_writer_that_holds_the_dataset(dataset: Path) -> None:
    """Who holds it against repair can append, and so can others; repair can't have it."""
    append(dataset, b"")
    with ledger.held(dataset), ledger.held(dataset):
        append(dataset, job(0))
        assert ledger.hold_alone(dataset) is None
    alone = ledger.hold_alone(dataset)
    assert alone is not None
    append(dataset, job(3))  # as repair does
    assert ledger.hold_alone(dataset) is None
    os.close(alone)
    assert frames(dataset) == [0, 1, 2, 3, 4, 5]


# -- mending ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "torn", "expected"),
    [
        ([b'{"frame":3,"wa'], 1, []),
        ([job(0), b'{"frame":3,"wa'], 1, [0, 1, 2]),
        ([b'{"frame":0,"wa\n', job(0)], 1, [0, 1, 2]),
        ([job(0), b'{"frame":3,"wa\n', job(3), b"\n\0\0\0\n", b"5\n", job(6), b'{"frame":9,"w'], 4, list(range(9))),
        ([b"\n", job(0), b"\n", b"torn\n\n", b"\n"], 1, [0, 1, 2]),
    ],
)
def test_torn_lines_are_removed(dataset: Path, parts: list[bytes], torn: int, expected: list[int]) -> None:
    (dataset / PATH).write_bytes(b"".join(parts))
    inode = (dataset / PATH).stat().st_ino
    assert mend(dataset) == torn
    assert frames(dataset) == expected
    assert (dataset / PATH).stat().st_ino == inode  # it is locked by that
    assert mend(dataset) == 0
    assert Ledger.read(dataset, 1).unreadable_lines == 0
    append(dataset, job(9))
    assert frames(dataset) == [*expected, 9, 10, 11]


@pytest.mark.parametrize("content", [b"", job(0), b"\n" + job(0) + b'{"received":3}\n', job(0) + b'{"other":1}\n'])
def test_a_ledger_that_is_not_torn_stays_as_it_is(dataset: Path, content: bytes) -> None:
    (dataset / PATH).write_bytes(content)
    assert mend(dataset) == 0
    assert (dataset / PATH).read_bytes() == content


def test_mending_is_synced(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dataset / PATH).write_bytes(b"torn\n" + job(0))
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((dataset / PATH).read_bytes()))
    mend(dataset)
    assert synced == [b" " * 5 + job(0)]


@pytest.fixture
def longest_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lowers the bound of a line to 8 KiB; holds the size of the largest read from then on."""
    longest = [0]
    read = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        block = read(descriptor, size, offset)
        longest[0] = max(longest[0], len(block))
        return block

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 1 << 10)
    for module in (appending, reading):
        monkeypatch.setattr(module, "MOST_LINE_BYTES", 1 << 13)
    return longest


@pytest.mark.parametrize("length", [(1 << 13) - 1, 1 << 13, (1 << 13) + 1, 100_000])
@pytest.mark.parametrize("damage", [b"\0", b"x"])
def test_a_damaged_line_of_any_length_is_skipped_and_mended_in_parts(
    dataset: Path, longest_read: list[int], length: int, damage: bytes
) -> None:
    (dataset / PATH).write_bytes(job(0) + damage * length + b"\n" + job(3))
    for _ in range(2):
        found = Ledger.read(dataset, 1)
        assert (found.unreadable_lines, found.accounts[0].totals(6).written) == (1, 6)
    assert mend(dataset) == 1
    assert frames(dataset) == list(range(6))
    assert mend(dataset) == 0
    found = Ledger.read(dataset, 1, completes=True)
    assert (found.unreadable_lines, found.accounts[0].totals(6).written) == (0, 6)
    found = Ledger.read(dataset, 1, checks=True)
    assert (found.unreadable_lines, found.misfits, found.accounts[0].totals(6).written) == (0, 0, 6)
    assert longest_read[0] <= 1 << 16


@pytest.mark.parametrize("length", [(1 << 13) - 1, 1 << 13, (1 << 13) + 1, 1_000_000])
def test_a_torn_end_of_any_length_is_cut_off_in_parts(dataset: Path, longest_read: list[int], length: int) -> None:
    torn = job(0) + b"\0" * length
    (dataset / PATH).write_bytes(torn)
    found = Ledger.read(dataset, 1)
    assert (found.unreadable_lines, found.accounts[0].totals(3).written) == (1, 3)
    append(dataset, job(3))
    assert frames(dataset) == list(range(6))
    (dataset / PATH).write_bytes(torn)
    assert mend(dataset) == 1
    assert (dataset / PATH).read_bytes() == job(0)
    assert longest_read[0] <= 1 << 16
