"""Row 31: an upgrade with open streams goes on with them; what is of another major version is kept aside.

``upgrade/open-streams.tar.xz`` was made with commit 8ffb43d, the last one before formats had minor versions: rings,
journal and datasets of two streams, at a moment when daemon and writers were stopped. "cam" (direct, shards in
progress) has 9 durable frame indexes and 3 in its ring; of "cams" (tensorstore, two sources) 4 and 2 are durable,
2 and 1 in the rings.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import omewd
from omewd.daemon.state.journal import boot_id, instance_name
from omewd.dataset.verify import verify
from omewd.model.spec.stored import stored_spec
from omewd.protocol import versions
from tests.faults.support import append
from tests.support.acquisitions import Frames, check_acquisition
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.shared_memory import started_instances

FIXTURE = Path(__file__).parent / "upgrade" / "open-streams.tar.xz"
MADE_AT = "/tmp/upg/run/data"
OPTIONS = ("--writers", "2", "--memory", "512MiB")
SIZE_AT, VERSION_AT, UNUSED_WORD_AT = 12, 8, 1400

Change = Callable[[dict[str, Any]], dict[str, Any]]


class Left:
    """What the daemon of 8ffb43d has left, under a folder; ``rings`` by "stream id-source-name"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        instance = instance_name(folder / "state")
        started_instances.add(instance)
        with tarfile.open(FIXTURE) as packed:
            packed.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
            packed.extractall(folder)
        (folder / "state").mkdir()
        (folder / "journal").rename(folder / "state" / "streams")
        self.rings: dict[str, Path] = {}
        for ring in (folder / "rings").iterdir():
            self.rings[ring.name] = Path("/dev/shm") / f"{instance}-{ring.name}"
            self.rings[ring.name].write_bytes(ring.read_bytes())
            self.rings[ring.name].chmod(0o600)
        for name in ("cam", "cams"):
            self.change_entry(name, lambda entry: self._here(entry, instance))

    def _here(self, entry: dict[str, Any], instance: str) -> dict[str, Any]:
        """An entry with this boot, these folders and this daemon's names."""
        text = json.dumps(entry).replace(MADE_AT, str(self.folder / "data"))
        names = [f"/{instance}-{name.split('-', 2)[2]}" for name in entry["shared_memory"]]
        return {**json.loads(text), "boot": boot_id(), "shared_memory": names}

    def change_entry(self, name: str, change: Change) -> None:
        self._change(self.folder / "state" / "streams" / f"{name}.json", change)

    def change_summary(self, name: str, change: Change) -> None:
        self._change(self.folder / "data" / f"{name}.ome.zarr" / "omewd" / "zarr.json", change)

    @staticmethod
    def _change(path: Path, change: Change) -> None:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    def set_ring_version(self, name: str, major: int, minor: int, more: bytes = b"") -> None:
        """Let a ring be of another version, with ``more`` fields behind those that are known."""
        memory = bytearray(self.rings[name].read_bytes())
        [size] = struct.unpack_from("<I", memory, SIZE_AT)
        memory[size : size + len(more)] = more
        struct.pack_into("<II", memory, VERSION_AT, major | minor << 16, size + len(more))
        struct.pack_into("<I", memory, size + len(more), zlib.crc32(memory[: size + len(more)]))
        struct.pack_into("<Q", memory, UNUSED_WORD_AT, 77)
        self.rings[name].write_bytes(memory)

    def spec(self, name: str) -> omewd.StreamSpec:
        entry = json.loads((self.folder / "state" / "streams" / f"{name}.json").read_text())
        return stored_spec(entry["spec"])


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    left = Left(tmp_path)
    yield left
    for ring in left.rings.values():  # of a test that failed
        ring.unlink(missing_ok=True)


def frames_of(*indexes: int | None) -> Frames:
    return [None if index is None else make_frame(index, (16, 16), "uint16") for index in indexes]


def go_on(process: DaemonProcess, left: Left) -> None:
    """What is in the rings gets written; producers hand over more; all of it is in the datasets."""
    specs = {name: left.spec(name) for name in ("cam", "cams")}
    wait_for(lambda: process.client.stream_status("cam").frames.durable == 12)
    status = process.client.stream_status("cam")
    assert (status.state, status.frames.received, status.frames.gaps) == ("ACTIVE", 12, 2)
    with process.connect("cam") as producer:
        for index in range(12, 15):
            assert producer.append(make_frame(index, (16, 16), "uint16")) == index
    assert [source.frames.received for source in process.client.stream_status("cams").sources] == [6, 3]
    cameras = [omewd.connect("cams", source=number, socket=process.socket) for number in (0, 1)]
    cameras[0].append(make_frame(6, (16, 16), "uint16"))
    for index in (1003, 1004):
        cameras[1].append(make_frame(index, (16, 16), "uint16"))
    for camera in cameras:
        camera.close()
    assert process.client.stream_status("cams").state == "DONE"
    dataset = process.data / "cam.ome.zarr"
    check_acquisition(dataset, specs["cam"], [frames_of(*range(6), None, None, *range(8, 15))])
    assert verify(dataset).problems == []
    both = process.data / "cams.ome.zarr"
    check_acquisition(both, specs["cams"], [frames_of(*range(7)), frames_of(*range(1000, 1005))])
    assert verify(both).problems == []


