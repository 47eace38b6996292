"""Streams that are copied while they are recorded: the watermark, faults of the network, and kills of all processes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import omewd
from omewd.copier.verify import verify_copy
from omewd.dataset.verify import verify
from tests.support.copies import Lab, differences
from tests.support.daemons import DaemonProcess, daemon
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.s3 import SECRET, environment

DIMS = "t:48:1:4,y:32:16:2,x:32:16:2"


@pytest.fixture
def recorder(tmp_path: Path, lab: Lab) -> Iterator[DaemonProcess]:
    with daemon(tmp_path / "daemon", "--memory", "256MiB", env=environment(lab.proxy.port)) as process:
        yield process


def start(process: DaemonProcess, lab: Lab, dims: str = DIMS, **more: object) -> omewd.StreamSpec:
    spec = make_spec("cam", dims, backend="direct", levels=2, copy_to=lab.url, **more)
    process.client.start_stream(spec)
    return spec


def record(producer: omewd.Producer, spec: omewd.StreamSpec, first: int, stop: int) -> None:
    for index in range(first, stop):
        producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)


def in_the_store(process: DaemonProcess, lab: Lab, below: int) -> None:
    """Every frame index below this one is in the store, in shards that are byte for byte the local ones."""
    for shard in {f"{level}/c/{frame // 4}/0/0" for frame in range(below) for level in (0, 1)}:
        assert (lab.copy / shard).read_bytes() == (process.data / "cam.ome.zarr" / shard).read_bytes(), shard


def check(process: DaemonProcess, lab: Lab, spec: omewd.StreamSpec) -> None:
    """The copy is the dataset, and both have all frames."""
    dataset = process.data / "cam.ome.zarr"
    assert differences(dataset, lab.copy) == []
    assert verify(dataset).problems == []
    assert verify_copy(lab.url, deep=True).problems == []
    import zarr

    array = zarr.open_array(str(lab.copy / "0"), mode="r")
    frames = spec.dimensions[0].count or 0
    for frame in range(frames):
        assert np.array_equal(np.asarray(array[frame]), make_frame(frame, spec.frame_shape, spec.dtype)), frame


def test_files_are_copied_while_the_stream_goes_on(recorder: DaemonProcess, lab: Lab) -> None:
    spec = start(recorder, lab)
    events = recorder.client.watch("cam")
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 22)
        wait_for(lambda: producer.copied == 20)
        in_the_store(recorder, lab, 20)
        frames = recorder.client.stream_status("cam").frames
        assert (frames.copied, frames.received) == (20, 22)
        assert not (lab.copy / "zarr.json").exists()  # a copy that opens is complete
        record(producer, spec, 22, 48)
    status = recorder.client.wait("cam", 60, copied=True)
    assert status["frames"]["copied"] == 48
    assert (status["copy"]["state"], status["copy"]["url"], status["copy"]["error"]) == ("complete", lab.url, None)
    check(recorder, lab, spec)
    found = list(events)
    copied = [event for event in found if isinstance(event, omewd.FramesCopied)]
    assert [event.first for event in copied] == [0, *(event.below for event in copied[:-1])]
    assert copied[-1].below == 48
    assert found[-1] == omewd.CopyComplete("cam", lab.url)
    assert sum(isinstance(event, omewd.StreamDone) for event in found) == 1
    assert list((recorder.folder / "state" / "streams").iterdir()) == []
    shown = recorder.omewd("status").stdout
    assert f"copied to {lab.url}" in shown.replace("\n", " ")


def test_a_live_copy_opens_before_it_is_complete(recorder: DaemonProcess, lab: Lab) -> None:
    import zarr

    spec = start(recorder, lab, copy_live=True)
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 8)
        wait_for(lambda: producer.copied == 8)
        array = zarr.open_group(str(lab.copy), mode="r")["0"]
        assert isinstance(array, zarr.Array)
        assert np.array_equal(np.asarray(array[7]), make_frame(7, spec.frame_shape, spec.dtype))
        record(producer, spec, 8, 48)
    recorder.client.wait("cam", 60, copied=True)
    check(recorder, lab, spec)


def test_files_that_are_no_shards_are_copied_too(recorder: DaemonProcess, lab: Lab) -> None:
    spec = start(recorder, lab, dims="t:6,y:32:16,x:32:16")
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 3)
        wait_for(lambda: producer.copied == 3)
        assert all((lab.copy / "0" / "c" / str(frame) / "1" / "1").is_file() for frame in range(3))
        producer.skip(2)
        record(producer, spec, 5, 6)
    recorder.client.wait("cam", 60, copied=True)
    assert differences(recorder.data / "cam.ome.zarr", lab.copy) == []
    assert verify_copy(lab.url, deep=True).problems == []


def test_row_33_the_camera_goes_on_while_the_network_is_gone(recorder: DaemonProcess, lab: Lab) -> None:
    spec = start(recorder, lab)
    lab.proxy.faults = lambda *_: "cut"
    events = recorder.client.watch("cam")
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 48)
        assert producer.copied == 0
    assert recorder.client.wait("cam", 60)["frames"]["durable"] == 48
    assert recorder.client.stream_status("cam").frames.copied == 0
    entries = recorder.folder / "state" / "streams"  # a restart goes on with it
    wait_for(lambda: [path.name.partition("~")[0] for path in entries.iterdir()] == ["copy"])
    lab.proxy.faults = lambda *_: None
    recorder.client.wait("cam", 120, copied=True)
    check(recorder, lab, spec)
    assert list(events)[-1] == omewd.CopyComplete("cam", lab.url)


def test_row_33_a_store_that_refuses_is_told_and_tried_again(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that have expired are renewed in a profile file, and the copy goes on by itself."""
    profiles = tmp_path / "credentials"
    good = environment(lab.proxy.port)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))

    def put_keys(secret: str) -> None:
        key = good["AWS_ACCESS_KEY_ID"]
        profiles.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")

    put_keys("these-keys-have-expired")
    with daemon(tmp_path / "daemon", "--memory", "256MiB") as process:
        spec = start(process, lab)
        with process.connect("cam") as producer:
            record(producer, spec, 0, 48)
        wait_for(lambda: (process.client.status("cam")["copy"]["error"] or {}).get("code") == "store_refused")
        assert process.client.status("cam")["copy"]["state"] == "waiting"
        health = process.omewd("health")
        assert (health.returncode, "tried again" in health.stdout) == (1, True), health.stdout
        put_keys(SECRET)
        process.client.wait("cam", 120, copied=True)
        assert process.client.status("cam")["copy"]["error"] is None
        assert SECRET not in process.log()
        assert SECRET not in str(process.client.status())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, good[name])
        check(process, lab, spec)


