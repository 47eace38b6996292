"""Rings that are kept: their dataset is not in its place, or the ring can't be taken over. Nothing else is harmed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import omewd
from tests.faults.test_restart import OPTIONS, append
from tests.support import DaemonProcess, check_dataset, make_spec, wait_for


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


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
            process.kill()
        elif when == "before its end":
            wait_for(lambda: producer.durable == 8)
        place.rename(elsewhere)
        put_there(what, other, place)
        before = contents(process.data)
        if when == "between daemons":
            process = DaemonProcess(tmp_path, *OPTIONS)
        if when != "before its end":
            append(producer, spec, range(8 if when == "between daemons" else 4, 14))
        frames = 8 if when == "before its end" else 14
        with pytest.raises(omewd.OmewdError) as caught:
            producer.close(timeout=30)
        assert caught.value.code == "stream_failed"
        gone = "is not there any more" if what == "nothing" else "is not the dataset of this stream any more"
        assert gone in str(caught.value)
        assert "resume-stream" in caught.value.remedy
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
        check_dataset(place, spec, frames)
        assert not process.shared_memory()
        assert process.stop() == 0
    finally:
        process.kill()


def test_a_dataset_that_was_moved_and_copied_back_is_gone_on_with(omewd_daemon: DaemonProcess) -> None:
    """Its files are others, and it is the same dataset."""
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16", ring_slots=16)
    omewd_daemon.client.start_stream(spec)
    producer = omewd_daemon.connect("cam")
    append(producer, spec, range(8))
    wait_for(lambda: producer.durable == 8)
    place, elsewhere = omewd_daemon.data / spec.output, omewd_daemon.data / "elsewhere"
    place.rename(elsewhere)
    shutil.copytree(elsewhere, place)
    append(producer, spec, range(8, 14))
    assert producer.close(timeout=30)["state"] == "DONE"
    check_dataset(place, spec, 14)
