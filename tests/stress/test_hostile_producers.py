"""Row 32, by a seed: cameras' programs damage their rings in every way that the layout leaves open.

Beside each damaged stream runs one that must not lose a frame. A short run by default; the long one:
``OMEWD_ROUNDS=5000 python -m pytest tests/stress/test_hostile_producers.py -s``, and ``OMEWD_SEED`` for other damage.
"""

from __future__ import annotations

import collections
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

import omewd
from omewd.dataset.ledger.ledger import totals_of
from omewd.model.spec.spec import StreamSpec
from omewd.producer.producer import Producer
from tests.faults.support import Daemons
from tests.stress.hostile_camera import HostileCamera
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

ROUNDS = int(os.environ.get("OMEWD_ROUNDS", "40"))
SEED = int(os.environ.get("OMEWD_SEED", "20261128"))
GOOD_FRAMES = 4  # before and after each round
QUIET_S = 0.4
# Of a processor, in a quiet stretch. A daemon with nothing to do takes a thousandth of it; one that spins, all of it.
MOST_QUIET_CPU_S = 0.2

REASONS = {"bad_ring", "frames_unaccounted", "writer_died", "reason_lost"}
DIMS = (
    "t:inf:1:4,y:16,x:16",
    "t:inf,y:8,x:24",
    "t:inf:3,c:2,y:16,x:16",
    "t:40:2:4,c:3,y:16,x:16",
    "t:inf:2,p:3,y:16,x:16",
)


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class Run:
    """The rounds of one run. ``outcomes``: how many streams ended how."""

    def __init__(self, daemons: Daemons) -> None:
        self._chance = random.Random(SEED)
        self._daemons = daemons
        self.good = make_spec("good", "t:inf:1:5,y:16,x:16")
        daemons.now.client.start_stream(self.good)
        self.producer: Producer = daemons.now.connect("good")
        self.frames = 0
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.damages: collections.Counter[str] = collections.Counter()

    def append_good(self) -> None:
        for _ in range(GOOD_FRAMES):
            frame = make_frame(self.frames, self.good.frame_shape, self.good.dtype)
            assert self.producer.append(frame, timeout=120) == self.frames
            self.frames += 1

    def spec(self, number: int) -> StreamSpec:
        chance = self._chance
        fields: dict[str, Any] = {
            "ring_slots": chance.choice([24, 32, 64]),
            "compression": chance.choice([None, "blosc-zstd"]),
            "backpressure": chance.choice(["block", "drop", "fail"]),
            "on_producer_loss": chance.choice(["finalize", "wait"]),
            "dtype": chance.choice(["uint8", "uint16"]),
        }
        return make_spec(f"bad{number}", chance.choice(DIMS), **fields)

    def round(self, number: int) -> None:
        """One damaged stream, from its start to its end."""
        chance, spec = self._chance, self.spec(number)
        client = self._daemons.now.client
        client.start_stream(spec)
        camera = HostileCamera(self._daemons.now.connect(spec.name), chance)
        try:
            self._mistreat(camera, spec)
            self.append_good()
            if chance.random() < 0.3:
                self._check_quiet(camera)
            if chance.random() < 0.15:
                camera.did.append("the daemon is killed")
                self._daemons.restart()
        finally:
            camera.die()
        outcome = self._end(spec, camera)
        self.outcomes[outcome] += 1
        self.damages.update(what.split(" ")[0] for what in camera.did)

    def _mistreat(self, camera: HostileCamera, spec: StreamSpec) -> None:
        chance = self._chance
        camera.publish_some()
        for _ in range(chance.choice([0, 1, 1, 2, 4, 12])):
            match chance.choices(["publish", "skip", "damage", "status", "second", "disconnect"], [4, 2, 8, 1, 1, 0.3])[
                0
            ]:
                case "publish":
                    camera.publish_some()
                case "skip":
                    camera.did.append("skip")
                    camera.skip()
                case "damage":
                    camera.damage()
                case "status":
                    self._daemons.now.client.status(spec.name)
                case "second":
                    with pytest.raises(omewd.OmewdError) as refused:
                        self._daemons.now.connect(spec.name)
                    assert refused.value.code in ("producer_exists", "stream_stopped", "bad_ring"), camera.did
                case _:
                    camera.did.append("disconnect")
                    camera.disconnect()

    def _check_quiet(self, camera: HostileCamera) -> None:
        """A daemon that has nothing to do does nothing, whatever is in the ring."""
        for _ in range(5):  # it may still be at work
            before = cpu_s(self._daemons.now.process.pid)
            time.sleep(QUIET_S)
            if cpu_s(self._daemons.now.process.pid) - before < MOST_QUIET_CPU_S:
                return
        raise AssertionError(f"the daemon spins after {camera.did}")

    def _end(self, spec: StreamSpec, camera: HostileCamera) -> str:
        """Let the stream end, and check how it did; returns that."""
        client = self._daemons.now.client
        status = client.status()
        if spec.name in {kept["name"] for kept in status["kept_rings"]}:
            client.stop_stream(spec.name)
            return "ring kept aside"
        if spec.name not in {stream["name"] for stream in status["streams"]}:
            assert "the daemon is killed" in camera.did, camera.did
            summary, _ = totals_of(self._daemons.now.data / f"{spec.name}.ome.zarr")
            assert summary["state"] in ("complete", "failed"), camera.did
            return f"{summary['state']} before the daemon was killed"
        if client.status(spec.name)["state"] == "ACTIVE":
            client.stop_stream(spec.name)
        failure: omewd.StreamFailedError | None = None
        try:
            client.wait(spec.name, timeout=120)
        except omewd.StreamFailedError as error:
            failure = error
        except omewd.OmewdError as error:
            raise AssertionError(f"{error} after {camera.did}: {client.status(spec.name)}") from error
        outcome = f"FAILED: {failure.cause}" if failure else "DONE"
        assert failure is None or failure.cause in REASONS, (failure, camera.did)
        final = client.status(spec.name)
        frames = final["frames"]
        accounted = frames["written"] + frames["gaps"] + frames["lost"] + frames["in_flight"]
        assert frames["received"] == accounted, (frames, camera.did)
        if final["kept_in_ring"]:
            client.stop_stream(spec.name)
        if camera.is_harmless:
            assert outcome == "DONE", camera.did
        return outcome


@pytest.mark.stress
@pytest.mark.timeout(240 + 4 * ROUNDS)
def test_row_32_rings_damaged_by_a_seed(daemons: Daemons) -> None:
    run = Run(daemons)
    run.append_good()
    for number in range(ROUNDS):
        run.round(number)
        run.append_good()
    run.producer.close(timeout=120)
    check_dataset(daemons.folder / "data" / "good.ome.zarr", run.good, run.frames)
    wait_for(lambda: not daemons.now.shared_memory())
    assert len(daemons.now.writer_pids()) == 2
    assert "this is a bug" not in daemons.now.log()
    print(f"\n{ROUNDS} damaged streams: {dict(run.outcomes)}; {run.frames} frames beside them, none missing")
    print(f"what was done: {dict(run.damages.most_common())}")
