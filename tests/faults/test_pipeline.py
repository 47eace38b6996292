"""Faults of a writer that has several jobs in flight: one is put while those before it become durable."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

import omewd
from omewd.dataset.verify import verify
from omewd.model.plan.memory import JOBS_IN_FLIGHT
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import VARIABLE
from tests.faults.support import append, needs_strace, traced
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.frames import make_spec
from tests.support.processes import paused, wait_for

FRAMES = 12
OPTIONS = ("--writers", "1", "--memory", "512MiB")
# Each frame, of 4 MiB, is worth a job of its own while the one before is in flight.
SHARDED = f"t:{FRAMES}:1:8,y:2048:1024:2,x:1024:512:2"
PLAIN = f"t:{FRAMES},y:2048:1024,x:1024"

OF_SHARDS = ("writer: chunks written", "writer: chunks synced", "writer: chunks on record")
OF_KEYS = ("writer: files written", "writer: files synced", "writer: folder renamed")
OF_BOTH = ("writer: ledger written to", "writer: ledger synced", "writer: ledger appended", "writer: reported")
# How often a writer passes them before its first write job, while it checks the place and creates the dataset.
BEFORE = {"writer: ledger synced": 1, "writer: reported": 2}


def jobs_of_writer(process: DaemonProcess) -> int:
    return int(process.client.status()["writers"][0]["jobs"])


def has_more_jobs(process: DaemonProcess, before: int) -> bool:
    return jobs_of_writer(process) > before


def give_jobs(process: DaemonProcess, producer: omewd.Producer, spec: StreamSpec, first: int) -> int:
    """Append frames, a job each, until the paused writer has all jobs that it may; returns the next frame."""
    while (before := jobs_of_writer(process)) < JOBS_IN_FLIGHT:
        append(producer, spec, range(first, first + 1))
        first += 1
        wait_for(partial(has_more_jobs, process, before))
    return first


@pytest.mark.parametrize(
    ("dims", "moment", "passing"),
    [
        *((SHARDED, moment, passing) for moment in (*OF_SHARDS, *OF_BOTH) for passing in (1, 2)),
        *((PLAIN, moment, 1) for moment in OF_KEYS),
    ],
)
def test_row_06_a_writer_killed_with_jobs_in_flight(tmp_path: Path, dims: str, moment: str, passing: int) -> None:
    """The first job is at this moment, or the second one, together with it or after it."""
    spec = make_spec("cam", dims, ring_slots=8)
    env = {VARIABLE: f"{moment};{BEFORE.get(moment, 0) + passing};{tmp_path / 'died'}"}
    with daemon(tmp_path, *OPTIONS, env=env) as process:
        process.client.start_stream(spec)
        with process.connect("cam") as producer:
            with paused(process.writer_pids()):
                following = give_jobs(process, producer, spec, 0)
            append(producer, spec, range(following, FRAMES))
        assert process.log().count("writer died") == 1
        assert process.client.status("cam")["frames"]["written"] == FRAMES
        check_dataset(process.data / "cam.ome.zarr", spec, FRAMES)
        assert verify(process.data / "cam.ome.zarr").problems == []


@needs_strace
@pytest.mark.parametrize("passing", [7, 8, 9], ids=["chunks", "table", "ledger"])
@pytest.mark.parametrize("compression", [None, "blosc-lz4"])
def test_row_19_an_error_of_the_first_of_the_jobs_in_flight(
    tmp_path: Path, passing: int, compression: str | None
) -> None:
    """In a shard that all of them write into. None is counted before it is durable, whoever shared the failed sync."""
    prefix = traced("-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={passing}")
    spec = make_spec("cam", SHARDED, ring_slots=8, compression=compression)
    with daemon(tmp_path, *OPTIONS, prefix=prefix) as process:
        process.client.start_stream(spec)
        with process.connect("cam") as producer:
            append(producer, spec, range(1))
            wait_for(lambda: producer.durable == 1)
            with paused(process.writer_pids()):
                following = give_jobs(process, producer, spec, 1)
            append(producer, spec, range(following, FRAMES))
        # On a slow machine, the sync that fails may be one of a job that shows the contrast, which is not repeated.
        assert process.client.status("cam")["retries"] <= JOBS_IN_FLIGHT
        assert "Input/output error" in process.log()
        check_dataset(process.data / "cam.ome.zarr", spec, FRAMES)


@pytest.mark.parametrize("dims", ["t:12:1:8,y:64:32:2,x:64:32:2", "t:12,y:64:32,x:64:32"])
def test_a_dataset_that_is_replaced_fails_the_jobs_of_its_own_stream_only(tmp_path: Path, dims: str) -> None:
    """Jobs of both streams are in flight in one writer."""
    spec, other = make_spec("cam", dims, ring_slots=16), make_spec("other", dims, ring_slots=16)
    with daemon(tmp_path, *OPTIONS) as process:
        for each in (spec, other):
            process.client.start_stream(each)
        producer = process.connect("cam")
        with process.connect("other") as fine:
            with paused(process.writer_pids()):
                for camera, each in ((producer, spec), (fine, other)):
                    before = jobs_of_writer(process)
                    append(camera, each, range(1))
                    wait_for(partial(has_more_jobs, process, before))
                (process.data / "cam.ome.zarr").rename(process.data / "elsewhere")
            append(fine, other, range(1, FRAMES))
        with pytest.raises(omewd.OmewdError, match="frames are missing"):
            producer.close()
        check_dataset(process.data / "other.ome.zarr", other, FRAMES)
