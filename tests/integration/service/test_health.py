"""``omewd health`` and ``omewd doctor`` beside a real daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import omewd
from tests.support.daemons import DaemonProcess
from tests.support.processes import wait_for

DIMS = "t:inf,y:16,x:16"


def problems(daemon: DaemonProcess, *arguments: str) -> dict[str, str]:
    """The codes of what is wrong, each with its message, and a check of the exit status."""
    done = daemon.omewd("health", "--json", *arguments)
    told = json.loads(done.stdout)
    assert (done.returncode, told["healthy"]) == ((1, False) if told["problems"] else (0, True)), done.stderr
    return {problem["code"]: problem["message"] for problem in told["problems"]}


def test_a_silent_camera_is_told_and_one_that_has_not_begun_is_not(omewd_daemon: DaemonProcess) -> None:
    client = omewd_daemon.client
    client.start_stream({"name": "cam", "dims": DIMS, "on_producer_loss": "wait"})
    assert problems(omewd_daemon, "--silent", "0") == {}
    camera = [sys.executable, "-c", f"import omewd, numpy as np; {CAMERA}", str(omewd_daemon.socket)]
    with subprocess.Popen(camera, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"sent\n"
        assert list(problems(omewd_daemon, "--silent", "0")) == ["silent_camera"]
        assert problems(omewd_daemon, "cam", "--silent", "3600") == {}
        silent_s = client.stream_status("cam").sources[0].silent_s
        assert silent_s is not None
        assert client.stream_status("cam").sources[0].silent_s != silent_s
        process.kill()
    wait_for(lambda: client.stream_status("cam").producer is None)
    done = omewd_daemon.omewd("health")
    assert done.returncode == 1
    assert done.stdout.startswith("cam: the camera is gone after 1 frames, and the stream waits for another one.")
    assert done.stdout.count("\n") == 1
    client.stop_stream("cam")
    client.wait("cam", timeout=30)
    assert omewd_daemon.omewd("health").stdout == "all is well\n"


def test_a_camera_that_misses_frames_of_its_rate_is_told_everywhere(omewd_daemon: DaemonProcess) -> None:
    """By status, health and log, and once it goes on as well."""
    client = omewd_daemon.client
    done = omewd_daemon.omewd("start-stream", "cam", "--dims", DIMS, "--expect-fps", "2")
    assert done.returncode == 0, done.stderr
    with omewd_daemon.connect("cam") as producer:
        frame = np.zeros(producer.shape, producer.dtype)
        producer.append(frame)
        wait_for(lambda: "no frame for" in omewd_daemon.omewd("status").stdout)
        assert re.search(r"^cam: no frame for \d+\.\d s$", omewd_daemon.omewd("status", "cam").stdout, re.MULTILINE)
        assert list(problems(omewd_daemon)) == ["silent_camera"]
        wait_for(lambda: '"event": "no frame for ' in omewd_daemon.log())

        def goes_on() -> bool:
            producer.append(frame)
            return '"event": "the camera sends frames again"' in omewd_daemon.log()

        wait_for(goes_on)
        assert client.stream_status("cam").expect_fps == 2
        assert client.stream_status("cam").state == "ACTIVE"


CAMERA = (
    "import sys; p = omewd.connect('cam', socket=sys.argv[1]); p.append(np.zeros((16, 16), np.uint16));"
    "print('sent', flush=True); sys.stdin.read()"
)


def test_a_failure_is_told_until_the_stream_is_stopped(omewd_daemon: DaemonProcess) -> None:
    client = omewd_daemon.client
    client.start_stream({"name": "cam", "dims": DIMS})
    producer = omewd_daemon.connect("cam")
    (omewd_daemon.data / "cam.ome.zarr").rename(omewd_daemon.data / "moved")
    with pytest.raises(omewd.StreamFailedError):
        while True:
            producer.append(np.zeros((16, 16), np.uint16))
    with pytest.raises(omewd.StreamFailedError):
        producer.close()
    wait_for(lambda: client.stream_status("cam").settled, timeout_s=30)
    assert list(problems(omewd_daemon)) == ["dataset_replaced"]
    client.stop_stream("cam")
    assert problems(omewd_daemon) == {}
    assert client.stream_status("cam").acknowledged


def test_without_a_daemon_health_says_so_with_4(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "omewd", "health", "--socket", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "no omewd daemon at" in done.stderr


def doctor(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, dict[str, str]]]:
    command = [sys.executable, "-m", "omewd", "doctor", "--json", *arguments]
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode == 0) == told["fine"], done.stderr
    return done.returncode, {finding["subject"]: finding for finding in told["findings"]}


def test_the_doctor_looks_at_what_the_daemon_uses(omewd_daemon: DaemonProcess) -> None:
    status, found = doctor("--socket", str(omewd_daemon.socket))
    assert status == 0, found
    assert found["daemon"]["message"] == f"omewd {omewd.__version__}, process {omewd_daemon.process.pid}"
    assert found[f"data root {omewd_daemon.data}"]["level"] in ("fine", "advice")
    assert "the daemon may open" in found["limits"]["message"]
    assert str(omewd_daemon.socket) in found["access"]["message"]
    assert list(omewd_daemon.data.iterdir()) == []
    status, found = doctor("--socket", str(omewd_daemon.socket), "--memory", "9999TiB")
    assert (status, found["memory budget"]["level"]) == (1, "problem")


def test_the_doctor_looks_at_what_a_daemon_would_use(tmp_path: Path) -> None:
    env = {"OMEWD_SOCKET": str(tmp_path / "s"), "OMEWD_SERVE_STATE_DIR": str(tmp_path / "state")}
    env["OMEWD_SERVE_MEMORY"] = "1MiB"
    status, found = doctor("--data-root", str(tmp_path), env=env)
    assert status == 0, found
    assert "no omewd daemon" in found["daemon"]["message"]
    assert "budget 1 MiB" in found["memory"]["message"]
    assert list(tmp_path.iterdir()) == []
    status, found = doctor("--data-root", str(tmp_path / "none"), env=env)
    assert (status, "is not a folder" in found["configuration"]["message"]) == (1, True)
    config = tmp_path / "omewd.toml"
    config.write_text(f'[serve]\ndata-root = ["{tmp_path}"]\ngroup = "no-such-group"\n')
    status, found = doctor(env={**env, "OMEWD_CONFIG": str(config)})
    assert (status, "there is no group" in found["configuration"]["message"]) == (1, True)
    assert f"data root {tmp_path}" in found


def test_the_doctor_is_read_by_people_too(omewd_daemon: DaemonProcess) -> None:
    lines = omewd_daemon.omewd("doctor").stdout.splitlines()
    assert lines[0].startswith("fine     daemon: omewd ")
    assert lines[-1].startswith("0 problems, ")
