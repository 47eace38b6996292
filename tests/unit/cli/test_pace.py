"""The clock, the rate and the time left of a benchmark's columns; and when there is time for another round."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import omewd
from omewd.bench.benchmark import Bench
from omewd.bench.pace import Pace, is_time_up
from omewd.bench.plan import OME_WRITERS, OMEWD, Column, Geometry, Options, Outcome, Sample
from omewd.cli.measure.benchmark_bars import Bars, pace_text
from omewd.errors import OmewdError

DIMS = "t:4,y:8,x:8"
GEOMETRY = Geometry(DIMS, omewd.parse_dims(DIMS), "uint16")
GOOD, BAD = Column(OMEWD, "tensorstore", None, 1), Column(OMEWD, "zarr-python", None, 1)
SAMPLE = Sample(0.1, 0.0, 0.5, 0.1, 0.5, {}, 0, 0, 0, [1], {})


def test_the_clock_of_a_column_runs_in_its_turns_alone() -> None:
    pace = Pace(rounds=4)
    assert (pace.elapsed_s(5), pace.left_s(5)) == (0, None)
    pace.begin(10)
    assert (pace.elapsed_s(13), pace.left_s(13)) == (3, None)
    pace.end(14, 2e9)
    assert (pace.elapsed_s(99), pace.left_s(99)) == (4, 12)  # others have their turns
    pace.begin(100)
    assert (pace.elapsed_s(101), pace.left_s(101)) == (5, 11)
    assert pace.left_s(200) == 8  # this turn takes longer than it should: those after it are still to come
    pace.end(102, 1e9)
    assert (pace.elapsed_s(500), pace.left_s(500), pace.bytes_per_s) == (6, 6, 1e9)
    assert pace_text(pace, 500) == "0:06  1.00 GB/s  0:06 left"


def test_what_has_failed_or_is_complete_has_no_time_left() -> None:
    pace = Pace(rounds=3)
    for at in (0, 10, 20):
        pace.begin(at)
        pace.end(at + 2, 81_920)
    assert pace_text(pace, 50) == "0:06  81.9 kB/s"
    failed = Pace(rounds=3)
    failed.begin(0)
    failed.end(3700, None)
    assert pace_text(failed, 9999) == "1:01:40"


@pytest.mark.parametrize(
    ("elapsed_s", "rounds", "limit_s", "up"),
    [
        (100, 1, None, False),
        (100, 1, 199, True),
        (100, 1, 201, False),
        (100, 4, 124, True),
        (100, 4, 126, False),
        (0, 0, 1, False),
    ],
)
def test_no_round_is_begun_that_would_end_too_late(
    elapsed_s: float, rounds: int, limit_s: float | None, up: bool
) -> None:
    assert is_time_up(elapsed_s, rounds, limit_s) is up


def outcome(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: list[Column],
    round_s: float = 0.0,
    **options: Any,
) -> tuple[Outcome, str]:
    """Of a benchmark whose rounds take so long by the clock and run nothing."""
    clock = [0.0]

    def iterate(_: Bench, __: Geometry, column: Column) -> Sample:
        clock[0] += round_s
        if column == BAD:
            raise OmewdError("backend_unusable", "it `is` broken")
        return SAMPLE

    monkeypatch.setattr(Bench, "iterate", iterate)
    monkeypatch.setattr(Bench, "_time_disk", lambda *_, **__: None)
    monkeypatch.setattr("omewd.bench.benchmark.time", SimpleNamespace(monotonic=lambda: clock[0]))
    console = Console(file=io.StringIO(), width=100)
    known = Options(**options)
    with Bench(tmp_path, known) as bench, Bars(console, GEOMETRY, columns, known.warmups + known.iterations) as bars:
        result = bench.run(GEOMETRY, columns, bars)
    assert isinstance(console.file, io.StringIO)
    return result, console.file.getvalue()


def test_rounds_end_with_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, said = outcome(tmp_path, monkeypatch, [GOOD], round_s=60.0, time_limit_s=300.0)
    assert (result.iterations, len(result.timed[0].samples)) == (4, 4)  # and a warm-up
    assert "complete" not in said  # not all that were asked for


def test_one_round_is_measured_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(tmp_path, monkeypatch, [GOOD], round_s=600.0, time_limit_s=300.0)[0].iterations == 1


def test_ten_rounds_without_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, said = outcome(tmp_path, monkeypatch, [GOOD, BAD], round_s=600.0)
    assert (result.iterations, len(result.timed[0].samples)) == (10, 10)
    assert said.split("\n")[:2] == [
        "  ✗ zarr-python failed: it is broken. See omewd backends",
        "  ✓ tensorstore complete",
    ]


def test_it_ends_when_nothing_can_be_timed_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, said = outcome(tmp_path, monkeypatch, [BAD])
    assert result.iterations == 0
    assert said.count("failed") == 1


@pytest.mark.parametrize("width", [80, 120])
def test_bars_show_clock_rate_and_time_left(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    other = Column(OME_WRITERS, "acquire-zarr", "blosc-zstd", 0, cameras=2)
    bars = Bars(console, GEOMETRY, [GOOD, other], 10)
    pace = bars._paces[GOOD]
    pace.done, pace.spent_s, pace.bytes_per_s = 1, 1000.0, 1.234e9
    with bars:
        pass
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "16:40  1.23 GB/s  2:30:00 left" in shown
    assert ("ome-writers: acquire-zarr blosc-zstd" in shown) is (width == 120)
    assert "cameras" in shown
    assert "tensorstore none 1 camera" in shown.replace("×", "")
