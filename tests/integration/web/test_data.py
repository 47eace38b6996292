"""A run is read over HTTP while it is recorded, by the libraries that viewers use."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr

from tests.support.daemons import DaemonProcess
from tests.support.frames import frame_index, make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.web import web

SHAPE = (24, 40)
ZARRITA = """
import * as zarr from "zarrita";
const root = zarr.root(new zarr.FetchStore(process.argv[2]));
const array = await zarr.open(root.resolve(process.argv[3]), { kind: "array" });
const { data, shape } = await zarr.get(array);
console.log(JSON.stringify({ shape, data: Array.from(data) }));
"""


def expected(count: int, level: int = 0) -> np.ndarray[Any, Any]:
    frames = np.stack([make_frame(index, SHAPE, "uint16") for index in range(count)])
    if level:
        sums = frames.astype(np.int64).reshape(count, SHAPE[0] // 2, 2, SHAPE[1] // 2, 2).sum(axis=(2, 4))
        frames = ((sums + 2) // 4).astype(np.uint16)
    return frames


def by_zarr(address: str, level: int) -> np.ndarray[Any, Any]:
    array = zarr.open_group(address, mode="r")[str(level)]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[...])


def by_tensorstore(address: str, level: int) -> np.ndarray[Any, Any]:
    spec = {"driver": "zarr3", "kvstore": f"{address}{level}/"}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


@pytest.fixture(scope="session")
def zarrita(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of node with zarrita in it."""
    if shutil.which("npm") is None:
        pytest.skip("there is no node and npm")
    folder = tmp_path_factory.mktemp("zarrita")
    (folder / "package.json").write_text('{"type": "module"}')
    made = subprocess.run(
        ["npm", "install", "--silent", "zarrita@0.5"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"npm can't install zarrita: {made.stderr[-200:]}")
    (folder / "read.js").write_text(ZARRITA)
    return folder


def by_zarrita(folder: Path, address: str, level: int) -> np.ndarray[Any, Any]:
    done = subprocess.run(
        ["node", "read.js", address, f"/{level}"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return np.array(told["data"], np.uint16).reshape(told["shape"])


def durable(process: DaemonProcess, name: str = "cam") -> int:
    return process.client.stream_status(name).frames.durable


@pytest.mark.parametrize("compression", [None, "blosc-zstd"])
@pytest.mark.parametrize("dims", ["t:60:2:8,y:24:8:3,x:40:8:2", "t:60:2,y:24:8,x:40:20"])
def test_what_is_durable_is_read_bit_for_bit_while_a_camera_records(
    omewd_daemon: DaemonProcess, tmp_path: Path, compression: str | None, dims: str, request: pytest.FixtureRequest
) -> None:
    """At two levels, in shards in progress, across the sealing, with a writer killed."""
    spec = make_spec("cam", dims, compression=compression, levels=2, ring_slots=60)
    omewd_daemon.client.start_stream(spec)
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        address = f"{client.base_url}/data/cam/"
        wait_for(lambda: client.get("/data/cam/zarr.json").status_code == 200)
        for begun, ended in ((0, 22), (22, 40), (40, 60)):
            for index in range(begun, ended):
                producer.append(make_frame(index, SHAPE, "uint16"))
                if index == 30:
                    omewd_daemon.kill_a_writer()
            wait_for(lambda ended=ended: durable(omewd_daemon) >= ended - ended % 2)  # type: ignore[misc]
            for level in (0, 1):
                for read in (by_zarr, by_tensorstore):
                    seen = read(address, level)
                    assert len(seen) == ended
                    assert np.array_equal(seen, expected(ended, level)), (read, level)
        producer.close()
        for level in (0, 1):
            assert np.array_equal(by_zarr(address, level), expected(60, level))
        folder = request.getfixturevalue("zarrita")
        assert np.array_equal(by_zarrita(folder, address, 1), expected(60, 1))


def test_zarrita_reads_shards_in_progress(omewd_daemon: DaemonProcess, tmp_path: Path, zarrita: Path) -> None:
    spec = make_spec("cam", "t:60:2:8,y:24:8:3,x:40:8:2", compression="blosc-lz4", ring_slots=60)
    omewd_daemon.client.start_stream(spec)
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        for index in range(21):
            producer.append(make_frame(index, SHAPE, "uint16"))
        wait_for(lambda: durable(omewd_daemon) >= 20)
        seen = by_zarrita(zarrita, f"{client.base_url}/data/cam/", 0)
        assert [frame_index(frame) for frame in seen] == list(range(len(seen)))
        assert len(seen) >= 20
        producer.close()


def test_a_key_as_http_has_it(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:24,x:40", ring_slots=20)
    omewd_daemon.client.start_stream(spec)
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        for index in range(6):
            producer.append(make_frame(index, SHAPE, "uint16"))
        wait_for(lambda: durable(omewd_daemon) == 6)
        key = "/data/cam/0/c/0/0/0"
        wait_for(lambda: client.head(key).headers.get("cache-control") == "no-cache")  # it is sealed
        whole = client.get(key)
        assert whole.headers["content-length"] == str(len(whole.content))
        head = client.head(key)
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
        assert client.head(key, headers={"Range": "bytes=100-199"}).status_code == 200, "only GET has ranges"
        part = client.get(key, headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, whole.content[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
        assert client.get(key, headers={"Range": "bytes=-68"}).content == whole.content[-68:]
        assert client.get(key, headers={"Range": f"bytes={1 << 62}-"}).status_code == 416
        same = {"If-None-Match": whole.headers["etag"]}
        assert client.get(key, headers=same).status_code == 304
        assert client.get(key, headers={"If-Match": '"other"'}).status_code == 412
        another = {"Range": "bytes=0-0", "If-Range": '"other"'}
        assert client.get(key, headers=another).content == whole.content
        assert client.get("/data/cam/0/c/1/0/0").headers["cache-control"] == "no-store", "a shard in progress"
        assert client.get("/data/cam/0/zarr.json").json()["shape"] == [6, *SHAPE]
        assert client.get(key).headers["access-control-allow-origin"] == "*"
        asked = client.options(
            key, headers={"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
        )
        assert (asked.status_code, "Range" in asked.headers["access-control-allow-headers"]) == (204, True)
        assert client.post(key).status_code == 405
        for absent in ("0/c/2/0/0", "0/c/0/0/1", "0/c/x", "9/zarr.json", "omewd/staging", "", "0"):
            assert client.get(f"/data/cam/{absent}").status_code == 404, absent
        producer.close()


def test_a_stream_is_there_as_soon_as_it_is_opened(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    with web(tmp_path, omewd_daemon.socket) as client:
        for name in ("one", "two", "three"):
            omewd_daemon.client.start_stream(make_spec(name, "t:1,y:24,x:40"))
            assert client.get(f"/data/{name}/zarr.json").status_code == 200
            assert client.get(f"/data/{name}.ome.zarr/zarr.json").status_code == 200
            assert client.get(f"/data/{name}.zip/zarr.json").status_code == 404


def test_what_is_lost_is_an_error(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """And not pixels of the fill value, which 404 would mean."""
    omewd_daemon.client.start_stream(make_spec("cam", "t:4,y:24,x:40"))
    with omewd_daemon.connect("cam") as producer:
        for index in range(4):
            producer.append(make_frame(index, SHAPE, "uint16"))
    (omewd_daemon.data / "cam.ome.zarr/0/c/2/0/0").unlink()
    with web(tmp_path, omewd_daemon.socket) as client:
        assert client.get("/data/cam/0/c/1/0/0").status_code == 200
        answer = client.get("/data/cam/0/c/2/0/0")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_stored")


def test_several_daemons(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [DaemonProcess(folder, "--memory", "512MiB", "--writers", "1") for folder in folders]
    try:
        for number, process in enumerate(processes, 1):
            process.client.start_stream(make_spec("cam", "t:3,y:24,x:40"))
            with process.connect("cam") as producer:
                for index in range(number):
                    producer.append(make_frame(index, SHAPE, "uint16"))
                producer.close()
        with web(tmp_path, *(process.socket for process in processes)) as client:
            shapes = [client.get(f"/data/{name}/0/zarr.json").json()["shape"] for name in ("cam", "cam@1", "cam@2")]
            assert shapes == [[1, *SHAPE], [1, *SHAPE], [2, *SHAPE]]
            assert client.get("/api/status", params={"daemon": 2}).json()["pid"] == processes[1].process.pid
            assert client.get("/api/status", params={"daemon": 3}).status_code == 400
            assert processes[0].stop() == 0
            wait_for(lambda: client.get("/readyz").status_code == 503)
            assert client.get("/healthz").status_code == 200
            assert client.get("/data/cam@1/0/zarr.json").status_code == 503
            assert client.get("/data/cam@2/0/zarr.json").status_code == 200
            assert 'omewd_up{daemon="1"} 0.0' in client.get("/metrics").text
        assert processes[1].stop() == 0
    finally:
        for process in processes:
            process.kill()
