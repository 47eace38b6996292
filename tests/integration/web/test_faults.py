"""What clients of omewd web, and what happens to it, must not do to a camera and to other clients."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from pathlib import Path

import httpx
import numpy as np
import psutil

from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.web import running_web, web

SHAPE = (24, 40)
LARGE = (1024, 1024)


def chunks(shard: bytes, count: int) -> dict[int, bytes]:
    """The chunks of a shard by number, by the index at its end (Zarr v3, sharding_indexed)."""
    index = np.frombuffer(shard[-16 * count - 4 : -4], "<u8").reshape(count, 2)
    return {n: shard[at : at + size] for n, (at, size) in enumerate(index.tolist()) if at != 2**64 - 1}


def test_row_34_clients_that_never_read_and_that_come_in_crowds(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf:1:32,y:1024,x:1024", ring_slots=64))
    with running_web(tmp_path, omewd_daemon.socket) as (started, client), omewd_daemon.connect("cam") as producer:
        frame = np.zeros((1024, 1024), np.uint16)
        for _ in range(32):
            producer.append(frame)
        wait_for(lambda: omewd_daemon.client.stream_status("cam").frames.durable == 32)
        assert client.base_url.port is not None
        place = "127.0.0.1", client.base_url.port
        process = psutil.Process(started.pid)
        requests = [
            b"GET /data/cam/0/c/0/0/0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: ",
        ]
        crowd = []
        try:
            for number in range(150):
                crowd.append(socket.create_connection(place))
                crowd[-1].sendall(requests[number % 3])
            wait_for(lambda: process.num_fds() > 150)
            assert client.get("/healthz").status_code == 200
            for _ in range(32):
                producer.append(frame)
            wait_for(lambda: omewd_daemon.client.stream_status("cam").frames.durable == 64)
            assert process.memory_info().rss < 400 << 20
            assert process.num_fds() < 800
        finally:
            for one in crowd:
                one.close()
        wait_for(lambda: process.num_fds() < 100)
        assert client.get("/readyz").status_code == 200
        producer.close()


def test_row_34_no_address_leads_out_of_a_dataset(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:1,y:24,x:40"))
    with omewd_daemon.connect("cam") as producer:
        producer.append(make_frame(0, SHAPE, "uint16"))
    (omewd_daemon.data / "secret").write_text("secret")
    (omewd_daemon.data / "cam.ome.zarr" / "link").symlink_to(omewd_daemon.data / "secret")
    with web(tmp_path, omewd_daemon.socket) as client:
        for path in (
            "../secret",
            "..%2Fsecret",
            "%2e%2e/secret",
            "0/../../secret",
            "link",
            "%2Fetc%2Fpasswd",
            "/etc/passwd",
            "a" * 5000,
            "0/" * 2000,
            "%00",
            "zarr.json%00.png",
            ".",
            "..",
            "omewd/staging/x",
        ):
            answer = client.send(httpx.Request("GET", f"{client.base_url}/data/cam/{path}"))
            assert answer.status_code in (400, 404), path
            assert "secret" not in answer.text
        assert client.get("/data/nobody/zarr.json").json()["error"]["code"] == "unknown_stream"
        for name in ("a" * 300, "cam@2", "cam@0", "cam@99999999", "..", "%00", "é"):
            assert client.get(f"/data/{name}/zarr.json").status_code == 404, name


def test_row_34_absurd_ranges(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:inf:1:4,y:24,x:40", ring_slots=12))
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        for index in range(6):
            producer.append(make_frame(index, SHAPE, "uint16"))
        wait_for(lambda: omewd_daemon.client.stream_status("cam").frames.durable == 6)
        for key in ("0/c/0/0/0", "0/c/1/0/0", "zarr.json"):
            whole = client.get(f"/data/cam/{key}").content
            for asked in (
                "bytes=-0",
                f"bytes={'9' * 4000}-",
                f"bytes=0-{'9' * 4000}",
                f"bytes=-{'9' * 4000}",
                "bytes=5-2",
                "bytes=--5",
                "bytes=0x1-0x2",
                "bytes=" + ",".join(["0-"] * 1000),
                "lines=1-2",
                "bytes=\u0661-\u0662",
                "=",
            ):
                answer = client.get(f"/data/cam/{key}", headers=[(b"Range", asked.encode())])
                assert answer.status_code in (200, 206, 400, 416), asked
                assert answer.status_code in (400, 416) or whole.endswith(answer.content), asked
        producer.close()


def test_row_34_a_shard_is_sealed_and_its_dataset_replaced_while_they_are_read(
    omewd_daemon: DaemonProcess, tmp_path: Path
) -> None:
    """An answer is of what was there when it began, to its end, or is cut off."""
    spec = make_spec("cam", "t:32:1:32,y:1024,x:1024", ring_slots=40, overwrite=True)
    key = "/data/cam/0/c/0/0/0"
    frames = [make_frame(index, LARGE, "uint16").tobytes() for index in range(32)]
    omewd_daemon.client.start_stream(spec)
    with web(tmp_path, omewd_daemon.socket) as client:
        with omewd_daemon.connect("cam") as producer:
            for index in range(20):
                producer.append(make_frame(index, LARGE, "uint16"))
            wait_for(lambda: omewd_daemon.client.stream_status("cam").frames.durable >= 16)
            with client.stream("GET", key) as answer:
                pieces = answer.iter_bytes(1 << 20)
                body = next(pieces)
                for index in range(20, 32):
                    producer.append(make_frame(index, LARGE, "uint16"))
                producer.close()
                assert client.head(key).headers["cache-control"] == "no-cache", "it is sealed"
                body += b"".join(pieces)
            seen = chunks(body, 32)
            assert len(seen) >= 16
            assert all(chunk == frames[n] for n, chunk in seen.items())
        with client.stream("GET", key) as answer:
            pieces = answer.iter_bytes(1 << 20)
            body = next(pieces)
            omewd_daemon.client.start_stream(spec)
            with contextlib.suppress(httpx.RemoteProtocolError):
                body += b"".join(pieces)
                assert chunks(body, 32) == dict(enumerate(frames))
        assert client.get(key).status_code == 404, "nothing of the new one is there yet"
        assert client.get("/data/cam/0/zarr.json").json()["shape"] == [0, *LARGE]
        with omewd_daemon.connect("cam") as producer:
            producer.append(make_frame(7, LARGE, "uint16"))
        assert chunks(client.get(key).content, 32) == {0: frames[7]}


def test_row_34_omewd_web_is_killed_while_a_camera_records(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """Its clients are cut off, nothing of it stays, and no frame comes late for it."""
    spec = make_spec("cam", "t:80:2:8,y:24,x:40", ring_slots=40)
    omewd_daemon.client.start_stream(spec)
    daemon = psutil.Process(omewd_daemon.process.pid)
    before = daemon.num_fds()
    with omewd_daemon.connect("cam") as producer:
        for begun in (0, 40):
            with running_web(tmp_path, omewd_daemon.socket) as (process, client):
                cut = threading.Event()

                def listen(client: httpx.Client = client, cut: threading.Event = cut) -> None:
                    with contextlib.suppress(httpx.TransportError), client.stream("GET", "/api/events") as events:
                        for _ in events.iter_lines():
                            pass
                    cut.set()

                page = threading.Thread(target=listen)
                page.start()
                for index in range(begun, begun + 20):
                    producer.append(make_frame(index, SHAPE, "uint16"))
                wait_for(lambda client=client: client.get("/api/streams/cam/frame.png").status_code == 200)  # type: ignore[misc]
                assert client.get("/data/cam/zarr.json").status_code == 200
                process.send_signal(signal.SIGKILL)
                for index in range(begun + 20, begun + 40):
                    producer.append(make_frame(index, SHAPE, "uint16"))
                assert cut.wait(60)
                page.join()
                process.wait()
        producer.close()
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 80)
    wait_for(lambda: daemon.num_fds() <= before)
