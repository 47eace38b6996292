"""Records a scenario, and judges what a power cut at each of its moments may leave."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pydantic
import yaozarrs._zarr

from omewd.store import unsynced
from tests.powercut.judge import Judge, Told
from tests.powercut.model import History, Mode
from tests.powercut.record import Call, Mark, NotModelledError, read_trace, strace
from tests.powercut.scenarios import MARKS, SCENARIOS
from tests.powercut.trees import Cut, clear, contents, cuts, lay_out, moments, on_disk, sampled, signature
from tests.support.daemons import DaemonProcess
from tests.support.processes import wait_for

_DATA, _STATE = "data", "state"
WAYS = ("recovery", "repair")
_MOST_UNCERTAIN = 8


@dataclass
class Recorded:
    """A scenario's record. ``folder``: where its trees are laid out, because paths in them are absolute."""

    name: str
    folder: Path
    calls: list[Call]
    marks: list[Mark]

    def history(self, mode: Mode) -> History:
        return History.of(self.calls, mode, [_DATA])


@dataclass
class Outcome:
    """How many moments and different trees were judged, and the violations, each with the cut that shows it."""

    moments: int = 0
    trees: int = 0
    violations: list[str] = field(default_factory=list)


def record(name: str, folder: Path, environment: dict[str, str] | None = None) -> Recorded:
    """Run a scenario, and read its record. The record is complete: all of it makes what is on disk."""
    trace, disk = folder / "trace", folder / "disk"
    (disk / _DATA).mkdir(parents=True)
    command = [sys.executable, "-m", "tests.powercut.scenarios", name, str(disk)]
    done = subprocess.run(
        strace(trace, command, *SCENARIOS[name].inject),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls, marks = read_trace(trace, disk, (_DATA, _STATE), disk / MARKS)
    real = {path: data for path, data in on_disk(disk).items() if path.split("/")[0] in (_DATA, _STATE)}
    recorded = next((some for some in _readings(name, disk, calls, marks) if _all_of(some) == real), None)
    assert recorded is not None, "the record is not complete"
    clear(disk)
    return recorded


def _readings(name: str, disk: Path, calls: Sequence[Call], marks: list[Mark]) -> Iterator[Recorded]:
    """The record with and without each call in which a process was killed: one of them has taken place."""
    uncertain = [call for call in calls if not call.is_certain][:_MOST_UNCERTAIN]
    for choice in product((True, False), repeat=len(uncertain)):
        left_out = {call for call, happened in zip(uncertain, choice, strict=True) if not happened}
        yield Recorded(name, disk, [call for call in calls if call not in left_out], marks)


def _all_of(recorded: Recorded) -> dict[str, bytes | None] | None:
    """What all calls together make; None if they can't all have taken place."""
    try:
        history = recorded.history(Mode.STRICT)
    except NotModelledError:
        return None
    last = max(effect.end for effect in history.effects)
    return contents(history.tree(last, history.pending(last)))


def check(
    recorded: Recorded,
    mode: Mode,
    *,
    seed: int = 0,
    subsets: int = 2,
    most: int | None = None,
    daemons: int = 0,
    lines: Collection[int] | None = None,
) -> Outcome:
    """Judge the trees of a record.

    ``subsets``: random ones of each moment. ``most``: judge so many trees, chosen by ``seed``; None for all.
    ``daemons``: how many trees a real daemon gets as well. ``lines``: the moments to look at, as lines of the trace;
    None for all.
    """
    chance = random.Random(f"{seed} {recorded.name} {mode.name}")
    history = recorded.history(mode)
    times = [at for at in moments(history) if lines is None or at in lines]
    scenario = SCENARIOS[recorded.name]
    chosen = _chosen(recorded, history, times, chance, subsets, most)
    judge, outcome = Judge(recorded.folder, scenario), Outcome(len({cut.at for cut in chosen}))
    with _quickly():
        for cut in chosen:
            outcome.trees += 1
            told = Told.by(recorded.marks, cut.at)
            for way in WAYS:
                lay_out(cut.tree, recorded.folder)
                outcome.violations += [f"{way} {cut}: {fault}" for fault in judge.judge(told, way)]
    for cut in chance.sample(chosen, min(daemons, len(chosen))):
        lay_out(cut.tree, recorded.folder)
        _let_a_daemon_recover(recorded.folder)
        judge.faults = []
        told = Told.by(recorded.marks, cut.at)
        if not told.away:
            judge.compare(told)
        outcome.violations += [f"daemon {cut}: {fault}" for fault in judge.faults]
    return outcome


def _chosen(
    recorded: Recorded, history: History, times: Sequence[int], chance: random.Random, subsets: int, most: int | None
) -> list[Cut]:
    """Different trees, by moment: all, or a random choice of moments and of what is left at each."""
    limit = SCENARIOS[recorded.name].most
    if most is None and limit is None:
        return _different(cut for at in times for cut in cuts(history, at, chance, subsets))
    count = min(count for count in (most, limit) if count is not None)
    if limit is None:
        found = list(sampled(history, times, chance, subsets, count))
    else:
        around = _around_syncfs(recorded.calls, times)
        found = [cut for some in (around, times) for cut in sampled(history, some, chance, subsets, count // 2)]
    return _different(sorted(found, key=lambda cut: cut.at))


def _around_syncfs(calls: Sequence[Call], times: Sequence[int]) -> list[int]:
    """The moments before and after each syncfs, and a few that follow: what it covers is given its place then."""
    ends = [call.end for call in calls if call.name == "syncfs"]
    places = {bisect_left(times, end) + step for end in ends for step in range(-1, 6)}
    return [times[place] for place in sorted(places) if 0 <= place < len(times)] or list(times)


def _let_a_daemon_recover(folder: Path) -> None:
    """Start a daemon, which finds that the rings are gone, and stop it when its journal is empty."""
    process = DaemonProcess(folder, "--writers", "1", "--memory", "512MiB")
    try:
        wait_for(lambda: not list((folder / _STATE / "streams").glob("*.json")))
        assert process.stop() == 0, process.log()
    finally:
        process.kill()


def _different(found: Iterable[Cut]) -> list[Cut]:
    """Without those that are as at an earlier moment: a tree counts at the last one, where more was told."""
    trees = {signature(cut.tree): cut for cut in found}
    return sorted(trees.values(), key=lambda cut: cut.at)


@contextmanager
def _quickly() -> Iterator[None]:
    """What is judged is thrown away, so its syncs need not wait for a disk. yaozarrs makes its validators once."""
    validators = patch.object(yaozarrs._zarr, "TypeAdapter", cache(pydantic.TypeAdapter))
    with (
        patch.object(os, "fsync"),
        patch.object(os, "fdatasync"),
        patch.object(unsynced, "sync_filesystem"),
        validators,
    ):
        yield