def test_row_31_an_upgrade_goes_on_with_open_streams(left: Left) -> None:
    process = DaemonProcess(left.folder, *OPTIONS)
    try:
        go_on(process, left)
        assert process.client.status()["kept_rings"] == []
        assert process.stop() == 0
    finally:
        process.kill()


def test_row_31_a_newer_minor_version_is_gone_on_with(left: Left) -> None:
    """After a downgrade: fields that this omewd does not know are ignored."""

    def spec_of_tomorrow(spec: dict[str, Any]) -> dict[str, Any]:
        dims = [{**dim, "of_tomorrow": 1} for dim in spec["dimensions"]]
        return {**spec, "dimensions": dims, "of_tomorrow": {"deep": [1, 2]}}

    def entry_of_tomorrow(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "version": "1.7", "of_tomorrow": [1], "spec": spec_of_tomorrow(entry["spec"])}

    def summary_of_tomorrow(document: dict[str, Any]) -> dict[str, Any]:
        found = document["attributes"]["omewd"]
        found |= {"of_tomorrow": 1, "stream": spec_of_tomorrow(found["stream"])}
        return document

    for name in ("cam", "cams"):
        left.change_entry(name, entry_of_tomorrow)
        left.change_summary(name, summary_of_tomorrow)
    for name in left.rings:
        left.set_ring_version(name, 2, 9, more=bytes(range(40)))
    process = DaemonProcess(left.folder, *OPTIONS)
    try:
        go_on(process, left)
        assert process.stop() == 0
    finally:
        process.kill()


def test_row_31_a_newer_major_version_is_kept_aside(left: Left) -> None:
    left.change_entry("cam", lambda entry: {**entry, "version": "2.0"})
    left.set_ring_version("2-1-cams", 3, 0)
    before = {name: path.read_bytes() for name, path in left.rings.items()}
    process = DaemonProcess(left.folder, *OPTIONS)
    try:
        kept = {ring.name: ring for ring in process.client.daemon_status().kept_rings}
        assert set(kept) == {"cam", "cams"}
        assert "journal is of version 2.0, and this omewd reads version 1" in kept["cam"].reason
        assert (kept["cam"].code, kept["cams"].code) == ("other_version", "bad_ring")
        assert "it has version 3.0, and this omewd reads version 2" in kept["cams"].reason
        assert all("Start the omewd that made it" in ring.reason for ring in kept.values())
        assert {name: path.read_bytes() for name, path in left.rings.items()} == before
        with pytest.raises(omewd.OmewdError) as refusal:
            process.client.resume_stream("cam")
        assert refusal.value.code == "other_version"
        left.change_entry("cam", lambda entry: {**entry, "version": "1.0"})  # the right omewd was started
        left.set_ring_version("2-1-cams", 2, 0)
        for name in ("cam", "cams"):
            assert process.client.resume_stream(name)["state"] == "ACTIVE"
        go_on(process, left)
        assert process.stop() == 0
    finally:
        process.kill()


def test_row_31_what_is_kept_aside_can_be_let_go(left: Left) -> None:
    for name in ("cam", "cams"):
        left.change_entry(name, lambda entry: {**entry, "version": "2.0"})
    process = DaemonProcess(left.folder, *OPTIONS)
    try:
        for name in ("cam", "cams"):
            assert process.client.stop_stream(name)["let_go"]["name"] == name
        assert not any(ring.exists() for ring in left.rings.values())
        assert not list((left.folder / "state" / "streams").iterdir())
        assert process.stop() == 0
    finally:
        process.kill()


def test_row_31_a_daemon_that_was_upgraded_on_disk_leaves_its_streams_to_the_next(tmp_path: Path) -> None:
    """Writers that it starts then are newer than it is: they get no jobs."""
    package = tmp_path / "site" / "omewd"
    shutil.copytree(Path(omewd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    installed = {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    options = ("--writers", "1", "--memory", "512MiB")
    process = DaemonProcess(tmp_path, *options, env=installed)
    try:
        spec = make_spec("cam", "t:inf:1:4,y:16,x:16", ring_slots=32, backend="tensorstore")
        process.client.start_stream(spec)
        producer = process.connect("cam")
        append(producer, spec, range(4))
        wait_for(lambda: producer.durable == 4)
        [pid] = process.writer_pids()
        text = (package / "protocol" / "versions.py").read_text()
        assert f"JOBS = Version({versions.JOBS.major}, {versions.JOBS.minor})" in text
        (package / "protocol" / "versions.py").write_text(text.replace("JOBS = Version(", "JOBS = Version(1"))
        os.kill(pid, signal.SIGKILL)
        append(producer, spec, range(4, 10))
        assert process.process.wait(60) == 1
        assert "omewd was upgraded on disk" in process.log()
        assert "restart the daemon" in process.log()
        append(producer, spec, range(10, 12))
        process = DaemonProcess(tmp_path, *options, env=installed)
        producer.close()
        check_dataset(process.data / spec.output, spec, 12)
        assert process.stop() == 0
    finally:
        process.kill()
