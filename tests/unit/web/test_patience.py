"""Slow disks and lost clients: what hangs holds up nothing else, and what nobody takes is not read on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from omewd.errors import OmewdError
from omewd.protocol.status import DaemonStatus, StreamStatus
from omewd.reader.contents import TextContent
from omewd.reader.keyed import KeyedReader
from omewd.web import data, patience, serve
from omewd.web.app import make_app
from omewd.web.daemons import Daemon, Daemons
from omewd.web.data import Data, Pieces
from omewd.web.patience import Impatient, Threads
from tests.support.processes import wait_for


def test_what_hangs_takes_no_threads_from_others_and_bounds_who_waits() -> None:
    goes_on = threading.Event()

    async def run() -> None:
        slow, other = Threads(2, 3), Threads(1, 1)
        tasks = [asyncio.create_task(slow.run(partial(goes_on.wait, 120))) for _ in range(5)]
        await asyncio.sleep(0)
        while slow._limiter.statistics().tasks_waiting < 3:
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(other.run(lambda: 7), 60) == 7
        with pytest.raises(OmewdError, match="3 requests wait"):
            await slow.run(lambda: None)
        goes_on.set()
        assert await asyncio.gather(*tasks) == [True] * 5

    asyncio.run(run())


class SlowKey(TextContent):
    """A key whose entity tag takes a disk, as that of a shard in progress does."""

    asked_by: threading.Thread | None = None

    @property
    def etag(self) -> str:
        self.asked_by = threading.current_thread()
        return "tag"

    @etag.setter
    def etag(self, _: str) -> None:
        pass


class OneKey:
    """A reader with one key."""

    epoch = 1

    def __init__(self, key: SlowKey) -> None:
        self._key = key

    def open(self, _: str) -> SlowKey:
        return self._key

    def close(self) -> None:
        pass


def test_the_loop_never_waits_for_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    key = SlowKey(b"pixels")
    monkeypatch.setattr(KeyedReader, "of_stream", lambda *_, **__: OneKey(key))
    daemons = Daemons([None])
    daemons.all[0].status = DaemonStatus(streams=(StreamStatus(id=1, name="cam"),))
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "headers": [],
            "path_params": {"name": "cam", "key": "0/c/0"},
        }
    )
    answer = asyncio.run(Data(daemons).answer(request))
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1-tag"')
    assert key.asked_by not in (None, threading.main_thread())


def test_a_daemon_that_cannot_be_asked_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if this process has no descriptor left."""
    daemon = Daemon(1, Path("/none"))

    def no_socket(*_: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("omewd.client.connection.socket.socket", no_socket)
    daemon.ask()
    assert daemon.error is not None
    assert "Too many open files" in str(daemon.error)


def test_a_daemon_that_hangs_is_seen_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the time-out of its socket, and so is its next answer."""
    monkeypatch.setattr("omewd.web.daemons._SILENT_S", 0.1)
    answers, status = threading.Event(), DaemonStatus(pid=1)

    class Hanging:
        def __init__(self, _: object) -> None:
            pass

        def daemon_status(self) -> DaemonStatus:
            answers.wait(60)
            return status

    monkeypatch.setattr("omewd.web.daemons.Client", Hanging)

    async def run() -> None:
        daemons = Daemons([None])
        daemons.all[0].status = status

        def is_known() -> bool:
            return daemons.all[0].status is not None

        watching = asyncio.create_task(daemons.watch())
        turn = await asyncio.wait_for(daemons.after(0), 30)
        assert not is_known()
        assert "has not answered" in str(daemons.all[0].error)
        answers.set()
        while not is_known():
            turn = await asyncio.wait_for(daemons.after(turn), 30)
        assert daemons.all[0].error is None
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(run())


def test_a_disk_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Data, "_open", fail)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_app([None], None))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/data/cam/0/c/0")

    answer = asyncio.run(ask())
    assert answer.status_code == 503
    assert "Input/output error" in answer.json()["error"]["message"]
    assert answer.headers["access-control-allow-origin"] == "*"


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[tuple[int, uvicorn.Server]]:
    """Serve an application as ``omewd web`` does, in a thread, but for a second of patience."""
    with serve.listen_on("127.0.0.1", 0, 1.0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", http=Impatient))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1], server
        finally:
            server.should_exit = server.force_exit = True
            thread.join(60)


def ask(port: int) -> socket.socket:
    """A client that asks, and takes next to nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return client


def test_nothing_more_is_read_for_a_client_that_has_gone() -> None:
    pieces, closed = 1_000_000, threading.Event()
    read: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def piece(start: int, stop: int) -> bytes:
            read.append(start)
            await asyncio.sleep(0)
            return bytes(stop - start)

        files = ExitStack()
        files.callback(closed.set)
        size = pieces * data._PIECE_BYTES
        headers = {"Content-Length": str(size)}
        await Pieces(bytes(data._PIECE_BYTES), piece, (0, size), 200, headers, files)(scope, receive, send)

    with served(app) as (port, _):
        with ask(port) as client:
            assert client.recv(100)
        assert closed.wait(60)
        assert len(read) < 1000


@pytest.mark.parametrize("size", [4 << 20, 64 << 20])
def test_a_client_that_takes_nothing_is_cut_off(size: int) -> None:
    """Whether its answer is all in the buffers of this process or not."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Content-Length": str(size)}

        async def piece(start: int, stop: int) -> bytes:
            return bytes(stop - start)

        first = 4 << 20
        await Pieces(bytes(first), piece, (0, size), 200, headers, ExitStack())(scope, receive, send)

    with served(app) as (port, server), ask(port):
        wait_for(lambda: len(server.server_state.connections) == 1)
        wait_for(lambda: not server.server_state.connections)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"])
def test_a_client_that_does_not_say_what_it_wants_is_cut_off(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(patience, "SLOWEST_S", 1.0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"answer")(scope, receive, send)

    with served(app) as (port, _), socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(60)
        client.sendall(said)
        told = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(1000):
                told += piece
        assert told.endswith(b"answer") == said.endswith(b"GET /")


def test_an_answer_may_take_longer_than_the_patience_for_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SLOWEST_S", 0.5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(2)
        await Response(b"answer")(scope, receive, send)

    with served(app) as (port, _):
        assert httpx.get(f"http://127.0.0.1:{port}/", timeout=60).text == "answer"
