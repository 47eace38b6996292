"""The hello: both sides tell their version, and only another major version is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from omewd import __version__
from omewd.client import connection
from omewd.client.connection import Connection
from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.loop import Loop
from omewd.errors import OmewdError
from omewd.protocol import hello
from omewd.protocol.hello import FEATURES
from omewd.protocol.messages import Message
from omewd.protocol.versions import CONTROL, Version

Handle = Callable[[Peer, Message], Message]


@contextmanager
def served(path: Path, handle: Handle) -> Iterator[None]:
    loop, ended = Loop(), threading.Event()
    server = ControlServer(loop)
    server.start(path, None, handle, lambda _: None)

    def turn() -> None:
        while not ended.is_set():
            loop.wait(0.01)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        server.close()
        loop.close()


def echo(_: Peer, message: Message) -> Message:
    if message["op"] == "hello":  # an omewd without one
        raise OmewdError("bad_message", "there is no request 'hello'")
    return {"asked": message["op"]}


@contextmanager
def connected(path: Path, **options: Any) -> Iterator[Connection]:
    client = Connection(path, **options)
    try:
        yield client
    finally:
        client.close()


def test_both_sides_tell_their_version_with_the_first_request(tmp_path: Path) -> None:
    with served(tmp_path / "socket", echo), connected(tmp_path / "socket") as client:
        assert client.request("one")[0] == {"asked": "one"}
        assert client.welcome is not None
        assert (client.welcome.version, client.welcome.omewd) == (str(CONTROL), __version__)
        assert client.welcome.features == FEATURES
        assert client.request("two")[0] == {"asked": "two"}


def test_a_connection_without_a_hello_speaks_the_first_version(tmp_path: Path) -> None:
    with served(tmp_path / "socket", echo), connected(tmp_path / "socket") as client:
        client.welcome = hello.Welcome()
        assert client.request("one")[0] == {"asked": "one"}


@pytest.mark.parametrize("minor", [CONTROL.minor, CONTROL.minor + 5])
def test_another_minor_version_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    monkeypatch.setattr(connection, "CONTROL", Version(CONTROL.major, minor))
    with served(tmp_path / "socket", echo), connected(tmp_path / "socket") as client:
        assert client.request("one")[0] == {"asked": "one"}


def test_another_major_version_is_refused_whatever_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(_: Peer, message: Message) -> Message:
        asked.append(message["op"])
        return {}

    monkeypatch.setattr(connection, "CONTROL", Version(9, 1))
    with served(tmp_path / "socket", note), connected(tmp_path / "socket", kind="producer") as client:
        with pytest.raises(OmewdError, match=r"the producer \(omewd .*speaks version 9\.1.*speaks version 1\.0") as no:
            client.request("start_stream")
        assert (no.value.code, client.is_gone) == ("other_version", True)
        assert "estart the daemon" in no.value.remedy
    assert asked == []


@pytest.mark.parametrize("version", ["", "one", "1", None, 1.0])
def test_a_hello_that_can_not_be_read_is_an_error(tmp_path: Path, version: Any) -> None:
    with served(tmp_path / "socket", echo), connected(tmp_path / "socket") as client:
        client.welcome = hello.Welcome()
        with pytest.raises(OmewdError, match=r"version|read") as no:
            client.request("hello", version=version)
        assert no.value.code in ("other_version", "bad_message")


def test_a_daemon_of_another_major_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlServer, "_greet", staticmethod(lambda *_: {"version": "2.0", "omewd": "7.0"}))
    with served(tmp_path / "socket", echo), connected(tmp_path / "socket") as client:
        with pytest.raises(OmewdError, match=r"the daemon at .* \(omewd 7\.0\) speaks version 2\.0") as no:
            client.request("one")
        assert no.value.code == "other_version"


def test_a_daemon_without_a_hello_is_told_to_be_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlServer, "_greet", staticmethod(echo))
    with served(tmp_path / "socket", echo), connected(tmp_path / "socket") as client:
        with pytest.raises(OmewdError, match="older omewd") as no:
            client.request("one")
        assert no.value.code == "other_version"
