"""Rings that are kept: their dataset is not in its place, or the ring can't be taken over. Nothing else is harmed."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest

import omewd
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import VARIABLE
from omewd.protocol.versions import RING
from tests.faults.support import OPTIONS, Daemons, abandon, append, contents, entries
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset, read_zarr
from tests.support.frames import make_spec
from tests.support.processes import wait_for, wait_until_gone


def record(process: DaemonProcess, name: str, frames: int) -> Path:
    """A dataset of a stream that is complete."""
    spec = make_spec(name, "t:inf:1:4,y:16,x:16")
    process.client.start_stream(spec)
    with process.connect(name) as producer:
        append(producer, spec, range(frames))
    return process.data / spec.output


def put_there(what: str, other: Path, place: Path) -> None:
    match what:
        case "another dataset":
            other.rename(place)
        case "a foreign zarr":
            place.mkdir()
            (place / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"mine": 1}}')
        case "a file":
            place.write_text("mine")
        case _:
            assert what == "nothing"


PLACES = ["another dataset", "a foreign zarr", "a file", "nothing"]


@pytest.mark.parametrize(
    ("when", "what"),
    [
        *(("between daemons", what) for what in PLACES),
        ("while it runs", "another dataset"),
        ("while it runs", "nothing"),
        ("before its end", "another dataset"),
    ],
)
def test_a_stream_takes_no_other_dataset(tmp_path: Path, when: str, what: str) -> None:
    """It is FAILED with the reason; what is there stays as it is; with the right one put back it goes on."""
    process = DaemonProcess(tmp_path, *OPTIONS)
    try:
        other = record(process, "other", 12)
        spec = make_spec("cam", "t:100:1:4,y:16,x:16", ring_slots=16, backend="tensorstore")
        process.client.start_stream(spec)
        producer = process.connect("cam")
        append(producer, spec, range(4 if when == "while it runs" else 8))
        wait_for(lambda: producer.durable >= 4)
        place, elsewhere = process.data / spec.output, process.data / "elsewhere"
        if when == "between daemons":
            writers = process.writer_pids()
            process.kill()
            wait_until_gone(writers)  # they end the job they have
        elif when == "before its end":
            wait_for(lambda: producer.durable == 8)
        place.rename(elsewhere)
        put_there(what, other, place)
        before = contents(process.data)
        if when == "between daemons":
            process = DaemonProcess(tmp_path, *OPTIONS)
        with pytest.raises(omewd.OmewdError) as caught:
            if when != "before its end":  # the first may meet a stream that has failed already
                append(producer, spec, range(8 if when == "between daemons" else 4, 14))
            producer.close(timeout=30)
        with contextlib.suppress(omewd.OmewdError):
            producer.close(timeout=30)
        assert caught.value.code == "stream_failed"
        gone = "no longer exists" if what == "nothing" else "is no longer the dataset of this stream"
        assert gone in str(caught.value)
        assert "resume-stream" in caught.value.remedy
        wait_for(lambda: process.client.status("cam")["settled"])
        status = process.client.status("cam")
        assert (status["state"], status["error"]["code"]) == ("FAILED", "dataset_replaced")
        assert (status["kept_in_ring"], status["frames"]["in_flight"]) == (True, 0)
        assert contents(process.data) == before
        assert process.omewd("resume-stream", "cam").returncode == 5  # the cause is not mended
        assert contents(process.data) == before
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        elsewhere.rename(place)
        done = process.omewd("resume-stream", "cam")
        assert done.returncode == 0, done.stdout + done.stderr
        check_dataset(place, spec, status["frames"]["received"])
        assert not process.shared_memory()
        assert process.stop() == 0
    finally:
        process.kill()


def test_a_copy_is_taken_when_somebody_says_so(omewd_daemon: DaemonProcess) -> None:
    """Its files are others, and it may have been made while the writers were at it."""
    spec = make_spec("cam", "t:100:1:4,y:16,x:16", ring_slots=16, backend="tensorstore")
    omewd_daemon.client.start_stream(spec)
    producer = omewd_daemon.connect("cam")
    append(producer, spec, range(16))
    wait_for(lambda: producer.durable == 16)
    place, elsewhere = omewd_daemon.data / spec.output, omewd_daemon.data / "elsewhere"
    place.rename(elsewhere)
    shutil.copytree(elsewhere, place)
    with pytest.raises(omewd.OmewdError, match="a copy of the dataset of this stream") as caught:
        append(producer, spec, range(16, 32))
        producer.close(timeout=30)
    assert caught.value.code == "stream_failed"
    omewd_daemon.client.resume_stream("cam")
    final = omewd_daemon.client.wait("cam", timeout=60)
    assert final["state"] == "DONE"
    with contextlib.suppress(omewd.OmewdError):
        producer.close(timeout=5)
    check_dataset(place, spec, final["frames"]["received"])


# -- rings that can't be taken over -------------------------------------------------------------------


@pytest.fixture
def kept(daemons: Daemons) -> StreamSpec:
    """A daemon that has found a ring of another version: 8 frames are durable, 2 are only in the ring."""
    spec = make_spec("cam", "t:40:1:4,y:16,x:16", backend="tensorstore", ring_slots=16)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(10))
    wait_for(lambda: producer.durable == 8)
    daemons.now.kill()
    [ring] = daemons.now.shared_memory()
    set_version(ring, 3)
    daemons.restart()
    abandon(producer)
    return spec


def set_version(ring: str, version: int) -> None:
    with (Path("/dev/shm") / ring).open("r+b") as file:
        file.seek(8)
        file.write(version.to_bytes(4, "little"))


def test_a_ring_of_another_version_is_kept_and_told(daemons: Daemons, kept: StreamSpec) -> None:
    [ring] = daemons.now.shared_memory()
    path = Path("/dev/shm") / ring
    status = daemons.now.client.status()
    [told] = status["kept_rings"]
    assert (told["name"], told["rings"], told["bytes"]) == ("cam", [str(path)], path.stat().st_size)
    assert told["dataset"] == str(daemons.now.data / kept.output)
    assert "version 3.0, and this omewd reads version 2. Start the omewd that made it" in told["reason"]
    assert status["memory"]["ring_bytes"] == path.stat().st_size
    [line] = [line for line in daemons.now.log().splitlines() if "can't be taken over" in line]
    assert str(path) in line
    assert "version 3.0, and this omewd reads version 2" in line
    shown = "".join(daemons.now.omewd("status").stdout.split())  # lines are wrapped
    assert "couldnotbetakenover" in shown
    assert "omewdresume-streamcamtriesagain,stop-streamdiscardsit" in shown
    assert daemons.now.omewd("stop-stream", "cam").returncode == 0


@pytest.mark.parametrize("output", ["cam.ome.zarr", "cam.ome.zarr/inside", "link/cam.ome.zarr"])
def test_a_kept_ring_protects_its_dataset(daemons: Daemons, kept: StreamSpec, output: str) -> None:
    (daemons.now.data / "link").symlink_to(".")
    before = contents(daemons.now.data / kept.output)
    with pytest.raises(omewd.OmewdError) as caught:
        daemons.now.client.start_stream(make_spec("new", "t:4,y:16,x:16", output=output, overwrite=True))
    assert caught.value.code == "output_exists"
    assert "'cam', whose ring is kept" in caught.value.message
    assert contents(daemons.now.data / kept.output) == before
    daemons.now.client.stop_stream("cam")
    wait_for(lambda: not entries(daemons))
    daemons.now.client.start_stream(make_spec("new", "t:4,y:16,x:16", output="cam.ome.zarr", overwrite=True))
    daemons.now.client.stop_stream("new")
    daemons.now.client.wait("new", timeout=30)


@pytest.mark.usefixtures("kept")
def test_a_kept_ring_counts_in_the_budget(daemons: Daemons) -> None:
    budget = daemons.now.client.status()["memory"]["budget_bytes"]
    large = make_spec("large", "t:inf:1:4,y:1024,x:1024", ring_slots=(budget - (20 << 20)) // (1 << 21))
    with pytest.raises(omewd.OmewdError, match="are free") as caught:
        daemons.now.client.start_stream(large)
    assert caught.value.code == "no_memory"
    free = float(str(caught.value.message).split(";")[1].split()[0]) * 2**20
    [told] = daemons.now.client.status()["kept_rings"]
    assert free <= budget - told["bytes"]
    daemons.now.client.stop_stream("cam")


def test_a_kept_ring_is_let_go(daemons: Daemons, kept: StreamSpec) -> None:
    """Its dataset is finalized to what is in its ledger."""
    done = daemons.now.omewd("stop-stream", "cam")
    assert done.returncode == 0, done.stderr
    assert "is discarded" in done.stdout
    assert not daemons.now.shared_memory()
    assert daemons.now.client.status()["kept_rings"] == []
    wait_for(lambda: not entries(daemons))
    dataset = daemons.now.data / kept.output
    summary = json.loads((dataset / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    assert summary["written"] == 8
    assert [bool(frame.any()) for frame in read_zarr(dataset)][:8] == [True] * 8
    assert daemons.now.client.status()["memory"]["ring_bytes"] == 0
    with pytest.raises(omewd.OmewdError, match="there is no stream 'cam'"):
        daemons.now.client.stop_stream("cam")


def test_a_kept_ring_is_tried_again(daemons: Daemons, kept: StreamSpec) -> None:
    [ring] = daemons.now.shared_memory()
    failed = daemons.now.omewd("resume-stream", "cam")
    assert failed.returncode == 1
    assert "still can't be taken over" in failed.stderr
    assert "version 3" in failed.stderr
    set_version(ring, RING.packed)
    status = daemons.now.client.resume_stream("cam")
    assert (status["name"], status["frames"]["received"]) == ("cam", 10)
    assert daemons.now.client.status()["kept_rings"] == []
    daemons.now.client.stop_stream("cam")
    assert daemons.now.client.wait("cam", timeout=30)["state"] == "DONE"
    check_dataset(daemons.now.data / kept.output, kept, 10)


@pytest.mark.parametrize("damage", ["{", "[]", '{"phase": "active", "shared_memory": ["/etc", 5], "dataset": 7}'])
def test_rings_of_an_entry_that_can_not_be_read_are_let_go(daemons: Daemons, damage: str) -> None:
    spec = make_spec("cams", "t:12:1:4,c:2,y:16,x:16", source_dimension="c")
    other = make_spec("s", "t:12:1:4,y:16,x:16")
    for each in (spec, other):
        daemons.now.client.start_stream(each)
    daemons.now.kill()
    before = daemons.now.shared_memory()
    assert len(before) == 3
    (daemons.folder / "state/streams/cams.json").write_text(damage)
    daemons.restart()
    [told] = daemons.now.client.status()["kept_rings"]
    assert len(told["rings"]) == 2
    assert told["dataset"] is None
    daemons.now.client.stop_stream("cams")
    assert len(daemons.now.shared_memory()) == 1
    assert entries(daemons) == ["s.json"]
    assert daemons.now.client.status("s")["state"] == "ACTIVE"
    daemons.now.client.stop_stream("s")
    daemons.now.client.wait("s", timeout=30)


def test_a_daemon_that_dies_while_it_lets_a_ring_go_finalizes_the_dataset_next_time(
    tmp_path: Path, daemons: Daemons, kept: StreamSpec
) -> None:
    died = tmp_path / "died"
    daemons.restart(env={VARIABLE: f"daemon: kept ring let go;1;{died}"})
    with pytest.raises(omewd.OmewdError):
        daemons.now.client.stop_stream("cam")
    assert died.exists()
    daemons.restart()
    assert not daemons.now.shared_memory()
    wait_for(lambda: not entries(daemons))
    summary = json.loads((daemons.now.data / kept.output / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    assert (summary["written"], summary["ended_by"]) == (8, "the machine was restarted")


@pytest.mark.usefixtures("kept")
def test_a_ring_stays_kept_if_the_journal_can_not_be_changed(daemons: Daemons) -> None:
    before = daemons.now.shared_memory()
    folder, aside = daemons.folder / "state/streams", daemons.folder / "state/aside"
    folder.rename(aside)
    for _ in range(2):
        with pytest.raises(omewd.OmewdError) as caught:
            daemons.now.client.stop_stream("cam")
        assert caught.value.code == "no_resources"
        assert [ring["name"] for ring in daemons.now.client.status()["kept_rings"]] == ["cam"]
    with pytest.raises(omewd.OmewdError) as caught:
        daemons.now.client.start_stream(make_spec("other", "t:4,y:16,x:16"))
    assert caught.value.code == "no_resources"
    wait_for(lambda: daemons.now.shared_memory() == before)
    assert not (daemons.now.data / "other.ome.zarr").exists()
    aside.rename(folder)
    daemons.now.client.stop_stream("cam")
    wait_for(lambda: not daemons.now.shared_memory())
    wait_for(lambda: not entries(daemons))
