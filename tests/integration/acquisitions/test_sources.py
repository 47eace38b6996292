"""Several cameras of one stream: each at its own pace, dying and coming back, one dataset."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.client.connection import Connection
from omewd.dataset.verify import verify
from omewd.protocol.descriptors import close_all
from tests.support.acquisitions import check_acquisition, read_array
from tests.support.daemons import DaemonProcess, KeptDaemon, daemon
from tests.support.datasets import ledger_rows
from tests.support.frames import Array, make_frame, make_spec
from tests.support.processes import start_python, wait_for

CHANNELS = "DAPI,GFP,RFP"


def cameras(dims: str = "t:40:4:2,c:3,y:24:8:3,x:32:16:2", **fields: Any) -> omewd.StreamSpec:
    spec = make_spec("cams", dims, source_dimension="c", **fields)
    named = [
        d.model_copy(update={"coords": tuple(omewd.Channel(name=n) for n in CHANNELS.split(","))})
        if d.name == "c"
        else d
        for d in spec.dimensions
    ]
    return spec.model_copy(update={"dimensions": tuple(named)})


def frames(spec: omewd.StreamSpec, source: int, count: int) -> list[Array | None]:
    return [make_frame(i + 1000 * source, spec.frame_shape, spec.dtype) for i in range(count)]


def connect_to(process: DaemonProcess, source: str | int) -> omewd.Producer:
    return omewd.connect("cams", source=source, socket=process.socket)


def feed(connect: Callable[[], omewd.Producer], arrivals: list[Array | None], pause_s: float = 0.0) -> None:
    with connect() as producer:
        for frame in arrivals:
            if frame is None:
                producer.skip()
            else:
                producer.append(frame)
            if pause_s:
                time.sleep(pause_s)


@pytest.mark.parametrize("brief", [True, False])
def test_a_producer_is_told_of_its_own_source_or_of_all_as_it_asks(omewd_daemon: DaemonProcess, brief: bool) -> None:
    """Clients that don't know the wish get the whole status."""
    omewd_daemon.client.start_stream(cameras())
    connection = Connection(omewd_daemon.socket, kind="producer")
    fields: dict[str, Any] = {"brief": True} if brief else {}
    attached, descriptors = connection.request("attach", name="cams", source="GFP", **fields)
    finished, _ = connection.request("finish", **fields)
    close_all(descriptors)
    connection.close()
    for reply in (attached, finished):
        assert (reply["name"], reply["state"], reply["source"]) == ("cams", "ACTIVE", 1)
        assert len(reply.get("sources", ())) == (0 if brief else 3)
    producer = connect_to(omewd_daemon, "RFP")
    assert len(producer.close(wait=False)["sources"]) == 3
    producer = connect_to(omewd_daemon, "DAPI")
    status = producer.close()
    assert [source["name"] for source in status["sources"]] == ["DAPI"]
    assert status["state"] == "DONE"


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
@pytest.mark.parametrize("writers_die", [False, True], ids=["", "killed-writers"])
def test_cameras_run_at_their_own_pace(omewd_daemon: DaemonProcess, backend: str, writers_die: bool) -> None:
    spec = cameras(backend=backend, ring_slots=8, levels=2)
    status = omewd_daemon.client.start_stream(spec)
    assert [source["name"] for source in status["sources"]] == CHANNELS.split(",")
    arrivals = [frames(spec, 0, 40), frames(spec, 1, 40), frames(spec, 2, 13)]
    arrivals[1][5] = arrivals[1][17] = None
    threads = [
        threading.Thread(
            target=feed,
            args=(lambda n=name: omewd.connect("cams", source=n, socket=omewd_daemon.socket), frames_of, pause_s),
        )
        for name, frames_of, pause_s in zip(CHANNELS.split(","), arrivals, (0.0, 0.003, 0.01), strict=True)
    ]
    for thread in threads:
        thread.start()
    if writers_die:
        for _ in range(3):
            time.sleep(0.03)
            omewd_daemon.kill_a_writer()
    for thread in threads:
        thread.join()
    final = omewd_daemon.client.wait("cams", timeout=30)
    assert final["frames"]["received"] == 93
    check_acquisition(omewd_daemon.data / spec.output, spec, arrivals)
    assert verify(omewd_daemon.data / spec.output).problems == []


