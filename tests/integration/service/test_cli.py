"""The command line against a real daemon, as several terminals would use it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from omewd.model.waits import STAGES
from tests.support.daemons import DaemonProcess
from tests.support.datasets import read_zarr
from tests.support.frames import make_frame, make_spec
from tests.support.pages import example
from tests.support.places import README
from tests.support.processes import wait_for


def record(daemon: DaemonProcess, name: str, frames: int) -> None:
    with daemon.connect(name) as producer:
        for index in range(frames):
            producer.append(make_frame(index, producer.shape, str(producer.dtype)))


def test_dims_alone_are_enough(omewd_daemon: DaemonProcess) -> None:
    for number in (1, 2):
        done = omewd_daemon.omewd("start-stream", "--dims", "t:3,y:16,x:16")
        assert done.returncode == 0, done.stderr
        assert f"stream  stream{number}\n" in done.stdout
        assert str(omewd_daemon.data / f"stream{number}.ome.zarr") in done.stdout
        assert f"omewd.connect('stream{number}'" in done.stdout
        record(omewd_daemon, f"stream{number}", 3)
    (omewd_daemon.data / "stream3.ome.zarr").mkdir()
    assert "stream  stream4\n" in omewd_daemon.omewd("start-stream", "--dims", "t:3,y:16,x:16").stdout
    status = json.loads(omewd_daemon.omewd("status", "--json").stdout)
    assert {s["name"]: s["state"] for s in status["streams"]} == {
        "stream1": "DONE",
        "stream2": "DONE",
        "stream4": "ACTIVE",
    }
    assert omewd_daemon.omewd("stop-stream", "stream4").returncode == 0


def test_a_stream_from_start_to_verify(omewd_daemon: DaemonProcess) -> None:
    omewd_daemon.writer_pids()  # they are ready
    options = ["--dims", "t:20:1:4,c:2,y:32:16:2,x:48:16:3", "--dtype", "float32", "--compression", "blosc-lz4"]
    options += ["--backend", "tensorstore", "--scale", "y=0.1,x=0.1,t=2", "--channels", "DAPI,GFP", "--json"]
    done = omewd_daemon.omewd("start-stream", "cam", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ring"]["slots"] % 8 == 0
    with omewd_daemon.connect("cam") as producer:
        for index in range(15):
            producer.append(make_frame(index, producer.shape, "float32"))
        text = omewd_daemon.omewd("status").stdout
        assert "cam" in text
        assert "ACTIVE" in text
        assert "15/40" in text
        assert "2 of 2 writers ready" in text
        assert re.search(r" [kM]B/s +[0-9.]+$", omewd_daemon.omewd("status", "cam").stdout, re.MULTILINE)
        wait_for(lambda: omewd_daemon.client.status("cam")["frames"]["written"] > 0)
        assert "cam: frames wait longest in " in omewd_daemon.omewd("status").stdout
        named = omewd_daemon.omewd("status", "cam").stdout
        assert "where frames waited in the last seconds" in named
        assert all(stage in named for stage in STAGES if stage != "halve")  # there is one resolution
        stopped = omewd_daemon.omewd("stop-stream", "cam")
        assert stopped.returncode == 0
        assert "DONE, 15 frames written" in stopped.stdout
    verified = omewd_daemon.omewd("verify", "cam.ome.zarr")
    assert verified.returncode == 0, verified.stderr
    assert "15 frames (15 written, 0 gaps)" in verified.stdout
    ome = json.loads((omewd_daemon.data / "cam.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["t", "c", "y", "x"]
    transformation = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert transformation["scale"] == [2.0, 1.0, 0.1, 0.1]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == ["DAPI", "GFP"]


def test_wait_stays_until_the_stream_is_done(omewd_daemon: DaemonProcess) -> None:
    command = [sys.executable, "-m", "omewd", "start-stream", "cam", "--dims", "t:10,y:16,x:16", "--wait"]
    environment = {**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket)}
    waiting = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "stream  cam\n"
    record(omewd_daemon, "cam", 10)
    output, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 0
    assert "cam: DONE, 10 frames written" in output


def test_wait_ends_with_5_when_the_producer_is_lost(omewd_daemon: DaemonProcess) -> None:
    command = [sys.executable, "-m", "omewd", "start-stream", "cam", "--dims", "t:10,y:16,x:16", "--wait"]
    environment = {**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket)}
    waiting = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "stream  cam\n"
    camera = (
        f"import omewd, os; p = omewd.connect('cam', socket={str(omewd_daemon.socket)!r})\n"
        "import numpy as np; p.append(np.zeros((16, 16), np.uint16)); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", camera], check=False, timeout=20)
    _, errors = waiting.communicate(timeout=20)
    assert waiting.returncode == 5
    assert "1 of 10 frames" in errors


def test_settings_file(omewd_daemon: DaemonProcess) -> None:
    settings = omewd_daemon.data / "settings.json"
    settings.write_text(
        json.dumps({"name": "filed", "dims": "t:2,y:8,x:8", "dtype": "uint8", "backend": "zarr-python"})
    )
    done = omewd_daemon.omewd("start-stream", "-f", str(settings), "--dtype", "int16", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert (status["name"], status["dtype"], status["backend"]) == ("filed", "int16", "zarr-python")
    record(omewd_daemon, "filed", 2)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["start-stream", "--dims", "t:3:x,y:4,x:4"], 2, "'t:3:x' in the dimensions"),
        (["start-stream"], 2, "--dims is missing"),
        (["start-stream", "a/b", "--dims", "y:4,x:4"], 2, "name"),
        (["start-stream", "--dims", "y:4,x:4", "--output", "/etc/x"], 1, "--data-root"),
        (["start-stream", "--nonsense"], 2, "No such option"),
        (["stop-stream", "nobody"], 1, "there is no stream 'nobody'"),
        (["status", "nobody"], 1, "there is no stream 'nobody'"),
        (["verify", "nowhere"], 2, "does not exist"),
        (["frobnicate"], 2, "No such command"),
        (["--socket", "/nowhere/omewd.sock", "status"], 0, ""),  # $OMEWD_SOCKET is set for the command itself
        (["status", "--socket", "/nowhere/omewd.sock"], 4, "no omewd daemon at /nowhere/omewd.sock"),
    ],
)
def test_errors_are_one_line_with_a_status(
    omewd_daemon: DaemonProcess, arguments: list[str], status: int, says: str
) -> None:
    done = omewd_daemon.omewd(*arguments)
    assert done.returncode == status, done.stderr
    if status:
        assert done.stderr.startswith("omewd: ")
        assert done.stderr.count("\n") == 1
        assert says in done.stderr
        as_json = omewd_daemon.omewd(*arguments, "--json")
        assert as_json.returncode == status
        assert json.loads(as_json.stdout)["error"]["code"]


def test_what_the_daemon_refuses_is_told_in_options(omewd_daemon: DaemonProcess) -> None:
    (omewd_daemon.data / "there.ome.zarr").mkdir()
    done = omewd_daemon.omewd("start-stream", "cam", "--dims", "y:4,x:4", "--output", "there.ome.zarr")
    assert "Choose another output, or pass --overwrite to replace it" in done.stderr
    done = omewd_daemon.omewd("start-stream", "cam", "--dims", "t:100:10,y:16,x:16", "--ring-slots", "9", "--json")
    assert json.loads(done.stdout)["error"]["remedy"].startswith("Pass at least --ring-slots 10 (preferably ")
    for settings in ({"foo": 1}, {"foo": 1, "dims": "y:4,x:4"}):
        path = omewd_daemon.folder / "settings.json"
        path.write_text(json.dumps(settings))
        done = omewd_daemon.omewd("start-stream", "-f", str(path))
        assert done.returncode == 2
        assert "a stream has no field 'foo'. The fields are name, dims, " in done.stderr


def test_verify_finds_what_is_wrong(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:12:1:4,y:16,x:16", compression="zstd")
    omewd_daemon.client.start_stream(spec)
    record(omewd_daemon, "cam", 12)
    dataset = omewd_daemon.data / "cam.ome.zarr"
    shard = dataset / "0" / "c" / "1" / "0" / "0"
    good = shard.read_bytes()

    def problems() -> str:
        done = omewd_daemon.omewd("verify", "cam.ome.zarr")
        assert done.returncode == 5
        return done.stdout

    assert omewd_daemon.omewd("verify", "cam.ome.zarr").returncode == 0
    shard.write_bytes(b"")
    assert "0/c/1/0/0 is empty" in problems()
    shard.unlink()
    assert "0/c/1/0/0 is missing" in problems()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "0/c/1/0/0 has a torn index" in problems()
    shard.write_bytes(good)
    (dataset / "0" / "c" / "9").mkdir()
    (dataset / "0" / "c" / "9" / "x").write_text("stray")
    assert "0/c/9/x does not belong there" in problems()
    (dataset / "0" / "c" / "9" / "x").unlink()
    ledger = dataset / "omewd" / "ledger.jsonl"
    lines = ledger.read_text()
    ledger.write_text("".join(line + "\n" for line in lines.splitlines() if '"frame":7,' not in line))
    assert "1 received frames are not in the ledger: 7" in problems()
    ledger.write_text(lines)
    group = dataset / "zarr.json"
    text = group.read_text()
    group.write_text(text.replace('"0.5"', '"0.9"'))
    assert "does not validate" in problems()
    group.write_text(text)
    assert omewd_daemon.omewd("verify", "cam.ome.zarr").returncode == 0


def test_options_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    config = tmp_path / "omewd.toml"
    config.write_text(
        f"socket = '{tmp_path / 'omewd.sock'}'\n"
        f"[serve]\nmemory = '256MiB'\nwriters = 1\ndata-root = ['{data}']\nstate-dir = '{tmp_path / 'state'}'\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMEWD")}
    environment["OMEWD_SERVE_LOG_FORMAT"] = "json"
    command = [sys.executable, "-m", "omewd", "--config", str(config)]
    server = subprocess.Popen([*command, "serve"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        ready = json.loads(server.stderr.readline())
        assert ready["event"] == "ready"
        assert (ready["memory_mib"], ready["writers"], ready["data_roots"]) == (256, 1, [str(data)])
        done = subprocess.run(
            [*command, "status", "--json"], env=environment, capture_output=True, text=True, timeout=20, check=False
        )
        assert json.loads(done.stdout)["memory"]["budget_bytes"] == 256 << 20
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert server.stderr is not None
        server.stderr.close()


def test_status_watch_and_help_are_quick(omewd_daemon: DaemonProcess) -> None:
    """They answer in a fraction of a second; loose bounds, for a busy machine."""
    for arguments in (["--help"], ["status"]):
        started = time.monotonic()
        assert omewd_daemon.omewd(*arguments).returncode == 0
        assert time.monotonic() - started < 10
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "omewd", "--help"], capture_output=True, text=True, check=True
    )
    assert "start-stream" in loaded.stdout
    for heavy in ("tensorstore", "zarr", "numpy", "pydantic", "structlog", "rich"):
        assert f"| {heavy}\n" not in loaded.stderr


def test_watch_in_a_terminal(omewd_daemon: DaemonProcess) -> None:
    omewd_daemon.client.start_stream(make_spec("cam", "t:5,y:16,x:16"))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "omewd", "status", "--watch"]
    watching = subprocess.Popen(command, env=environment, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + 30
    while seen.count(b"ACTIVE") < 3 and time.monotonic() < deadline:
        seen += os.read(ours, 4096)
    os.close(ours)  # nobody reads it any more: it must not wait for that
    watching.terminate()  # a test run in the background may have inherited that SIGINT is ignored
    watching.communicate(timeout=10)
    assert seen.count(b"ACTIVE") >= 3
    record(omewd_daemon, "cam", 5)


def test_the_producer_of_the_readme(omewd_daemon: DaemonProcess) -> None:
    program = example(README, "producer")
    environment = {**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket)}
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, check=True, timeout=60)
    array = read_zarr(omewd_daemon.data / "cam0.ome.zarr")
    assert array.shape == (100, 512, 512)
    assert (array == np.arange(100, dtype=np.uint16)[:, None, None]).all()
