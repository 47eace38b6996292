"""Watching a stream: events as they happen, without polling."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import omewd
from omewd.client.connection import Connection
from tests.support.daemons import DaemonProcess, daemon
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for


class Watcher:
    """Takes the events of a stream in a thread of its own."""

    def __init__(self, process: DaemonProcess, name: str) -> None:
        self.events: list[omewd.WatchEvent] = []
        self.error: omewd.OmewdError | None = None
        self._watching = omewd.Client(process.socket).watch(name)
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            self.events.extend(self._watching)
        except omewd.OmewdError as error:
            self.error = error

    def durable(self) -> int:
        return max((event.below for event in self.events if isinstance(event, omewd.FramesDurable)), default=0)

    def join(self) -> list[omewd.WatchEvent]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.events


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
def test_what_happens_to_a_stream(omewd_daemon: DaemonProcess, backend: str) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16", backend=backend, ring_slots=20)
    omewd_daemon.client.start_stream(spec)
    watcher = Watcher(omewd_daemon, "cam")
    with omewd_daemon.connect("cam") as producer:
        for index in range(10):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        wait_for(lambda: watcher.durable() >= 8)
        wait_for(lambda: any(isinstance(event, omewd.ShardsSealed) and event.below >= 8 for event in watcher.events))
        late = Watcher(omewd_daemon, "cam")  # begins with what has happened
        wait_for(lambda: late.durable() >= 8)
        for index in range(10, 103):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)
    for found in (watcher.join(), late.join()):
        runs = [event for event in found if isinstance(event, omewd.FramesDurable)]
        assert [run.first for run in runs] == [0, *(run.below for run in runs[:-1])]
        assert runs[-1].below == 103
        assert [event for event in found if isinstance(event, omewd.ShardsSealed)][-1].below == 103
        assert found[-1] == omewd.StreamDone("cam", 103)
    assert list(omewd_daemon.client.watch("cam"))[-1] == omewd.StreamDone("cam", 103)
    with pytest.raises(omewd.OmewdError) as refused:
        next(omewd_daemon.client.watch("nosuch"))
    assert refused.value.code == "unknown_stream"


def test_a_stream_that_fails(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16", ring_slots=8)
    omewd_daemon.client.start_stream(spec)
    watcher = Watcher(omewd_daemon, "cam")
    producer = omewd_daemon.connect("cam")
    producer.append(make_frame(0, spec.frame_shape, spec.dtype))
    wait_for(lambda: watcher.durable() == 1)
    (omewd_daemon.data / spec.output).rename(omewd_daemon.data / "elsewhere")
    producer.append(make_frame(1, spec.frame_shape, spec.dtype))
    [*_, end] = watcher.join()
    assert isinstance(end, omewd.StreamFailed)
    assert isinstance(end.error, omewd.StreamFailedError)
    assert end.error.cause == "dataset_replaced"
    with pytest.raises(omewd.StreamFailedError):
        producer.close()


def test_who_never_reads_costs_nothing(omewd_daemon: DaemonProcess) -> None:
    """It has one answer waiting, however long the stream goes on; a second request on its connection is refused."""
    spec = make_spec("cam", "t:inf,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    idle = [Connection(omewd_daemon.socket) for _ in range(20)]
    known: dict[str, object] = {}
    for connection in idle:
        reply, _ = connection.request("watch", name="cam")
        known = {"id": reply["id"], "settled": False, "paused": None, "sources": [[0, 0]]}
        with pytest.raises(TimeoutError):
            connection.request("watch", name="cam", known=known, timeout=0.01)
    deaf = Connection(omewd_daemon.socket)
    deaf.request("status")
    with pytest.raises(omewd.OmewdError) as refused:
        _ask_twice(deaf, known)
    assert refused.value.code == "busy"
    with omewd_daemon.connect("cam") as producer:
        for index in range(500):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)
    assert "does not read" not in omewd_daemon.log()
    for connection in (*idle, deaf):
        connection.close()


def _ask_twice(connection: Connection, known: dict[str, object]) -> None:
    from omewd.protocol.messages import send

    connection._socket.settimeout(30)
    send(connection._socket, {"op": "watch", "name": "cam", "known": known})
    connection.request("watch", name="cam", known=known)


def test_the_end_of_the_daemon_ends_the_events(tmp_path: Path) -> None:
    """With the next one, a client watches again."""
    with daemon(tmp_path, "--on-stop", "keep") as first:
        first.client.start_stream(make_spec("cam", "t:inf,y:16,x:16"))
        with first.connect("cam") as producer:
            producer.append(make_frame(0, producer.shape, "uint16"))
            watcher = Watcher(first, "cam")
            wait_for(lambda: watcher.durable() == 1)
            assert first.stop() == 0
            watcher.join()
            assert watcher.error is not None
            assert watcher.error.code == "unreachable"
            with daemon(tmp_path) as second:
                again = Watcher(second, "cam")
                wait_for(lambda: again.durable() == 1)
                second.client.stop_stream("cam")
                assert again.join()[-1] == omewd.StreamDone("cam", 1)
