"""The machine restarts while a stream is copied: all processes die, the rings are gone, and the next daemon goes on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import omewd
from omewd.copier.verify import verify_copy
from omewd.dataset.copies.manifest import FOLDER, STORED
from omewd.dataset.verify import verify
from tests.faults.support import abandon
from tests.support.copies import LARGE, Lab, differences
from tests.support.copies import omewd as command
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import uploads_in_progress

OPTIONS = ("--memory", "256MiB")
# Shards of 20 MiB, which go up in parts, and small ones.
IN_PARTS, SMALL = LARGE.replace("t:40:", "t:inf:"), "t:48:1:4,y:32:16:2,x:32:16:2"


class Strike:
    """Requests pass until one comes that ``where`` chooses by its method and path; from it on, none does."""

    def __init__(self, where: Callable[[str, str], bool]) -> None:
        self._where = where
        self.struck = threading.Event()

    def __call__(self, method: str, path: str, _: bytes) -> str | None:
        if self._where(method, path):
            self.struck.set()
        return "cut" if self.struck.is_set() else None


class Machine:
    """A machine that records and copies. ``now``: its daemon, which is another one after each restart."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self._folder, self.lab = folder, lab
        self.now = DaemonProcess(folder, *OPTIONS)
        self.dataset = self.now.data / "cam.ome.zarr"

    @property
    def entries(self) -> list[Path]:
        return list((self._folder / "state" / "streams").iterdir())

    def record(self, dims: str, frames: int) -> omewd.Producer:
        spec = make_spec("cam", dims, backend="direct", copy_to=self.lab.url)
        self.now.client.start_stream(spec)
        producer = self.now.connect("cam")
        for index in range(frames):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)
        return producer

    def start(self) -> None:
        self.lab.proxy.faults = lambda *_: None
        self.now = DaemonProcess(self._folder, *OPTIONS)

    def check(self, frames: int) -> None:
        """The copy is the dataset, and the first frames are in both."""
        import zarr

        assert differences(self.dataset, self.lab.copy) == []
        assert verify(self.dataset).problems == []
        assert verify_copy(self.lab.url, deep=True).problems == []
        array = np.asarray(zarr.open_array(str(self.lab.copy / "0"), mode="r")[:frames])
        assert len(array) == frames
        for index, frame in enumerate(array):
            assert np.array_equal(frame, make_frame(index, frame.shape, "uint16")), index


@pytest.fixture
def machine(tmp_path: Path, lab: Lab) -> Iterator[Machine]:
    machine = Machine(tmp_path / "machine", lab)
    try:
        yield machine
        assert machine.now.stop() == 0, machine.now.log()
    finally:
        machine.now.kill()


def tear_the_manifest(dataset: Path) -> None:
    [manifest] = (dataset / FOLDER).glob("*.jsonl")
    with manifest.open("ab") as file:
        file.write(b'5a6b7c8d {"path":"0/c/0/0/0","by')


@pytest.mark.parametrize("where", ["before the first object", "in the middle of an upload"])
def test_row_33_the_machine_restarts_while_a_stream_is_copied(machine: Machine, where: str) -> None:
    """The frames that were in the rings only are lost. What is durable is finalized, and copied."""
    begun = where == "in the middle of an upload"
    machine.lab.proxy.faults = strike = Strike(lambda _, path: "partNumber=2" in path or not begun)
    producer = machine.record(IN_PARTS, 60)
    assert strike.struck.wait(60)
    wait_for(lambda: producer.durable >= 40)
    durable = producer.durable
    machine.now.restart_the_machine()
    assert producer.copied == 0
    if begun:
        tear_the_manifest(machine.dataset)
    machine.start()
    abandon(producer)
    assert machine.now.client.wait("cam", 60, copied=True)["state"] == "complete"
    wait_for(lambda: not machine.entries)
    machine.check(durable)
    assert not begun or uploads_in_progress(machine.lab.proxy.server_port) == []


@pytest.mark.parametrize("before", ["zarr.json", STORED])
def test_row_33_the_machine_restarts_while_the_rest_is_copied(machine: Machine, before: str) -> None:
    """The stream has ended. Metadata, or the manifest, are still to be copied. The power has cut a rename in halves."""
    machine.lab.proxy.faults = strike = Strike(lambda method, path: method == "PUT" and path.endswith(before))
    machine.record(SMALL, 48).close()
    assert strike.struck.wait(60)
    wait_for(lambda: [path.name.partition("~")[0] for path in machine.entries] == ["copy"])
    machine.now.restart_the_machine()
    [entry] = machine.entries
    os.link(entry, entry.with_name("cam.json"))
    tear_the_manifest(machine.dataset)
    assert (machine.lab.copy / "zarr.json").exists() == (before == STORED)
    machine.start()
    wait_for(lambda: not machine.entries)
    assert [copy["state"] for copy in machine.now.client.status()["copies"]] == ["complete"]
    machine.check(48)


def test_row_33_the_entry_of_a_copy_is_damaged(machine: Machine) -> None:
    """Its file was cut short, which no power cut does. The daemon says so, and serves; nothing is lost."""
    machine.lab.proxy.faults = lambda *_: "cut"
    machine.record(SMALL, 48).close()
    wait_for(lambda: [path.name.partition("~")[0] for path in machine.entries] == ["copy"])
    machine.now.restart_the_machine()
    [entry] = machine.entries
    entry.write_bytes(entry.read_bytes()[:99])
    machine.start()
    [told] = [line for line in map(json.loads, machine.now.log().splitlines()) if line.get("entry") == entry.stem]
    assert (told["level"], "can't be read" in told["reason"]) == ("error", True), told
    assert command("copy", str(machine.dataset), machine.lab.url).returncode == 0
    machine.check(48)
