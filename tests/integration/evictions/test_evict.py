"""Shards and chunks that go from the disk once their copy is confirmed: nothing is ever gone without a record."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.copier.copy import copy
from omewd.copier.verify import verify_copy
from omewd.dataset.copies.evictions import evicted
from omewd.dataset.keys import Keys, files_in
from omewd.dataset.ledger import ledger
from omewd.dataset.repair import repair
from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from omewd.process.faultpoints import VARIABLE
from tests.faults.support import abandon
from tests.support.copies import Lab, finished
from tests.support.copies import omewd as command
from tests.support.daemons import DaemonProcess, daemon
from tests.support.disks import small_disk
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, environment
from tests.support.web import web

DIMS = "t:48:1:4,y:32:16:2,x:32:16:2"


@pytest.fixture
def recorder(tmp_path: Path, lab: Lab) -> Iterator[DaemonProcess]:
    with daemon(tmp_path / "daemon", "--memory", "256MiB", env=environment(lab.proxy.port)) as process:
        yield process


def start(process: DaemonProcess, lab: Lab, dims: str = DIMS, **more: Any) -> omewd.StreamSpec:
    settings = {"backend": "direct", "levels": 2, **more}
    spec = make_spec("cam", dims, copy_to=lab.url, copy_evict=True, **settings)
    process.client.start_stream(spec)
    return spec


def record(producer: omewd.Producer, spec: omewd.StreamSpec, first: int, stop: int) -> None:
    for index in range(first, stop):
        producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)


def keys_here(dataset: Path) -> list[str]:
    """The files of keys that are on the disk."""
    keys = Keys(ledger.totals_of(dataset)[1])
    return sorted(path for path in files_in(str(dataset)) if keys.units_of(path))


def require_nothing_gone_without_a_record(dataset: Path, lab: Lab, before: dict[str, bytes]) -> None:
    """Each file is there as it was, or is on record as evicted and in the store as it was."""
    record = evicted(dataset)
    for path, content in before.items():
        if path in record:
            assert not (dataset / path).exists(), path
            assert record[path][0] == lab.url
            assert (lab.copy / path).read_bytes() == content, path
        else:
            assert (dataset / path).read_bytes() == content, path


def check(dataset: Path, lab: Lab, spec: omewd.StreamSpec, gaps: frozenset[int] = frozenset()) -> None:
    """No key is on the disk, the copy has every frame, and both are fine."""
    import zarr

    assert keys_here(dataset) == []
    report = verify(dataset)
    assert report.problems == []
    deep = verify_copy(lab.url, deep=True)
    assert deep.problems == []
    assert (report.received, report.written, report.gaps) == (deep.received, deep.written, deep.gaps)
    of_dataset = sum(path.endswith("zarr.json") or path.startswith("omewd/ledger") for path in files_in(str(dataset)))
    assert report.evicted_to == {lab.url: deep.keys - of_dataset}
    group = zarr.open_group(omewd.open_copy(lab.url), mode="r")
    array = group["0"]
    assert isinstance(array, zarr.Array)
    for frame, pixels in enumerate(np.asarray(array[...])):
        expected = make_frame(frame, spec.frame_shape, spec.dtype)
        assert np.array_equal(pixels, expected * (frame not in gaps)), frame
    assert frame == sum(report.received) - 1


def test_shards_go_while_the_stream_goes_on(recorder: DaemonProcess, lab: Lab) -> None:
    spec = start(recorder, lab)
    dataset = recorder.data / "cam.ome.zarr"
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 22)
        wait_for(lambda: producer.copied == 20)
        assert keys_here(dataset) == []
        status = recorder.client.status("cam")["copy"]
        assert (status["evicts"], status["state"]) == (True, "copying")
        assert status["evicted_bytes"] == sum(
            path.stat().st_size for level in "01" for path in (lab.copy / level / "c").rglob("0") if path.is_file()
        )
        producer.skip(9)  # a whole shard of gaps
        record(producer, spec, 31, 48)
    recorder.client.wait("cam", 60, copied=True)
    check(dataset, lab, spec, frozenset(range(22, 31)))
    assert recorder.omewd("health").returncode == 0
    assert "are evicted" in recorder.omewd("status", "cam").stdout.replace("\n", " ")
    shown = command("verify", str(dataset))
    assert (shown.returncode, f"22 keys are evicted: they are in {lab.url}" in shown.stdout) == (0, True), shown.stdout
    assert json.loads(command("verify", str(dataset), "--json").stdout)["evicted"] == 22


@pytest.mark.parametrize("durability", ["fsync", "none"])
@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
def test_files_that_are_no_shards_go_too(recorder: DaemonProcess, lab: Lab, backend: str, durability: str) -> None:
    spec = start(recorder, lab, dims="t:12,y:32:16,x:32:16", backend=backend, durability=durability)
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 3)
        wait_for(lambda: producer.copied == 3)
        producer.skip(2)
        record(producer, spec, 5, 12)
    recorder.client.wait("cam", 60, copied=True)
    dataset = recorder.data / "cam.ome.zarr"
    check(dataset, lab, spec, frozenset({3, 4}))
    assert sorted(path.name for path in dataset.rglob("c")) == ["c", "c"]
    assert not [path for folder in dataset.rglob("c") for path in folder.iterdir()]  # no empty folders pile up


def test_several_cameras_positions_and_resolutions(recorder: DaemonProcess, lab: Lab) -> None:
    import zarr

    spec = start(
        recorder,
        lab,
        dims="t:6:1:2,p:2,c:2,y:32:16:2,x:32:16:2",
        source_dimension="c",
        levels=3,
    )
    with (
        omewd.connect("cam", source=0, socket=recorder.socket) as one,
        omewd.connect("cam", source=1, socket=recorder.socket) as other,
    ):
        for index in range(12):
            one.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)
            other.append(make_frame(100 + index, spec.frame_shape, spec.dtype), timeout=60)
    recorder.client.wait("cam", 60, copied=True)
    dataset = recorder.data / "cam.ome.zarr"
    assert keys_here(dataset) == []
    assert verify(dataset).problems == []
    assert verify(dataset).evicted == 3 * 2 * 2 * 3
    assert verify_copy(lab.url, deep=True).problems == []
    for position in (0, 1):
        array = zarr.open_array(omewd.open_copy(lab.url), path=f"{position}/0", mode="r")
        for t in range(6):
            for element in (0, 1):
                expected = make_frame(100 * element + 2 * t + position, spec.frame_shape, spec.dtype)
                assert np.array_equal(np.asarray(array[t, element]), expected), (position, t, element)


@pytest.mark.root("mounts a small disk")
@pytest.mark.parametrize("dims", ["t:400:1:8,y:256,x:512", "t:400,y:256,x:512"])
def test_row_33_a_run_may_be_larger_than_its_drive(tmp_path: Path, lab: Lab, dims: str) -> None:
    """105 MB go over a disk of 24 MiB. The network is gone for a while, so that the disk becomes full."""
    with (
        small_disk(tmp_path / "disk", "24m") as disk,
        daemon(
            tmp_path / "daemon", "--memory", "256MiB", "--data-root", str(disk), env=environment(lab.proxy.port)
        ) as process,
    ):
        output = str(disk / "cam.ome.zarr")
        lab.proxy.faults = lambda *_: "cut"
        spec = start(process, lab, dims=dims, levels=1, output=output, ring_slots=16)
        warning = process.client.status("cam")["disk"]["warning"]
        assert "Files go once they are copied" in warning["remedy"]
        with process.connect("cam") as producer:
            record(producer, spec, 0, 40)
            index = 40
            with contextlib.suppress(omewd.RingFullError):
                while True:
                    producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=3)
                    index += 1
            assert process.client.status("cam")["paused"]["code"] == "disk_full"
            lab.proxy.faults = lambda *_: None
            record(producer, spec, index, 400)
        process.client.wait("cam", 120, copied=True)
        check(disk / "cam.ome.zarr", lab, spec)
        assert shutil.disk_usage(disk).used < 4 << 20


def test_row_34_what_is_evicted_is_an_error_with_its_url_and_never_black(
    recorder: DaemonProcess, lab: Lab, tmp_path: Path
) -> None:
    """A reader and a server that were there before learn of it; no library takes it for the fill value."""
    import tensorstore
    import zarr

    spec = make_spec("cam", DIMS, backend="direct", levels=2, copy_to=lab.url, copy_evict=True, ring_slots=8)
    lab.proxy.faults = lambda *_: "cut"
    recorder.client.start_stream(spec)
    with (
        recorder.connect("cam") as producer,
        web(tmp_path, recorder.socket) as client,
        omewd.view("cam", socket=recorder.socket) as view,
    ):
        record(producer, spec, 0, 22)
        wait_for(lambda: producer.durable == 22)
        live = zarr.open_array(omewd.live_store("cam", socket=recorder.socket), path="0", mode="r")
        by_path = omewd.live_store(recorder.data / "cam.ome.zarr")
        key = "/data/cam/0/c/1/0/0"
        address = f"{client.base_url}/data/cam/0/"
        over_http = {"driver": "zarr3", "kvstore": address}

        def all_read() -> Iterator[Any]:
            yield lambda: live[5]
            yield lambda: zarr.open_array(by_path, path="0", mode="r")[5]
            yield lambda: view.frame(5).array
            yield lambda: tensorstore.open(over_http, read=True).result()[5].read().result()
            yield lambda: zarr.open_array(address, mode="r")[5]

        for read in all_read():
            assert np.array_equal(np.asarray(read()), make_frame(5, spec.frame_shape, spec.dtype))
        assert client.get(key).status_code == 200
        lab.proxy.faults = lambda *_: None
        wait_for(lambda: producer.copied == 20)
        for number, read in enumerate(all_read()):
            with pytest.raises(Exception, match=r"evicted|410") as error:
                read()
            if number < 3:
                assert isinstance(error.value, OmewdError)
                assert (error.value.code, lab.url in error.value.message) == ("evicted", True)
        for answer in (client.get(key), client.get(key, headers={"Range": "bytes=-68"})):
            assert (answer.status_code, lab.url in answer.text) == (410, True)
        assert client.head(key).status_code == 410
        assert client.get("/data/cam/0/c/11/0/0").status_code == 404  # not there yet
        pixels = client.get("/api/streams/cam/frame.png", params={"index": 5})
        assert (pixels.status_code, lab.url in pixels.text) == (410, True)
        assert np.array_equal(live[21], make_frame(21, spec.frame_shape, spec.dtype))  # in progress, so here
        record(producer, spec, 22, 48)
    recorder.client.wait("cam", 60, copied=True)
    check(recorder.data / "cam.ome.zarr", lab, spec)


@pytest.mark.parametrize("who", ["daemon", "rings"])
def test_row_33_a_restart_counts_what_was_evicted(tmp_path: Path, lab: Lab, who: str) -> None:
    """Also without the rings, as after a restart of the machine: then the dataset is finalized by its ledger."""
    folder = tmp_path / "daemon"
    process = DaemonProcess(folder, "--memory", "256MiB")
    try:
        spec = start(process, lab)
        producer = process.connect("cam")
        record(producer, spec, 0, 22)
        wait_for(lambda: producer.copied == 20)
        [entry] = [json.loads(path.read_text()) for path in (folder / "state" / "streams").iterdir()]
        process.kill()
        for name in entry["shared_memory"] if who == "rings" else ():
            (Path("/dev/shm") / name.strip("/")).unlink()
        process = DaemonProcess(folder, "--memory", "256MiB")
        dataset = process.data / "cam.ome.zarr"
        if who == "daemon":
            record(producer, spec, 22, 48)
            producer.close()
        else:
            abandon(producer)
        process.client.wait("cam", 60, copied=True)
        report = verify(dataset)
        assert (report.problems, report.written) == ([], 48 if who == "daemon" else 22)
        check(dataset, lab, spec)
        assert repair(dataset).mended == []
        check(dataset, lab, spec)
        assert process.stop() == 0, process.log()
    finally:
        process.kill()


POINTS = ("copier: put", "copier: on record", "copier: eviction on record", "copier: evicted", "copier: phase done")


@pytest.mark.parametrize("point", POINTS)
def test_row_33_a_command_that_is_killed_while_it_evicts_loses_nothing(tmp_path: Path, lab: Lab, point: str) -> None:
    dataset = finished(tmp_path, dims="t:24:1:2,y:16:8:2,x:16:8:2")
    before = {path: (dataset / path).read_bytes() for path in keys_here(dataset)}
    for turn in (1, 2, 5):
        passing = 1 if point == "copier: phase done" else turn
        env = {**os.environ, VARIABLE: f"{point};{passing};{tmp_path / f'passed-{turn}'}"}
        arguments = [sys.executable, "-m", "omewd", "copy", str(dataset), lab.url, "--evict"]
        done = subprocess.run(arguments, env=env, capture_output=True, timeout=100, check=False)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        require_nothing_gone_without_a_record(dataset, lab, before)
        assert verify(dataset).problems == []
        if done.returncode == 0:  # nothing was left to do at that point
            assert turn > 1
            break
    outcome = copy(dataset, lab.url, evict=True)
    assert (outcome.evicted_files, keys_here(dataset)) == (len(before), [])
    require_nothing_gone_without_a_record(dataset, lab, before)
    assert verify(dataset).evicted == len(before)
    assert verify_copy(lab.url, deep=True).problems == []


@pytest.mark.parametrize("point", POINTS[:4])
def test_row_33_copiers_and_daemons_killed_while_they_evict(tmp_path: Path, lab: Lab, point: str) -> None:
    """A copier dies at each point; then the daemon with all of its children, in the middle."""
    folder = tmp_path / "daemon"
    setting = {VARIABLE: f"{point};2;{tmp_path / 'passed'}"}
    process = DaemonProcess(folder, "--memory", "256MiB", env=setting)
    try:
        spec = start(process, lab, copy_limit=150_000.0)
        dataset = process.data / "cam.ome.zarr"
        with process.connect("cam") as producer:
            index = 0
            while "SIGKILL" not in process.log():
                if index < 32 and producer.copied >= index - 4:
                    record(producer, spec, index, index + 4)
                    index += 4
                time.sleep(0.02)
            record(producer, spec, index, index + 8)
            index += 8
            wait_for(lambda: producer.copied >= index - 8)
            process.kill()
            gone = set(evicted(dataset))
            assert gone
            assert {f"{level}/c/{shard}/0/0" for level in (0, 1) for shard in range(producer.copied // 4)} <= gone
            process = DaemonProcess(folder, "--memory", "256MiB")
            record(producer, spec, index, 48)
        process.client.wait("cam", 120, copied=True)
        check(dataset, lab, spec)
        assert process.stop() == 0, process.log()
    finally:
        process.kill()


@pytest.mark.parametrize("dims", ["t:160:1:1,y:16:8:2,x:16:8:2", "t:80,y:16:8,x:16:8"])
def test_verifying_and_reading_while_files_go_finds_no_fault(tmp_path: Path, lab: Lab, dims: str) -> None:
    """A reader gets the right pixels, or the error; never the fill value."""
    import zarr

    dataset = finished(tmp_path, dims=dims)
    pixels = np.asarray(zarr.open_array(str(dataset / "0"), mode="r")[...])
    live = zarr.open_array(omewd.live_store(dataset), path="0", mode="r")
    seen: set[int] = set()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(copy, dataset, lab.url, evict=True)
        for turn in itertools.count():
            if running.done() and len(seen) > 1:
                break
            report = verify(dataset)
            assert report.problems == []
            seen.add(report.evicted)
            for frame in range(turn % 7, len(pixels), 7):
                try:
                    assert np.array_equal(np.asarray(live[frame]), pixels[frame]), frame
                except OmewdError as error:
                    assert error.code == "evicted"  # noqa: PT017
    assert running.result().evicted_files == verify(dataset).evicted


def test_what_is_evicted_can_be_brought_back_and_copied_on(tmp_path: Path, lab: Lab) -> None:
    import zarr

    dataset = finished(tmp_path)
    before = {path: (dataset / path).read_bytes() for path in keys_here(dataset)}
    pixels = np.asarray(zarr.open_array(str(dataset / "0"), mode="r")[...])
    shown = command("copy", str(dataset), lab.url, "--evict")
    assert (shown.returncode, "12 files" in shown.stdout, "are evicted" in shown.stdout) == (0, True, True), shown
    other = f"file://{tmp_path}/other.ome.zarr"
    with pytest.raises(OmewdError, match="12 files") as error:
        copy(dataset, other)
    assert (error.value.code, lab.url in error.value.message) == ("evicted", True)
    again = copy(dataset, lab.url)
    assert (again.files, again.copied_files, again.evicted_files) == (18, 0, 12)
    assert verify_copy(lab.url, deep=True).problems == []

    restore(lab, dataset)
    assert {path: (dataset / path).read_bytes() for path in keys_here(dataset)} == before
    report = verify(dataset)
    assert (report.problems, report.evicted) == ([], 0)
    assert np.array_equal(np.asarray(zarr.open_array(omewd.live_store(dataset), path="0", mode="r")[...]), pixels)
    assert copy(dataset, other, evict=True).evicted_files == 12
    assert verify(dataset).evicted_to in ({other: 12}, {lab.url: 12})  # both have them
    assert verify_copy(other, deep=True).problems == []
    assert copy(dataset, lab.url).evicted_files == 12
    assert verify_copy(lab.url, deep=True).problems == []


def restore(lab: Lab, dataset: Path) -> None:
    """Download what is not there, as the page says."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert rclone is not None
    where = {
        "RCLONE_CONFIG_LAB_TYPE": "s3",
        "RCLONE_CONFIG_LAB_PROVIDER": "Other",
        "RCLONE_CONFIG_LAB_ENV_AUTH": "true",
        "RCLONE_CONFIG_LAB_ENDPOINT": os.environ["AWS_ENDPOINT_URL"],
        "RCLONE_CONFIG": "/dev/null",
    }
    arguments = [rclone, "copy", "--ignore-existing", f"lab:{BUCKET}/{lab.path}", str(dataset)]
    subprocess.run(arguments, env={**os.environ, **where}, check=True, timeout=100)


