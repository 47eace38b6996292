"""Signals and restarts: what ends a stream, what does not, and what a running daemon takes from its configuration."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import omewd
from omewd.producer.producer import Producer
from tests.faults.support import needs_strace, traced
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

OPTIONS = ("--writers", "2")
# The depth of a chunk holds frames back in the ring.
SPEC = make_spec("cam", "t:inf:16:2,y:16,x:16")


class Configured:
    """A daemon with a configuration file."""

    def __init__(self, folder: Path, text: str) -> None:
        self.file = folder / "omewd.toml"
        self.file.write_text(text)
        self.daemon = DaemonProcess(folder, *OPTIONS, env={"OMEWD_CONFIG": str(self.file)})

    def reload(self, text: str, event: str) -> dict[str, Any]:
        """Change the file, send SIGHUP, and wait for a line of the log."""
        self.file.write_text(text)
        return self.signal(signal.SIGHUP, event)

    def signal(self, number: int, event: str) -> dict[str, Any]:
        before = len(self.lines(event))
        self.daemon.process.send_signal(number)
        wait_for(lambda: len(self.lines(event)) > before)
        return self.lines(event)[-1]

    def lines(self, event: str) -> list[dict[str, Any]]:
        lines = map(json.loads, filter(str.strip, self.daemon.log().splitlines()))
        return [line for line in lines if line["event"].startswith(event)]


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    made = Configured(tmp_path, '[serve]\nmemory = "512MiB"\n')
    yield made
    made.daemon.let_go()
    made.daemon.stop()


def append(producer: Producer, first: int, count: int) -> None:
    for index in range(first, first + count):
        producer.append(make_frame(index, SPEC.frame_shape, SPEC.dtype))


def test_row_31_sighup_reloads_and_ends_nothing(configured: Configured) -> None:
    daemon = configured.daemon
    daemon.client.start_stream(SPEC)
    producer = daemon.connect("cam")
    append(producer, 0, 20)

    changed = '[serve]\nmemory = "600MiB"\nlog-level = "debug"\ndrain-timeout = 7\nwriters = 5\non-stop = "keep"\n'
    line = configured.reload(changed, "reloaded")
    assert line["taken"]["memory_bytes"] == str(600 << 20)
    assert set(line["taken"]) == {"memory_bytes", "log_level", "drain_timeout_s", "on_stop"}
    assert daemon.client.status()["memory"]["budget_bytes"] == 600 << 20
    assert not configured.lines("some changed options")  # --writers on the command line wins

    for broken in ("[serve]\nmemory = 'lots'", "[serve", "[serve]\nmemroy = '1GiB'", "[serve]\nmemory = '9000TiB'"):
        assert configured.reload(broken, "the configuration can't be reloaded")["error"]
        assert daemon.client.status()["memory"]["budget_bytes"] == 600 << 20

    configured.reload(changed + 'group = "users"\n', "reloaded")
    assert configured.lines("some changed options")[-1]["options"] == ["group"]
    append(producer, 20, 20)
    assert producer.close(timeout=30)["state"] == "DONE"
    check_dataset(daemon.data / "cam.ome.zarr", SPEC, 40)


def test_row_31_a_restart_goes_on_with_open_streams(tmp_path: Path) -> None:
    first = DaemonProcess(tmp_path, *OPTIONS, "--on-stop", "keep")
    first.client.start_stream(SPEC)
    producer = first.connect("cam")
    append(producer, 0, 20)
    wait_for(lambda: producer.durable == 16)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(60) == 0
    assert first.shared_memory()
    append(producer, 20, 5)  # the camera does not notice

    second = DaemonProcess(tmp_path, *OPTIONS)
    append(producer, 25, 15)
    second.process.send_signal(signal.SIGTERM)
    second.process.send_signal(signal.SIGTERM)  # impatience changes nothing
    assert second.process.wait(60) == 0
    assert not second.shared_memory()
    assert producer.close(timeout=30)["state"] == "DONE"
    check_dataset(second.data / "cam.ome.zarr", SPEC, 40)


def test_row_31_sigusr1_makes_the_next_stop_drain(tmp_path: Path) -> None:
    """For a machine that goes down, which takes the rings along."""
    daemon = DaemonProcess(tmp_path, *OPTIONS, "--on-stop", "keep")
    daemon.client.start_stream(SPEC)
    producer = daemon.connect("cam")
    append(producer, 0, 20)
    daemon.process.send_signal(signal.SIGUSR1)
    append(producer, 20, 1)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert not daemon.shared_memory()
    assert producer.close(timeout=30)["state"] == "DONE"
    check_dataset(daemon.data / "cam.ome.zarr", SPEC, 21)


@needs_strace
def test_row_31_a_stream_that_starts_as_the_daemon_stops_is_gone_in_the_next_one(tmp_path: Path) -> None:
    """Its client hears that it did not start, though its entry says that it takes frames and is just being synced."""
    entries = tmp_path / "state/streams"
    # The thread's first sync of the folder is for the entry that says that it starts.
    slow = traced("-P", str(entries), "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=3s:when=2")
    told: list[str] = []
    with daemon(tmp_path, *OPTIONS, "--on-stop", "keep", prefix=slow) as first:

        def start() -> None:
            try:
                first.client.start_stream(SPEC)
            except omewd.OmewdError as error:
                told.append(error.code)

        client = threading.Thread(target=start)
        client.start()
        wait_for(lambda: any('"phase": "active"' in entry.read_text() for entry in entries.glob("*.json")))
        assert first.stop() == 0
        client.join(60)
        assert told == ["stopping"]
        assert (first.data / "cam.ome.zarr").exists()

    with daemon(tmp_path, *OPTIONS) as second:
        wait_for(lambda: not list(entries.iterdir()))
        assert not list(second.data.iterdir())
        assert second.client.status()["streams"] == []
        assert not second.shared_memory()
