"""Descriptors from other processes are closed without waiting: these tests hang where one lingers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from omewd.errors import OmewdError
from omewd.protocol.descriptors import MOST_AT_ONCE, close_all, close_connection, receive_data
from omewd.protocol.messages import MAX_DESCRIPTORS, receive
from tests.support.lingering import LingeringSockets


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.fixture
def lingering() -> Iterator[LingeringSockets]:
    sockets = LingeringSockets()
    yield sockets
    sockets.close()


@pytest.mark.timeout(60)
def test_a_connection_that_lingers_is_closed_at_once(lingering: LingeringSockets) -> None:
    descriptor = lingering.make()
    before = open_descriptors()
    close_all([descriptor, os.open(os.devnull, os.O_RDONLY)])
    assert open_descriptors() == before - 1


def send_away(channel: socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send descriptors of which this process keeps none, so that they are closed where they arrive."""
    socket.send_fds(channel, [data], descriptors)
    for descriptor in set(descriptors):
        os.close(descriptor)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", [0, MAX_DESCRIPTORS, MOST_AT_ONCE - 1])
def test_also_among_more_than_a_message_may_have(
    channel: tuple[socket.socket, socket.socket], lingering: LingeringSockets, place: int
) -> None:
    ours, theirs = channel
    descriptors = [os.open(os.devnull, os.O_RDONLY)] * MOST_AT_ONCE
    descriptors[place] = lingering.make()
    before = open_descriptors()
    send_away(ours, b"{}", descriptors)
    with pytest.raises(OmewdError, match="253 descriptors in a packet are over the limit of 4"):
        receive(theirs)
    assert open_descriptors() == before - 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("said", [b'{"in_memory":5}', b'{"attached":5}'])
def test_also_in_place_of_a_message_in_memory(
    channel: tuple[socket.socket, socket.socket], lingering: LingeringSockets, said: bytes
) -> None:
    ours, theirs = channel
    before = open_descriptors()
    send_away(ours, said, [lingering.make()])
    with pytest.raises(OmewdError, match="can't be read"):
        receive(theirs)
    assert open_descriptors() == before + 1  # its receiver


@pytest.mark.timeout(60)
@pytest.mark.parametrize("vanishes", [True, False])
def test_also_in_packets_that_nobody_has_read(
    channel: tuple[socket.socket, socket.socket], lingering: LingeringSockets, *, vanishes: bool
) -> None:
    """An empty packet looks like the end of the connection, and is not."""
    ours, theirs = channel
    for data in (b"", b"", b"{}", b""):
        ours.send(b"")
        send_away(ours, data, [lingering.make()])
    if vanishes:
        ours.close()
    close_connection(theirs)
    assert theirs.fileno() == -1


@pytest.mark.timeout(60)
def test_also_beside_the_rings_of_a_doorbell(lingering: LingeringSockets) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        before = open_descriptors()
        send_away(ours, b"!!", [lingering.make()])
        assert receive_data(theirs, 4096) == b"!!"
        assert open_descriptors() == before + 1  # its receiver
        for _ in range(3):
            send_away(ours, b"!", [lingering.make()])
        close_connection(theirs)
        assert open_descriptors() == before + 4 - 1