def test_row_33_what_can_not_be_mended_is_a_failed_copy(recorder: DaemonProcess, lab: Lab) -> None:
    """Something else is at the URL. The dataset is unharmed, and can be copied to another place."""
    (lab.copy / "mine.txt").parent.mkdir(parents=True)
    (lab.copy / "mine.txt").write_text("not to be lost")
    spec = start(recorder, lab)
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 48)
    with pytest.raises(omewd.OmewdError, match="omewd copy") as error:
        recorder.client.wait("cam", 60, copied=True)
    assert error.value.code == "output_exists"
    assert recorder.client.status("cam")["copy"]["state"] == "failed"
    assert [path.name for path in lab.copy.iterdir()] == ["mine.txt"]
    dataset = recorder.data / "cam.ome.zarr"
    assert verify(dataset).problems == []
    lab.number += 1
    assert recorder.omewd("copy", str(dataset), lab.url).returncode == 0
    check(recorder, lab, spec)
    with pytest.raises(omewd.OmewdError) as unknown:
        recorder.client.wait("cam2", 5, copied=True)
    assert unknown.value.code == "no_copy"


def test_copies_to_folders_stay_in_their_roots(tmp_path: Path) -> None:
    server, elsewhere = tmp_path / "server", tmp_path / "elsewhere"
    server.mkdir()
    elsewhere.mkdir()
    with daemon(tmp_path / "daemon", "--memory", "256MiB", "--copy-root", str(server)) as process:

        def spec_to(path: Path) -> omewd.StreamSpec:
            return make_spec(
                path.parent.name, "t:4:1:2,y:16,x:16", backend="direct", copy_to=f"file://{path}", overwrite=True
            )

        for path in (elsewhere / "run.ome.zarr", server):
            with pytest.raises(omewd.OmewdError, match="--copy-root") as error:
                process.client.start_stream(spec_to(path))
            assert error.value.code == "outside_roots"
        (server / "link").symlink_to(elsewhere)
        for path in (server / "run.ome.zarr", server / "link" / "run.ome.zarr"):
            spec = spec_to(path)
            process.client.start_stream(spec)
            with process.connect(spec.name) as producer:
                record(producer, spec, 0, 4)
        process.client.wait("server", 60, copied=True)
        assert differences(process.data / "server.ome.zarr", server / "run.ome.zarr") == []
        with pytest.raises(omewd.OmewdError, match="symbolic link") as error:
            process.client.wait("link", 60, copied=True)
        assert error.value.code == "outside_roots"
        assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("who", ["copier", "daemon", "both"])
def test_row_33_kills_while_a_stream_is_copied(tmp_path: Path, lab: Lab, who: str) -> None:
    """Whoever dies: each object is there once, right, in the end, and the watermark is never ahead of the store."""
    folder = tmp_path / "daemon"
    process = DaemonProcess(folder, "--memory", "256MiB")
    try:
        spec = start(process, lab, copy_limit=150_000.0)  # so that there is always something to do
        with process.connect("cam") as producer:
            for first in range(0, 48, 8):
                record(producer, spec, first, first + 8)
                in_the_store(process, lab, producer.copied)
                if first in (16, 32):
                    while not (copiers := process.client.status()["copiers"]):
                        time.sleep(0.01)
                    for copier in copiers if who != "daemon" else []:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(copier["pid"], signal.SIGKILL)
                    if who != "copier":
                        before = producer.copied
                        process.kill()
                        process = DaemonProcess(folder, "--memory", "256MiB")
                        assert producer.copied >= before
        if who != "copier":  # after the end of the stream, too
            process.kill()
            process = DaemonProcess(folder, "--memory", "256MiB")
        if list((folder / "state" / "streams").iterdir()):  # else it was complete before the last kill
            status = process.client.wait("cam", 120, copied=True)
            assert (status.get("copy") or status)["state"] == "complete"
        check(process, lab, spec)
        assert list((folder / "state" / "streams").iterdir()) == []
        assert process.stop() == 0, process.log()
    finally:
        process.kill()


def test_all_threads_of_a_copier_give_way(recorder: DaemonProcess, lab: Lab) -> None:
    """A writer takes a core from it at once; only SCHED_IDLE is like that."""
    spec = start(recorder, lab)
    with recorder.connect("cam") as producer:
        record(producer, spec, 0, 8)
        wait_for(lambda: producer.copied == 8)
        children = psutil.Process(recorder.process.pid).children()
        [copier] = [child for child in children if "omewd.copier" in child.cmdline()]
        threads = {thread.id for thread in copier.threads()}
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
        record(producer, spec, 8, 48)
    recorder.client.wait("cam", 60, copied=True)
