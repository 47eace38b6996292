"""The control server: what clients can hold of its memory."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from omewd.daemon.control import server
from omewd.daemon.control.peer_process import UNSEEN, process_of
from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.server import MOST_UNREAD_BYTES, ControlServer, Peer
from omewd.daemon.daemon import spare_collections
from omewd.daemon.loop import Loop
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.messages import Message, receive, send
from tests.unit.cameras import dataset_at
from tests.unit.rings import make_geometry

KERNEL = tuple(int(number) for number in os.uname().release.split(".")[:2])
LARGE, SMALL = {"text": "x" * (3 << 20)}, {"text": "y"}


class Served:
    """A server that answers "large" and "small", and whose loop is turned by hand."""

    def __init__(self, path: Path) -> None:
        self.path, self.loop, self.gone = path, Loop(), 0
        self.server = ControlServer(self.loop)
        self.server.start(path, None, self._handle, self._on_gone)

    def _handle(self, _: Peer, message: Message) -> Message:
        if message["op"] == "deep":
            raise RecursionError
        return LARGE if message["op"] == "large" else SMALL

    def _on_gone(self, _: Peer) -> None:
        self.gone += 1

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self.path))
        self.loop.wait(0)
        return connection

    def ask(self, connection: socket.socket, op: str) -> None:
        send(connection, {"op": op})
        self.loop.wait(1)

    @property
    def unread_bytes(self) -> int:
        return sum(peer.unread_bytes for peer in self.server._peers)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "omewd" / "s")
    yield served
    served.server.close()
    served.loop.close()


def test_who_reads_may_ask_for_ever(served: Served) -> None:
    with served.connect() as connection:
        for _ in range(100):
            served.ask(connection, "large")
            assert receive(connection) == ({"ok": LARGE}, [])
            served.ask(connection, "small")
            assert receive(connection) == ({"ok": SMALL}, [])
        assert (served.gone, served.unread_bytes) == (0, 0)


def test_what_comes_with_a_new_connection_is_answered_in_the_same_turn(served: Served) -> None:
    """A client sends its hello and its first request at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(served.path))
        for op in ("hello", "small", "small"):
            send(connection, {"op": op})
        connection.setblocking(False)
        served.loop.wait(1)
        first, second = receive(connection), receive(connection)
        assert first is not None
        assert "features" in first[0]["ok"]
        assert second == ({"ok": SMALL}, [])
        with pytest.raises(BlockingIOError):  # others have their turn first
            receive(connection)
        served.loop.wait(1)
        assert receive(connection) == ({"ok": SMALL}, [])


def test_a_process_with_many_connections_has_a_few_of_them_served_in_a_turn(served: Served) -> None:
    """And each of them in its turn."""
    connections = [served.connect() for _ in range(10)]
    answered = [0] * len(connections)
    for turn in range(1, 6):
        for connection in connections:
            send(connection, {"op": "small"})
        served.loop.wait(1)
        for number, connection in enumerate(connections):
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                receive(connection)
                answered[number] += 1
        assert sum(answered) == 4 * turn
    assert answered == [2] * 10
    for connection in connections:
        connection.close()


