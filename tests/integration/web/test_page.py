"""The page, the pictures, the metrics: they say what the status says."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import omewd
from omewd import FramesDurable
from omewd.web.daemons import Daemons
from tests.support.browser import CHROMIUM, browser
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.web import web

SHAPE = (24, 40)


def sample(client: httpx.Client, name: str, **labels: str) -> float:
    """The value of a series with these labels among its own."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for one in family.samples:
            if one.name == name and labels.items() <= one.labels.items():
                return float(one.value)
    raise AssertionError(f"there is no {name} with {labels}")


def test_metrics_are_those_of_the_status(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf:2,y:24,x:40", ring_slots=40))
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        for index in range(21):
            producer.append(make_frame(index, SHAPE, "uint16"))
        producer.skip(3)
        wait_for(lambda: sample(client, "omewd_frames_received_total", stream="cam") == 24)
        wait_for(lambda: sample(client, "omewd_frames_written_total", stream="cam") >= 20)
        status = omewd_daemon.client.stream_status("cam")
        assert sample(client, "omewd_gap_frames_total", stream="cam", kind="skipped") == status.frames.skipped == 3
        assert sample(client, "omewd_gap_frames_total", stream="cam", kind="dropped") == 0
        assert sample(client, "omewd_ring_slots", stream="cam") == status.ring.slots
        assert sample(client, "omewd_stream_state", stream="cam", state="ACTIVE") == 1
        assert sample(client, "omewd_silent_seconds", stream="cam") > 0
        assert sample(client, "omewd_disk_free_bytes", stream="cam") > 0
        assert sample(client, "omewd_up", daemon="1") == 1
        assert sample(client, "omewd_writers_ready", daemon="1") == 2
        omewd_daemon.kill_a_writer()
        wait_for(lambda: sample(client, "omewd_writer_deaths_total", daemon="1") == 1)
        producer.close()
        wait_for(lambda: sample(client, "omewd_stream_state", stream="cam", state="DONE") == 1)


def test_a_name_that_comes_again_is_one_series(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    for count in (1, 2):
        omewd_daemon.client.start_stream(make_spec("cam", "t:2,y:24,x:40", overwrite=True))
        with omewd_daemon.connect("cam") as producer:
            for index in range(count):
                producer.append(make_frame(index, SHAPE, "uint16"))
    with web(tmp_path, omewd_daemon.socket) as client:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("omewd_frames_written")]
        assert [line.rsplit(" ", 1)[1] for line in lines] == ["2.0"]


def test_pictures(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf,p:3,y:24,x:40", ring_slots=12))
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        address = "/api/streams/cam/frame.png"
        wait_for(lambda: client.get("/api/summary").json()["daemons"][0].get("streams"))
        assert client.get(address).json()["error"]["code"] == "no_frame"
        for index in range(8):
            producer.append(np.full(SHAPE, index * 100, np.uint16))
        newest = client.get(address)
        assert (newest.headers["content-type"], newest.headers["x-frame-index"]) == ("image/png", "7")
        seen = np.asarray(
            Image.open(io.BytesIO(client.get(address, params={"low": 0, "high": 700, "index": 3}).content))
        )
        assert (seen.shape, seen[0, 0]) == (SHAPE, 109)
        assert client.get(address, headers={"If-None-Match": newest.headers["etag"]}).status_code == 304
        assert [client.get(address, params={"image": n}).headers["x-frame-index"] for n in range(3)] == ["6", "7", "5"]
        assert client.get("/api/streams/cam/choices").json() == {
            "positions": ["0", "1", "2"],
            "channels": [],
            "levels": [[24, 40]],
        }
        assert client.get(address, params={"channel": 1}).status_code == 400
        small = client.get(address, params={"size": 16})
        assert Image.open(io.BytesIO(small.content)).size == (14, 8)
        for wrong in ({"size": 5}, {"size": 10**9}, {"index": -1}, {"index": "x"}, {"source": 1}, {"image": 3}):
            assert client.get(address, params=wrong).status_code == 400, wrong
        for wrong in ({"low": "nan"}, {"high": "1e999"}, {"low": "x" * 1000}, {"index": "9" * 50}):
            assert client.get(address, params=wrong).status_code == 400, wrong
        assert client.get(address, params={"index": 10**15}).json()["error"]["code"] == "no_frame"
        assert client.get("/api/streams/nobody/frame.png").status_code == 404
        producer.close()
        wait_for(lambda: omewd_daemon.client.stream_status("cam").state == "DONE")
        assert client.get(address, params={"index": 2}).status_code == 200, "out of the dataset"


def test_pictures_of_a_channel_at_a_resolution(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """The same out of the ring and out of the dataset."""
    time_, channels, *frame_sides = omewd.parse_dims("t:inf,c:2,y:24,x:40")
    channels = channels.model_copy(update={"coords": (omewd.Channel(name="GFP"), omewd.Channel(name="RFP"))})
    dimensions = (time_, channels, *frame_sides)
    omewd_daemon.client.start_stream(omewd.StreamSpec(name="cam", dimensions=dimensions, levels=3))
    address, asked = "/api/streams/cam/frame.png", {"channel": "0", "level": "1", "low": "0", "high": "255"}

    def seen() -> tuple[str, np.ndarray[Any, Any]]:
        answer = client.get(address, params=asked)
        return answer.headers["x-frame-index"], np.asarray(Image.open(io.BytesIO(answer.content)))

    with web(tmp_path, omewd_daemon.socket) as client:
        with omewd_daemon.connect("cam") as producer:
            for index in range(4):
                frame = np.full(SHAPE, index, np.uint16)
                frame[:, ::2] += 100
                producer.append(frame)
            wait_for(lambda: client.get(address).status_code == 200)
            assert client.get("/api/streams/cam/choices").json() == {
                "positions": [],
                "channels": ["GFP", "RFP"],
                "levels": [[24, 40], [12, 20], [6, 10]],
            }
            live = seen()
            producer.close()
        for wrong in ({"channel": 2}, {"level": 3}, {"level": -1}):
            assert client.get(address, params=wrong).status_code == 400, wrong
        wait_for(lambda: client.get("/api/status").json()["streams"][0]["settled"])
        for newest, pixels in (live, seen()):
            assert (newest, pixels.shape, set(pixels.ravel().tolist())) == ("2", (12, 20), {52})


def test_a_colour_camera_is_seen_in_colour(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf,y:24,x:40", dtype="uint8", color="rgb", ring_slots=12))
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        for value in (10, 20):
            producer.append(np.full((*SHAPE, 3), (value, 0, 255 - value), np.uint8))
        wait_for(lambda: client.get("/api/streams/cam/frame.png").status_code == 200)
        answer = client.get("/api/streams/cam/frame.png", params={"low": 0, "high": 255})
        assert answer.headers["x-frame-index"] == "3"
        assert np.asarray(Image.open(io.BytesIO(answer.content)))[0, 0].tolist() == [20, 0, 235]
        producer.close()


def test_no_ring_is_held_after_its_stream(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """Its memory belongs to the next stream."""
    with web(tmp_path, omewd_daemon.socket) as client:
        [process] = [child for child in psutil.Process().children() if "web" in child.cmdline()]

        def mapped() -> bool:
            return "/dev/shm/" in Path(f"/proc/{process.pid}/maps").read_text()

        omewd_daemon.client.start_stream(make_spec("cam", "t:2,y:24,x:40"))
        with omewd_daemon.connect("cam") as producer:
            producer.append(make_frame(0, SHAPE, "uint16"))
            wait_for(lambda: client.get("/api/streams/cam/frame.png").status_code == 200)
            assert client.get("/data/cam/zarr.json").status_code == 200
            assert mapped()
            producer.append(make_frame(1, SHAPE, "uint16"))
            producer.close()
        wait_for(lambda: not mapped())
        assert client.get("/data/cam/0/zarr.json").json()["shape"] == [2, *SHAPE]


def test_another_daemon_s_stream_with_the_same_number_is_another(tmp_path: Path) -> None:
    answers = []
    processes: list[DaemonProcess] = []
    try:
        processes.append(DaemonProcess(tmp_path / "one", "--memory", "512MiB", "--writers", "1"))
        with web(tmp_path, processes[0].socket) as client:
            for value in (50, 60):
                process = processes[-1]
                process.client.start_stream(make_spec("cam", "t:1,y:24,x:40", overwrite=True))
                with process.connect("cam") as producer:
                    producer.append(np.full(SHAPE, value, np.uint16))
                    producer.close()
                assert process.client.stream_status("cam").id == 1
                if value == 60:  # what is known of the other daemon may be a second old
                    assert client.get("/data/cam/0/c/0/0/0").status_code == 200
                wait_for(lambda process=process: client.get("/api/status").json().get("pid") == process.process.pid)  # type: ignore[misc]
                wait_for(lambda: client.get("/api/streams/cam/frame.png").status_code == 200)
                wanted = {"low": 0, "high": 255}
                wait_for(lambda: client.get("/api/summary").json()["daemons"][0]["streams"][0]["state"] == "DONE")
                answer = client.get("/api/streams/cam/frame.png", params=wanted)
                answers.append((answer.headers["etag"], np.asarray(Image.open(io.BytesIO(answer.content)))[0, 0]))
                assert client.get("/data/cam/0/c/0/0/0").status_code == 200
                assert process.stop() == 0
                if value == 50:
                    processes.append(DaemonProcess(tmp_path / "one", "--memory", "512MiB", "--writers", "1"))
    finally:
        for process in processes:
            process.kill()
    assert [pixel for _, pixel in answers] == [50, 60]
    assert answers[0][0] != answers[1][0]


def test_the_events_of_a_page(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:5,y:24,x:40"))
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        with client.stream("GET", "/api/events") as events:
            assert events.headers["content-type"] == "text/event-stream"
            for index in range(5):
                producer.append(make_frame(index, SHAPE, "uint16"))
            for line in events.iter_lines():
                told = json.loads(line.removeprefix("data: ")) if line else None
                if told and [stream["frames"]["received"] for stream in told["daemons"][0]["streams"]] == [5]:
                    break
        wait_for(lambda: client.get("/api/history").json()["cam"])
        assert client.get("/api/status").json()["streams"][0]["frames"]["received"] == 5


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_page_in_a_browser(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:100,p:2,c:2,y:24,x:40", ring_slots=50, levels=2))
    omewd_daemon.client.start_stream(make_spec("other", "t:200,p:2,y:24,x:40", ring_slots=50))

    async def look(client: httpx.Client) -> None:
        async with browser(tmp_path, f"{client.base_url}/#other") as page:
            await page.until("document.querySelectorAll('article').length === 2")
            await page.until("document.querySelector('article.chosen h2').textContent.startsWith('other')")
            await page.press("ArrowUp")
            for index in range(17):
                producer.append(make_frame(index, SHAPE, "uint16"))
            value = "[...document.querySelectorAll('article.chosen dt')].map((name) => name.nextSibling.textContent)"
            await page.until("document.querySelector('article.chosen h2').textContent.startsWith('cam')")
            await page.until(f"{value}[0] === '17 of 400'")
            await page.until(f"{value}[1] === '17'")
            await page.until("document.getElementById('picture').naturalWidth === 40")
            caption = "document.getElementById('caption').textContent"
            await page.until(f"{caption}.startsWith('cam: frame 16, ')")
            await page.until("document.getElementById('channel').options.length === 3")
            await page.press("p")
            await page.until("document.getElementById('image').value === '0'")
            await page.press("c")
            await page.press("c")
            caption = await page.until(f"{caption} && !{caption}.includes('frame 16') && {caption}")
            assert caption.startswith("cam: frame 13, position 0, channel 1, 24 × 40 uint16"), caption
            await page.value("document.getElementById('size').value = 'size=4096'")
            await page.press("l")
            await page.press("l")
            await page.until("document.getElementById('picture').naturalWidth === 20")
            await page.press("ArrowDown")
            await page.until("document.querySelector('article.chosen h2').textContent.startsWith('other')")
            await page.until("document.getElementById('caption').textContent.includes('no frame yet')")
            assert (await page.screenshot(1400, 900))[:4] == b"\x89PNG"
            omewd_daemon.client.stop_stream("other")
            await page.until("document.querySelector('article.chosen .state').textContent.startsWith('DONE')")
            await page.until("!document.getElementById('image').parentElement.hidden")
            omewd_daemon.client.start_stream(make_spec("other", "t:7,y:24,x:40", output="second.ome.zarr"))
            await page.until("document.querySelector('article.chosen .path').textContent.endsWith('second.ome.zarr')")
            await page.until(f"{value}[0] === '0 of 7'")
            await page.until("document.getElementById('image').parentElement.hidden")
            await page.until("document.querySelectorAll('article').length === 2")
            await page.press("ArrowUp")
            await page.until("document.getElementById('caption').textContent.startsWith('cam: frame 16')")
            producer.close()
            assert omewd_daemon.stop() == 0
            await page.until("document.getElementById('daemons').className === 'gone'")
            await page.until("!document.querySelector('article') && document.getElementById('empty').hidden")

    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        asyncio.run(asyncio.wait_for(look(client), 240))
        producer.close()


def test_what_happens_to_a_stream_is_seen_at_once(omewd_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with the next status, for which this test would wait too long. Frames alone wake nobody."""
    monkeypatch.setattr("omewd.web.daemons._EVERY_S", 600.0)
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf,y:24,x:40"))

    async def see() -> None:
        daemons = Daemons([omewd_daemon.socket])
        task = asyncio.create_task(daemons.watch())
        try:
            turn = await daemons.after(0)
            assert daemons.find("cam")[1].state == "ACTIVE"
            with omewd_daemon.connect("cam") as producer:
                producer.append(make_frame(0, SHAPE, "uint16"))
                assert await asyncio.to_thread(told_of_frames)
                assert daemons.turn == turn
                producer.close()
            await daemons.after(turn)
            assert daemons.find("cam")[1].state == "DONE"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def told_of_frames() -> bool:
        return any(isinstance(event, FramesDurable) for event in omewd_daemon.client.watch("cam"))

    asyncio.run(asyncio.wait_for(see(), 120))