def test_a_source_that_is_closed_does_not_wait_for_the_others(omewd_daemon: DaemonProcess) -> None:
    """In one program, whose block of the first ends while the second has frames to give."""
    spec = cameras("c:3,t:6:4,y:8,x:8")
    omewd_daemon.client.start_stream(spec)
    connect = partial(connect_to, omewd_daemon)
    arrivals = [frames(spec, source, 6) for source in range(3)]
    with connect("DAPI") as last:
        with connect(1) as producer:
            for frame in arrivals[1][:5]:
                assert frame is not None
                producer.append(frame)
        assert producer.durable == 5  # all of it, though its last unit was not complete
        status = omewd_daemon.client.status("cams")
        assert status["state"] == "ACTIVE"
        assert [source["open"] for source in status["sources"]] == [True, False, True]
        with pytest.raises(omewd.OmewdError, match="takes no frames of 'GFP'"):
            connect("GFP")
        with connect("2") as producer:
            pass
        for frame in arrivals[0]:
            assert frame is not None
            last.append(frame)
    assert omewd_daemon.client.status("cams")["state"] == "DONE"
    check_acquisition(omewd_daemon.data / spec.output, spec, [arrivals[0], arrivals[1][:5], []])


def test_who_connects_says_which_source(omewd_daemon: DaemonProcess) -> None:
    spec = cameras("t:2,c:3,y:8,x:8")
    omewd_daemon.client.start_stream(spec)
    for wish, complaint in ((None, "has several sources: DAPI, GFP, RFP"), ("CY5", "'CY5'"), (3, "3"), (-1, "-1")):
        with pytest.raises(omewd.OmewdError, match=complaint) as refusal:
            omewd.connect("cams", source=wish, socket=omewd_daemon.socket)
        assert refusal.value.code == "unknown_source"
    producer = omewd.connect("cams", source="GFP", socket=omewd_daemon.socket)
    with pytest.raises(omewd.OmewdError, match="already has a producer for source 'GFP'"):
        omewd.connect("cams", source=1, socket=omewd_daemon.socket)
    producer.close()
    omewd_daemon.client.stop_stream("cams")
    omewd_daemon.client.wait("cams", timeout=20)


@pytest.mark.parametrize("dims", ["t:inf:4:2,c:3,y:24:8:3,x:32:16:2", "t:20:4,c:3,y:16,x:16"])
def test_a_daemon_that_has_some_of_the_sources(omewd_daemon: DaemonProcess, dims: str) -> None:
    spec = cameras(dims, own_sources=("2", "1"), levels=2)
    status = omewd_daemon.client.start_stream(spec)
    assert [source["name"] for source in status["sources"]] == ["GFP", "RFP"]
    assert len(omewd_daemon.shared_memory()) == 2
    for elsewhere in ("DAPI", "2", 2):
        with pytest.raises(omewd.OmewdError, match="it has GFP, RFP") as refusal:
            connect_to(omewd_daemon, elsewhere)
        assert refusal.value.code == "unknown_source"
    arrivals = [frames(spec, 1, 13), frames(spec, 2, 9)]
    arrivals[1][3] = None
    for name, given in zip(("GFP", "RFP"), arrivals, strict=True):
        feed(partial(connect_to, omewd_daemon, name), given)
    omewd_daemon.client.wait("cams", timeout=20)
    dataset = omewd_daemon.data / spec.output
    check_acquisition(dataset, spec, arrivals)
    assert verify(dataset).problems == []
    summary = json.loads((dataset / "omewd" / "zarr.json").read_text())["attributes"]["omewd"]
    assert [source["name"] for source in summary["sources"]] == ["GFP", "RFP"]
    key = next((dataset / "0" / "c").rglob("[0-9]*/[0-9]*/[0-9]*"))
    (dataset / "0" / "c" / "0" / "0").mkdir()
    shutil.copy(next(path for path in [key, *key.rglob("*")] if path.is_file()), dataset / "0/c/0/0/0")
    assert verify(dataset).strays == ["0/c/0/0/0"]  # no source that is here has it


