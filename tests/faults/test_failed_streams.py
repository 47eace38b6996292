"""A FAILED stream: its totals are those of its ledger, and it can be resumed as soon as it has failed."""

from __future__ import annotations

import json
import mmap
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import omewd
from omewd.daemon.jobs.dispatcher import MAX_DEATHS
from omewd.process.faultpoints import VARIABLE
from omewd.ring.layout import PUBLISHED
from tests.faults.support import abandon, append
from tests.support.daemons import daemon
from tests.support.datasets import check_dataset, ledger_rows
from tests.support.frames import make_spec
from tests.support.processes import wait_for


def damage(ring: str) -> None:
    """Let a ring's cursor jump."""
    with (Path("/dev/shm") / ring).open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[PUBLISHED * 8 : PUBLISHED * 8 + 8] = (10**9).to_bytes(8, "little")


def summary_of(dataset: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dataset / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    return found


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
def test_frames_on_record_count_though_their_writer_died_before_it_reported(tmp_path: Path, backend: str) -> None:
    died = tmp_path / "died"
    fault = {VARIABLE: f"writer: ledger appended;1;{died}"}
    with daemon(tmp_path, "--writers", "1", "--memory", "256MiB", env=fault) as process:
        spec = make_spec("cam", "t:inf:1:4,y:16,x:16", ring_slots=32, backend=backend)
        process.client.start_stream(spec)
        producer = process.connect("cam")
        append(producer, spec, range(12))
        wait_for(died.exists)
        [ring] = process.shared_memory()
        damage(ring)  # the stream fails before another writer can do the job again
        with pytest.raises(omewd.OmewdError):
            process.client.wait("cam", timeout=60)
        status = process.client.status("cam")
        assert (status["state"], status["error"]["code"]) == ("FAILED", "bad_ring")
        dataset = process.data / spec.output
        rows = [row for row in ledger_rows(dataset) if row and "gap" not in row]
        on_record = len({row["frame"] for row in rows})
        summary = summary_of(dataset)
        assert summary["written"] == on_record == status["frames"]["written"] > 0
        assert summary["state"] == "failed"
        frames = status["frames"]
        assert frames["received"] == frames["written"] + frames["gaps"] + frames["lost"]
        assert frames["in_flight"] == 0
        assert (summary["received"], summary["lost_frames"]) == (frames["received"], frames["lost"])
        abandon(producer)


def test_resume_waits_until_the_failure_is_settled(tmp_path: Path) -> None:
    with daemon(tmp_path, "--writers", "2", "--memory", "256MiB") as process:
        spec = make_spec("cam", "t:100:1:4,y:16,x:16", ring_slots=32, backend="tensorstore")
        process.client.start_stream(spec)
        producer = process.connect("cam")
        place, elsewhere = process.data / spec.output, process.data / "elsewhere"
        stopped = process.writer_pids()[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            place.rename(elsewhere)
            append(producer, spec, range(16))
            wait_for(lambda: process.client.status("cam")["state"] == "FAILED")
            assert not process.client.status("cam")["settled"]  # a job is still out
            elsewhere.rename(place)
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(omewd.Client(process.socket).resume_stream, "cam")
                wait_for(lambda: process.client.status("cam")["state"] == "FAILED")
                assert not answer.done()
                os.kill(stopped, signal.SIGCONT)
                assert answer.result(timeout=60)["name"] == "cam"
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert process.client.wait("cam", timeout=60)["state"] == "DONE"
        check_dataset(place, spec, 16)
        producer.close()


def test_resume_of_a_stream_that_is_fine_is_refused_at_once(tmp_path: Path) -> None:
    with daemon(tmp_path, "--writers", "1", "--memory", "256MiB") as process:
        spec = make_spec("cam", "t:4,y:16,x:16")
        process.client.start_stream(spec)
        with pytest.raises(omewd.OmewdError) as caught:
            process.client.resume_stream("cam")
        assert caught.value.code == "not_failed"


def test_a_dataset_that_could_not_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    """Each writer that tries dies with the dataset made aside."""
    died = tmp_path / "died"
    tries = 0
    fault = {VARIABLE: f"writer: dataset made aside;1;{died}"}
    with daemon(tmp_path, "--writers", "1", "--memory", "256MiB", env=fault) as process:
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(process.client.start_stream, make_spec("cam", "t:4,y:16,x:16"))
            while not started.done():
                if died.exists() and tries < MAX_DEATHS - 1:  # the next one that passes is the first again
                    died.unlink()
                    tries += 1
                time.sleep(0.01)
            with pytest.raises(omewd.OmewdError) as caught:
                started.result()
        assert (caught.value.code, tries) == ("writer_died", MAX_DEATHS - 1)
        wait_for(lambda: not list(process.data.iterdir()), 30)
        wait_for(lambda: not list((tmp_path / "state" / "streams").iterdir()))


@pytest.mark.parametrize("swept", [True, False])
def test_what_a_failed_stream_has_replaced_is_swept_once(tmp_path: Path, swept: bool) -> None:
    """While its ring is kept; nothing of it is in the journal when that is let go."""
    with daemon(tmp_path, "--writers", "1", "--memory", "256MiB") as process:
        spec = make_spec("cam", "t:100:1:4,y:16,x:16", ring_slots=32, overwrite=True, backend="tensorstore")
        (process.data / spec.output).mkdir()
        (process.data / spec.output / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
        process.client.start_stream(spec)
        assert len(list(process.data.iterdir())) == 2
        producer = process.connect("cam")
        append(producer, spec, range(6))
        wait_for(lambda: producer.durable == 4)
        (process.data / spec.output).rename(process.data / "elsewhere")
        with pytest.raises(omewd.OmewdError):
            producer.close()
        assert process.client.status("cam")["kept_in_ring"]
        if swept:
            wait_for(lambda: [path.name for path in process.data.iterdir()] == ["elsewhere"], 30)
            wait_for(lambda: not any(writer["aside"] for writer in process.client.status()["writers"]), 30)
        process.client.stop_stream("cam")
        wait_for(lambda: [path.name for path in process.data.iterdir()] == ["elsewhere"], 30)
        wait_for(lambda: not list((tmp_path / "state" / "streams").iterdir()), 30)
