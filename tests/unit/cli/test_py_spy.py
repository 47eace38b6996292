"""What py-spy does to us is bounded: stand-ins that start slowly, sample slowly, and never end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import omewd
from omewd.bench import profile
from omewd.bench.plan import OMEWD, Column, Geometry, Options
from omewd.bench.profile import SpyTimeoutError, sample_daemon, sampled
from omewd.errors import OmewdError
from tests.support.processes import wait_for

# Writes what it was asked for when it is interrupted, as py-spy does. Arguments: its options; $output after --output.
_WELL = """
while [ "$1" ]; do [ "$1" = --output ] && output=$2; [ "$1" = --native ] && native=1; shift; done
finish() { echo "process $$:\\"sh\\";run (a.py:1) ${native:-0}" > "$output"; exit 0; }
"""
_SAMPLES = "trap finish INT; echo 'Sampling process 200 times a second'; while :; do sleep 0.02; done"
_HANGS = "trap '' INT; echo 'Sampling process 200 times a second'; while :; do sleep 0.02; done"

Spy = Callable[[str], None]


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spy:
    def install(script: str) -> None:
        path = tmp_path / "py-spy"
        path.write_text(f"#!/bin/sh\n{_WELL}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(profile, "spy", lambda: str(path))

    monkeypatch.setattr(profile, "_SPY_TIMEOUT_S", 1.5)
    return install


def sample(tmp_path: Path, seconds: float = 0.2) -> tuple[int, bool]:
    dims = "t:4,y:8,x:8"
    geometry, column = Geometry(dims, omewd.parse_dims(dims), "uint16"), Column(OMEWD, "direct", None, 1)
    return sampled(tmp_path / "out", "raw", tmp_path, geometry, column, Options(), seconds)


@pytest.fixture
def run_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long runs take: the first, and those that are sampled."""
    times = [0.05, 0.05]
    began: list[float] = []

    def iterate(*_: object) -> None:
        time.sleep(times[min(len(began), 1)])
        began.append(time.monotonic())

    monkeypatch.setattr("omewd.bench.benchmark.Bench.iterate", iterate)
    return times


@pytest.mark.usefixtures("run_s")
def test_runs_are_sampled_with_native_frames(tmp_path: Path, spy: Spy) -> None:
    spy(_SAMPLES)
    runs, native = sample(tmp_path)
    assert native
    assert 1 <= runs <= 4
    assert (tmp_path / "out").read_text().endswith(" 1\n")


@pytest.mark.usefixtures("run_s")
@pytest.mark.parametrize(
    "slow", [f'[ "$native" ] && {{ {_HANGS}; }}; {_SAMPLES}', f'[ "$native" ] && exec sleep 1000; {_SAMPLES}']
)
def test_without_native_frames_where_it_takes_too_long_with_them(tmp_path: Path, spy: Spy, slow: str) -> None:
    spy(slow)
    began = time.monotonic()
    runs, native = sample(tmp_path)
    assert not native
    assert runs >= 1
    assert time.monotonic() - began < 15
    assert (tmp_path / "out").read_text().endswith(" 0\n")


def test_sampling_ends_although_the_run_goes_on(tmp_path: Path, spy: Spy, run_s: list[float]) -> None:
    """A run that py-spy makes slow is sampled for a while; then it goes on without."""
    spy(_SAMPLES.replace("finish", "late").replace("trap", 'late() { touch "$output.ended"; finish; }; trap'))
    run_s[1] = 2.0
    seen: list[float] = []
    began = time.time()
    runs, native = sample(tmp_path)
    seen.append((tmp_path / "out.ended").stat().st_mtime - began)
    assert (runs, native) == (1, True)
    assert seen[0] < 1.9  # three times 0.2 s, and not the two seconds of the run


@pytest.mark.usefixtures("run_s")
def test_one_that_never_ends_is_killed_and_told(tmp_path: Path, spy: Spy) -> None:
    spy(f'echo $$ > "$output.pid"; {_HANGS}')
    began = time.monotonic()
    with pytest.raises(SpyTimeoutError, match="py-spy did not end within"):
        sample(tmp_path)
    assert time.monotonic() - began < 15
    pid = int((tmp_path / "out.pid").read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert not (tmp_path / "out").exists()


def test_a_look_at_a_daemon_is_bounded_too(tmp_path: Path, spy: Spy) -> None:
    spy("exec sleep 1000")
    with pytest.raises(SpyTimeoutError, match="py-spy did not start within"):
        sample_daemon(os.getpid(), tmp_path / "out", "raw", 0.1)
    spy("echo 'Error: no such process' >&2; exit 1")
    with pytest.raises(OmewdError, match="py-spy could not record: Error: no such process"):
        sample_daemon(os.getpid(), tmp_path / "out", "raw", 0.1)
