"""Streams are copied over a bad network, and copiers and daemons are killed at random: each copy is compared whole.

A short run by default. Long: ``OMEWD_COPY_KILLS=200 python -m pytest tests/integration/copies -k at_random -s``;
``OMEWD_SEED`` chooses another course of events.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.copier.verify import verify_copy
from omewd.dataset.copies.manifest import FOLDER, read
from omewd.dataset.verify import verify
from omewd.model.spec.spec import StreamSpec
from tests.support.copies import Lab, differences
from tests.support.daemons import KeptDaemon
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import FAULTS, Sometimes

KILLS = int(os.environ.get("OMEWD_COPY_KILLS", "4"))
SEED = int(os.environ.get("OMEWD_SEED", "20261129"))
KILLS_A_STREAM = 4
FRAMES = 48

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("t:48:1:4,y:32:16:2,x:32:16:2", {"levels": 2}),
    ("t:inf:1:4,y:32:16:2,x:32:16:2", {"copy_live": True}),
    ("t:inf,y:32:16,x:32:16", {}),
)


@dataclass
class Loop:
    """What happens at random, and what was counted. ``kept``: a daemon that is started again whenever it dies."""

    lab: Lab
    kept: KeptDaemon
    chance: random.Random
    next_kill: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def stream(self, name: str, spec: StreamSpec) -> None:
        """Record and copy a stream, with kills during it and after it."""
        dataset = self.kept.now.data / f"{name}.ome.zarr"
        entries = self.kept.now.folder / "state" / "streams"
        self.lab.proxy.faults = faults = Sometimes(self.chance.randrange(1 << 30), FAULTS, 0.1, slow_s=0.1)
        self.kept.ask(lambda: self.kept.now.client.start_stream(spec))
        until = self.killed.total() + KILLS_A_STREAM
        self._put_off()
        with self.kept.ask(lambda: self.kept.now.connect(name)) as producer:
            for index in range(FRAMES):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)
                time.sleep(0.02)
                if self.killed.total() < until - 2 and self._is_due:
                    self.kill(dataset, producer)
        while self.killed.total() < until:
            wait_for(lambda: self._is_due or not list(entries.iterdir()), 100)
            if not list(entries.iterdir()):
                break
            self.kill(dataset, producer)
        wait_for(lambda: not list(entries.iterdir()), 100)
        self.lab.proxy.faults = lambda *_: None
        self.faults += faults.happened
        check(self.lab, dataset)

    def _put_off(self) -> None:
        """Kill next at one of the next requests, so that it is in the middle of a copy."""
        self.next_kill = len(self.lab.proxy.seen) + self.chance.randrange(1, 12)

    @property
    def _is_due(self) -> bool:
        return len(self.lab.proxy.seen) >= self.next_kill

    def kill(self, dataset: Path, producer: omewd.Producer) -> None:
        """Kill a copier, the daemon, or both. What is said to be in the store is there, before and after it."""
        who = self.chance.choice(["copier", "copier", "daemon", "both"])
        copiers: list[int] = []
        with contextlib.suppress(omewd.OmewdError):  # it may just be starting
            copiers = [copier["pid"] for copier in self.kept.now.client.status()["copiers"]]
        victims = [] if who == "daemon" else copiers
        victims += [] if who == "copier" else [self.kept.now.process.pid]
        copied = producer.copied
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.killed[who] += bool(victims)
        on_record_is_in_the_store(self.lab, dataset)
        assert producer.copied >= copied
        self._put_off()


def on_record_is_in_the_store(lab: Lab, dataset: Path) -> None:
    """Metadata apart, which change: what was there then is copied again."""
    for manifest in (dataset / FOLDER).glob("*.jsonl"):
        found = read(manifest.read_bytes().splitlines(keepends=True))
        for path in found[1] if found else ():
            if "/c/" in path:
                assert (lab.copy / path).read_bytes() == (dataset / path).read_bytes(), path


def check(lab: Lab, dataset: Path) -> None:
    """The copy is the dataset, and both have all frames."""
    import zarr

    assert differences(dataset, lab.copy) == []
    assert verify(dataset).problems == []
    assert verify_copy(lab.url, deep=True).problems == []
    array = np.asarray(zarr.open_array(str(lab.copy / "0"), mode="r")[...])
    assert len(array) == FRAMES
    for index, frame in enumerate(array):
        assert np.array_equal(frame, make_frame(index, frame.shape, "uint16")), index


@pytest.mark.timeout(60 + 12 * KILLS)
def test_row_33_kills_and_faults_at_random_while_streams_are_copied(tmp_path: Path, lab: Lab) -> None:
    kept = KeptDaemon(tmp_path / "daemon", "--memory", "256MiB", "--writers", "1")
    loop = Loop(lab, kept, random.Random(SEED))
    streams = 0
    try:
        while loop.killed.total() < KILLS:
            dims, fields = CASES[streams % len(CASES)]
            lab.number = streams = streams + 1
            name = f"cam{streams}"
            loop.stream(name, make_spec(name, dims, backend="direct", ring_slots=64, copy_to=lab.url, **fields))
    finally:
        kept.end()
    counts = f"killed: {dict(loop.killed)}; faults: {dict(loop.faults)}"
    print(f"\nseed {SEED}: {streams} streams of {FRAMES} frames, each copy the dataset; {counts}")
