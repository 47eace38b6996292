"""What is recorded: acquisitions with few small frames, each in a process of its own that also starts the daemon.

``python -m tests.powercut.scenarios NAME FOLDER`` runs one. It writes a mark for each thing that a client is told.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import omewd
from omewd.dataset.repair import repair
from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import VARIABLE
from omewd.process.names import sync_folder
from tests.support.daemons import DaemonProcess
from tests.support.frames import Array, make_frame, make_spec
from tests.support.processes import wait_for

NAME = "cam"
MARKS = "marks"
NAMESPACE = "experiment"
_OPTIONS = ("--writers", "2", "--memory", "512MiB")


@dataclass
class Run:
    """A scenario that is running. ``disk``: the recorded folder, which has the data root and the state directory."""

    spec: StreamSpec
    process: DaemonProcess
    marks: int

    def mark(self, **what: Any) -> None:
        """Note what a client has just been told."""
        os.write(self.marks, f"{json.dumps(what)}\n".encode())

    def mark_durable(self) -> dict[str, Any]:
        """Ask for the status, and note how many frames of each source are durable."""
        status = self.process.client.status(NAME)
        told = [source["frames"]["durable"] for source in status["sources"]]
        if status["state"] != "FAILED":
            self.mark(durable=told)
        return status

    def start(self) -> None:
        self.process.client.start_stream(self.spec)
        self.mark(started=True)

    def connect(self, source: int = 0) -> omewd.Producer:
        return omewd.connect(NAME, source=source, socket=self.process.socket)

    def append(self, producers: list[omewd.Producer], frames: range, gaps: frozenset[int] = frozenset()) -> None:
        for index in frames:
            for source, producer in enumerate(producers):
                if index in gaps:
                    producer.skip()
                else:
                    producer.append(frame_of(self.spec, source, index))
            self.mark_durable()

    def recover(self) -> None:
        """Start the next daemon, and wait until it has nothing left to do."""
        self.process = DaemonProcess(self.process.folder, *_OPTIONS)
        wait_for(lambda: not list((self.process.folder / "state/streams").glob("*.json")))

    def end(self, producers: list[omewd.Producer]) -> None:
        for producer in producers:
            producer.close()
        status = self.process.client.wait(NAME, timeout=60)
        self.mark_durable()
        self.mark(ended=status["state"])


def frame_of(spec: StreamSpec, source: int, index: int) -> Array:
    """The frame that a source hands over as its frame index."""
    return make_frame(index + 1000 * source, spec.frame_shape, spec.dtype)


@dataclass(frozen=True)
class Scenario:
    """``frames``: of each source. ``gaps``: the frame indexes that are skipped. ``inject``: errors, as for strace.

    ``dies_at``: the fault point that kills the first writer to pass it; another one does its jobs again. ``most``: how
    many trees are judged at most, half of them around each syncfs.
    """

    dims: str
    fields: dict[str, Any] = field(default_factory=dict)
    frames: int = 6
    gaps: frozenset[int] = frozenset()
    inject: tuple[str, ...] = ()
    dies_at: str | None = None
    most: int | None = None
    script: Callable[[Scenario, Run], None] | None = None

    @property
    def spec(self) -> StreamSpec:
        return make_spec(NAME, self.dims, ring_slots=16, **self.fields)

    def run(self, run: Run) -> None:
        if self.script is not None:
            self.script(self, run)
            return
        run.start()
        producers = [run.connect(source) for source in range(run.spec.sources)]
        run.append(producers, range(self.frames), self.gaps)
        run.end(producers)


def _stopped(scenario: Scenario, run: Run) -> None:
    """A client stops the stream before all of its frames are there."""
    run.start()
    producer = run.connect()
    run.append([producer], range(scenario.frames))
    run.process.client.stop_stream(NAME)
    run.end([producer])


def _with_metadata(scenario: Scenario, run: Run) -> None:
    """Users' metadata come before, between and after the frames."""
    run.start()

    def put(value: int) -> None:
        run.process.client.set_metadata(NAME, NAMESPACE, {"value": value})
        run.mark(metadata=value)

    put(1)
    producer = run.connect()
    run.append([producer], range(scenario.frames // 2))
    put(2)
    run.append([producer], range(scenario.frames // 2, scenario.frames))
    run.end([producer])
    put(3)


def _resumed(scenario: Scenario, run: Run) -> None:
    """The stream fails, because its dataset is elsewhere for a while. It is resumed, and writes what is in its ring.

    It goes in the middle of a shard, because sealing one goes on after its frames are durable: a record tells no order
    of calls that overlap.
    """
    run.start()
    producer = run.connect()
    run.append([producer], range(scenario.frames // 2))
    wait_for(lambda: run.mark_durable()["frames"]["in_flight"] == 0)
    place, elsewhere = run.process.data / run.spec.output, run.process.data / "elsewhere"
    run.mark(away=True)
    place.rename(elsewhere)
    with suppress(OmewdError):  # it may have failed before all are handed over
        for index in range(scenario.frames // 2, scenario.frames):
            producer.append(frame_of(run.spec, 0, index))
    wait_for(lambda: run.process.client.status(NAME)["state"] == "FAILED")
    wait_for(lambda: run.process.client.status(NAME)["settled"])
    elsewhere.rename(place)
    sync_folder(run.process.data)
    run.mark(away=False)
    run.process.client.resume_stream(NAME)
    run.append([producer], range(producer.next_index, scenario.frames))
    run.end([producer])


def _gone(scenario: Scenario, run: Run) -> None:
    """All processes die and the rings are gone, as after a restart of the machine. The next daemon recovers."""
    run.start()
    producer = run.connect()
    run.append([producer], range(scenario.frames))
    wait_for(lambda: run.mark_durable()["frames"]["durable"] == scenario.frames)  # so nothing is cut off in the middle
    run.process.lose_the_rings()
    run.recover()


def _repaired(scenario: Scenario, run: Run) -> None:
    """As :func:`_gone`, and a user repairs the dataset before the next daemon starts."""
    run.start()
    producer = run.connect()
    run.append([producer], range(scenario.frames))
    wait_for(lambda: run.mark_durable()["frames"]["durable"] == scenario.frames)  # so nothing is cut off in the middle
    run.process.lose_the_rings()
    wait_for(lambda: _is_repaired(run.process.data / run.spec.output))
    run.recover()


def _is_repaired(dataset: Path) -> bool:
    try:
        repair(dataset)
    except OmewdError as error:
        if error.code != "busy":  # a writer has not heard of its daemon's death yet
            raise
        return False
    return True


def _replaced(scenario: Scenario, run: Run) -> None:
    """The dataset is replaced. Until clients hear that the new one is there, they can count on neither."""
    for _ in range(2):
        run.mark(started=False, durable=[], ended=None)
        run.start()
        producer = run.connect()
        run.append([producer], range(scenario.frames))
        run.end([producer])


_SHARDS = "t:7:1:3,y:128:64:2,x:64"
_RAW = {"backend": "direct"}
_KEYS = "t:5,y:64,x:64"

SCENARIOS: dict[str, Scenario] = {
    "direct": Scenario(_SHARDS, _RAW, frames=7),
    "direct, compressed": Scenario(_SHARDS, {**_RAW, "compression": "blosc-lz4"}, frames=7),
    "direct, levels and positions": Scenario("t:3:1:2,p:2,y:128:64:2,x:64", {**_RAW, "levels": 2}, frames=6),
    "direct, keys": Scenario(_KEYS, _RAW, frames=5),
    "direct, no end": Scenario("t:inf:1:3,y:64,x:64", _RAW, frames=7, script=_stopped),
    "direct, stopped": Scenario("t:9:1:4,y:64,x:64", _RAW, frames=6, script=_stopped),
    "direct, gaps": Scenario("t:9:1:4,y:64,x:64", _RAW, frames=9, gaps=frozenset({1, 4, 5})),
    "direct, sources": Scenario("t:4:1:2,v:2,y:64,x:64", {**_RAW, "source_dimension": "v"}, frames=4),
    "direct, metadata": Scenario("t:6:1:3,y:64,x:64", _RAW, script=_with_metadata),
    "direct, resumed": Scenario("t:8:1:5,y:64,x:64", _RAW, frames=8, script=_resumed),
    "direct, rings gone": Scenario("t:inf:1:3,y:64,x:64", {**_RAW, "compression": "blosc-lz4"}, 5, script=_gone),
    "direct, repaired": Scenario("t:inf:1:3,y:64,x:64", {**_RAW, "levels": 2}, 5, script=_repaired),
    "direct, replaced": Scenario("t:3:1:2,y:64,x:64", {**_RAW, "overwrite": True}, 3, script=_replaced),
    # More than 64 files and folders, which syncfs syncs: as they are made, and at the end, when shards are sealed.
    "direct, many images": Scenario("t:inf:1:2,p:18,y:16,x:16", _RAW, frames=18, most=600, script=_stopped),
    "direct, disk full": Scenario(_SHARDS, _RAW, frames=7, inject=("-e", "inject=pwritev2:error=ENOSPC:when=1")),
    **{
        f"direct, killed at '{point}'": Scenario("t:6:1:3,y:64,x:64", _RAW, dies_at=f"writer: {point}")
        for point in ("chunks on record", "file renamed", "shards in place", "finalized")
    },
    "direct, keys, killed at 'folder renamed'": Scenario(_KEYS, _RAW, frames=5, dies_at="writer: folder renamed"),
    "tensorstore": Scenario("t:6:1:2,y:64,x:64", {"backend": "tensorstore", "compression": "blosc-zstd"}),
    "zarr-python, keys": Scenario("t:3,p:2,y:64:32,x:64", {"backend": "zarr-python", "levels": 2}),
    "zarrs-python": Scenario("t:6:1:2,y:64:32:2,x:64", {"backend": "zarrs-python"}),
    "acquire-zarr": Scenario("t:inf:1:2,y:64,x:64", {"backend": "acquire-zarr"}, frames=5, script=_stopped),
}


def main(name: str, folder: Path) -> None:
    scenario = SCENARIOS[name]
    marks = os.open(folder / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    fault = {VARIABLE: f"{scenario.dies_at};1;{folder / 'died'}"} if scenario.dies_at else {}
    run = Run(scenario.spec, DaemonProcess(folder, *_OPTIONS, env=fault), marks)
    try:
        scenario.run(run)
        assert run.process.stop() == 0, run.process.log()
    finally:
        run.process.kill()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