def test_the_daemon_dies_with_some_of_the_sources(tmp_path: Any) -> None:
    spec = cameras("t:20:4,c:3,y:16,x:16", own_sources="2")
    with contextlib.ExitStack() as ends:
        first = DaemonProcess(tmp_path)
        ends.callback(first.kill)
        first.client.start_stream(spec)
        arrivals = frames(spec, 0, 20)
        producer = connect_to(first, "RFP")
        for frame in arrivals[:9]:
            assert frame is not None
            producer.append(frame)
        first.kill()
        again = ends.enter_context(daemon(tmp_path))
        for frame in arrivals[9:]:
            assert frame is not None
            producer.append(frame)
        producer.close()
        check_acquisition(again.data / spec.output, spec, [arrivals])
        assert verify(again.data / spec.output).problems == []


CAMERA = """
import sys, omewd
from tests.support.frames import make_frame
socket, source, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
producer = omewd.connect("cams", source=source, socket=socket)
for index in range(first, first + count):
    producer.append(make_frame(index, producer.shape, str(producer.dtype)))
print(producer.next_index, flush=True)
sys.stdin.read() if len(sys.argv) < 6 else producer.close()
"""


def test_a_camera_dies_and_comes_back_while_others_go_on(omewd_daemon: DaemonProcess) -> None:
    spec = cameras("t:20:4,c:3,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    camera = start_python(CAMERA, str(omewd_daemon.socket), "GFP", "1000", "7")
    assert camera.stdout is not None
    assert camera.stdout.readline() == "7\n"
    with omewd.connect("cams", source="DAPI", socket=omewd_daemon.socket) as other:
        camera.kill()
        camera.communicate()
        wait_for(lambda: omewd_daemon.client.status("cams")["sources"][1]["producer"] is None)
        assert omewd_daemon.client.status("cams")["state"] == "ACTIVE"
        for index in range(20):
            other.append(make_frame(index, spec.frame_shape, spec.dtype))
    again = start_python(CAMERA, str(omewd_daemon.socket), "GFP", "1007", "13", "close")
    assert again.communicate(timeout=30)[0] == "20\n"
    assert omewd_daemon.client.status("cams")["state"] == "ACTIVE"
    omewd_daemon.client.stop_stream("cams")
    omewd_daemon.client.wait("cams", timeout=20)
    check_acquisition(omewd_daemon.data / spec.output, spec, [frames(spec, 0, 20), frames(spec, 1, 20), []])


def test_the_daemon_dies_under_several_cameras(tmp_path: Any) -> None:
    spec = cameras("t:60:4:3,c:3,y:16:8:2,x:16:8:2", ring_slots=12)
    kept = KeptDaemon(tmp_path, "--writers", "2", "--memory", "512MiB")
    try:
        kept.now.client.start_stream(spec)
        arrivals = [frames(spec, source, 60) for source in range(3)]
        threads = [
            threading.Thread(
                target=feed,
                args=(lambda n=n: omewd.connect("cams", source=n, socket=kept.now.socket), arrivals[n], 0.01),
            )
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: kept.now.client.status("cams")["frames"]["received"] > 20)
        for _ in range(2):
            starts = kept.starts
            kept.now.process.kill()
            wait_for(lambda n=starts: kept.starts > n)  # type: ignore[misc]
            kept.ask(lambda: kept.now.client.status())
        for thread in threads:
            thread.join()
        kept.ask(lambda: kept.now.client.wait("cams", timeout=30))
        check_acquisition(kept.now.data / spec.output, spec, arrivals)
    finally:
        kept.end()


def test_as_many_cameras_as_there_may_be(omewd_daemon: DaemonProcess) -> None:
    """With positions, and while the writers are at other work: nobody is overrun by what they are told."""
    places = tuple(omewd.Position(name=f"position number {n}", x_coord=n / 7) for n in range(200))
    t, c, y, x = omewd.parse_dims("t:inf,c:64,y:8,x:8")
    spec = omewd.StreamSpec(
        name="many",
        dimensions=(t, omewd.Dimension(name="p", count=200, coords=places), c, y, x),
        source_dimension="c",
        durability="none",
        ring_slots=2,
    )
    before = omewd_daemon.writer_pids()
    omewd_daemon.client.start_stream(spec)
    producers = [omewd.connect("many", source=n, socket=omewd_daemon.socket) for n in range(64)]
    for number, producer in enumerate(producers):
        for index in range(3):
            producer.append(make_frame(index + 100 * number, (8, 8), "uint16"))
    omewd_daemon.client.stop_stream("many")
    final = omewd_daemon.client.wait("many", timeout=60)
    assert final["frames"]["written"] == 192
    assert omewd_daemon.writer_pids() == before
    for producer in producers:
        producer.close()
    arrays = [read_array(omewd_daemon.data / f"many.ome.zarr/{image}/0", "zarr") for image in range(3)]
    for number, index in itertools.product(range(64), range(3)):
        assert np.array_equal(arrays[index][0, number], make_frame(index + 100 * number, (8, 8), "uint16"))


def test_the_ledger_says_whose_frame_it_is(omewd_daemon: DaemonProcess) -> None:
    spec = cameras("c:3,t:inf,y:8,x:8", on_producer_loss="finalize")
    omewd_daemon.client.start_stream(spec)
    with omewd.connect("cams", source="RFP", socket=omewd_daemon.socket) as producer:
        producer.append(make_frame(2000, spec.frame_shape, spec.dtype), metadata={"exposure_time": 0.5})
        producer.skip(2)
        producer.append(make_frame(2003, spec.frame_shape, spec.dtype))
    omewd_daemon.client.stop_stream("cams")
    omewd_daemon.client.wait("cams", timeout=20)
    dataset = omewd_daemon.data / spec.output
    rows = [row for row in ledger_rows(dataset) if row is not None]
    assert {row["source"] for row in rows} == {2}
    covered = sorted(row["frame"] + i for row in rows for i in range(row.get("count", 1)))
    assert covered == [0, 1, 2, 3]
    totals = json.loads((dataset / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    assert [(s["name"], s["received"], s["gaps"]) for s in totals["sources"]] == [
        ("DAPI", 0, 0),
        ("GFP", 0, 0),
        ("RFP", 4, 2),
    ]
    recorded = frames(spec, 2, 4)
    recorded[1] = recorded[2] = None
    check_acquisition(dataset, spec, [[], [], recorded])


def test_on_the_command_line(omewd_daemon: DaemonProcess) -> None:
    options = ["--dims", "t:4,c:2,y:16,x:16", "--source-dim", "c", "--channels", "DAPI,GFP", "--dtype", "uint8"]
    done = omewd_daemon.omewd("start-stream", "cams", *options)
    assert done.returncode == 0, done.stderr
    assert "source='DAPI'" in done.stdout
    assert "source='GFP'" in done.stdout
    with omewd.connect("cams", source="GFP", socket=omewd_daemon.socket) as producer:
        for index in range(4):
            producer.append(make_frame(index, (16, 16), "uint8"))
        shown = omewd_daemon.omewd("status").stdout
        assert "GFP" in shown
        assert "no camera" in shown
    assert omewd_daemon.omewd("stop-stream", "cams").returncode == 0
    assert omewd_daemon.client.wait("cams", timeout=20)["frames"]["written"] == 4
    assert omewd_daemon.omewd("verify", str(omewd_daemon.data / "cams.ome.zarr")).returncode == 0


def test_waiting_for_a_stream_tells_that_a_camera_was_lost(omewd_daemon: DaemonProcess) -> None:
    options = ["--dims", "t:7,c:2,y:16,x:16", "--source-dim", "c", "--channels", "DAPI, GFP"]
    options += ["--on-producer-loss", "finalize", "--wait", "--json"]
    waiting = subprocess.Popen(
        [sys.executable, "-m", "omewd", "start-stream", "cams", *options],
        env={**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket)},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: [s["state"] for s in omewd_daemon.client.status()["streams"]] == ["ACTIVE"])
    done = start_python(CAMERA, str(omewd_daemon.socket), "DAPI", "0", "7", "close")
    done.communicate(timeout=30)
    lost = start_python(CAMERA, str(omewd_daemon.socket), "GFP", "1000", "3")
    assert lost.stdout is not None
    assert lost.stdout.readline() == "3\n"
    lost.kill()
    lost.communicate()
    told = json.loads(waiting.communicate(timeout=30)[0])
    assert waiting.returncode == 5
    assert told["error"]["code"] == "incomplete"
    assert "10 of 14 frames" in told["error"]["message"]