def test_row_33_what_is_gone_without_a_record_is_a_fault(tmp_path: Path, lab: Lab) -> None:
    dataset = finished(tmp_path)
    copy(dataset, lab.url)
    (dataset / "0/c/3/0/0").unlink()
    assert verify(dataset).problems == ["0/c/3/0/0 is missing"]
    assert verify(dataset).evicted == 0
    copied = finished(tmp_path, name="cam2")
    copy(copied, f"file://{tmp_path}/copied2.ome.zarr", evict=True)
    (tmp_path / "copied2.ome.zarr" / "0/c/3/0/0").unlink()
    assert verify(copied).problems == []
    assert verify_copy(f"file://{tmp_path}/copied2.ome.zarr").problems == ["0/c/3/0/0 is missing"]


def test_row_33_only_the_very_file_that_was_copied_goes(tmp_path: Path, lab: Lab) -> None:
    """What was changed since is copied again; foreign files stay; nothing goes through a link."""
    dataset = finished(tmp_path)
    (dataset / "0/c/notes.txt").write_text("mine")
    (dataset / "0/c/99/0").mkdir(parents=True)
    (dataset / "0/c/99/0/x").write_text("mine")
    copy(dataset, lab.url)
    os.utime(dataset / "0/c/2/0/0", ns=(1, 1))
    elsewhere = tmp_path / "elsewhere"
    (dataset / "1/c").rename(elsewhere)
    (dataset / "1/c").symlink_to(elsewhere)
    outcome = copy(dataset, lab.url, evict=True)
    assert outcome.copied_files == 1
    assert sorted(str(path.relative_to(dataset)) for path in (dataset / "0/c").rglob("*") if path.is_file()) == [
        "0/c/99/0/x",
        "0/c/notes.txt",
    ]
    assert len([path for path in elsewhere.rglob("*") if path.is_file()]) == 6


def test_a_dataset_that_others_use_keeps_its_files(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from omewd.dataset.copies import evicting

    monkeypatch.setattr(evicting, "_LET_GO_S", 0.2)
    dataset = finished(tmp_path)
    before = keys_here(dataset)
    with ledger.held(dataset), pytest.raises(OmewdError, match="12 files") as error:
        copy(dataset, lab.url, evict=True)
    assert (error.value.code, keys_here(dataset)) == ("busy", before)
    assert verify_copy(lab.url, deep=True).problems == []
    assert copy(dataset, lab.url, evict=True).evicted_files == 12
