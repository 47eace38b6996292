"""Several daemons with a part of the sources each, as on several machines, copy into one dataset of a bucket."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import omewd
from omewd.copier.verify import verify_copy
from omewd.dataset.verify import verify
from omewd.model.spec.spec import StreamSpec
from tests.support.copies import Lab
from tests.support.copies import omewd as command
from tests.support.daemons import DaemonProcess
from tests.support.parts import CHANNELS, check_whole, frames_of, part_spec
from tests.support.processes import wait_for
from tests.support.s3 import environment

LENGTHS = (40, 27, 33)


class Machine:
    """A daemon with its own folders, and the camera of one source."""

    def __init__(self, folder: Path, lab: Lab, element: int, **fields: Any) -> None:
        self._folder, self._lab, self._element = folder / CHANNELS[element], lab, element
        self.spec: StreamSpec = part_spec(CHANNELS[element], copy_to=lab.url, **fields)
        self.daemon = self._started()
        self.daemon.client.start_stream(self.spec)
        self.camera = omewd.connect("cams", source=CHANNELS[element], socket=self.daemon.socket)

    def _started(self) -> DaemonProcess:
        return DaemonProcess(
            self._folder, "--memory", "128MiB", "--writers", "1", env=environment(self._lab.proxy.port)
        )

    def record(self, first: int, stop: int) -> None:
        for frame in frames_of(self.spec, self._element, stop)[first:]:
            assert frame is not None
            self.camera.append(frame, timeout=60)

    def kill(self) -> None:
        """SIGKILL for the daemon and its copiers, at once."""
        for child in self.daemon.client.status()["copiers"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child["pid"], signal.SIGKILL)
        self.daemon.kill()

    def restart(self) -> None:
        self.daemon = self._started()

    def end(self) -> None:
        self.camera.close()

    def discard(self) -> None:
        with contextlib.suppress(omewd.OmewdError):
            self.camera.close(wait=False)
        try:
            self.daemon.stop()
        finally:
            self.daemon.kill()

    def copied(self) -> tuple[str, ...]:
        """Waits for the end of the copy; returns the sources that were missing then."""
        status = self.daemon.client.wait("cams", 120, copied=True)
        copy = status.get("copy") or status
        assert copy["state"] == "complete"
        return tuple(copy["missing"])


@pytest.fixture
def machines(tmp_path: Path, lab: Lab) -> Iterator[list[Machine]]:
    started: list[Machine] = []
    try:
        for element in range(3):
            started.append(Machine(tmp_path, lab, element, copy_limit=200_000.0, copy_evict=element == 1))
        yield started
    finally:
        for machine in started:
            machine.discard()


def check(lab: Lab, machines: list[Machine]) -> None:
    """All frames of all sources, read from the store, and as a folder that was downloaded."""
    array = zarr.open_group(omewd.open_copy(lab.url), mode="r")["0"]
    assert isinstance(array, zarr.Array)
    assert array.shape[0] == max(LENGTHS)
    pixels = np.asarray(array[...])
    for element, length in enumerate(LENGTHS):
        expected = np.stack([f for f in frames_of(machines[0].spec, element, length) if f is not None])
        assert np.array_equal(pixels[:length, element], expected), CHANNELS[element]
        assert not pixels[length:, element].any()
    done = command("verify", lab.url, "--deep")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all is well"), done.stdout
    check_whole(lab.copy, machines[0].spec, LENGTHS)
    assert verify(lab.copy).problems == []


def test_row_35_three_daemons_copy_into_one_dataset_and_one_is_killed(lab: Lab, machines: list[Machine]) -> None:
    first, second, third = machines
    for machine, length in zip(machines, (20, 15, 20), strict=True):
        machine.record(0, length)
    wait_for(lambda: all(machine.camera.copied >= 8 for machine in machines))
    second.kill()
    before = second.camera.copied
    first.record(20, LENGTHS[0])
    first.end()
    assert first.copied() == ("GFP", "RFP")
    second.restart()
    assert second.camera.copied >= before
    second.record(15, LENGTHS[1])
    second.end()
    third.record(20, LENGTHS[2])
    assert not (lab.copy / "zarr.json").exists()  # a copy that opens is complete
    assert second.copied() == ("RFP",)
    assert "source 'RFP' is missing" in "".join(verify_copy(lab.url).problems)
    shown = " ".join(second.daemon.omewd("status").stdout.split())
    assert "it opens once it has source RFP" in shown
    third.end()
    time.sleep(0.2)  # its copy is about to be completed
    third.kill()
    third.restart()
    with contextlib.suppress(omewd.OmewdError):  # it was complete before the kill, so the new daemon knows of none
        third.copied()
    check(lab, machines)
    for machine in machines:
        assert list((machine.daemon.folder / "state" / "streams").iterdir()) == []
        assert machine.daemon.stop() == 0, machine.daemon.log()


def test_row_35_all_end_at_the_same_time(lab: Lab, machines: list[Machine]) -> None:
    for machine, length in zip(machines, LENGTHS, strict=True):
        machine.record(0, length)
    for machine in machines:
        machine.camera.close(wait=False)
    missing = [machine.copied() for machine in machines]
    assert () in missing
    check(lab, machines)


def test_row_35_a_source_that_two_daemons_have_is_copied_by_one(tmp_path: Path, lab: Lab) -> None:
    first = Machine(tmp_path / "one", lab, 1)
    try:
        first.record(0, 12)
        wait_for(lambda: first.camera.copied >= 8)
        for fields, why in (({}, "source 'GFP' is copied there"), ({"levels": 1}, "levels is 1 here and 2 there")):
            other = Machine(tmp_path / f"other{len(fields)}", lab, 1, **fields)
            try:
                other.record(0, 8)
                other.end()
                with pytest.raises(omewd.OmewdError, match=why) as error:
                    other.daemon.client.wait("cams", 60, copied=True)
                assert error.value.code == "output_exists"
                assert verify(other.daemon.data / "cams.ome.zarr").problems == []
            finally:
                other.discard()
        first.end()
        assert first.copied() == ("DAPI", "RFP")
        problems = verify_copy(lab.url, deep=True).problems
        assert len(problems) == 2
        assert all("is missing: the daemon" in problem for problem in problems)
    finally:
        first.discard()