@pytest.mark.skipif(KERNEL < (6, 9), reason="the kernel does not tell them apart")
def test_processes_that_the_daemon_can_not_see_are_told_apart(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of other containers, whose process id is 0 here: one with many connections holds up no other."""
    monkeypatch.setattr(server, "process_of", lambda channel, _: process_of(channel, 0))
    greedy = [served.connect() for _ in range(10)]
    connect = "from socket import *; s = socket(AF_UNIX, SOCK_SEQPACKET); s.connect(input()); input()"
    other = subprocess.Popen([sys.executable, "-c", connect], stdin=subprocess.PIPE, text=True)
    assert other.stdin is not None
    other.stdin.write(f"{served.path}\n")
    other.stdin.flush()
    try:
        deadline = time.monotonic() + 60
        while len(served.server._peers) < 11:
            assert time.monotonic() < deadline
            served.loop.wait(1)
        numbers = Counter(peer.process for peer in served.server._peers)
        assert sorted(numbers.values()) == [1, 10]
        assert min(numbers) > UNSEEN
    finally:
        other.communicate("\n")
        for connection in greedy:
            connection.close()


def test_a_message_of_many_lists_starts_no_garbage_collection(served: Served) -> None:
    """The parser would start dozens, which stop the loop for longer than the message takes."""
    started: list[object] = []

    def note(phase: str, info: object) -> None:
        started.append((phase, info))

    with served.connect() as connection:
        connection.send(b'{"op":"small","x":[' + b"[]," * 40_000 + b"1]}")
        gc.collect()
        gc.callbacks.append(note)
        try:
            served.loop.wait(1)
        finally:
            gc.callbacks.remove(note)
        assert receive(connection) == ({"ok": SMALL}, [])
    assert started == []
    assert gc.isenabled()


def test_a_client_that_is_gone_leaves_no_garbage(served: Served) -> None:
    """The errors that it got have tracebacks, whose frames hold its messages."""
    with served.connect() as connection:
        for message in ({"op": "hello", "version": "99.0", "kind": "client"}, {"op": "small"}):
            send(connection, message)
            served.loop.wait(1)
            answer = receive(connection)
            assert answer is not None
            assert answer[0]["error"]["code"] == "other_version"
        [peer] = map(weakref.ref, served.server._peers)
        gc.disable()
    try:
        served.loop.wait(1)
        assert served.gone == 1
        assert peer() is None
    finally:
        gc.enable()


def test_garbage_collections_leave_out_what_is_there_after_the_start() -> None:
    before = gc.get_freeze_count()
    try:
        spare_collections()
        assert gc.get_freeze_count() > before + 10_000
    finally:
        gc.unfreeze()


def test_what_is_nested_too_deep_is_the_clients_fault(served: Served) -> None:
    """The parser takes what a handler, which is called from deeper down, can't even quote."""
    with served.connect() as connection:
        served.ask(connection, "deep")
        received = receive(connection)
    assert received is not None
    assert received[0]["error"]["code"] == "bad_message"


def test_who_does_not_read_is_dropped_with_the_second_large_reply(served: Served) -> None:
    with served.connect() as lazy, served.connect() as other:
        served.ask(lazy, "large")
        served.ask(lazy, "small")
        assert served.gone == 0
        served.ask(lazy, "large")
        assert (served.gone, served.unread_bytes) == (1, 0)
        served.ask(other, "large")
        assert receive(other) == ({"ok": LARGE}, [])


def test_one_client_can_not_wait_for_ever_more() -> None:
    spec = StreamSpec(name="s", dimensions=parse_dims("t:5,y:2,x:3"))
    stream = Stream.of(1, spec, "direct", make_geometry(), dataset_at("s"), started_ns=0)
    replies = PendingReplies(cast(ControlServer, None))
    greedy, other = cast(Peer, object()), cast(Peer, object())
    for _ in range(256):
        replies.when_ended(greedy, stream, None)
    for more in ("add", "then"):
        with pytest.raises(OmewdError) as error:
            replies.when_ended(greedy, stream, None) if more == "add" else replies.when_settled(greedy, stream, dict)
        assert error.value.code == "busy"
    replies.when_ended(other, stream, None)
    replies.forget(greedy)
    replies.when_ended(greedy, stream, None)


def test_many_who_do_not_read_are_bounded_together(served: Served) -> None:
    lazy = [served.connect() for _ in range(2 * MOST_UNREAD_BYTES // len(LARGE["text"]))]
    for connection in lazy:
        served.ask(connection, "large")
        assert served.unread_bytes <= MOST_UNREAD_BYTES
    assert 0 < served.gone < len(lazy)
    for connection in lazy:
        connection.close()


def test_clients_that_keep_connecting_take_no_turn_for_themselves(served: Served) -> None:
    accepted = []
    clients = []
    for _ in range(40):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(served.path))
        clients.append(client)
    while len(served.server._peers) < len(clients):
        before = len(served.server._peers)
        served.loop.wait(1)
        accepted.append(len(served.server._peers) - before)
    assert max(accepted) == 16
    for client in clients:
        client.close()
